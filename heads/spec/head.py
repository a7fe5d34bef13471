"""What a head is: its description, its presets, its recipes, and how it is built.

A head is a ``torch.nn.Module`` with ``forward(frames (B, L, D), lengths (B,)) -> logits (B, K)``: B samples, L
frames, D the feature width, K classes. ``frames`` are float, already normalised; ``lengths`` are int64 and say how
many frames of each sample are valid. What lies beyond a sample's length must not change its logits, and neither must
its batch-mates.

Two ways of feeding a head:

* ``segments``: every sample has exactly ``config.segment_frames`` frames, cut by `tfser.heads.training.samples`, and an
  utterance's prediction is the mean of its segments' probabilities.
* ``utterances``: one sample an utterance, padded with zeros to the longest of its batch; a head whose configuration
  has ``max_frames`` gets no more than the first so many frames.

A head with ``gives_frames`` works in two steps, so that a loss can look in between: ``encode(frames, lengths) -> M (B,
L, D)`` and ``classify(M, lengths) -> logits``; its ``forward`` is the one after the other.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from tfser.manifests.errors import UsageError, unknown

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

    from tfser.heads.spec.recipes import Recipe
    from tfser.heads.training.loop import FitResult, FoldData
    from tfser.heads.training.predict import Prediction
    from tfser.pipeline.shards.packed import PackedFeatures

T = TypeVar("T")
SMALLEST, LARGEST = 1e-30, 1e30
"""Between which a setting that is not 0 lies: float32 goes to 1e38 either way, and there is room for a product."""
_LATER = "added later"


def later(default: T) -> T:
    """Return the default of a field that is added to a `Settings` class that runs are already named by.

    Such a field is left out of what names an experiment while it is at its default (`Settings.identity`), so that finished runs
    are found again by a newer version.
    """
    return field(default=default, metadata={_LATER: True})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A configuration: immutable, valid once constructed, stored with every result.

    Subclasses are frozen keyword-only dataclasses whose fields are numbers, strings, booleans, tuples of these or
    None, and whose ``__post_init__`` raises `UsageError` for values that make no sense.
    """

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary that JSON can hold (tuples as lists)."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def identity(self) -> dict[str, Any]:
        """Return what names an experiment: `to_dict` without the fields of `later` that are at their defaults.

        A field that is added from now on has to be declared with `later`, or every finished run is trained again.
        """
        neutral = {f.name for f in fields(self) if f.metadata.get(_LATER) and getattr(self, f.name) == f.default}
        return {name: value for name, value in self.to_dict().items() if name not in neutral}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the configuration that ``to_dict`` described; fields that it lacks take their defaults.

        Raises:
            UsageError: A field is unknown or its value makes no sense.
        """
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise unknown(f"{cls.__name__} setting", name, known)
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

    def with_settings(self, settings: Mapping[str, str]) -> Self:
        """Return a copy with some fields set from text, as the command line's ``--set name=value`` gives them.

        Raises:
            UsageError: A field is unknown, its text does not read as the field's type, or its value makes no sense.
        """
        hints = typing.get_type_hints(type(self))
        known = [f.name for f in fields(self)]
        values: dict[str, Any] = {}
        for name, text in settings.items():
            if name not in known:
                raise unknown(f"{type(self).__name__} setting", name, known)
            values[name] = _parse(name, text, hints[name])
        return replace(self, **values)


def _parse(name: str, text: str, hint: Any) -> Any:
    """Return ``text`` as a value of the annotated type ``hint``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    try:
        if origin in (typing.Union, types.UnionType):
            if text.lower() in ("none", "null") and type(None) in arguments:
                return None
            return _parse(name, text, next(a for a in arguments if a is not type(None)))
        if origin is tuple:
            items = [item for item in text.strip("()[] ").split(",") if item.strip()]
            return tuple(_parse(name, item.strip(), arguments[0]) for item in items)
        if hint is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        if hint is int:
            return checked_number(name, int(text))
        if hint is float:
            return checked_number(name, float(text))
    except (KeyError, ValueError) as error:
        expected = getattr(hint, "__name__", str(hint))
        raise UsageError(f"{name}={text}: not a value of type {expected}") from error
    return text  # strings and literals, which the dataclass itself checks


Number = TypeVar("Number", int, float)


