"""Whisper's encoder: log-Mel windows of one length, filled with silence, and the frames of the true length.

Radford et al. 2022. Every window is encoded on its own and attends to the silence that fills it, as in training; nothing of
a batch-mate can reach it. The final LayerNorm is part of the last layer's hidden state, and of no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from tfser.pipeline.features.encoders.encoder import Encoder
from tfser.pipeline.features.encoders.exact import Moments
from tfser.pipeline.features.encoders.products import use_products
from tfser.pipeline.features.encoders.spec import EncoderSpec


class WhisperEncoder(Encoder):
    """The encoder half of Whisper."""

    def __init__(self, spec: EncoderSpec, model: Any, device: torch.device) -> None:
        import transformers

        super().__init__(spec, device)
        self.model = model.to(device=device, dtype=self.dtype)
        use_products(self.model)
        self.window = spec.framing.computed(0)
        extractor: Any = transformers.WhisperFeatureExtractor
        self.mel = extractor(
            feature_size=spec.mel["bands"],
            sampling_rate=spec.sample_rate_hz,
            hop_length=spec.mel["hop_length"],
            n_fft=spec.mel["n_fft"],
        )

    def states(
        self, pieces: Sequence[npt.NDArray[np.float32]], moments: Sequence[Moments | None] | None = None
    ) -> Iterator[Tensor]:
        """Yield hidden states 0..highest, (B, positions, D) each."""
        # In float32 whatever the encoder computes in: float16 has no number for the floor of 1e-10 below the logarithm, so that
        # quiet speech would get other features than loud speech (half of the encoder's output at -40 dB).
        with torch.autocast(self.device.type, enabled=False):
            mel = self.mel(
                [np.asarray(piece, dtype=np.float32) for piece in pieces],
                sampling_rate=self.spec.sample_rate_hz,
                max_length=self.window,
                return_tensors="pt",
                device=str(self.device),
            )["input_features"]
        x = mel.to(self.device, self.dtype)  # (B, bands, 2 positions)
        x = functional.gelu(self.model.conv1(x))
        x = functional.gelu(self.model.conv2(x)).transpose(1, 2)
        hidden = x + self.model.embed_positions.weight
        yield hidden
        for k, layer in enumerate(self.model.layers, start=1):
            hidden = layer(hidden, None)
            yield self.model.layer_norm(hidden) if k == self.spec.n_layers else hidden
