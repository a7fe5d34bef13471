"""Front-ends and encoders: what turns samples into frames, by name, with the fingerprint of everything that changes the numbers.

`UPSTREAMS` is the registry. Each entry turns the options of the command line into a `FeatureSet`, which knows its name, its
fingerprint and its shape without loading anything heavy; `FeatureSet.build` makes what computes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tfser.manifests.errors import UsageError, unknown
from tfser.pipeline.logmel import LogMel, LogMelConfig
from tfser.pipeline.shards import StorageDtype

DTYPES: tuple[StorageDtype, ...] = ("float32", "float16")


class Extractor(Protocol):
    """Computes frames from samples."""

    def extract(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Return the (frames, dim) features of (n,) mono samples at the feature set's rate."""


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """One feature set: its name for people, its configuration for the fingerprint, its shape, and how to compute it.

    `minimum_s` is the shortest audio, in seconds, that makes a frame worth having. `frames` maps a number of samples at
    `sample_rate_hz` to the number of frames.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    dim: int
    dtype: StorageDtype
    hop_s: float
    sample_rate_hz: int
    minimum_s: float
    frames: Callable[[int], int]
    build: Callable[[], Extractor]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over everything that changes the numbers."""
        text = json.dumps({**self.config, "dtype": self.dtype}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        """The folder's name below `features/`."""
        return f"{re.sub(r'[^A-Za-z0-9._]+', '-', self.name)}-{self.fingerprint}"

    def bytes_for(self, duration_s: float) -> int:
        """Return the size in bytes of the features of that many seconds."""
        return self.frames(round(duration_s * self.sample_rate_hz)) * self.dim * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """An entry of the registry: one line about it, the option names it takes, and what makes a feature set of them."""

    summary: str
    options: tuple[str, ...]
    configure: Callable[[str, Mapping[str, str], StorageDtype], FeatureSet]


def _logmel(name: str, options: Mapping[str, str], dtype: StorageDtype) -> FeatureSet:
    defaults = LogMelConfig()
    values: dict[str, Any] = {key: _number(key, text, getattr(defaults, key)) for key, text in options.items()}
    config = dataclasses.replace(defaults, **values)
    return FeatureSet(
        name=_full_name(name, {k: v for k, v in values.items() if v != getattr(defaults, k)}, dtype),
        kind=name,
        config=config.describe(),
        dim=config.dim,
        dtype=dtype,
        hop_s=config.hop_s,
        sample_rate_hz=config.sample_rate_hz,
        minimum_s=config.window_s,
        frames=config.frames,
        build=lambda: LogMel(config),
    )


UPSTREAMS: dict[str, Upstream] = {
    "logmel": Upstream(
        summary="log-Mel spectrogram: 80 bands, 20 ms Hamming window, 10 ms hop, 16 kHz (TF-Transformer, section 3.3)",
        options=tuple(field.name for field in dataclasses.fields(LogMelConfig)),
        configure=_logmel,
    ),
}
"""What `--features` knows, by name."""


def feature_set(name: str, options: Mapping[str, str] | None = None, dtype: str = "float32") -> FeatureSet:
    """Return the feature set of a name and its options.

    Raises:
        UsageError: if the name, an option or the dtype is unknown, or a value is off.
    """
    if name not in UPSTREAMS:
        raise unknown("feature set", name, list(UPSTREAMS))
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    upstream = UPSTREAMS[name]
    for key in options or {}:
        if key not in upstream.options:
            raise unknown(f"option of {name}", key, upstream.options)
    return upstream.configure(name, options or {}, dtype)


def _number(key: str, text: str, like: float) -> float:
    try:
        return int(text) if isinstance(like, int) else float(text) + 0.0  # minus zero is zero, for the fingerprint too
    except ValueError:
        kind = "a whole number" if isinstance(like, int) else "a number"
        raise UsageError(f"--set {key}={text}: {key} is {kind}") from None


def _full_name(name: str, changed: Mapping[str, float], dtype: str) -> str:
    """Return a name that says what differs from the defaults, to the last digit: one name, one configuration."""
    parts = [f"{key}={repr(value).removesuffix('.0')}" for key, value in sorted(changed.items())]
    if dtype != "float32":
        parts.append(dtype)
    return "+".join([name, *parts])
