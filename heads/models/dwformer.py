"""DWFormer: attention within windows whose borders follow from what attention found important, then across the windows.

After Chen, Xing, Zhang, Chen and Xu, "DWFormer: Dynamic Window transFormer for Speech Emotion Recognition" (ICASSP 2023), and
the sizes and the order of its published code. Letters: B samples, L frames, D width, W windows, K classes.

    x -> layer norm -> Transformer layer -> 3 blocks, with a layer norm between them -> mean over frames -> MLP -> logits

A block, given the importance of each frame (the attention that it received from all others in the layer before):

1. Split: a frame is strong whose importance reaches the median of its utterance. Runs of strong or weak frames are windows; a
   run of one frame joins the run behind it.
2. Local: a Transformer layer in which frames attend within their window. A frame's local importance is the softmax, within its
   window, of the attention that it received there. Weak frames are then multiplied by 0.85.
3. Global: a window's token is the sum of its frames weighted by their local importance. A Transformer layer in which the tokens
   attend to each other; a token's importance is the softmax of the attention that it received.
4. Sum: each frame gets its window's token added, and its new importance is the softmax of local times global importance.

Ours: all of this is done on an utterance's own frames (the published code attends to padded ones in the first layer and takes
the mean over 324 frames, padded or not). Attention is computed in float32 under autocast, since importances that rounding
moves across the median would move windows. The choice of windows has no gradient, there as here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from tfser.heads.models.blocks import TransformerLayer, input_map, valid_frames
from tfser.heads.models.frame_head import AttentionSettings, FrameHead, width_check
from tfser.heads.models.mean_pool import MeanPool, MeanPoolConfig
from tfser.heads.spec.settings import ABOVE_0, BELOW_1, INSIDE_0_1, SHARE


@dataclass(frozen=True, kw_only=True)
class DWFormerConfig(AttentionSettings):
    """Sizes; the defaults are the published ones.

    Raises:
        UsageError: A value makes no sense.
    """

    dropout: Annotated[float, BELOW_1] = 0.3
    """In the Transformer layers, while training."""
    classifier_dropout: Annotated[float, BELOW_1] = 0.5
    """In the classifier, while training."""
    blocks: Annotated[int, ABOVE_0] = 3
    """With windows; a plain Transformer layer comes before them."""
    strong: Annotated[float, INSIDE_0_1] = 0.5
    """The share of frames below the importance from which a frame is strong: the median."""
    weak_scale: Annotated[float, SHARE] = 0.85
    """Weak frames are multiplied by it."""


class ReceivingLayer(TransformerLayer):
    """A Transformer layer that also tells how much attention each token received."""

    def receive(self, x: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:  # (b, n, D), (b, n, n) -> (b, n, D), (b, n)
        """Attend where ``allowed`` (from, to); return the tokens, and the attention that each received, mean over heads.

        A row of ``allowed`` without any token gives attention to none.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            q, k, v = self._split(self.query(x)), self._split(self.key(x)), self._split(self.value(x))
            scores = (q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5  # (b, heads, n, n)
            scores = scores.masked_fill(~allowed[:, None], torch.finfo(scores.dtype).min)
            weights = scores.softmax(dim=-1) * allowed[:, None]  # (b, heads, n, n)
            received = weights.mean(dim=1).sum(dim=1)  # (b, n)
            attended = self.out((self._drop(weights) @ v).transpose(1, 2).flatten(2))  # (b, n, D)
            return self._transform(self.attention_norm(x + self._drop(attended))), received


class DynamicWindowBlock(nn.Module):
    """Steps 1 to 4 of the module's text."""

    def __init__(self, config: DWFormerConfig, width: int) -> None:
        super().__init__()
        self.strong, self.weak_scale = config.strong, config.weak_scale
        self.norm = nn.LayerNorm(width)
        self.local = ReceivingLayer(width, config.heads, config.feed_forward, config.dropout)
        self.window_norm = nn.LayerNorm(width)
        self.across = ReceivingLayer(width, config.heads, config.feed_forward, config.dropout)

    def forward(self, x: Tensor, valid: Tensor, importance: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames (B, L, D) and their importance (B, L), of frames (B, L, D), (B, L) bool and importance (B, L)."""
        strong = self._strong(importance, valid)  # (B, L)
        window = windows(strong, valid)  # (B, L), numbered from 0
        members = window[:, None] == window_numbers(window)[None, :, None]
        members &= valid[:, None]  # (B, W, L)
        together = (window[:, :, None] == window[:, None]) & valid[:, None] & valid[:, :, None]  # (B, L, L)
        x, received = self.local.receive(self.norm(x), together)
        # Softmax within each window: a frame belongs to one of them, so the sum over windows picks its own.
        lowest = torch.finfo(received.dtype).min
        within = received[:, None].masked_fill(~members, lowest).softmax(dim=-1) * members  # (B, W, L)
        x = torch.where(strong[:, :, None], x, self.weak_scale * x)
        tokens = self.window_norm(within @ x)  # (B, W, D)
        there = members.any(dim=-1)  # (B, W)
        tokens, received = self.across.receive(tokens, there[:, None] & there[:, :, None])
        weight = received.masked_fill(~there, lowest).softmax(dim=-1)  # (B, W)
        to_frames = members.to(x.dtype).transpose(1, 2)  # (B, L, W)
        importance = within.sum(dim=1) * (to_frames @ weight[:, :, None]).squeeze(2)  # (B, L)
        return x + to_frames @ tokens, softmax_over(importance, valid)

    def _strong(self, importance: Tensor, valid: Tensor) -> Tensor:  # (B, L), (B, L) -> (B, L) bool
        """Return the frames whose importance reaches the utterance's quantile: the median."""
        ranked = importance.masked_fill(~valid, -torch.inf).sort(dim=1).values  # those that are not valid come first
        lengths = valid.sum(dim=1)
        place = valid.shape[1] - lengths + (lengths * self.strong).long()  # (B,)
        threshold = ranked.gather(1, place[:, None])
        return (importance >= threshold) & valid


def softmax_over(x: Tensor, valid: Tensor) -> Tensor:  # (B, L), (B, L) -> (B, L)
    """Return the softmax over the valid frames; zero elsewhere."""
    return x.masked_fill(~valid, torch.finfo(x.dtype).min).softmax(dim=-1) * valid


def windows(strong: Tensor, valid: Tensor) -> Tensor:  # (B, L) bool, (B, L) bool -> (B, L) int64
    """Return the number of each frame's window, from 0 on; beyond an utterance's end anything.

    >>> strong = torch.tensor([[1, 1, 0, 0, 0, 1, 0, 0]]).bool()
    >>> windows(strong, torch.ones(1, 8).bool()).tolist()  # the lone strong frame joins those behind it
    [[0, 0, 1, 1, 1, 2, 2, 2]]
    """
    changes = (strong[:, 1:] != strong[:, :-1]) & valid[:, 1:]  # (B, L - 1): a run ends at this frame
    lone = torch.zeros_like(changes)
    lone[:, 1:] = changes[:, 1:] & changes[:, :-1]  # and began at it, too
    begins = nn.functional.pad(changes & ~lone, (1, 0))
    return begins.long().cumsum(dim=1)


def window_numbers(window: Tensor) -> Tensor:  # (B, L) -> (W,) int64
    """Return the numbers of the windows of the utterance that has most; others have fewer."""
    return torch.arange(int(window.max()) + 1, device=window.device)


class DWFormer(nn.Module):
    """The whole network."""

    def __init__(self, config: DWFormerConfig, dim: int, n_classes: int) -> None:
        super().__init__()
        width = config.width or dim
        self.input = input_map(dim, width)
        self.norm = nn.LayerNorm(width)
        self.first = ReceivingLayer(width, config.heads, config.feed_forward, config.dropout)
        self.blocks = nn.ModuleList(DynamicWindowBlock(config, width) for _ in range(config.blocks))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.blocks - 1))
        sizes = MeanPoolConfig(hidden=config.hidden, dropout=config.classifier_dropout)
        self.classifier = MeanPool(sizes, width, n_classes)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:  # (B, L, D_in), (B,) -> (B, K)
        """Classify utterances."""
        valid = valid_frames(frames, lengths)  # (B, L)
        x = self.norm(self.input(frames))  # (B, L, D)
        x, received = self.first.receive(x, valid[:, None] & valid[:, :, None])
        importance = softmax_over(received, valid)  # (B, L)
        for number, block in enumerate(self.blocks):
            x = self.norms[number - 1](x) if number else x
            x, importance = block(x, valid, importance)
        logits: Tensor = self.classifier(x, lengths)  # (B, K)
        return logits


HEAD = FrameHead(
    name="dwformer",
    summary="attention within windows that importance borders, then across them",
    source="Chen et al. 2023, DWFormer",
    presets={"full": DWFormerConfig()},
    build=DWFormer,
    check=width_check("dwformer", "heads"),
    printed_parameters={1024: 37.4},
    unstackable="its windows follow from the numbers, and torch.func has no rule for that",
)
