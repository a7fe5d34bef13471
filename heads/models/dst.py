"""DST: a Transformer whose every head decides, for every frame, where its window of attention lies and how wide it is.

After Chen, Xing, Xu, Pang and Du, "DST: Deformable Speech Transformer for Emotion Recognition" (ICASSP 2023), and the sizes
and the order of its published code. Letters: B samples, L frames, D width, H heads, S the span (326 frames of 20 ms), K classes.

    x -> layer norm -> + positions -> 4 deformable layers -> MLP of each frame -> mean over frames -> logits

For a head and a frame at the place t with the query q (Q of the whole width):

    o, w = Linear(Q)      anchor a = t + S tanh(o)      half-width h = S sigmoid(w)      window [a - h, a + h]

Keys from floor(a - h) to ceil(a + h) are attended to. A score is multiplied by 1, plus 1 - |distance| at the two frames beside
the anchor, less the part of a frame by which the window's two outermost frames lie outside it: these make place and width
differentiable. At the beginning o is 0 and the heads' windows are 50 ms to 1 s wide.

Ours: keys beyond an utterance's end are not attended to; a window without any frame of its utterance falls back to all of them,
which is what the published code does with all 326. S is a time, so that it holds for features of another hop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor, nn

from tfser.heads.models.blocks import TransformerLayer, frame_classifier, input_map, masked_mean, positions, valid_frames
from tfser.heads.models.frame_head import AttentionSettings, FrameHead, width_check
from tfser.heads.spec.settings import ABOVE_0, INSIDE_0_1


@dataclass(frozen=True, kw_only=True)
class DSTConfig(AttentionSettings):
    """Sizes; the defaults are the published ones.

    Raises:
        UsageError: A value makes no sense.
    """

    layers: Annotated[int, ABOVE_0] = 4
    """One after the other."""
    span_seconds: Annotated[float, ABOVE_0] = 6.52
    """S: how far an anchor may lie from its frame, and the largest half-width of a window..."""
    span_frames: Annotated[int | None, ABOVE_0] = None
    """... or frames; None: of span_seconds."""
    narrowest_seconds: Annotated[float, ABOVE_0] = 0.05
    """The width of the first head's window at the beginning..."""
    widest_seconds: Annotated[float, ABOVE_0] = 1.0
    """... and of the last one's; those between lie on a line."""
    first_widths: Annotated[tuple[float, ...], INSIDE_0_1] = ()
    """Half-widths of the heads' windows at the beginning, as a share of S; none: from the times above."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.narrowest_seconds <= self.widest_seconds < 2 * self.span_seconds:
            raise self._off("widest_seconds", "from narrowest_seconds to below 2 span_seconds")
        if self.first_widths and len(self.first_widths) != self.heads:
            raise self._off("first_widths", f"one share a head ({self.heads})")


class DeformableLayer(TransformerLayer):
    """A Transformer layer whose attention is confined to a window that each head and frame chooses."""

    def __init__(self, config: DSTConfig, width: int) -> None:
        super().__init__(width, config.heads, config.feed_forward, config.dropout)
        assert config.span_frames is not None
        self.span = config.span_frames
        self.window = nn.Linear(width, 2 * config.heads)
        nn.init.zeros_(self.window.weight)
        shares = torch.tensor(config.first_widths)
        with torch.no_grad():
            self.window.bias.copy_(torch.cat([torch.zeros(config.heads), shares.logit()]))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        assert valid is not None
        query = self.query(q)  # (b, L, D)
        anchor, half = self._windows(query)  # (b, H, L) each
        weight, seen = deform(anchor, half, k.shape[1])  # (b, H, L, L) each
        heads_q, heads_k, heads_v = self._split(query), self._split(self.key(k)), self._split(self.value(v))
        scores = (heads_q @ heads_k.transpose(2, 3)) * heads_q.shape[-1] ** -0.5  # (b, H, L, L)
        there = valid[:, None, None]  # (b, 1, 1, L)
        scores = (scores.float() * weight).masked_fill(~seen, -1e8)  # all of these alike where there is nothing else
        weights = scores.masked_fill(~there, -torch.inf).softmax(dim=-1).to(heads_v.dtype)
        attended = self._drop(weights) @ heads_v  # (b, H, L, D / H)
        mixed: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return mixed

    def _windows(self, query: Tensor) -> tuple[Tensor, Tensor]:  # (b, L, D) -> 2 x (b, H, L)
        """Return the windows' anchors and half-widths, in frames."""
        with torch.autocast(query.device.type, enabled=False):  # bfloat16 cannot count to 326
            offset, width = self.window(query.float()).transpose(1, 2).chunk(2, dim=1)  # (b, H, L) each
            place = torch.arange(query.shape[1], device=query.device)
            return place + self.span * offset.tanh(), self.span * width.sigmoid()


def deform(anchor: Tensor, half: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Return how much each key counts for each window, and which keys it sees.

    Args:
        anchor, half: (..., n) of n windows, in frames.
        frames: L, how many keys there are.

    Returns:
        Factors of the scores, and whether a key lies in the window, both (..., n, L).
    """
    key = torch.arange(frames, device=anchor.device)
    start, end = (anchor - half)[..., None], (anchor + half)[..., None]  # (..., n, 1)
    first, last = start.detach().floor(), end.detach().ceil()
    seen = (key >= first) & (key <= last)  # (..., n, L)
    # Less the part of the outermost frames that lies outside the window.
    outside = (start - first) * (key == first) + (last - end) * (key == last)
    nearness = (1 - (key - anchor[..., None]).abs()).clamp(min=0)  # of the two frames beside the anchor
    return 1 - outside + nearness, seen


class DST(nn.Module):
    """The whole network."""

    def __init__(self, config: DSTConfig, dim: int, n_classes: int) -> None:
        super().__init__()
        width = config.width or dim
        self.width = width
        self.input = input_map(dim, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(DeformableLayer(config, width) for _ in range(config.layers))
        self.classifier = frame_classifier(width, config.hidden, n_classes, config.dropout)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:  # (B, L, D_in), (B,) -> (B, K)
        """Classify utterances."""
        valid = valid_frames(frames, lengths)  # (B, L)
        x = self.norm(self.input(frames))  # (B, L, D)
        x = x + positions(x.shape[1], self.width, x.device).to(x.dtype)
        for layer in self.layers:
            x = layer(x, x, x, valid)
        return masked_mean(self.classifier(x), valid)  # the mean of the frames' logits, (B, K)


def _settle(config: DSTConfig, hop_s: float, longest: int, device: str) -> DSTConfig:
    span = config.span_frames or max(1, round(config.span_seconds / hop_s))
    if config.first_widths:
        return replace(config, span_frames=span)
    step = (config.widest_seconds - config.narrowest_seconds) / max(1, config.heads - 1)
    widths = [config.narrowest_seconds + number * step for number in range(config.heads)]
    shares = tuple(min(0.99, round(width / hop_s / 2 / span, 6)) for width in widths)
    return replace(config, span_frames=span, first_widths=shares)


HEAD = FrameHead(
    name="dst",
    summary="a Transformer whose heads choose place and width of their windows",
    source="Chen et al. 2023, DST",
    presets={"full": DSTConfig()},
    build=DST,
    check=width_check("dst", "heads"),
    settle=_settle,
    printed_parameters={1024: 21.7},
)
