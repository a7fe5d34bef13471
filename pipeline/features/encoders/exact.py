"""The parts of wav2vec 2.0 and its kin in which a padded batch would differ from its pieces alone, done exactly.

* Group norm in the first convolution (`feat_extract_norm == "group"`) takes its mean and variance over time: over the
  frames of the whole utterance here, be it cut into windows or not, and not over the padding (Wu and He 2018, over the frames
  that there are).
* The positional convolution sees zeros beyond a piece's end, as it does beyond the end of a batch of one. HuBERT variants
  that normalise before it (`conv_pos_batch_norm`) turn zeros into something else, so that the zeros are put in after that.
  data2vec has several such convolutions, a norm behind each: beyond a piece's end zeros are put in again before the next.
* WavLM's gated relative position bias (Chen et al. 2022, section III-B) is added to the scores of a fused attention; the bias
  before its gate depends on distances only, and is made once for all layers.

No other convolution is padded, so a piece's own frames depend on nothing but its own samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from tfser.pipeline.features.encoders.products import linear

Moments = tuple[Tensor, Tensor]
"""Variance and mean over time of each channel, (C,) each."""

_STRETCH = 96_000
"""Frames of the first convolution that moments are taken of at once: half a minute."""


class ConvStack:
    """Samples to features: the convolutions of transformers' feature extractor, as products of unfolded rows.

    Frames are rows here (channels last), so that norms and projections need no transposed copies, and on a CPU a block of rows
    goes through product, norm and activation while it is in the core's cache: half the time of convolution, norm and
    activation one after the other.
    """

    BLOCK = 1024

    def __init__(self, extractor: Any, device: torch.device) -> None:
        self.layers = [_ConvLayer(layer) for layer in extractor.conv_layers]
        self.block = self.BLOCK if device.type == "cpu" else None

    def __call__(self, values: Tensor, samples: Sequence[int], moments: Sequence[Moments | None] | None = None) -> Tensor:
        """Return the (B, T, C) features of (B, n) padded samples, of which piece i has `samples[i]` of its own.

        ``moments`` of the utterances that pieces were cut from; None: a piece is an utterance.
        """
        hidden, own = values[:, :, None], list(samples)  # (B, T, C)
        for layer in self.layers:
            own = [(n - layer.kernel) // layer.stride + 1 for n in own]
            hidden = layer(hidden, own, self.block, moments)
        return hidden

    def moments(self, samples: Tensor) -> Moments | None:
        """Return what the group norm of the first convolution takes of a whole utterance (n,); None where there is none.

        A stretch at a time, so that an hour needs no more memory than a minute.
        """
        first = self.layers[0]
        if not isinstance(first.norm, nn.GroupNorm):
            return None
        frames = (len(samples) - first.kernel) // first.stride + 1
        total = square = torch.zeros((), dtype=torch.float64)
        for begin in range(0, frames, _STRETCH):
            end = min(begin + _STRETCH, frames)
            values = samples[begin * first.stride : (end - 1) * first.stride + first.kernel]
            hidden = first.convolve(values[None, :, None], self.block)[0].double()  # (T, C)
            total = total.to(hidden.device) + hidden.sum(dim=0)
            square = square.to(hidden.device) + hidden.square().sum(dim=0)
        mean = total / frames
        return (square / frames - mean.square()).clamp(min=0.0).float(), mean.float()


class _ConvLayer:
    """One convolution with its norm and activation."""

    def __init__(self, layer: Any) -> None:
        conv: nn.Conv1d = layer.conv
        self.kernel, self.stride = conv.kernel_size[0], conv.stride[0]
        self.weight = conv.weight.permute(0, 2, 1).flatten(1).contiguous()  # (C_out, kernel * C_in)
        self.bias = conv.bias
        self.norm = getattr(layer, "layer_norm", None)
        self.activation = layer.activation

    def __call__(self, hidden: Tensor, own: Sequence[int], block: int | None, moments: Sequence[Moments | None] | None) -> Tensor:
        """Return (B, T', C') of (B, T, C); piece i has `own[i]` of the T' frames."""
        if isinstance(self.norm, nn.GroupNorm):
            normalised: Tensor = self.activation(self._group_norm(self.convolve(hidden, block), own, moments))
            return normalised
        return self.convolve(hidden, block)

    def convolve(self, hidden: Tensor, block: int | None) -> Tensor:
        """Return (B, T', C') of (B, T, C), with what follows the convolution unless that is a group norm."""
        B, T, C = hidden.shape
        rows = hidden.contiguous().as_strided(
            (B, (T - self.kernel) // self.stride + 1, self.kernel * C), (T * C, self.stride * C, 1)
        )
        grouped = isinstance(self.norm, nn.GroupNorm)
        parts = []
        for piece in torch.split(rows, 1) if block else [rows]:
            for stretch in torch.split(piece, block or rows.shape[1], dim=1):
                part = linear(stretch.contiguous(), self.weight, self.bias)
                if not grouped:
                    part = self.activation(part if self.norm is None else self.norm(part))
                parts.append(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1).view(B, rows.shape[1], -1)

    def _group_norm(self, hidden: Tensor, own: Sequence[int], moments: Sequence[Moments | None] | None) -> Tensor:
        """Return (B, T, C) with every channel of every piece normalised over its utterance's frames, or else its own."""
        assert isinstance(self.norm, nn.GroupNorm) and self.norm.num_groups == hidden.shape[2]
        known = moments or [None] * len(own)
        found = [
            torch.var_mean(row[:n].float(), dim=0, correction=0) if of is None else of
            for row, n, of in zip(hidden, own, known, strict=True)
        ]
        variance, mean = (torch.stack(values) for values in zip(*found, strict=True))  # (B, C) each
        scale = self.norm.weight * torch.rsqrt(variance + self.norm.eps)
        shift = self.norm.bias - mean * scale
        return torch.addcmul(shift[:, None], hidden, scale[:, None]).to(hidden.dtype)


class PositionalConv:
    """The positional convolution, its weight norm multiplied out once."""

    def __init__(self, module: Any) -> None:
        if parametrize.is_parametrized(module.conv, "weight"):
            parametrize.remove_parametrizations(module.conv, "weight", leave_parametrized=True)
        self.conv = module.conv
        self.batch_norm = getattr(module, "batch_norm", None)
        self.padding = module.padding
        self.activation = module.activation

    def __call__(self, hidden: Tensor, valid: Tensor | None) -> Tensor:
        """Return the (B, T, D) positions of (B, T, D) frames that are zero where `valid` (B, T) is false."""
        x = hidden.transpose(1, 2)
        if self.batch_norm is not None:
            x = self.batch_norm(x)
            if valid is not None:
                x = x.masked_fill(~valid[:, None, :], 0.0)
        positions: Tensor = self.activation(self.padding(self.conv(x)))
        return positions.transpose(1, 2)


class PositionalStack:
    """data2vec's positional convolutions, one after the other, each with a norm without weights and an activation."""

    def __init__(self, module: Any) -> None:
        self.layers = list(module.layers)

    def __call__(self, hidden: Tensor, valid: Tensor | None) -> Tensor:
        """Return the (B, T, D) positions of (B, T, D) frames that are zero where `valid` (B, T) is false."""
        x = hidden.transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
            # The norm makes something of the zeros beyond a piece's end, and the next kernel reaches over them.
            if valid is not None:
                x = x.masked_fill(~valid[:, None, :], 0.0)
        return x.transpose(1, 2)


def positions_of(module: Any) -> PositionalConv | PositionalStack:
    """Return what computes the positions of transformers' module: of one convolution, or of a stack of them."""
    return PositionalStack(module) if hasattr(module, "layers") else PositionalConv(module)


class GatedAttention(nn.Module):
    """WavLM's self-attention: scores plus a bias by distance, scaled for each query and head by a gate of the query's input.

    It takes the place of transformers' WavLMAttention, which computes every score and every weight in memory and returns them.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads, self.head_dim = attention.num_heads, attention.head_dim
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.in_weight = torch.cat([p.weight for p in projections]).detach()  # (3 D, D)
        self.in_bias = torch.cat([p.bias for p in projections]).detach()
        # The gate adds up groups of four of the projection's eight values: so can its weights be, once.
        gate = attention.gru_rel_pos_linear
        self.gate_weight = gate.weight.detach().view(2, 4, self.head_dim).sum(1)  # (2, D / H)
        self.gate_bias = gate.bias.detach().view(2, 4).sum(1)
        self.gate_scale = attention.gru_rel_pos_const.detach().view(1, self.heads, 1, 1)
        self.out = attention.out_proj

    def forward(
        self, hidden: Tensor, attention_mask: Tensor | None = None, position_bias: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, None, Tensor | None]:
        """Return (B, T, D), and what transformers' layer hands on.

        Args:
            hidden: (B, T, D).
            attention_mask: (B, 1, 1, T), true where a key is a piece's own; None if all are.
            position_bias: (H, T, T).
        """
        assert position_bias is not None
        B, T, D = hidden.shape
        # One product for q, k and v, and fused attention: scores and weights of (H, T, T) never stand in
        # memory, as they do in transformers.
        qkv = linear(hidden, self.in_weight, self.in_bias).view(B, T, 3, self.heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        gates = functional.linear(hidden.view(B, T, self.heads, self.head_dim), self.gate_weight, self.gate_bias).sigmoid()
        a, b = gates.permute(3, 0, 2, 1).unsqueeze(-1)  # (B, H, T, 1) each
        bias = (a * (b * self.gate_scale - 1.0) + 2.0) * position_bias  # (B, H, T, T)
        if attention_mask is not None:
            bias = bias.masked_fill_(~attention_mask, -torch.inf)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.out(mixed.transpose(1, 2).reshape(B, T, D)), None, position_bias


class RelativeBias:
    """WavLM's bias by distance, (H, T, T), of the embedding that its first layer has."""

    def __init__(self, attention: Any) -> None:
        self.attention = attention
        self.last: Tensor | None = None

    def __call__(self, T: int) -> Tensor:
        """Return the (H, T, T) bias on keys minus queries; the last length's is kept."""
        if self.last is None or self.last.shape[1] != T:
            table = self.attention.rel_attn_embed.weight
            distances = torch.arange(1 - T, T, device=table.device)
            by_distance = table[self.attention._relative_positions_bucket(distances)].T  # (H, 2 T - 1)
            # Row i of the bias is the stretch that begins at distance -i.
            self.last = by_distance.contiguous().unfold(1, T, 1).flip(1)
        return self.last
