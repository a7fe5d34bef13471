"""Layers that more than one head is made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class TransformerLayer(nn.Module):
    """Multi-head attention and a feed-forward network, each with a residual and post-norm.

    With q = k = v it is a Transformer encoder, with three inputs a co-attention encoder: the residual is the values'.
    Keys have no bias: its gradient is zero by construction, and Adam would turn its rounding noise into steps.

    Args:
        width: of the tokens.
        heads: of the attention; they divide the width.
        feed_forward: inner width of the feed-forward network; 0: none.
        dropout: where torch's own layers have it.
    """

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = feed_forward
        if feed_forward:
            self.inner = nn.Linear(width, feed_forward)
            self.outer = nn.Linear(feed_forward, width)
            self.feed_forward_norm = nn.LayerNorm(width)
        for linear in (self.query, self.key, self.value):  # as torch's own multi-head attention
            nn.init.xavier_uniform_(linear.weight)
        for linear in (self.query, self.value, self.out):
            nn.init.zeros_(linear.bias)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Tensor:
        """Attend from q to k, and gather from v.

        Args:
            q, k, v: (b, tokens, width) each.
            valid: (b, tokens) which tokens of k and v there are; None: all.

        Returns:
            (b, tokens, width)
        """
        p: Tensor = self.attention_norm(v + self._drop(self._attend(q, k, v, valid)))
        if not self.feed_forward:
            return p
        inner = self._drop(functional.relu_(self.inner(p)))  # (b, tokens, feed_forward)
        y: Tensor = self.feed_forward_norm(p + self._drop(self.outer(inner)))
        return y

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        def split(x: Tensor) -> Tensor:  # (b, tokens, width) -> (b, heads, tokens, width / heads)
            return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

        q, k, v = split(self.query(q)), split(self.key(k)), split(self.value(v))
        if valid is None:  # few tokens, for which products of their own are the fastest
            scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5  # (b, heads, tokens, tokens)
            attended = self._drop(scores.softmax(dim=-1).to(v.dtype)) @ v  # (b, heads, tokens, width / heads)
        else:
            rate = self.dropout if self.training else 0.0
            in_float32 = q.device.type == "cpu"  # where fused attention is slower in bfloat16
            with torch.autocast(q.device.type, enabled=torch.is_autocast_enabled(q.device.type) and not in_float32):
                q, k, v = (x.float() if in_float32 else x for x in (q, k, v))
                attended = functional.scaled_dot_product_attention(q, k, v, valid[:, None, None], dropout_p=rate)
        mixed: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return mixed

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


def dropout(x: Tensor, rate: float, training: bool = True) -> Tensor:
    """Set a share ``rate`` of numbers to zero and scale up the others, so that the mean stays; out of ``training``, nothing.

    On a CPU, where drawing the numbers one by one takes longest, eight come from each 64-bit draw, and the rate is
    rounded to a multiple of 1/256 (0.1 to 0.102).
    """
    if not training:
        return x
    dropped = round(rate * 256)
    if x.device.type != "cpu" or not dropped:
        return functional.dropout(x, rate)
    draws = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
    return x * kept.to(x.dtype).mul_(256 / (256 - dropped))


def valid_frames(frames: Tensor, lengths: Tensor) -> Tensor:
    """Return which frames of a batch (B, L, D) lie within their sample's length (B,): (B, L) bool."""
    return torch.arange(frames.shape[1], device=frames.device) < lengths[:, None]
