"""Layers of heads in the words of a graph: what `tfser.heads.prediction.onnx_graph` writes in their place.

A graph of fixed operators has no loop over a length that it does not know, few runtimes have an inverse Fourier transform of
odd lengths, and a length that is cut into pieces leaves the exporter with sums that it does not solve. So these are computed
in another way, to the same numbers but for rounding: TF-Mamba's scan as one product per head (its quadratic form, Dao and Gu
2024, section 3), its Fourier transforms as products with the matrices of the discrete transform (DFT), LSTMs over whole
utterances without packing them, attention within windows as attention to all under a mask, means over a few frames as
pooling; SpeechFormer++ has always as many words, of which those beyond an utterance's end do not count, and DWFormer as many
windows as frames, of which those without a frame do not.

What comes in: a network as it was trained, in evaluation. What goes out: the same network with such layers in it, or a block
within which heads compute so. No weight is changed, and nothing of it outlives the block.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tfser.heads.models import dwformer, mstr, speechformer, speechformer_pp, tf_mamba
from tfser.heads.models.blocks import BidirectionalLSTM


class DftFilter(nn.Module):
    """TF-Mamba's frequency filter with both transforms as matrix products; the numbers of `FrequencyFilter`."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        n, bins = original.size, original.size // 2 + 1
        angle = 2 * math.pi * np.outer(np.arange(n), np.arange(bins)) / n  # (n, F)
        weight = np.full(bins, 2.0)
        weight[0] = weight[-1] = 1.0  # n is even: the first and the last bin have no twin
        self.original = original
        self.cos: Tensor
        self.sin: Tensor
        self.weight: Tensor
        self.register_buffer("cos", torch.from_numpy(np.cos(angle)).float())
        self.register_buffer("sin", torch.from_numpy(np.sin(angle)).float())
        self.register_buffer("weight", torch.from_numpy(weight / n).float())

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:  # (B, L, C), (B, L) -> (B, L, C)
        """Filter along time; every frame is valid."""
        cos, sin = self.cos[: x.shape[1]], self.sin[: x.shape[1]]  # (L, F): frames beyond the end are zero
        real = torch.einsum("lf,blc->bfc", cos, x)
        imaginary = -torch.einsum("lf,blc->bfc", sin, x)
        kept = self._kept(real, imaginary) * self.weight[:, None]
        back = torch.einsum("lf,bfc->blc", cos, real * kept)
        return back - torch.einsum("lf,bfc->blc", sin, imaginary * kept)

    def _kept(self, real: Tensor, imaginary: Tensor) -> Tensor:
        filter_of = self.original
        if filter_of.kind == "power":
            power = real.square() + imaginary.square()
            mean = power[:, 1:].mean(dim=1, keepdim=True)
            tiny = torch.finfo(power.dtype).tiny
            kept: Tensor = ((power + tiny).log() - (mean + tiny).log() > filter_of.threshold).to(power.dtype)
            return kept
        share = torch.linspace(0, 1, real.shape[1])[:, None]
        passed: Tensor = (filter_of.threshold > share)[None].to(real.dtype)
        return passed


class FullLSTM(nn.Module):
    """A bidirectional LSTM over utterances that are all as long as the batch: nothing is packed, which a graph cannot."""

    def __init__(self, original: BidirectionalLSTM) -> None:
        super().__init__()
        self.lstm = original.lstm

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:  # (B, L, D), (B,) -> (B, L, 2 H)
        """Return both directions' states side by side; every frame is valid."""
        states: Tensor = self.lstm(x.float())[0]
        return states


def quadratic_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, *, backend: str = "", chunk: int = 0
) -> Tensor:
    """Return what `tfser.heads.models.ssd.ssd` does, by one (L, L) product a head: no loop over frames, whatever L is."""
    r = x.shape[2] // B.shape[2]
    total = (dt * A).double().clamp(min=-1000).cumsum(dim=1).transpose(1, 2)  # (b, h, L)
    earlier = torch.ones_like(total[0, 0][:, None] - total[0, 0][None, :]).tril()  # (L, L)
    decay = (((total[..., :, None] - total[..., None, :]) * earlier).exp() * earlier).to(x.dtype)
    scores = torch.einsum("btgn,bsgn->bgts", C, B).repeat_interleave(r, dim=1)  # (b, h, L, L)
    y = torch.einsum("bhts,bshp->bthp", scores * decay, x * dt[..., None])
    return y if D is None else y + x * D[:, None]


