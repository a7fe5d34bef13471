"""Whisper's encoder: log-Mel windows of one length, filled with silence, and the frames of the true length.

Radford et al. 2022. Every window is encoded on its own and attends to the silence that fills it, as in training; nothing of
a batch-mate can reach it. The final LayerNorm is part of the last layer's hidden state, and of no other.

With `window=clip` nothing is filled but the last hop: the spectrogram is that of the piece, the positions are cut to it, and
attention sees its own frames only. In a batch of several lengths the shorter ones' spectrograms end in zeros, which is what the
first convolution sees beyond the end of a piece alone, and their further positions are masked. (The second convolution, of stride
2 over an even number of frames, looks beyond no end.)
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
from tfser.pipeline.features.encoders.framing import WindowFraming
from tfser.pipeline.features.encoders.products import use_products
from tfser.pipeline.features.encoders.spec import EncoderSpec


class WhisperEncoder(Encoder):
    """The encoder half of Whisper."""

    def __init__(self, spec: EncoderSpec, model: Any, device: torch.device) -> None:
        import transformers

        super().__init__(spec, device)
        self.model = model.to(device=device, dtype=self.dtype)
        use_products(self.model)
        self.is_filled = not isinstance(spec.framing, WindowFraming) or spec.framing.is_filled
        made: Any = transformers.WhisperFeatureExtractor
        extractor = made(
            feature_size=spec.mel["bands"],
            sampling_rate=spec.sample_rate_hz,
            hop_length=spec.mel["hop_length"],
            n_fft=spec.mel["n_fft"],
        )
        # Filters (bins, bands) and window lie where the spectrogram is computed, which never leaves that device.
        self.filters = torch.from_numpy(np.asarray(extractor.mel_filters, dtype=np.float32)).to(device)
        self.analysis = torch.hann_window(spec.mel["n_fft"], device=device)

    def states(
        self, pieces: Sequence[npt.NDArray[np.float32]], moments: Sequence[Moments | None] | None = None
    ) -> Iterator[Tensor]:
        """Yield hidden states 0..highest, (B, positions, D) each."""
        mel, mask = self._input(pieces)
        x = mel.to(self.device, self.dtype)  # (B, bands, 2 positions)
        x = functional.gelu(self.model.conv1(x))
        x = functional.gelu(self.model.conv2(x)).transpose(1, 2)
        hidden = x + self.model.embed_positions.weight[: x.shape[1]]
        yield hidden
        for k, layer in enumerate(self.model.layers, start=1):
            hidden = layer(hidden, mask)
            yield self.model.layer_norm(hidden) if k == self.spec.n_layers else hidden

    def _input(self, pieces: Sequence[npt.NDArray[np.float32]]) -> tuple[Tensor, Tensor | None]:
        """Return log-Mel frames (B, bands, 2 positions), and which positions attention may see, (B, 1, 1, positions), or all."""
        if self.is_filled:
            return self._log_mel(pieces, self.spec.framing.computed(0)), None
        each = [self._log_mel([piece], self.spec.framing.computed(len(piece))) for piece in pieces]
        lengths = [mel.shape[-1] for mel in each]
        longest = max(lengths)
        mel = torch.cat([functional.pad(of, (0, longest - of.shape[-1])) for of in each])
        if min(lengths) == longest:
            return mel, None
        positions = torch.tensor(lengths, device=self.device) // 2
        return mel, (torch.arange(longest // 2, device=self.device) < positions[:, None])[:, None, None, :]

    def _log_mel(self, pieces: Sequence[npt.NDArray[np.float32]], samples: int) -> Tensor:
        """Return the log-Mel frames (B, bands, samples / hop) of pieces that are filled with silence to so many samples.

        transformers' feature extractor computes the same numbers and brings them to the CPU, from where they would have to go
        back: here samples go to the device once, and the spectrogram stays.
        """
        filled = np.zeros((len(pieces), samples), dtype=np.float32)
        for row, piece in zip(filled, pieces, strict=True):
            row[: len(piece)] = piece
        # In float32 whatever the encoder computes in: float16 has no number for the floor of 1e-10 below the logarithm, so that
        # quiet speech would get other features than loud speech (half of the encoder's output at -40 dB).
        with torch.autocast(self.device.type, enabled=False):
            return log_mel(torch.from_numpy(filled).to(self.device), self.analysis, self.filters, self.spec.mel["hop_length"])


def log_mel(samples: Tensor, window: Tensor, filters: Tensor, hop: int) -> Tensor:
    """Return Whisper's log-Mel frames (B, bands, n / hop), about -1 to 1, of samples (B, n), each row by itself.

    Decades of power in Mel bands, floored 8 below the row's loudest, plus 4, over 4 (Radford et al. 2022, section 2.2: "globally
    scaled to be between -1 and 1"); the transform's last frame, which lies beyond the end, is left out.

    Args:
        samples: (B, n) float32.
        window: (w,) as long as the transform.
        filters: (w / 2 + 1, bands).
        hop: samples from one frame to the next.
    """
    bins = torch.stft(samples, len(window), hop, window=window, return_complex=True)[..., :-1]
    power = (bins.abs() ** 2).contiguous()  # a view without its last frame is multiplied eight times slower
    decades = (filters.T @ power).clamp(min=1e-10).log10()
    loudest = decades.amax(dim=(1, 2), keepdim=True)
    return (torch.maximum(decades, loudest - 8.0) + 4.0) / 4.0
