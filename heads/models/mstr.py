"""MSTR: a Transformer that looks at an utterance on several time scales at once.

After the abstract of Li, Xing, Fang, Zhang, Fan and Xu, "Multi-Scale Temporal Transformer for Speech Emotion Recognition"
(Interspeech 2023), which names three parts: a multi-scale temporal feature operator, a fractal self-attention module and a scale
mixer module. No code was published, and we had no more of its text than that: **how the parts are built is ours**, and so are
all sizes but those that its group's other heads have (heads, inner width, classifier). The paper prints no number of parameters
that we know of. Letters: B samples, L frames, D width, K classes.

    x -> layer norm -> + positions -> layers -> mean over frames -> MLP -> logits.    A layer, for the scales s = 1, 4, 16:

* operator: x_s, the mean of each s frames in turn;
* fractal self-attention: one attention, with the same weights at every scale, in which a token sees itself and 4 on either side:
  at 20 ms a frame these are 180 ms, 720 ms and 2.9 s. The same pattern over longer and longer stretches is what we take
  fractal to mean;
* scale mixer: each frame takes what its token gathered on each scale, weighted by a softmax over the scales of a linear map of
  the frame; then residual, layer norm and feed-forward network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from tfser.heads.models.blocks import TransformerLayer, input_map, positions, valid_frames, windowed_attention
from tfser.heads.models.frame_head import AttentionSettings, FrameHead, width_check
from tfser.heads.models.mean_pool import MeanPool, MeanPoolConfig
from tfser.heads.spec.settings import ABOVE_0


@dataclass(frozen=True, kw_only=True)
class MSTRConfig(AttentionSettings):
    """Sizes, all of them ours.

    Raises:
        UsageError: A value makes no sense.
    """

    layers: Annotated[int, ABOVE_0] = 4
    """One after the other."""
    scales: Annotated[tuple[int, ...], ABOVE_0] = (1, 4, 16)
    """Frames of a token on each scale."""
    window: Annotated[int, ABOVE_0] = 9
    """Tokens that a token sees on each scale, itself in the middle."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scales:
            raise self._off("scales", "one number at least")


class ScaleLayer(TransformerLayer):
    """One attention on several time scales, mixed for each frame."""

    def __init__(self, config: MSTRConfig, width: int) -> None:
        super().__init__(width, config.heads, config.feed_forward, config.dropout)
        self.scales, self.window = config.scales, config.window
        self.mixer = nn.Linear(width, len(config.scales)) if len(config.scales) > 1 else None

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        assert valid is not None
        gathered = []
        for scale in self.scales:
            x, there = pool_frames(v, valid, scale)  # (b, L / s, D), (b, L / s)
            q, k, v_near = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
            tokens = windowed_attention(q, k, v_near, there, self.window).transpose(1, 2).flatten(2)  # (b, L / s, D)
            gathered.append(tokens.repeat_interleave(scale, dim=1)[:, : v.shape[1]])  # (b, L, D)
        if self.mixer is None:
            mixed = gathered[0]
        else:
            share = self.mixer(v).softmax(dim=-1)  # (b, L, scales)
            mixed = torch.stack(gathered, dim=3).mul(share[:, :, None]).sum(dim=3)
        out: Tensor = self.out(mixed)
        return out


def pool_frames(x: Tensor, valid: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Return the means of so many frames in turn (B, L', D), and which there are (B, L'), of (B, L, D) and (B, L)."""
    if frames == 1:
        return x, valid
    fill = -x.shape[1] % frames
    x = functional.pad(x.masked_fill(~valid[:, :, None], 0.0), (0, 0, 0, fill)).view(len(x), -1, frames, x.shape[2])
    there = functional.pad(valid, (0, fill)).view(len(x), -1, frames)
    return x.sum(dim=2) / there.sum(dim=2).clamp(min=1)[:, :, None], there.any(dim=2)


class MSTR(nn.Module):
    """The whole network."""

    def __init__(self, config: MSTRConfig, dim: int, n_classes: int) -> None:
        super().__init__()
        width = config.width or dim
        self.width = width
        self.input = input_map(dim, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(ScaleLayer(config, width) for _ in range(config.layers))
        self.classifier = MeanPool(MeanPoolConfig(hidden=config.hidden, dropout=config.dropout), width, n_classes)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:  # (B, L, D_in), (B,) -> (B, K)
        """Classify utterances."""
        valid = valid_frames(frames, lengths)  # (B, L)
        x = self.norm(self.input(frames))  # (B, L, D)
        x = x + positions(x.shape[1], self.width, x.device).to(x.dtype)
        for layer in self.layers:
            x = layer(x, x, x, valid)
        logits: Tensor = self.classifier(x, lengths)  # (B, K)
        return logits


HEAD = FrameHead(
    name="mstr",
    summary="one windowed attention on three time scales, mixed by frame (built from its abstract)",
    source="after Li et al. 2023, MSTR",
    presets={"full": MSTRConfig(), "one_scale": MSTRConfig(scales=(1,))},
    build=MSTR,
    check=width_check("mstr", "heads"),
    printed_otherwise="built from its abstract, which has no count; emotion2vec's paper prints 27.0 M, of sizes not known to us",
)
