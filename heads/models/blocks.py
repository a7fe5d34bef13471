"""Layers that more than one head is made of.

What comes in and goes out are tensors of samples, tokens and features; a head's own file puts the layers together. Nothing here
knows of training, files or classes.
"""

from __future__ import annotations

import math
from itertools import pairwise

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
        return self._transform(self.attention_norm(v + self._drop(self._attend(q, k, v, valid))))

    def _transform(self, p: Tensor) -> Tensor:  # (b, tokens, width) -> (b, tokens, width)
        """Apply the feed-forward network, its residual and its norm."""
        if not self.feed_forward:
            return p
        inner = self._drop(functional.relu_(self.inner(p)))  # (b, tokens, feed_forward)
        y: Tensor = self.feed_forward_norm(p + self._drop(self.outer(inner)))
        return y

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        q, k, v = self._split(self.query(q)), self._split(self.key(k)), self._split(self.value(v))
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

    def _split(self, x: Tensor) -> Tensor:  # (b, tokens, width) -> (b, heads, tokens, width / heads)
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


class BidirectionalLSTM(nn.Module):
    """One or more layers that run over the frames of each utterance from both of its own ends.

    Args:
        width: of the input.
        hidden: units each way.
        layers: one after the other.
        rate: the share of numbers that is dropped between layers while training.
    """

    def __init__(self, width: int, hidden: int, layers: int = 1, rate: float = 0.0) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, hidden, layers, batch_first=True, bidirectional=True, dropout=rate if layers > 1 else 0.0)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:  # (B, L, D), (B,) -> (B, L, 2 H)
        """Return both directions' states side by side; zero beyond an utterance's end."""
        with torch.autocast(x.device.type, enabled=False):
            packed = nn.utils.rnn.pack_padded_sequence(x.float(), lengths.cpu(), batch_first=True, enforce_sorted=False)
            states, _ = self.lstm(packed)
            found: Tensor = nn.utils.rnn.pad_packed_sequence(states, batch_first=True, total_length=x.shape[1])[0]
        return found


def dropout(x: Tensor, rate: float, training: bool = True) -> Tensor:
    """Set a share ``rate`` of numbers to zero and scale up the others, so that the mean stays; out of ``training``, nothing.

    On a CPU, where drawing the numbers one by one takes longest, eight come from each 64-bit draw, and the rate is
    rounded to a multiple of 1/256 (0.1 to 0.102), 255 of them at most.
    """
    if not training:
        return x
    dropped = min(round(rate * 256), 255)
    if x.device.type != "cpu" or not dropped:
        return functional.dropout(x, rate)
    draws = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
    return x * kept.to(x.dtype).mul_(256 / (256 - dropped))


def valid_frames(frames: Tensor, lengths: Tensor) -> Tensor:
    """Return which frames of a batch (B, L, D) lie within their sample's length (B,): (B, L) bool."""
    return torch.arange(frames.shape[1], device=frames.device) < lengths[:, None]


def masked_mean(x: Tensor, valid: Tensor) -> Tensor:  # (B, L, D), (B, L) -> (B, D)
    """Return the mean over the frames that are valid."""
    total = x.masked_fill(~valid[:, :, None], 0.0).sum(dim=1)
    return total / valid.sum(dim=1, keepdim=True)


def input_map(dim: int, width: int) -> nn.Module:
    """Return what brings features of a width ``dim`` to the network's: a linear map, or nothing where they are the same."""
    return nn.Identity() if dim == width else nn.Linear(dim, width)


def positions(frames: int, width: int, device: torch.device) -> Tensor:  # -> (frames, width)
    """Return the sinusoids of Vaswani et al. 2017 (section 3.5): sines in even columns, cosines in odd ones."""
    column = torch.arange(width, device=device)
    rate = torch.exp((column // 2).float() * (-2.0 * math.log(10_000.0) / width))  # (width,)
    angle = torch.arange(frames, device=device).float()[:, None] * rate  # (frames, width)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos())


def shift_frames(x: Tensor, valid: Tensor, later: int, earlier: int = 0) -> Tensor:  # (B, L, D), (B, L) -> (B, L, D)
    """Move some features by one frame (Shen et al. 2023, the temporal shift); zeros come in at the ends of an utterance.

    Args:
        x: frames.
        valid: which of them there are.
        later: the first so many features show the frame before.
        earlier: the next so many show the frame after.
    """
    x = x.masked_fill(~valid[:, :, None], 0.0)
    before = functional.pad(x[:, :-1, :later], (0, 0, 1, 0))
    after = functional.pad(x[:, 1:, later : later + earlier], (0, 0, 0, 1))
    return torch.cat([before, after, x[:, :, later + earlier :]], dim=-1)


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, valid: Tensor, window: int) -> Tensor:
    """Attend from every token to those around it.

    Args:
        q, k, v: (b, heads, tokens, d) each.
        valid: (b, tokens) the tokens that there are: no others are attended to.
        window: tokens that each one sees, itself in the middle; an even number counts as the next odd one.

    Returns:
        (b, heads, tokens, d); of tokens that are not valid: anything finite.
    """
    reach = window // 2
    size = 2 * reach + 1
    keys = functional.pad(k, (0, 0, reach, reach)).unfold(2, size, 1)  # (b, heads, tokens, d, size)
    values = functional.pad(v, (0, 0, reach, reach)).unfold(2, size, 1)
    near = functional.pad(valid, (reach, reach)).unfold(1, size, 1)  # (b, tokens, size)
    scores = (q.unsqueeze(3) @ keys).squeeze(3) * q.shape[-1] ** -0.5  # (b, heads, tokens, size)
    # A finite number: beyond an utterance's end there may be no token to see.
    scores = scores.float().masked_fill(~near[:, None], torch.finfo(torch.float32).min)
    weights = scores.softmax(dim=-1).to(v.dtype)
    out: Tensor = (weights.unsqueeze(3) @ values.transpose(3, 4)).squeeze(3)
    return out


def frame_classifier(width: int, hidden: tuple[int, ...], n_classes: int, rate: float) -> nn.Module:
    """Return Linear-ReLU-dropout layers and a last linear map, from (..., width) to logits (..., n_classes)."""
    steps: list[nn.Module] = []
    for before, after in pairwise((width, *hidden)):
        steps += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(rate)]
    return nn.Sequential(*steps, nn.Linear((width, *hidden)[-1], n_classes))
