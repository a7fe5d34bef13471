"""ENT, its speech part: a bidirectional LSTM, a class for the utterance, and classes for its frames pooled by their maximum.

After Shen, Gao, Liu, Wang and Zhou, "Emotion Neural Transducer for Fine-Grained Speech Emotion Recognition" (ICASSP 2024), and
the sizes of its published code. Letters: B samples, L frames, D width, K classes.

    h = BiLSTM(x), D / 2 units each way
    utterance: u = Linear(LayerNorm(mean of h over frames))
    frames:    e_l = Linear(tanh(h_l)),   m = the maximum over frames of log softmax(e_l), class by class
    logits = u + m

Left out, since the cache holds speech alone: the predictor (an LSTM over the transcript's characters), whose mean is half of
what the published utterance head sees and one side of the two-dimensional lattice whose nodes the joint networks classify, and
the transducer's loss. With no transcript the lattice has one row: its nodes are the frames.

Ours: the published loss adds cross-entropy of u and the lattice's own (minus the logarithm of the largest probability of the
true class, and of the smallest of "neutral"); here both pools are one set of logits, so that one loss and one prediction serve
every head, and no class has a part of its own. The published one takes a learned mix of an encoder's layers: give it a feature
set of all layers, and it is there (`tfser.heads.models.layer_mix`). LSTMs are computed in float32 under autocast.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tfser.heads.models.blocks import BidirectionalLSTM, dropout, input_map, masked_mean, valid_frames
from tfser.heads.models.frame_head import LSTM_UNSTACKABLE, FrameHead, FrameSettings, width_check


@dataclass(frozen=True, kw_only=True)
class ENTConfig(FrameSettings):
    """Sizes; the defaults are the published ones.

    Raises:
        UsageError: A value makes no sense.
    """

    frame_classes: bool = True
    """Frames are classified, too, and pooled by their maximum."""


class ENT(nn.Module):
    """The whole network."""

    def __init__(self, config: ENTConfig, dim: int, n_classes: int) -> None:
        super().__init__()
        width = config.width or dim
        self.dropout = config.dropout
        self.input = input_map(dim, width)
        self.lstm = BidirectionalLSTM(width, width // 2)
        self.norm = nn.LayerNorm(width)
        self.utterance = nn.Linear(width, n_classes)
        self.frame = nn.Linear(width, n_classes) if config.frame_classes else None

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:  # (B, L, D_in), (B,) -> (B, K)
        """Classify utterances."""
        valid = valid_frames(frames, lengths)  # (B, L)
        h = self.lstm(self.input(frames), lengths)  # (B, L, D)
        h = dropout(h, self.dropout, self.training)
        logits: Tensor = self.utterance(self.norm(self.pool(h, valid)))  # (B, K)
        if self.frame is None:
            return logits
        nodes = self.frame(h.tanh()).log_softmax(dim=-1)  # (B, L, K)
        best: Tensor = nodes.masked_fill(~valid[:, :, None], -torch.inf).amax(dim=1)  # (B, K)
        return logits + best

    def pool(self, h: Tensor, valid: Tensor) -> Tensor:  # (B, L, D), (B, L) -> (B, D)
        """Return what the utterance head sees."""
        return masked_mean(h, valid)


HEAD = FrameHead(
    name="ent",
    summary="a BiLSTM, classes of the utterance and of its frames; the speech part alone",
    source="Shen et al. 2024, ENT",
    presets={"full": ENTConfig(), "utterance": ENTConfig(frame_classes=False)},
    features=("wav2vec2-base", "wavlm-large", "hubert-large", "logmel"),
    build=ENT,
    check=width_check("ent", "directions", 2),
    printed_otherwise="9.7 M in print with the parts that read text, which are not built",
    unstackable=LSTM_UNSTACKABLE,
)
