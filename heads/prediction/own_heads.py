"""A head of one's own, without a package: a class or a function becomes a head like any other, in this process.

What comes in: something that makes a `torch.nn.Module` for a feature width and a number of classes. What goes out: a
`HeadSpec` among the registered ones, so that it is trained under the same protocols and audits, and stands in the same
tables. Its source code is part of its configuration, with what it uses of its own file
(`tfser.heads.prediction.own_code`): a class that was changed is another head, and its old runs are not taken for the new one's.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tfser.heads import HEADS, REGISTERED
from tfser.heads.prediction.own_code import digest_of
from tfser.heads.prediction.python_values import setting_text
from tfser.heads.spec.head import HeadSpec, Network
from tfser.heads.spec.recipes import PLAIN, Recipe
from tfser.heads.spec.settings import Settings
from tfser.manifests.cache import check_name
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.plugins import HEADS as GROUP
from tfser.manifests.plugins import plugins

if TYPE_CHECKING:
    from torch import nn

Build = Callable[[int, int], "nn.Module"]
"""`build(dim, n_classes)`: a module class, or a function."""


@dataclass(frozen=True, kw_only=True)
class OwnConfig(Settings):
    """What a registered head's numbers depend on beyond the data and the recipe.

    Raises:
        UsageError: a number is not positive.
    """

    code: str = ""
    """Of the class or function: a digest of its source, or the version that was given."""
    max_frames: int | None = None
    """An utterance is cut after so many frames; None: nowhere."""

    def __post_init__(self) -> None:
        if self.max_frames is not None and self.max_frames < 1:
            raise UsageError(f"max_frames={self.max_frames}: must be above 0, or none")


@dataclass(frozen=True, kw_only=True)
class OwnSegmentConfig(OwnConfig):
    """The same of a head that eats segments.

    Raises:
        UsageError: a number is not positive.
    """

    segment_frames: int = 80
    """Frames of a segment."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.segment_frames < 1:
            raise UsageError(f"segment_frames={self.segment_frames}: must be above 0")


def register_head(
    name: str,
    build: Build,
    *,
    summary: str = "",
    inputs: Literal["utterances", "segments"] = "utterances",
    segment_frames: int = 80,
    recipe: Recipe | Mapping[str, object] | None = None,
    version: str | None = None,
) -> HeadSpec:
    """Register a head for this process, in place of one of the name that was registered before.

    Args:
        name: for `train`, tables and run ids.
        build: a module class or a function, called as `build(dim, n_classes)`; the module's `forward(frames (B, L, dim),
            lengths (B,))` returns logits (B, n_classes). What lies beyond a sample's length, and batch-mates, must not
            change its logits.
        summary: one line for tables.
        inputs: whole utterances, padded with zeros to the longest of a batch, or segments of a fixed length.
        segment_frames: of segments.
        recipe: how to train it unless told otherwise, or what differs from the plain one.
        version: of code that cannot be read (`build` is no class or function of a file or a notebook's cell), or that uses
            modules of your own; raise it when the numbers change.

    Raises:
        UsageError: the name is taken by a head of tfser or of a plug-in, the code cannot be read and has no version, or another
            argument is off.
    """
    check_name("head", name)
    if name in HEADS or name in plugins(GROUP):
        raise UsageError(f"a head called {name} is there already; take another name")
    config = _config(digest_of(build) if version is None else f"version {version}", inputs, segment_frames)
    spec = Network(
        name=name,
        summary=summary or (inspect.getdoc(build) or "a head of one's own").splitlines()[0],
        source="registered in this process",
        presets={"plain": config},
        default_preset="plain",
        recipes={"default": _way(recipe)},
        default_recipe="default",
        features=("logmel",),
        inputs=inputs,
        build=lambda config, dim, n_classes: _built(name, build, dim, n_classes, _frames_tried(config)),
        check=_check,
        frames_limit=lambda config: config.max_frames,
        typical_dim=80,
    )
    REGISTERED[name] = spec
    return spec


def _config(code: str, inputs: str, segment_frames: object) -> OwnConfig:
    """Return the configuration of a head whose code has this digest, once what its author said of its inputs is checked."""
    if inputs not in ("utterances", "segments"):
        raise unknown("kind of inputs", inputs, ("utterances", "segments"))
    if not isinstance(segment_frames, int) or isinstance(segment_frames, bool):
        raise UsageError(f"segment_frames={segment_frames!r}: a whole number is wanted")
    return OwnSegmentConfig(code=code, segment_frames=segment_frames) if inputs == "segments" else OwnConfig(code=code)


_TRIED = 50
"""Frames of the shorter utterance that a new module is tried on."""


def _frames_tried(config: object) -> int:
    """Return the frames of an utterance, or a segment, as the head of a configuration may be given."""
    assert isinstance(config, OwnConfig)
    return config.segment_frames if isinstance(config, OwnSegmentConfig) else min(2 * _TRIED, config.max_frames or 2 * _TRIED)


def _way(recipe: Recipe | Mapping[str, object] | None) -> Recipe:
    """Return how a head is trained: the recipe, or the plain one with what differs.

    Raises:
        UsageError: it is neither, or a setting is unknown or off.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, (Mapping, type(None))):
        raise UsageError(f"recipe: a mapping such as {{'lr': 0.003}} or a tfser.Recipe is wanted, not {type(recipe).__name__}")
    return PLAIN.with_settings({str(name): setting_text(value) for name, value in (recipe or {}).items()})


def _built(name: str, build: Build, dim: int, n_classes: int, frames: int) -> nn.Module:
    """Return the module, once a copy of it has given logits of the right shape; what it raises is seen in training.

    Raises:
        UsageError: it is no module, or gives something else than logits (B, n_classes): more of them would train without a word.
    """
    import torch

    module = build(dim, n_classes)
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"{name}: build({dim}, {n_classes}) gives {type(module).__name__}, not a torch.nn.Module")
    logits: object = torch.empty(2, n_classes)
    # A copy, without gradients and with the generator put back: the training's numbers do not know of it.
    with contextlib.suppress(Exception), torch.random.fork_rng(devices=[]), torch.no_grad():
        logits = copy.deepcopy(module).eval()(torch.zeros(2, frames, dim), torch.tensor([frames, min(frames, _TRIED)]))
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if shape != (2, n_classes):
        raise UsageError(f"{name}: of frames {(2, frames, dim)} forward gives {shape}; logits {(2, n_classes)} are wanted")
    return module


def _check(config: OwnConfig, dim: int) -> None:
    if dim <= 0:
        raise UsageError(f"features of a positive width are wanted, not {dim}")