def masked_attention(q: Tensor, k: Tensor, v: Tensor, valid: Tensor, window: int) -> Tensor:
    """Return what `tfser.heads.models.blocks.windowed_attention` does, by a mask over all (T, T) pairs of tokens."""
    place = torch.arange(q.shape[2])
    near = (place[:, None] - place[None]).abs() <= window // 2  # (T, T)
    scores = (q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5  # (b, heads, T, T)
    weights = scores.masked_fill(~(near & valid[:, None, None]), torch.finfo(torch.float32).min).softmax(dim=-1)
    attended: Tensor = weights @ v
    return attended


def pooled(x: Tensor, valid: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Return what `tfser.heads.models.mstr.pool_frames` does: the means of so many frames in turn, the last of those there are.

    Frames are filled up by as many as a piece may lack at most, and not by as many as it lacks: pooling drops the rest.
    """
    if frames == 1:
        return x, valid
    kept = x.masked_fill(~valid[:, :, None], 0.0).transpose(1, 2)  # (B, D, L)
    total, count = (
        functional.avg_pool1d(functional.pad(each, (0, frames - 1)), frames, frames) for each in (kept, valid[:, None].float())
    )
    return (total / count.clamp(min=0.5 / frames)).transpose(1, 2), count[:, 0] > 0


def windows_of_frames(window: Tensor) -> Tensor:  # (B, L) -> (L,) int64
    """Return the numbers of as many windows as there can be, in place of `tfser.heads.models.dwformer.window_numbers`: how many
    there are follows from the numbers. Those without a frame take no part."""
    return torch.arange(window.shape[1])


class PooledMerge(nn.Module):
    """SpeechFormer's merge of tokens by `pooled`; the numbers of `tfser.heads.models.speechformer.Merge`."""

    def __init__(self, original: speechformer.Merge) -> None:
        super().__init__()
        self.tokens, self.linear, self.norm = original.tokens, original.linear, original.norm

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:  # (B, T, D), (B, T) -> (B, T', D), (B, T')
        """Return the merged tokens, and which there are."""
        mean, there = pooled(x, valid, self.tokens)
        return self.norm(self.linear(mean)), there


WORDS = 60
"""Seconds, and so words, that a graph of SpeechFormer++ has room for at least."""


def in_graph_words(network: nn.Module, longest: int) -> int | None:
    """Put layers that a graph can hold in the place of those that it cannot.

    Args:
        network: to be changed.
        longest: frames of the longest utterance that is certain to come.

    Returns:
        The most frames that the graph takes; None: as many as the head.
    """
    most = None
    for module in list(network.modules()):
        if isinstance(module, speechformer_pp.SpeechFormerPP):  # its words count the seconds of an utterance
            module.always = max(WORDS, -(-longest // module.second))
            most = module.always * module.second
        if type(getattr(module, "filter", None)).__name__ == "FrequencyFilter":
            module.filter = DftFilter(module.filter)
        for name, child in list(module.named_children()):
            if isinstance(child, BidirectionalLSTM):
                setattr(module, name, FullLSTM(child))
            elif isinstance(child, speechformer.Merge):
                setattr(module, name, PooledMerge(child))
    return most


_STAND_INS: tuple[tuple[Any, str, Any], ...] = (
    (tf_mamba, "ssd", quadratic_scan),
    (speechformer, "windowed_attention", masked_attention),
    (speechformer_pp, "windowed_attention", masked_attention),
    (mstr, "windowed_attention", masked_attention),
    (dwformer, "window_numbers", windows_of_frames),
    (mstr, "pool_frames", pooled),
)


@contextlib.contextmanager
def without_loops() -> Iterator[None]:
    """Let heads compute as a graph can meanwhile: their own loops run over a length that it does not know."""
    own = [(module, name, getattr(module, name)) for module, name, _ in _STAND_INS]
    for module, name, stand_in in _STAND_INS:
        setattr(module, name, stand_in)
    try:
        yield
    finally:
        for module, name, function in own:
            setattr(module, name, function)
