"""TENT, its speech part: ENT whose frames are weighted by a gate that takes the place of the transducer's blank.

TF-Mamba's Table I prints a row TENT and cites the paper of ENT for it (Shen, Gao, Liu, Wang and Zhou, ICASSP 2024). That paper
has no TENT; its second model is FENT, the factorised transducer. **We take the row for FENT**; nothing of the table says so.
Letters: B samples, L frames, D width, K classes.

    h, e_l and m as in `tfser.heads.models.ent`
    g_l = sigmoid(Linear(tanh(h_l)))                   the probability that a frame says something: no blank
    utterance: u = Linear(LayerNorm(sum of g_l h_l / sum of g_l))
    logits = u + m

FENT predicts the blank by a joint network of its own, apart from the characters', and lets it share the emotions' features: a
blank says that nothing of note happens in a frame. Left out, since the cache holds speech alone: both predictors, the characters'
network and the transducer's loss, without which nothing teaches the blank what is silent. **Ours**: what is left of the blank
weighs the frames in the mean. FENT also mixes an encoder's layers twice, for characters and for emotions; without characters one
mix is left, which a feature set of all layers brings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tfser.heads.models.ent import ENT, ENTConfig
from tfser.heads.models.frame_head import LSTM_UNSTACKABLE, FrameHead, width_check


@dataclass(frozen=True, kw_only=True)
class TENTConfig(ENTConfig):
    """Sizes; the defaults are the published ones.

    Raises:
        UsageError: A value makes no sense.
    """


class TENT(ENT):
    """The whole network."""

    def __init__(self, config: TENTConfig, dim: int, n_classes: int) -> None:
        super().__init__(config, dim, n_classes)
        self.gate = nn.Linear(config.width or dim, 1)

    def pool(self, h: Tensor, valid: Tensor) -> Tensor:  # (B, L, D), (B, L) -> (B, D)
        """Return the mean over frames, weighted by the gate."""
        gate = torch.sigmoid(self.gate(h.tanh()).float())  # (B, L, 1)
        weights = gate.masked_fill(~valid[:, :, None], 0.0)
        pooled: Tensor = (weights * h).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-6)
        return pooled


HEAD = FrameHead(
    name="tent",
    summary="ENT with frames weighted by a gate (taken for FENT); the speech part alone",
    source="after Shen et al. 2024, FENT",
    presets={"full": TENTConfig()},
    features=("wav2vec2-base", "wavlm-large", "hubert-large", "logmel"),
    build=TENT,
    check=width_check("tent", "directions", 2),
    printed_otherwise="no count is printed",
    unstackable=LSTM_UNSTACKABLE,
)
