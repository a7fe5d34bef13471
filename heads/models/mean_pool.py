"""The baseline head: the masked mean over time, then a small network.

``mlp`` is the network that TF-Mamba's paper ends with (1024-512-256-K), which alone is its 0.66 M baseline: 657,156
parameters at a feature width of 1024 and 4 classes. ``linear`` is multinomial logistic regression on the mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated

from torch import Tensor, nn

from tfser.heads.models.blocks import valid_frames
from tfser.heads.spec.head import Network
from tfser.heads.spec.recipes import PLAIN
from tfser.heads.spec.settings import ABOVE_0, BELOW_1, Settings
from tfser.manifests.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class MeanPoolConfig(Settings):
    """The baseline head.

    Raises:
        UsageError: A width is not positive, or the dropout is not from 0 to below 1.
    """

    hidden: Annotated[tuple[int, ...], ABOVE_0] = (512, 256)
    """Widths of the hidden layers; none: linear."""
    dropout: Annotated[float, BELOW_1] = 0.0
    """Before every layer but the first."""


class MeanPool(nn.Module):
    """Masked mean over time, then Linear-ReLU layers."""

    def __init__(self, config: MeanPoolConfig, dim: int, n_classes: int) -> None:
        super().__init__()
        widths = (dim, *config.hidden)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(config.dropout)]
        self.network = nn.Sequential(*layers, nn.Linear(widths[-1], n_classes))

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:  # (B, L, D), (B,) -> (B, K)
        """Classify utterances; frames beyond their lengths are not looked at."""
        valid = valid_frames(frames, lengths)  # (B, L)
        total = frames.masked_fill(~valid[:, :, None], 0.0).sum(dim=1)  # (B, D)
        logits: Tensor = self.network(total / lengths[:, None])  # (B, K)
        return logits


def _check(config: MeanPoolConfig, dim: int) -> None:
    if dim <= 0:
        raise UsageError(f"mean_pool needs features of a positive width, not {dim}")


HEAD = Network(
    name="mean_pool",
    summary="masked mean over time and a small network: the baseline",
    source="TF-Mamba's baseline (Table III, first row)",
    presets={"mlp": MeanPoolConfig(), "linear": MeanPoolConfig(hidden=())},
    default_preset="mlp",
    recipes={"default": replace(PLAIN, summary="AdamW, 30 epochs, cosine, light label smoothing", label_smoothing=0.1)},
    default_recipe="default",
    features=("wavlm-large", "hubert-large", "logmel"),
    inputs="utterances",
    build=MeanPool,
    check=_check,
    per_utterance=True,
    typical_dim=1024,
)
