"""openSMILE's functionals: one vector an utterance, by audEERING's own program (Eyben et al. 2010) and its own settings.

What comes in: the samples of an utterance. What goes out: (1, dim) float32, a single frame that stands for the whole utterance:
the 88 numbers of eGeMAPS (Eyben et al. 2016, version 02) or the 6,373 of ComParE 2016 (Schuller et al. 2016), in openSMILE's
order. Nothing is scaled here. The configuration says ``"per": "utterance"``, by which the rest of the program knows such sets
(`tfser.pipeline.features.feature_set.is_per_utterance`).

openSMILE is an extra (`pip install '.[opensmile]'`) with a licence of its own: free for research and education, not for products.
Its version is part of the fingerprint, since another release may give other numbers. Samples come at 16 kHz unless the setting
``sample_rate_hz`` asks for another rate; openSMILE scales its analysis to it.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.features.feature_set import PER_UTTERANCE, PER_UTTERANCE_HOP_S
from tfser.pipeline.sound.video import MissingExtraError

ALGORITHM = 1
"""Raised whenever the same configuration and version of openSMILE would give other numbers than before."""

LICENCE = "openSMILE: free for research and education (audEERING Research License), not for products"


@dataclass(frozen=True, kw_only=True)
class FunctionalsConfig:
    """What a vector of functionals depends on; each set is a subclass.

    Attributes:
        sample_rate_hz: the rate that samples must have.

    Raises:
        UsageError: the rate is not from 8,000 to 96,000.
        MissingExtraError: openSMILE is not installed.
    """

    sample_rate_hz: int = 16000
    kind: ClassVar[str]
    member: ClassVar[str]
    """What openSMILE calls the set."""
    dim: ClassVar[int]
    window_s: ClassVar[float] = 0.06
    """openSMILE measures the pitch in windows of 60 ms: of shorter audio it says nothing."""
    hop_s: ClassVar[float] = PER_UTTERANCE_HOP_S

    def __post_init__(self) -> None:
        if not isinstance(self.sample_rate_hz, int) or not 8000 <= self.sample_rate_hz <= 96000:
            name = type(self).__name__
            raise UsageError(f"{name}: sample_rate_hz is {self.sample_rate_hz!r}; a whole number from 8000 to 96000 is wanted")

    def frames(self, n_samples: int) -> int:
        """Return 1, whatever the number of samples."""
        return 1

    def describe(self) -> dict[str, Any]:
        """Return everything that changes the numbers, for fingerprints and records.

        Raises:
            MissingExtraError: openSMILE is not installed, so nobody can say which version would compute them.
        """
        _need(self.kind)
        words = {"kind": self.kind, "per": PER_UTTERANCE, "algorithm": ALGORITHM, "set": self.member, "level": "Functionals"}
        return words | {"opensmile": metadata.version("opensmile")} | asdict(self)


@dataclass(frozen=True, kw_only=True)
class EGeMAPSConfig(FunctionalsConfig):
    """The extended Geneva minimalistic acoustic parameter set, version 02: 88 functionals."""

    kind: ClassVar[str] = "egemaps"
    member: ClassVar[str] = "eGeMAPSv02"
    dim: ClassVar[int] = 88


@dataclass(frozen=True, kw_only=True)
class ComParEConfig(FunctionalsConfig):
    """The set of the Computational Paralinguistics Challenge, as of 2016: 6,373 functionals."""

    kind: ClassVar[str] = "compare2016"
    member: ClassVar[str] = "ComParE_2016"
    dim: ClassVar[int] = 6373


class Functionals:
    """The front-end of a configuration: openSMILE with its settings loaded once. Threads may share it."""

    def __init__(self, config: FunctionalsConfig) -> None:
        _need(config.kind)
        import opensmile

        self.config = config
        smile = opensmile.Smile(
            feature_set=getattr(opensmile.FeatureSet, config.member), feature_level=opensmile.FeatureLevel.Functionals
        )
        self._process: Callable[[npt.NDArray[np.float32], int], Any] = smile.process_signal

    def extract(self, samples: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Return the functionals of one utterance.

        Args:
            samples: (n,) mono at the configuration's rate, in [-1, 1].

        Returns:
            (1, dim) float32.

        Raises:
            UsageError: not one-dimensional.
            TfserError: openSMILE has no numbers for it, as where it is shorter than one window.
        """
        if samples.ndim != 1:
            raise UsageError(f"{self.config.kind} takes (n,) mono samples, not {samples.shape}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a segment is too short: said below
            table = self._process(samples.astype(np.float32, copy=False), self.config.sample_rate_hz)
        found = np.ascontiguousarray(table.to_numpy(), dtype=np.float32)  # (1, dim)
        if found.shape != (1, self.config.dim):
            raise TfserError(f"openSMILE gave {found.shape} numbers for {self.config.kind}, not (1, {self.config.dim})")
        if not np.isfinite(found).all():
            raise TfserError(f"openSMILE has no numbers for {len(samples) / self.config.sample_rate_hz * 1000:.4g} ms of audio")
        return found


def is_installed() -> bool:
    """Tell whether openSMILE can be loaded."""
    return importlib.util.find_spec("opensmile") is not None


def _need(what: str) -> None:
    if not is_installed():
        raise MissingExtraError(f"{what} is computed by openSMILE: pip install '.[opensmile]' ({LICENCE})")
