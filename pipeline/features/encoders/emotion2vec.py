"""emotion2vec (Ma et al. 2024): the audio network of data2vec 2.0 (Baevski et al. 2023), as its checkpoints name its parameters.

Samples go through seven convolutions, each with a layer norm; then a layer norm, a linear map to D, five positional convolutions
added to it, ten learned tokens in front, a layer norm, and the blocks: first those of the "context encoder", then the others.
A block normalises after each of its two parts. Its attention adds -|i - j| times a slope by head (ALiBi, Press et al. 2022, here
to both sides) times a learned scale; the tokens in front have no place, and 0 there.

Layer 0 enters the first block, layer k leaves the k-th, those of the context encoder counted; the last is what FunASR calls the
features. The tokens in front are in none of them. What only training needs (decoder, teacher, classifier) is not built.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from tfser.pipeline.features.encoders.encoder import Encoder, filled
from tfser.pipeline.features.encoders.exact import ConvStack, Moments, PositionalStack
from tfser.pipeline.features.encoders.products import use_products
from tfser.pipeline.features.encoders.spec import EncoderSpec


class FusedAttention(nn.Module):
    """Self-attention with a bias, q, k and v out of one product."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:  # (B, T, D), (B or 1, H, T, T) -> (B, T, D)
        """Return the mixed frames."""
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)  # (B, H, T, D / H) each
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(B, T, D))
        return out


class PostNormBlock(nn.Module):
    """Attention and a network of two layers, each with a residual and a layer norm behind it."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        width, eps = values["hidden_size"], values["layer_norm_eps"]
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = FusedAttention(width, values["num_attention_heads"])
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, values["intermediate_size"]), "fc2": nn.Linear(values["intermediate_size"], width)}
        )

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:  # (B, T, D), (B or 1, H, T, T) -> (B, T, D)
        """Return the next layer."""
        x = self.norm1(x + self.attn(x, bias))
        out: Tensor = self.norm2(x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](x))))
        return out


class NormedPositions(nn.Module):
    """What follows a positional convolution: as many frames as before, a norm without weights over channels, GELU."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.extra = 1 - kernel % 2

    def forward(self, x: Tensor) -> Tensor:  # (B, D, T + extra) -> (B, D, T)
        """Return the positions."""
        x = x[:, :, : x.shape[2] - self.extra].transpose(1, 2)
        return functional.gelu(functional.layer_norm(x, x.shape[2:])).transpose(1, 2)


class Emotion2vecNetwork(nn.Module):
    """The parameters up to the highest block that is run, under the names of the published checkpoints.

    Args:
        values: as its family's `defaults` have them.
        highest: how many blocks there are, those of the context encoder first.
    """

    def __init__(self, values: Mapping[str, Any], highest: int) -> None:
        super().__init__()
        width, heads = values["hidden_size"], values["num_attention_heads"]
        # Modules are nested and named as in the published checkpoint, places without weights filled by Identity, so that its
        # tensors load under their own names.
        audio = nn.Module()
        convolutions, before = [], 1
        for channels, kernel, stride in zip(values["conv_dim"], values["conv_kernel"], values["conv_stride"], strict=True):
            conv = nn.Conv1d(before, channels, kernel, stride=stride, bias=False)
            convolutions.append(nn.Sequential(conv, nn.Identity(), nn.Sequential(nn.Identity(), nn.LayerNorm(channels))))
            before = channels
        audio.local_encoder = nn.ModuleDict({"conv_layers": nn.ModuleList(convolutions)})
        audio.project_features = nn.Sequential(nn.Identity(), nn.LayerNorm(before), nn.Linear(before, width))
        kernel, groups = values["conv_pos_kernel_size"], values["num_conv_pos_embedding_groups"]
        audio.relative_positional_encoder = nn.Sequential(
            nn.Identity(),
            *(
                nn.Sequential(nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=groups), NormedPositions(kernel))
                for _ in range(values["num_conv_pos_embeddings"])
            ),
        )
        audio.extra_tokens = nn.Parameter(torch.zeros(1, values["extra_tokens"], width))
        # The scale of the distance bias, one for all blocks or one each, as the checkpoint has it.
        layers = values["num_hidden_layers"] if values["scale_per_layer"] else 1
        audio.alibi_scale = nn.Parameter(torch.ones(layers, 1, heads if values["scale_per_head"] else 1, 1, 1))
        # Blocks above the highest layer that is asked for are not built: a cut network loads and computes less.
        context = min(highest, values["context_layers"])
        audio.context_encoder = nn.ModuleDict(
            {
                "blocks": nn.ModuleList(PostNormBlock(values) for _ in range(context)),
                "norm": nn.LayerNorm(width, eps=values["layer_norm_eps"]),
            }
        )
        self.modality_encoders = nn.ModuleDict({"AUDIO": audio})
        self.blocks = nn.ModuleList(PostNormBlock(values) for _ in range(highest - context))


