"""What a head is: its description, its presets, its recipes, and how it is built or fitted.

There are two kinds: a `Network`, trained by epochs, and a `Baseline`, fitted at once; `HeadSpec` is what both have. Whatever
differs between the kinds the spec answers itself, so that hardly anybody but those who train it asks which kind it is.

A network is a ``torch.nn.Module`` with ``forward(frames (B, L, D), lengths (B,)) -> logits (B, K)``: B samples, L
frames, D the feature width, K classes, or K dimensions (`tfser.heads.training.rating_loss` says what their outputs mean), or
classes and behind them dimensions.
``frames`` are float, already normalised; ``lengths`` are int64 and say how many frames of each sample are valid. What lies
beyond a sample's length must not change its logits, and neither must its batch-mates.

Two ways of feeding a head:

* ``segments``: every sample has exactly ``config.segment_frames`` frames, cut by `tfser.heads.training.samples`, and an
  utterance's prediction is the mean of its segments' probabilities.
* ``utterances``: one sample an utterance, padded with zeros to the longest of its batch; a head that has a limit
  (`HeadSpec.max_frames`) gets no more than the first so many frames.

A head with ``gives_frames`` works in two steps, so that a loss can look in between: ``encode(frames, lengths) -> M (B,
L, D)`` and ``classify(M, lengths) -> logits``; its ``forward`` is the one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tfser.heads.spec.lineages import LINEAGES
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.settings import Settings
from tfser.manifests.errors import UsageError, unknown

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

    from tfser.heads.spec.fold import FitResult, FoldData, Prediction
    from tfser.pipeline.shards.packed import PackedFeatures


Target = Literal["classes", "dimensions", "both"]


@dataclass(frozen=True, kw_only=True)
class AblationRow:
    """A row of the ablation table that a paper prints."""

    name: str
    """As in the paper; ours where the paper has no such row."""
    preset: str
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of recipe or architecture, where they differ from the recipe and the preset."""
    printed: Mapping[str, float] = field(default_factory=dict)
    """The paper's scores in percent, by corpus and metric: `iemocap UA`."""
    parameters: float | None = None
    """The paper's count, in millions."""


def _as_it_is(config: Settings, hop_s: float, longest: int, device: str) -> Settings:
    return config


def _nothing(config: Settings) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """What the rest of the program knows about any head; each is a `Network` or a `Baseline`."""

    name: str
    summary: str
    """One line for people."""
    source: str
    """The paper, or where else the method comes from."""
    presets: Mapping[str, Settings]
    default_preset: str
    recipes: Mapping[str, Recipe]
    default_recipe: str
    features: tuple[str, ...]
    """Feature sets that it likes, the best first: the first one in the cache is taken unless the user names
    another."""
    inputs: Literal["segments", "utterances"]
    check: Callable[[Any, int], None]
    """``check(config, dim)`` raises `UsageError` where a feature width does not fit."""
    typical_dim: int
    """The feature width that the method was made for."""
    settle: Callable[[Any, float, int, str], Settings] = _as_it_is
    """``settle(config, hop_s, longest, device)``: see `settled`."""
    frames_limit: Callable[[Any], int | None] = _nothing
    """``frames_limit(config)``: see `max_frames`."""
    batch_norm: bool = False
    """In training, the samples of a batch have statistics in common; ``forward`` takes ``present`` (B,) bool, the samples that
    count in them (None: all)."""
    ablation: tuple[AblationRow, ...] = ()
    """The rows of the paper's ablation table, in its order."""
    no_graph: str | None = None
    """Why it cannot be written as ONNX (`tfser.heads.prediction.onnx_graph`); None: it can."""
    per_utterance: bool = False
    """It can read feature sets that have one frame an utterance, such as functionals; other heads need frames over time."""
    learns: frozenset[Target] = frozenset({"classes", "dimensions", "both"})
    """What it can be trained for; both: classes and dimensions in one training."""
    reads: tuple[str, ...] = ()
    """Of a head that takes feature sets apart again (`tfser cache join`): the kind of each part, in order, `*` for any; its
    configuration has `parts`, the widths of all but the last. None: it reads any features."""

    def preset(self, name: str | None = None) -> Settings:
        """Return the configuration of a preset, the default one for None.

        Raises:
            UsageError: There is no such preset.
        """
        name = self.default_preset if name is None else name
        if name not in self.presets:
            raise unknown(f"preset of {self.name}", name, list(self.presets))
        return self.presets[name]

    def recipe(self, name: str | None = None) -> Recipe:
        """Return a recipe, the default one for None: its own, or one of `tfser.heads.spec.lineages` where it has those.

        Raises:
            UsageError: There is no such recipe.
        """
        name = self.default_recipe if name is None else name
        if name in self.recipes:
            return self.recipes[name]
        if name not in self.recipe_names:
            raise self._no_recipe(name)
        return LINEAGES[name].recipe

    def _no_recipe(self, name: str) -> UsageError:
        return unknown(f"recipe of {self.name}", name, self.recipe_names)

    @property
    def recipe_names(self) -> list[str]:
        """The names that `recipe` knows."""
        return list(self.recipes)

    @property
    def recipe_settings(self) -> AbstractSet[str] | None:
        """The settings of a recipe that mean something to this head; None: all."""
        return None

    def selection(self, asked: str) -> str:
        """Return the selection that stands for the one that is asked for."""
        return asked

    def segment_frames(self, config: Settings) -> int | None:
        """Return the frames of one segment, None for a head that eats whole utterances."""
        return int(config.segment_frames) if self.inputs == "segments" else None  # type: ignore[attr-defined]

    def sample_frames(self, config: Settings, recipe: Recipe) -> int | None:
        """Return the frames of one sample in training and prediction, None where samples are whole utterances."""
        return recipe.slice_frames if self.inputs == "utterances" else self.segment_frames(config)

    def seen_frames(self, config: Settings, recipe: Recipe) -> int | None:
        """Return the most frames of an utterance that are looked at, None for all: the head's limit or the recipe's."""
        limits = [limit for limit in (self.max_frames(config), recipe.cut_frames) if limit is not None]
        return min(limits, default=None)

    def settled(self, config: Settings, *, hop_s: float, longest: int, device: str) -> Settings:
        """Return the configuration with everything filled in that it leaves to the data and the device.

        Args:
            config: of this head.
            hop_s: seconds from one frame to the next.
            longest: frames of the longest utterance that the head will see.
            device: `cpu`, `cuda`, `cuda:1` ...

        Raises:
            UsageError: The configuration asks for something that the device does not have.
        """
        return self.settle(config, hop_s, longest, device)

    def max_frames(self, config: Settings) -> int | None:
        """Return the most frames of an utterance that the head sees, None if it sees all."""
        return self.frames_limit(config)

    def unstackable_because(self, config: Settings) -> str | None:
        """Return why trainings of a configuration cannot share their steps at all, None if they can."""
        return None

    def no_vmap_because(self, config: Settings) -> str | None:
        """Return why a step of a configuration cannot be one operation over several trainings, None if it can."""
        return None


