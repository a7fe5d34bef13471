"""A recipe: everything that defines a way of training, apart from the model and the data.

The recipes themselves stand beside their heads (`HeadSpec.recipes`), those of published lineages in `tfser.heads.spec.lineages`;
this file says what a recipe may hold. Frames are those of the feature set (10 ms for log-Mel), epochs are passes over the
training utterances.

A field that is added has to be declared with `later`, so that it changes no experiment's name while it is at its default.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from tfser.heads.spec.selections import Rule
from tfser.heads.spec.settings import (
    ABOVE_0,
    ABOVE_0_TO_1,
    AT_LEAST_0,
    AT_LEAST_1,
    BELOW_1,
    INSIDE_0_1,
    SHARE,
    UP_TO_HALF,
    Settings,
    later,
)
from tfser.manifests.protocols.validation import canonical_policy

Optimiser = Literal["adam", "adamw", "sgd", "rmsprop"]
Schedule = Literal["constant", "cosine", "linear", "restarts", "step", "cyclic"]
Normalise = Literal["none", "train", "utterance", "utterance-mean", "speaker"]
Precision = Literal["auto", "float32", "bfloat16"]
Axis = Literal["time", "feature"]
Similarity = Literal["complex", "magnitude"]
ClassWeights = Literal["none", "balanced", "inverse-sqrt", "effective"]


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """How a head is trained. The defaults are plain: no regularisation and no augmentation.

    Raises:
        UsageError: A value makes no sense.
    """

    called: ClassVar[str] = "recipe setting "

    summary: str = ""
    """One line for people; changes nothing."""

    optimiser: Optimiser = "adam"
    """What follows the gradient."""
    lr: Annotated[float, ABOVE_0] = 1e-3
    """Learning rate after the warm-up, which the schedule then lowers."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's and AdamW's; for SGD and RMSprop the first is the momentum, and RMSprop's second smooths the squares."""
    weight_decay: Annotated[float, AT_LEAST_0] = 0.0
    """Added to the gradient by adam, sgd and rmsprop, decoupled in adamw. Biases and norm weights (one axis) have none."""
    schedule: Schedule = "constant"
    """After the warm-up: constant; cosine: half a cosine towards ``floor``, which a step after the last one would have; linear:
    a line towards it; restarts: half a cosine towards it and again from the start (Loshchilov and Hutter 2017), the first
    ``period_epochs`` long and each ``period_growth`` times as long as the one before; step: multiplied by ``step_factor`` every
    ``period_epochs``; cyclic: up from ``lr`` to ``peak`` times that and down again, a cycle every ``period_epochs`` (triangular,
    Smith 2017). It moves with every step, not every epoch, but for step."""
    floor: Annotated[float, SHARE] = later(0.0)
    """As a share of ``lr``."""
    period_epochs: Annotated[float, ABOVE_0] = later(10.0)
    """Of restarts, step and cyclic: the length of a period, a step at least."""
    period_growth: Annotated[float, AT_LEAST_1] = later(1.0)
    """Of restarts: each period is so many times as long as the one before."""
    step_factor: Annotated[float, ABOVE_0_TO_1] = later(0.5)
    """Of step: the learning rate is multiplied by it."""
    peak: Annotated[float, AT_LEAST_1] = later(2.0)
    """Of cyclic: the highest learning rate, as a multiple of ``lr``."""
    warmup_epochs: Annotated[float, AT_LEAST_0] = 0.0
    """The learning rate climbs linearly from zero over so many epochs; may be a fraction."""
    epochs: Annotated[int, ABOVE_0] = 50
    """Passes over the training utterances."""
    steps: Annotated[int | None, ABOVE_0] = later(None)
    """Instead of ``epochs``: so many steps of the optimiser, rounded up to whole epochs."""
    batch_size: Annotated[int, ABOVE_0] = 64
    """At most so many samples a step; an epoch's samples are dealt into batches of nearly equal size, none
    dropped."""
    parts: Annotated[int | None, ABOVE_0] = later(None)
    """Batches of whole utterances are encoded in at most so many parts of nearly equal lengths, which saves padding: the same
    batch and loss, to rounding. None: as the device and the corpus's lengths say, see `tfser.heads.training.parts`; 1: never."""
    grad_clip: Annotated[float, AT_LEAST_0] = 0.0
    """Largest global norm of the gradient; 0: not clipped."""
    label_smoothing: Annotated[float, BELOW_1] = 0.0
    """The share of a label that is spread evenly over all classes."""
    class_weights: ClassWeights = "none"
    """balanced: each class weighs as if the training utterances were spread evenly over the classes; inverse-sqrt and effective
    lie between that and none, see `tfser.heads.training.losses.class_weights`."""
    class_beta: Annotated[float, INSIDE_0_1] = later(0.999)
    """Of effective: towards 0 it becomes none, towards 1 balanced."""
    focal: Annotated[float, AT_LEAST_0] = later(0.0)
    """The focal loss's gamma, see `tfser.heads.training.losses.cross_entropy`; 0: cross-entropy."""
    labels_from: Literal["label", "distribution"] = later("label")
    """What a training utterance's target is: its one label; or distribution: the classes' shares of its raters' votes (soft
    labels), where it has some. Tests are of the one label all the same; `tfser scores --by raters` scores against the votes."""
    soft_loss: Literal["cross-entropy", "kl"] = later("cross-entropy")
    """With soft labels: cross-entropy, or kl, the divergence from the targets, which is smaller by their entropy. Both have one
    gradient; kl is zero where the head says what the raters said, and shows how far it is from there."""
    rating_loss: Literal["ccc", "mse", "mix"] = later("ccc")
    """Of dimensions (`--target`): ccc, which is 1 - CCC over the batch; mse, the mean squared error on 0..1; or mix, both with
    ``rating_mix``. See `tfser.heads.training.rating_loss`."""
    rating_mix: Annotated[float, SHARE] = later(0.5)
    """Of rating_loss=mix: the share of 1 - CCC; the rest is the squared error in units of 1/12."""
    rating_weight: Annotated[float, ABOVE_0] = later(1.0)
    """Where classes are learned beside dimensions (`--target class,arousal`): the loss is that of the classes plus so many times
    that of the dimensions."""
    own_rate: Annotated[float, ABOVE_0] = 0.01
    """Learning rate of parameters that need one of their own (TF-Mamba's thresholds), scheduled like ``lr``; they have no
    weight decay."""
    cmdt: Annotated[float, AT_LEAST_0] = 0.0
    """Weight (lambda, Eq. 9) of TF-Mamba's CMDT loss, see `tfser.heads.training.losses`; 0: none."""
    cmdt_temperature: Annotated[float, ABOVE_0] = 0.1
    """The similarities of the CMDT loss are divided by it."""
    cmdt_bins: Annotated[int | None, ABOVE_0] = 8
    """The lowest so many frequencies are compared; None: all."""
    cmdt_similarity: Similarity = "complex"
    """complex (Eq. 7), or magnitude, which a shift in time does not change."""
    cmdt_axis: Axis = "time"
    """time; feature: the naive reading, which is the plain cosine."""
    averaging: Annotated[float, BELOW_1] = 0.0
    """Decay per step of an exponential moving average of the weights, with which everything is evaluated; 0: none."""
    precision: Precision = "float32"
    """Of the training steps (bfloat16: autocast; auto: bfloat16 where the device computes it natively, see
    `tfser.heads.spec.precision`). Evaluation is always in float32."""

    normalise: Normalise = "train"
    """none; train: mean and deviation per feature of the training frames; utterance: per utterance; utterance-mean:
    each utterance's mean is removed, then divided by the training frames' remaining deviation; speaker: per speaker,
    over all that the fold holds of them, test utterances too. speaker is transductive: it needs a test speaker's
    other utterances."""

    cut_seconds: Annotated[float | None, ABOVE_0] = later(None)
    """An utterance is cut after so many seconds; None: only where the head cuts it..."""
    cut_frames: Annotated[int | None, ABOVE_0] = later(None)
    """... or frames, which is what a run stores."""
    slice_seconds: Annotated[float | None, ABOVE_0] = later(None)
    """For heads that eat utterances: they get segments of so many seconds, and an utterance's prediction is the mean over them;
    None: whole utterances..."""
    slice_frames: Annotated[int | None, ABOVE_0] = later(None)
    """... or frames, which is what a run stores."""
    train_hop: Annotated[int | None, ABOVE_0] = None
    """Frames from one training segment's start to the next; None: the segment's length, that is, no overlap."""
    eval_hop: Annotated[int | None, ABOVE_0] = None
    """The same when evaluating."""
    jitter: bool = False
    """Each epoch moves each training segment's start by up to half a hop either way."""

    time_masks: Annotated[int, AT_LEAST_0] = 0
    """How many stretches of time are hidden in each sample."""
    time_mask_frames: Annotated[int, AT_LEAST_0] = 0
    """Each of ``time_masks`` masks hides 0 to so many consecutive frames of a sample."""
    band_masks: Annotated[int, AT_LEAST_0] = 0
    """How many ranges of features are hidden in each sample."""
    band_mask_bands: Annotated[int, AT_LEAST_0] = 0
    """Each of ``band_masks`` masks hides 0 to so many neighbouring features (Mel bands) of a sample."""
    gain_db: Annotated[float, AT_LEAST_0] = 0.0
    """A constant from -gain_db to gain_db is added to a sample's log energies. For log-Mel features."""
    tilt_db: Annotated[float, AT_LEAST_0] = 0.0
    """A straight line over the bands, from -t to t decibels with t up to tilt_db, is added. For log-Mel features."""
    speed: Annotated[float, BELOW_1] = 0.0
    """Frames are read at 1 - speed to 1 + speed times the pace, by linear interpolation. Segments only."""
    warp: Annotated[float, BELOW_1] = 0.0
    """The band axis is stretched by 1 - warp to 1 + warp (vocal-tract length), by linear interpolation. For
    log-Mel."""
    mixup: Annotated[float, UP_TO_HALF] = 0.0
    """A sample gives way to another of its batch by a share drawn evenly from 0 to mixup (at most 0.5), and so does
    its label."""

    temperature: bool = later(False)
    """Fit a temperature on the validation utterances of each selected epoch (`tfser.heads.training.temperature`): the run stores
    it, `tfser scores --by calibration` shows what it does. Predictions are stored as they were; no score changes."""
    validation: str | None = later(None)
    """The policy that holds out validation utterances (`tfser.manifests.protocols.validation`) unless the user or the protocol
    says another."""
    selections: tuple[str, ...] = later(())
    """Choices of epoch beyond last, val and test-oracle, see `tfser.heads.spec.selections`. They change nothing in the
    training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise self._off("betas", "two numbers from 0 to below 1")
        if self.steps is None and self.warmup_epochs > self.epochs:
            raise self._off("warmup_epochs", f"at most epochs ({self.epochs})")
        if self.validation is not None:
            canonical_policy(self.validation)
        for name in self.selections:
            Rule.parse(name)

    def settled(self, hop_s: float) -> Self:
        """Return the recipe with its seconds as frames of ``hop_s`` seconds; where both are given, the fewer frames."""
        changes: dict[str, Any] = {}
        for kind in ("cut", "slice"):
            seconds, frames = getattr(self, f"{kind}_seconds"), getattr(self, f"{kind}_frames")
            if seconds is not None:
                most = max(1, round(seconds / hop_s))
                changes[f"{kind}_frames"] = most if frames is None else min(most, frames)
        return replace(self, **changes)

    def length(self, steps_per_epoch: int) -> int:
        """Return how many epochs are trained."""
        return self.epochs if self.steps is None else -(-self.steps // steps_per_epoch)

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
        # Schedules begin behind the warm-up, and the floor is where the step after the last one would be: the
        # last step itself is still worth taking.
        since = step - warmup
        period = max(1.0, self.period_epochs * steps_per_epoch)  # a shorter one would be over before its first step
        if self.schedule == "step":
            return self.lr * self.step_factor ** int(since / period)
        if self.schedule == "cyclic":
            return self.lr * (1 + (self.peak - 1) * (1 - abs(2 * (since / period % 1) - 1)))
        if self.schedule == "restarts":
            while since >= period:
                since, period = since - period, period * self.period_growth
            done = since / period
        else:
            done = since / max(1.0, total - warmup)
        share = 1 - done if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        return self.lr * (self.floor + (1 - self.floor) * share)


PLAIN = Recipe(
    summary="AdamW, 30 epochs, cosine: the plain recipe of a registered head",
    optimiser="adamw",
    weight_decay=1e-2,
    schedule="cosine",
    warmup_epochs=1,
    epochs=30,
    batch_size=32,
)
"""What our own defaults begin from, and how a head of somebody's own is trained (`tfser.register_head`)."""

FRAMES_DEFAULT = replace(
    PLAIN,
    summary="AdamW 5e-4, batch 16, 30 epochs, cosine, clipping, light label smoothing",
    lr=5e-4,
    warmup_epochs=2,
    batch_size=16,
    grad_clip=5.0,
    label_smoothing=0.1,
    precision="auto",
)
"""Our own default of the heads that TF-Mamba's Table I compares: one for all, chosen beforehand and for none of them. Their
published ways of training are lineages (`tfser.heads.spec.lineages`)."""

FRAMES_RECIPES = {
    "default": FRAMES_DEFAULT,
    "table_one": replace(
        FRAMES_DEFAULT,
        summary="as TF-Mamba trains what it compares: AdamW 5e-4, batch 32; the rest after ShiftSER",
        weight_decay=0.05,
        warmup_epochs=5,
        epochs=100,
        batch_size=32,
        label_smoothing=0.0,
    ),
}
"""Of each head of that table. TF-Mamba's paper says that all rows were trained under identical settings; what it prints of them
and what it leaves open is read as for TF-Mamba itself (its recipe ``no_cmdt``)."""