def alibi_slopes(heads: int) -> list[float]:
    """Return a slope for each head (Press et al. 2022): 2^(-8/n), 2^(-16/n) ... for n heads, a power of 2.

    For another number they are those of the power of 2 below it, and every other one of twice that power.

    >>> alibi_slopes(2), alibi_slopes(3)
    ([0.0625, 0.00390625], [0.0625, 0.00390625, 0.25])
    """
    if math.log2(heads).is_integer():
        first = 2.0 ** (-8.0 / heads)
        return [first ** (i + 1) for i in range(heads)]
    below = 1 << (heads.bit_length() - 1)
    return alibi_slopes(below) + alibi_slopes(2 * below)[::2][: heads - below]


class DistanceBias:
    """What is added to the scores: ALiBi by head and, where its scale is learned for each, by layer."""

    def __init__(self, scale: Tensor, heads: int, tokens: int, device: torch.device) -> None:
        slopes = torch.tensor(alibi_slopes(heads))
        self.slopes = (scale.clamp(min=0.0)[:, 0] * slopes[:, None, None]).to(device)  # (layers or 1, H, 1, 1)
        self.tokens = tokens

    def __call__(self, T: int) -> list[Tensor]:
        """Return (H, tokens + T, tokens + T) for each layer, or one for all of them."""
        at = torch.arange(T, device=self.slopes.device)
        distance = functional.pad(-(at[None, :] - at[:, None]).abs().float(), (self.tokens, 0, self.tokens, 0))
        return [slopes * distance for slopes in self.slopes]


class Emotion2vecEncoder(Encoder):
    """emotion2vec and emotion2vec+."""

    def __init__(self, spec: EncoderSpec, model: Emotion2vecNetwork, device: torch.device) -> None:
        super().__init__(spec, device)
        audio: Any = model.modality_encoders["AUDIO"]
        heads = spec.architecture["num_attention_heads"]
        # Before weights are narrowed: distances times slopes stay in float32 until they are added.
        self.bias = DistanceBias(audio.alibi_scale.detach().clone(), heads, spec.architecture["extra_tokens"], device)
        model.to(device=device, dtype=self.dtype)
        layers = audio.local_encoder["conv_layers"]
        parts = [SimpleNamespace(conv=of[0], layer_norm=of[2][1], activation=functional.gelu) for of in layers]
        self.stack = ConvStack(SimpleNamespace(conv_layers=parts), device)
        self.projection = audio.project_features
        self.position = PositionalStack(SimpleNamespace(layers=list(audio.relative_positional_encoder)[1:]))
        self.tokens = audio.extra_tokens  # (1, tokens, D)
        self.norm = audio.context_encoder["norm"]
        self.blocks = [*audio.context_encoder["blocks"], *model.blocks]
        use_products(model)

    def states(
        self, pieces: Sequence[npt.NDArray[np.float32]], moments: Sequence[Moments | None] | None = None
    ) -> Iterator[Tensor]:
        """Yield hidden states 0..highest, (B, T, D) each."""
        values, samples = filled(pieces)
        hidden = self.projection(self.stack(torch.from_numpy(values).to(self.device, self.dtype), samples))  # (B, T, D)
        B, T, _ = hidden.shape
        # Frames beyond a piece's own are zeroed before the positional convolutions, whose kernels reach over them, and
        # masked in attention; the tokens in front are every piece's own.
        valid = None
        if min(samples) < max(samples):
            lengths = torch.tensor([self.spec.frames(n) for n in samples], device=self.device)
            valid = torch.arange(T, device=self.device) < lengths[:, None]  # (B, T)
            hidden = hidden.masked_fill(~valid[:, :, None], 0.0)
        hidden = hidden + self.position(hidden, valid)
        tokens = self.tokens.shape[1]
        hidden = self.norm(torch.cat([self.tokens.expand(B, -1, -1), hidden], dim=1))  # (B, tokens + T, D)
        biases = self.bias(T)
        if valid is not None:
            seen = functional.pad(valid, (tokens, 0), value=True)[:, None, None]  # (B, 1, 1, tokens + T)
            biases = [bias.masked_fill(~seen, -torch.inf) for bias in biases]
        else:
            biases = [bias[None] for bias in biases]
        yield hidden[:, tokens:]
        for number, block in enumerate(self.blocks):
            hidden = block(hidden, biases[number % len(biases)])
            yield hidden[:, tokens:]