def checked_number(name: str, value: Number) -> Number:
    """Return a setting's number if float32 (or, a whole one, the catalogue's INTEGER) can hold it and compute with it.

    Raises:
        UsageError: It is infinite, no number, too large, or so small that it would be zero.
    """
    if isinstance(value, int):
        if not -(2**31) <= value < 2**31:
            raise UsageError(f"{name}={value}: must be below {2**31:,}")
    elif not (value == 0 or SMALLEST <= abs(value) <= LARGEST):
        raise UsageError(f"{name}={value}: must be 0, or from {SMALLEST:g} to {LARGEST:g}: float32 has no room for others")
    return value


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


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """Everything that the rest of the program knows about a head."""

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
    build: Callable[[Any, int, int], nn.Module]
    """``build(config, dim, n_classes)`` returns the module, its weights drawn from torch's global generator."""
    check: Callable[[Any, int], None]
    """``check(config, dim)`` raises `UsageError` where a feature width does not fit."""
    typical_dim: int
    """The feature width that the method was made for."""
    settle: Callable[[Any, float, int, str], Settings] = _as_it_is
    """``settle(config, hop_s, longest, device)``: see `settled`."""
    gives_frames: bool = False
    """The module has ``encode`` and ``classify``."""
    batch_norm: bool = False
    """In training, the samples of a batch have statistics in common; ``forward`` takes ``present`` (B,) bool, the samples that
    count in them (None: all)."""
    ablation: tuple[AblationRow, ...] = ()
    """The rows of the paper's ablation table, in its order."""
    fit: Callable[[FoldData, Any, Recipe], FitResult] | None = None
    """Of a head that is not trained by epochs of torch: ``fit(data, config, recipe)`` stands in for `tfser.heads.training.loop.fit`.
    Such a head has no module, heeds ``recipe_settings`` alone, runs on the CPU, and gives the same numbers for every seed."""
    predict: Callable[[Mapping[str, Tensor], PackedFeatures, npt.NDArray[np.int64]], Prediction] | None = None
    """``predict(state, features, rows)`` with what such a ``fit`` learnt."""

    @property
    def recipe_settings(self) -> AbstractSet[str] | None:
        """The settings of a recipe that mean something to this head; None: all."""
        return None if self.fit is None else {"class_weights", "class_beta"}

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
        """Return a recipe, the default one for None: its own or, for a head with a network, one of `tfser.heads.spec.lineages`.

        Raises:
            UsageError: There is no such recipe.
        """
        from tfser.heads.spec.lineages import LINEAGES

        name = self.default_recipe if name is None else name
        if name in self.recipes:
            return self.recipes[name]
        if self.fit is not None and name in LINEAGES:
            raise UsageError(f"recipe {name}: {self.name} is not trained by epochs; take {' or '.join(self.recipes)}")
        if name not in LINEAGES:
            raise unknown(f"recipe of {self.name}", name, self.recipe_names)
        return LINEAGES[name].recipe

    @property
    def recipe_names(self) -> list[str]:
        """The names that `recipe` knows: the head's own, then those of lineages."""
        from tfser.heads.spec.lineages import LINEAGES

        return list(dict.fromkeys([*self.recipes, *(LINEAGES if self.fit is None else ())]))

    def segment_frames(self, config: Settings) -> int | None:
        """Return the frames of one segment, None for a head that eats whole utterances."""
        return int(config.segment_frames) if self.inputs == "segments" else None  # type: ignore[attr-defined]

    def sample_frames(self, config: Settings, recipe: Recipe) -> int | None:
        """Return the frames of one sample in training and prediction, None where samples are whole utterances."""
        return int(config.segment_frames) if self.inputs == "segments" else recipe.slice_frames  # type: ignore[attr-defined]

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
        return getattr(config, "max_frames", None)

    def module(self, config: Settings, dim: int, n_classes: int, layers: int = 1) -> nn.Module:
        """Check that the width fits, and build the module.

        Args:
            config: of this head.
            dim: the features' width as stored: of all layers together.
            n_classes: K.
            layers: M; above 1, the head is built for the width dim / M, behind a learned mix (`tfser.heads.models.layer_mix`).

        Raises:
            UsageError: The feature width does not fit the configuration, or does not part into so many layers.
        """
        if dim % layers:
            raise UsageError(f"features of a width of {dim} do not part into {layers} layers")
        self.check(config, dim // layers)
        module = self.build(config, dim // layers, n_classes)
        if layers == 1:
            return module
        from tfser.heads.models.layer_mix import LayerMix

        return LayerMix(module, layers, dim // layers)


def count_parameters(module: nn.Module) -> int:
    """Return how many trainable numbers a module has."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
