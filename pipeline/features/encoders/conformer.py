"""w2v-BERT 2.0: filter banks in, the hidden states of a Conformer out, each piece as if it had been alone.

Seamless Communication et al. 2023 (arXiv 2312.05187, section 3.2.1); the input is that of transformers'
SeamlessM4TFeatureExtractor: a log filter bank as Kaldi's, brought to zero mean and unit variance (n - 1) in each band over the
utterance, two frames side by side. Where the number of filter-bank frames is odd, the last one counts for the moments and
stands in no frame: transformers fills its second half with padding, which no attention sees.

What a piece of a padded batch could see of another: attention masks the frames beyond its end, and the convolutions of a layer
look back only, over zeros where the piece begins. Moments of a file that is cut into windows are those of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from tfser.pipeline.features.encoders.encoder import Encoder
from tfser.pipeline.features.encoders.exact import Moments
from tfser.pipeline.features.encoders.products import linear, use_products
from tfser.pipeline.features.encoders.spec import EncoderSpec

_FLOOR = 1e-7
"""Added to a band's variance, as transformers' extractor does."""


class ConformerEncoder(Encoder):
    """w2v-BERT 2.0's encoder, without its adapter."""

    def __init__(self, spec: EncoderSpec, model: Any, device: torch.device) -> None:
        import transformers

        super().__init__(spec, device)
        model.to(device=device, dtype=self.dtype)
        self.projection = model.feature_projection
        self.positions = model.encoder.embed_positions
        self.layers = model.encoder.layers
        if spec.architecture["position_embeddings_type"] == "relative_key":
            for layer in self.layers:
                layer.self_attn = DistanceAttention(layer.self_attn)
        use_products(model)
        extractor: Any = transformers.SeamlessM4TFeatureExtractor
        self.bands, self.stride = spec.mel["bands"], spec.mel["stride"]
        self.filter_bank = extractor(
            feature_size=self.bands, num_mel_bins=self.bands, sampling_rate=spec.sample_rate_hz, stride=self.stride
        )

    def moments(self, samples: npt.NDArray[np.float32]) -> Moments | None:
        """Return variance and mean over an utterance (n,) of each band of its filter bank, (bands,) each."""
        variance, mean = _moments(self._filter_bank(samples))
        return torch.from_numpy(variance), torch.from_numpy(mean)

    def states(
        self, pieces: Sequence[npt.NDArray[np.float32]], moments: Sequence[Moments | None] | None = None
    ) -> Iterator[Tensor]:
        """Yield hidden states 0..highest, (B, T, D) each."""
        lengths = [self.spec.frames(len(piece)) for piece in pieces]
        values = np.zeros((len(pieces), max(lengths), self.bands * self.stride), dtype=np.float32)
        for row, piece, length, known in zip(values, pieces, lengths, moments or [None] * len(pieces), strict=True):
            row[:length] = self._input(piece, length, known)
        projected, _ = self.projection(torch.from_numpy(values).to(self.device, self.dtype))
        valid = mask = None
        if min(lengths) < max(lengths):
            own = torch.tensor(lengths, device=self.device)
            valid = torch.arange(values.shape[1], device=self.device) < own[:, None]  # (B, T)
            projected = projected.masked_fill(~valid[:, :, None], 0.0)
            # Added to the scores of every query, (B, 1, 1, T): the least number of the dtype, which no softmax sees.
            least = torch.finfo(projected.dtype).min
            mask = torch.zeros_like(valid, dtype=projected.dtype).masked_fill(~valid, least)[:, None, None, :]
        hidden = projected
        yield hidden
        positions = None if self.positions is None else self.positions(hidden)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=mask, relative_position_embeddings=positions, conv_attention_mask=valid)
            yield hidden

    def _input(self, piece: npt.NDArray[np.float32], length: int, known: Moments | None) -> npt.NDArray[np.float32]:
        """Return the (length, bands * stride) normalised frames of a piece (n,): by its own moments, or its utterance's."""
        frames = self._filter_bank(piece)
        variance, mean = _moments(frames) if known is None else (of.numpy() for of in known)
        normalised = (frames - mean) / np.sqrt(variance + _FLOOR)
        return normalised[: length * self.stride].reshape(length, -1).astype(np.float32)

    def _filter_bank(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return every frame of the log filter bank of (n,) samples, (m, bands), in float32 whatever the encoder computes in."""
        count = (len(samples) - self.spec.mel["window_length"]) // self.spec.mel["hop_length"] + 1
        bank = self.filter_bank(
            np.asarray(samples, dtype=np.float32),
            sampling_rate=self.spec.sample_rate_hz,
            pad_to_multiple_of=self.stride,
            do_normalize_per_mel_bins=False,
            return_tensors="np",
        )["input_features"]
        # Frames stand side by side, the last one beside padding where they do not come out even.
        return np.asarray(bank, dtype=np.float32).reshape(-1, self.bands)[:count]


def _moments(frames: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return variance (n - 1) and mean over time of (m, bands) frames, (bands,) each."""
    return frames.var(axis=0, ddof=1), frames.mean(axis=0)


class DistanceAttention(nn.Module):
    """Self-attention with a learned vector for each clipped distance (Shaw et al. 2018, equation 5), fused.

    It takes the place of transformers' Wav2Vec2BertSelfAttention, which gathers a vector for every pair of frames, (T, T, D / H),
    before it multiplies: here each query meets every distance's vector once, and scores are gathered by distance.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads, self.head_dim = attention.num_heads, attention.head_size
        projections = (attention.linear_q, attention.linear_k, attention.linear_v)
        self.in_weight = torch.cat([p.weight for p in projections]).detach()  # (3 D, D)
        self.in_bias = torch.cat([p.bias for p in projections]).detach()
        self.left, self.right = attention.left_max_position_embeddings, attention.right_max_position_embeddings
        self.distances = attention.distance_embedding.weight.detach()  # (left + 1 + right, D / H)
        self.out = attention.linear_out

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any) -> tuple[Tensor, None]:
        """Return (B, T, D), and no weights.

        Args:
            hidden_states: (B, T, D).
            attention_mask: (B, 1, 1, T), added to the scores; None if all frames are a piece's own.
        """
        B, T, D = hidden_states.shape
        qkv = linear(hidden_states, self.in_weight, self.in_bias).view(B, T, 3, self.heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, D / H) each
        at = torch.arange(T, device=q.device)
        distance = (at[None, :] - at[:, None]).clamp(-self.left, self.right) + self.left  # keys minus queries, (T, T)
        scores = torch.matmul(q, self.distances.to(q.dtype).T) * self.head_dim**-0.5  # (B, H, T, left + 1 + right)
        bias = scores.gather(3, distance.expand(B, self.heads, T, T))
        if attention_mask is not None:
            bias = bias + attention_mask.to(bias.dtype)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(mixed.transpose(1, 2).reshape(B, T, D)), None
