"""What the heads that read whole utterances of an encoder's frames have in common, so that each one's file holds what is its own.

Settings (`FrameSettings`, `AttentionSettings`), the check of a feature width, and `FrameHead`, a description whose defaults are
those of TF-Mamba's Table I. Networks and what they compute are not here: see `tfser.heads.models.blocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tfser.heads.spec.head import Network
from tfser.heads.spec.recipes import FRAMES_RECIPES, Recipe
from tfser.heads.spec.settings import ABOVE_0, BELOW_1, Settings
from tfser.manifests.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class FrameSettings(Settings):
    """What the heads that read whole utterances of frames have in common; each adds its own.

    Raises:
        UsageError: A value makes no sense.
    """

    width: Annotated[int | None, ABOVE_0] = None
    """D of the network; None: the features'. Where the two differ, a linear map comes first, which is ours."""
    dropout: Annotated[float, BELOW_1] = 0.0
    """The share of numbers that is dropped while training, wherever the head drops any."""


@dataclass(frozen=True, kw_only=True)
class AttentionSettings(FrameSettings):
    """What those of them have in common whose frames attend to each other; the sizes are those of one group's published heads.

    Raises:
        UsageError: A value makes no sense.
    """

    dropout: Annotated[float, BELOW_1] = 0.1
    """In the layers, while training; in the classifier, too, where it has no rate of its own."""
    heads: Annotated[int, ABOVE_0] = 8
    """Of attention; they divide D."""
    feed_forward: Annotated[int, ABOVE_0] = 512
    """Inner width of the feed-forward networks."""
    hidden: Annotated[tuple[int, ...], ABOVE_0] = (512, 256)
    """Hidden widths of the classifier."""


def width_check(head: str, what: str = "", divisor: int | None = None) -> Callable[[Any, int], None]:
    """Return a head's ``check(config, dim)``: features whose width it cannot take are refused with a `UsageError`.

    Args:
        head: its name.
        what: has to divide the network's width: a setting of that name, or what ``divisor`` counts; "": nothing has to.
        divisor: the number, where it is no setting.
    """

    def check(config: FrameSettings, dim: int) -> None:
        if dim <= 0:
            raise UsageError(f"{head} needs features of a positive width, not {dim}")
        width = config.width or dim
        number = (getattr(config, what) if what else 1) if divisor is None else divisor
        if width % number:
            raise UsageError(
                f"{head}: {what}={number} must divide the width {width}; let a linear map bring the features to a width "
                "that fits: `tfser train --width D`"
            )

    return check


@dataclass(frozen=True, kw_only=True)
class FrameHead(Network):
    """A head that TF-Mamba's Table I compares: whole utterances, the one recipe of them all, sizes made for encoders of 1024."""

    default_preset: str = "full"
    recipes: Mapping[str, Recipe] = field(default_factory=lambda: FRAMES_RECIPES)
    default_recipe: str = "default"
    features: tuple[str, ...] = ("wavlm-large", "hubert-large", "logmel")
    inputs: Literal["segments", "utterances"] = "utterances"
    typical_dim: int = 1024


LSTM_UNSTACKABLE = "torch.func has no rule for LSTMs over utterances of unequal lengths"
"""Why trainings of heads with LSTMs cannot share their steps."""
