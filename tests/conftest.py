"""Fixtures that tests of all rooms use."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import soundfile

from tfser.manifests.cache import Cache


class WriteWav(Protocol):
    """Writes noise of a given length as a 16-bit wav file and returns its path."""

    def __call__(self, path: Path, seconds: float, seed: int = 0, rate: int = 16000) -> Path: ...


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared material beside the repository: corpora, metadata."""
    folder = Path(__file__).resolve().parent.parent.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"the shared material is not here: {folder} does not exist")
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty cache."""
    return Cache(tmp_path / "cache")


@pytest.fixture(scope="session")
def write_wav() -> WriteWav:
    """Write a short wav file of seeded noise; folders are made as needed."""

    def write(path: Path, seconds: float, seed: int = 0, rate: int = 16000) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))
        soundfile.write(path, samples, rate, subtype="PCM_16")
        return path

    return write
