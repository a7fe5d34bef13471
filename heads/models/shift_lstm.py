"""ShiftLSTM: a bidirectional LSTM, a quarter of whose input features show the frame before.

After Shen, Liu and Zhou, "Mingling or Misalignment? Temporal Shift for Speech Emotion Recognition with Pre-trained
Representations" (ICASSP 2023), and the sizes of its published code. Letters: B samples, L frames, D width, K classes.

    x -> shift(x) -> BiLSTM of D units each way -> layer norm -> mean over frames -> linear -> logits

Ours: the LSTM that runs backwards begins at an utterance's own last frame, and the mean is over its own frames. LSTMs are
computed in float32 under autocast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn

from tfser.heads.models.blocks import BidirectionalLSTM, dropout, input_map, masked_mean, shift_frames, valid_frames
from tfser.heads.models.frame_head import LSTM_UNSTACKABLE, FrameHead, FrameSettings, width_check
from tfser.heads.spec.settings import AT_LEAST_0


@dataclass(frozen=True, kw_only=True)
class ShiftLSTMConfig(FrameSettings):
    """Sizes; the defaults are the published ones.

    Raises:
        UsageError: A value makes no sense.
    """

    shift: Annotated[int, AT_LEAST_0] = 4
    """One in so many features is shifted by one frame; 0: none."""


class ShiftLSTM(nn.Module):
    """The whole network."""

    def __init__(self, config: ShiftLSTMConfig, dim: int, n_classes: int) -> None:
        super().__init__()
        width = config.width or dim
        self.dropout = config.dropout
        self.shifted = width // config.shift if config.shift else 0
        self.input = input_map(dim, width)
        self.lstm = BidirectionalLSTM(width, width)
        self.norm = nn.LayerNorm(2 * width)
        self.classifier = nn.Linear(2 * width, n_classes)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:  # (B, L, D_in), (B,) -> (B, K)
        """Classify utterances."""
        valid = valid_frames(frames, lengths)  # (B, L)
        x = self.input(frames)  # (B, L, D)
        if self.shifted:
            x = shift_frames(x, valid, self.shifted)
        y = self.norm(self.lstm(x, lengths))  # (B, L, 2 D)
        pooled = masked_mean(y, valid)  # (B, 2 D)
        logits: Tensor = self.classifier(dropout(pooled, self.dropout, self.training))  # (B, K)
        return logits


HEAD = FrameHead(
    name="shift_lstm",
    summary="a temporal shift of a quarter of the features, then a bidirectional LSTM",
    source="Shen et al. 2023, ShiftSER",
    presets={"full": ShiftLSTMConfig(), "no_shift": ShiftLSTMConfig(shift=0)},
    features=("hubert-base", "wavlm-large", "hubert-large", "logmel"),
    build=ShiftLSTM,
    check=width_check("shift_lstm"),
    printed_parameters={768: 9.5},
    unstackable=LSTM_UNSTACKABLE,
)
