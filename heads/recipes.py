"""A recipe: everything that defines a way of training, apart from the model and the data.

The recipes themselves stand beside their heads (`HeadSpec.recipes`); this file says what a recipe may hold. Frames
are those of the feature set (10 ms for log-Mel), epochs are passes over the training utterances.
"""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass
from typing import Literal

from tfser.heads.base import Settings
from tfser.manifests.errors import UsageError

Optimiser = Literal["adam", "adamw", "sgd"]
Schedule = Literal["constant", "cosine"]
Normalise = Literal["none", "train", "utterance", "utterance-mean", "speaker"]
Precision = Literal["auto", "float32", "bfloat16"]
Axis = Literal["time", "feature"]
Similarity = Literal["complex", "magnitude"]
ClassWeights = Literal["none", "balanced"]


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """How a head is trained. The defaults are plain: no regularisation and no augmentation.

    Raises:
        UsageError: A value makes no sense.
    """

    summary: str = ""
    """One line for people; changes nothing."""

    optimiser: Optimiser = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's and AdamW's; for SGD the first is the momentum."""
    weight_decay: float = 0.0
    """Added to the gradient by adam and sgd, decoupled in adamw. Biases and norm weights (one axis) have none."""
    schedule: Schedule = "constant"
    """After the warm-up: constant, or half a cosine down to zero at the last step."""
    warmup_epochs: float = 0.0
    """The learning rate climbs linearly from zero over so many epochs; may be a fraction."""
    epochs: int = 50
    batch_size: int = 64
    """At most so many samples a step; an epoch's samples are dealt into batches of nearly equal size, none
    dropped."""
    grad_clip: float = 0.0
    """Largest global norm of the gradient; 0: not clipped."""
    label_smoothing: float = 0.0
    class_weights: ClassWeights = "none"
    """balanced: each class weighs as if the training utterances were spread evenly over the classes."""
    own_rate: float = 0.01
    """Learning rate of parameters that need one of their own (TF-Mamba's thresholds), scheduled like ``lr``; they have no
    weight decay."""
    cmdt: float = 0.0
    """Weight (lambda, Eq. 9) of TF-Mamba's CMDT loss, see `tfser.heads.losses`; 0: none."""
    cmdt_temperature: float = 0.1
    cmdt_bins: int | None = 8
    """The lowest so many frequencies are compared; None: all."""
    cmdt_similarity: Similarity = "complex"
    """complex (Eq. 7), or magnitude, which a shift in time does not change."""
    cmdt_axis: Axis = "time"
    """time; feature: the naive reading, which is the plain cosine."""
    averaging: float = 0.0
    """Decay per step of an exponential moving average of the weights, with which everything is evaluated; 0: none."""
    precision: Precision = "float32"
    """Of the training steps (bfloat16: autocast; auto: bfloat16 where the device computes it natively, see
    `tfser.heads.precision`). Evaluation is always in float32."""

    normalise: Normalise = "train"
    """none; train: mean and deviation per feature of the training frames; utterance: per utterance; utterance-mean:
    each utterance's mean is removed, then divided by the training frames' remaining deviation; speaker: per speaker,
    over all that the fold holds of them, test utterances too. speaker is transductive: it needs a test speaker's
    other utterances."""

    train_hop: int | None = None
    """Frames from one training segment's start to the next; None: the segment's length, that is, no overlap."""
    eval_hop: int | None = None
    """The same when evaluating."""
    jitter: bool = False
    """Each epoch moves each training segment's start by up to half a hop either way."""

    time_masks: int = 0
    time_mask_frames: int = 0
    """Each of ``time_masks`` masks hides 0 to so many consecutive frames of a sample."""
    band_masks: int = 0
    band_mask_bands: int = 0
    """Each of ``band_masks`` masks hides 0 to so many neighbouring features (Mel bands) of a sample."""
    gain_db: float = 0.0
    """A constant from -gain_db to gain_db is added to a sample's log energies. For log-Mel features."""
    tilt_db: float = 0.0
    """A straight line over the bands, from -t to t decibels with t up to tilt_db, is added. For log-Mel features."""
    speed: float = 0.0
    """Frames are read at 1 - speed to 1 + speed times the pace, by linear interpolation. Segments only."""
    warp: float = 0.0
    """The band axis is stretched by 1 - warp to 1 + warp (vocal-tract length), by linear interpolation. For
    log-Mel."""
    mixup: float = 0.0
    """A sample gives way to another of its batch by a share drawn evenly from 0 to mixup (at most 0.5), and so does
    its label."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for name in ("optimiser", "schedule", "normalise", "precision", "class_weights", "cmdt_similarity", "cmdt_axis"):
            choices = typing.get_args(hints[name])
            self._require(getattr(self, name) in choices, name, f"one of {', '.join(choices)}")
        for name in ("lr", "own_rate", "epochs", "batch_size", "cmdt_temperature"):
            self._require(getattr(self, name) > 0, name, "above 0")
        for name in ("weight_decay", "warmup_epochs", "grad_clip", "gain_db", "tilt_db", "cmdt"):
            self._require(getattr(self, name) >= 0, name, "0 or more")
        for name in ("time_masks", "time_mask_frames", "band_masks", "band_mask_bands"):
            self._require(getattr(self, name) >= 0, name, "0 or more")
        for name in ("train_hop", "eval_hop", "cmdt_bins"):
            self._require(getattr(self, name) is None or getattr(self, name) > 0, name, "above 0, or none")
        for name in ("label_smoothing", "averaging", "speed", "warp"):
            self._require(0 <= getattr(self, name) < 1, name, "from 0 to below 1")
        self._require(0 <= self.mixup <= 0.5, "mixup", "from 0 to 0.5")
        shares = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        self._require(shares, "betas", "two numbers from 0 to below 1")
        self._require(self.warmup_epochs <= self.epochs, "warmup_epochs", f"at most epochs ({self.epochs})")

    def _require(self, holds: bool, name: str, wanted: str) -> None:
        if not holds:
            raise UsageError(f"recipe setting {name}={getattr(self, name)}: must be {wanted}")

    def learning_rate(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """Return the learning rate of step ``step`` (from 0) of a training of ``epochs`` epochs.

        >>> recipe = Recipe(lr=1.0, schedule="cosine", warmup_epochs=1, epochs=3)
        >>> [round(recipe.learning_rate(step, 2, 3), 2) for step in range(6)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
        """
        warmup, total = self.warmup_epochs * steps_per_epoch, epochs * steps_per_epoch
        if step < warmup:
            return self.lr * min(1.0, (step + 1) / warmup)
        if self.schedule == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, total - warmup)))
