"""Shiftformer: Transformer blocks with a shift of features in time in place of attention.

After Shen, Liu and Zhou, "Mingling or Misalignment? Temporal Shift for Speech Emotion Recognition with Pre-trained
Representations" (ICASSP 2023), and the sizes of its published code. Letters: B samples, L frames, D width, K classes.

    x -> 2 blocks of [x = shift(x); x = LayerNorm(x + MLP(x))] -> mean over frames -> linear -> logits,

where the shift moves a quarter of the features by one frame each way: the first quarter shows the frame before, the second the
frame after. The block has neither attention nor a norm before its MLP. Ours: zeros come in at an utterance's own ends, and the
mean is over its own frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn

from tfser.heads.models.blocks import dropout, shift_frames
from tfser.heads.models.frame_head import FrameHead, FrameSettings, width_check
from tfser.heads.models.shift_cnn import ShiftNetwork
from tfser.heads.spec.settings import ABOVE_0, AT_LEAST_0


@dataclass(frozen=True, kw_only=True)
class ShiftformerConfig(FrameSettings):
    """Sizes; the defaults are the published ones.

    Raises:
        UsageError: A value makes no sense.
    """

    blocks: Annotated[int, ABOVE_0] = 2
    """One after the other."""
    expansion: Annotated[int, ABOVE_0] = 4
    """Inner width of a block, as a multiple of D."""
    shift: Annotated[int, AT_LEAST_0] = 4
    """One in so many features is shifted by one frame each way; 0: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shift == 1:
            raise self._off("shift", "0, or 2 or more")


class ShiftBlock(nn.Module):
    """A shift each way, then an MLP with a residual and post-norm."""

    def __init__(self, config: ShiftformerConfig, width: int) -> None:
        super().__init__()
        self.shifted, self.dropout = width // config.shift if config.shift else 0, config.dropout
        self.inner = nn.Linear(width, config.expansion * width)
        self.outer = nn.Linear(config.expansion * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:  # (B, L, D), (B, L) -> (B, L, D)
        """Transform frames."""
        if self.shifted:
            x = shift_frames(x, valid, self.shifted, self.shifted)
        y = self.outer(nn.functional.gelu(self.inner(x)))  # (B, L, D), by way of (B, L, 4 D)
        mixed: Tensor = self.norm(x + (dropout(y, self.dropout, self.training)))
        return mixed


class Shiftformer(ShiftNetwork):
    """The whole network."""

    def __init__(self, config: ShiftformerConfig, dim: int, n_classes: int) -> None:
        width = config.width or dim
        super().__init__(dim, (ShiftBlock(config, width) for _ in range(config.blocks)), nn.Identity(), width, n_classes)


HEAD = FrameHead(
    name="shiftformer",
    summary="two Transformer blocks with a temporal shift each way in place of attention",
    source="Shen et al. 2023, ShiftSER",
    presets={"full": ShiftformerConfig(), "no_shift": ShiftformerConfig(shift=0)},
    features=("hubert-base", "wavlm-large", "hubert-large", "logmel"),
    build=Shiftformer,
    check=width_check("shiftformer"),
    printed_parameters={768: 9.5, 1024: 16.8},
)
