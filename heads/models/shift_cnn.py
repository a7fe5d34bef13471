"""ShiftCNN: a small ConvNeXt over time, in whose second block some features of the residual show the frame before.

After Shen, Liu and Zhou, "Mingling or Misalignment? Temporal Shift for Speech Emotion Recognition with Pre-trained
Representations" (ICASSP 2023), and the sizes of its published code. Letters: B samples, L frames, D width, K classes.

    x -> x + f(x) -> shift(x) + f(x) -> layer norm -> mean over frames -> linear -> logits,
    f(x) = Linear(GELU(Linear(LayerNorm(depthwise convolution over 7 frames(x)))))       (ConvNeXt: Liu et al. 2022)

Ours: frames beyond an utterance's end count as zero in every convolution, and the mean is over its own frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn

from tfser.heads.models.blocks import dropout, input_map, masked_mean, shift_frames, valid_frames
from tfser.heads.models.frame_head import FrameHead, FrameSettings, width_check
from tfser.heads.spec.settings import ABOVE_0, AT_LEAST_0


@dataclass(frozen=True, kw_only=True)
class ShiftCNNConfig(FrameSettings):
    """Sizes; the defaults are the published ones.

    Raises:
        UsageError: A value makes no sense.
    """

    blocks: Annotated[int, ABOVE_0] = 2
    """The shift is in the residual of all but the first."""
    kernel: Annotated[int, ABOVE_0] = 7
    """Frames that a convolution sees; odd."""
    expansion: Annotated[int, ABOVE_0] = 4
    """Inner width of a block, as a multiple of D."""
    shift: Annotated[int, AT_LEAST_0] = 16
    """One in so many features is shifted by one frame; 0: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel % 2 == 0:
            raise self._off("kernel", "odd")


class ShiftConvBlock(nn.Module):
    """A ConvNeXt block over time; ``shifted`` features of its residual show the frame before."""

    def __init__(self, config: ShiftCNNConfig, width: int, shifted: int) -> None:
        super().__init__()
        self.shifted, self.dropout = shifted, config.dropout
        self.depthwise = nn.Conv1d(width, width, config.kernel, padding=config.kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, config.expansion * width)
        self.outer = nn.Linear(config.expansion * width, width)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:  # (B, L, D), (B, L) -> (B, L, D)
        """Transform frames; those that are not valid count as zero."""
        x = x.masked_fill(~valid[:, :, None], 0.0)
        y = self.depthwise(x.transpose(1, 2)).transpose(1, 2)  # (B, L, D)
        y = self.outer(nn.functional.gelu(self.inner(self.norm(y))))  # (B, L, D), by way of (B, L, 4 D)
        y = dropout(y, self.dropout, self.training)
        residual = shift_frames(x, valid, self.shifted) if self.shifted else x
        return residual + y


class ShiftNetwork(nn.Module):
    """Blocks one after the other, a norm, the mean over frames, and a linear map: what the two heads without an LSTM share.

    Args:
        dim: the width of the features.
        blocks: called as ``block(x (B, L, D), valid (B, L))``; they are made behind the input's map, whose weights come first.
        norm: before the mean.
        width: D.
        n_classes: K.
    """

    def __init__(self, dim: int, blocks: Iterable[nn.Module], norm: nn.Module, width: int, n_classes: int) -> None:
        super().__init__()
        self.input = input_map(dim, width)
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.classifier = nn.Linear(width, n_classes)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:  # (B, L, D_in), (B,) -> (B, K)
        """Classify utterances."""
        valid = valid_frames(frames, lengths)  # (B, L)
        x = self.input(frames)  # (B, L, D)
        for block in self.blocks:
            x = block(x, valid)
        logits: Tensor = self.classifier(masked_mean(self.norm(x), valid))  # (B, K)
        return logits


class ShiftCNN(ShiftNetwork):
    """The whole network."""

    def __init__(self, config: ShiftCNNConfig, dim: int, n_classes: int) -> None:
        width = config.width or dim
        shifted = width // config.shift if config.shift else 0
        blocks = (ShiftConvBlock(config, width, shifted if number else 0) for number in range(config.blocks))
        super().__init__(dim, blocks, nn.LayerNorm(width), width, n_classes)


HEAD = FrameHead(
    name="shift_cnn",
    summary="two ConvNeXt blocks over time, a temporal shift in the second's residual",
    source="Shen et al. 2023, ShiftSER",
    presets={"full": ShiftCNNConfig(), "no_shift": ShiftCNNConfig(shift=0)},
    features=("hubert-base", "wavlm-large", "hubert-large", "logmel"),
    build=ShiftCNN,
    check=width_check("shift_cnn"),
    printed_parameters={768: 9.5},
)