@dataclass(frozen=True, kw_only=True)
class Network(HeadSpec):
    """A head that is a network, trained by epochs of torch (`tfser.heads.training.loop`)."""

    build: Callable[[Any, int, int], nn.Module]
    """``build(config, dim, n_classes)`` returns the module, its weights drawn from torch's global generator."""
    gives_frames: bool = False
    """The module has ``encode`` and ``classify``."""
    printed_parameters: Mapping[int, float] = field(default_factory=dict)
    """Of the default preset, in millions by the features' width, as published for the same parts; see `ablation` for others."""
    printed_otherwise: str = ""
    """What is printed of other parts than these, or that nothing is, in words; for heads without `printed_parameters`."""
    unstackable: str | None = None
    """Why trainings of it cannot share their steps, whatever its configuration; None: they can."""
    no_vmap: Callable[[Any], str | None] = _nothing
    """``no_vmap(config)``: see `no_vmap_because`."""

    fit: ClassVar[None] = None
    """Nothing fits a network at once."""

    @property
    def recipe_names(self) -> list[str]:
        """The head's own recipes, then those of lineages."""
        return list(dict.fromkeys([*self.recipes, *LINEAGES]))

    def unstackable_because(self, config: Settings) -> str | None:
        """Return why trainings of a configuration cannot share their steps at all, None if they can."""
        if self.unstackable is not None:
            return self.unstackable
        if drops(config):
            return "with dropout, the masks of a job would depend on its neighbours"
        return None

    def no_vmap_because(self, config: Settings) -> str | None:
        """Return why a step of a configuration cannot be one operation over several trainings, None if it can."""
        return self.no_vmap(config)


@dataclass(frozen=True, kw_only=True)
class Baseline(HeadSpec):
    """A head that is fitted at once: no module, no epochs, on the CPU, and the same numbers for every seed."""

    fit: Callable[[FoldData, Any, Recipe], FitResult]
    """``fit(data, config, recipe)`` stands in for `tfser.heads.training.loop.fit`."""
    predict: Callable[[Mapping[str, Tensor], PackedFeatures, npt.NDArray[np.int64], tuple[str, ...] | None], Prediction]
    """``predict(state, features, rows, speakers)`` with what such a ``fit`` learnt; speakers matter to ``normalise=speaker``."""
    weighs_classes: bool = True
    """Weights of classes mean something to it."""

    def _no_recipe(self, name: str) -> UsageError:
        if name in LINEAGES:
            return UsageError(f"recipe {name}: {self.name} is not trained by epochs; take {' or '.join(self.recipes)}")
        return super()._no_recipe(name)

    @property
    def recipe_settings(self) -> AbstractSet[str] | None:
        """Only weights of classes and the temperature: there is no loop that the others could mean something to."""
        return {"class_weights", "class_beta", "temperature"} if self.weighs_classes else set()

    def selection(self, asked: str) -> str:
        """Return `last`: where there are no epochs, there is no choice."""
        return "last"

    def unstackable_because(self, config: Settings) -> str | None:
        """Return that there are no steps to share."""
        return "it is not trained by gradient steps"


def drops(config: Settings) -> bool:
    """Tell whether a head drops numbers while training, in whichever of its parts: `dropout`, `classifier_dropout` ..."""
    rates = (value for name, value in config.to_dict().items() if name.endswith("dropout"))
    return any(rate > 0 for rate in rates if isinstance(rate, (int, float)))


def count_parameters(module: nn.Module) -> int:
    """Return how many trainable numbers a module has."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
