"""A loaded encoder: pieces of samples in, the wanted hidden states out, each as if its piece had been alone.

wav2vec 2.0, HuBERT, WavLM, UniSpeech-SAT and data2vec run through the modules that transformers built and filled, in a loop of
our own: only the layers up to the highest one asked for exist, only the wanted hidden states are kept, and whatever would let a
piece see another's padding is done on its own frames (see `exact`). Whisper is in `whisper`, w2v-BERT 2.0 in `conformer`.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tfser.pipeline.features.encoders.exact import ConvStack, GatedAttention, Moments, RelativeBias, positions_of
from tfser.pipeline.features.encoders.products import use_products
from tfser.pipeline.features.encoders.spec import EncoderSpec
from tfser.pipeline.resources.devices import computing_on

Frames = npt.NDArray[np.float32]

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Encoder(ABC):
    """Computes the outputs of an `EncoderSpec`. For one thread at a time."""

    def __init__(self, spec: EncoderSpec, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        # Autocast copies every weight at every use on a CPU: there the weights themselves are narrowed instead.
        self.dtype = torch.bfloat16 if spec.precision == "bfloat16" and device.type == "cpu" else torch.float32

    @abstractmethod
    def states(
        self, pieces: Sequence[npt.NDArray[np.float32]], moments: Sequence[Moments | None] | None = None
    ) -> Iterator[Tensor]:
        """Yield hidden states 0..highest of a padded batch, (B, T, D) each; frames beyond a piece's own are undefined."""

    def moments(self, samples: npt.NDArray[np.float32]) -> Moments | None:
        """Return what pieces of a prepared utterance (n,) have to know of all of it, for `encode`; None if nothing."""
        return None

    @property
    def batch_seconds_default(self) -> float | None:
        """Seconds of audio that a batch should hold; None for one piece at a time, which is fastest on a CPU."""
        if self.device.type != "cuda":
            return None
        # The widest moment is the first convolution and its norm, about 20 MB a second in float32 at 512 channels; twice that
        # leaves room for attention and for what the allocator cannot use. Beyond ten minutes nothing is gained.
        memory = torch.cuda.get_device_properties(self.device).total_memory
        return float(min(600.0, max(40.0, (0.8 * memory - 4e9) / 40e6)))

    def encode(
        self, pieces: Sequence[npt.NDArray[np.float32]], moments: Sequence[Moments | None] | None = None
    ) -> list[tuple[Frames, ...]]:
        """Return, for each piece, one (T_i, dim) float32 array for each output of the specification, in one pass.

        Args:
            pieces: (n_i,) samples as `EncoderSpec.prepare` gives them, cut to `EncoderSpec.windows`; at least
                `minimum_samples` each.
            moments: for each piece that is a part of an utterance, what `moments` says of that; None: pieces are whole.

        Raises:
            ValueError: if a piece is too short for a frame, or longer than Whisper's window.
            torch.OutOfMemoryError: if the batch is too large for the device.
        """
        return self.launch(pieces, moments).frames() if pieces else []

    def launch(self, pieces: Sequence[npt.NDArray[np.float32]], moments: Sequence[Moments | None] | None = None) -> Launched:
        """Begin what `encode` does, and return before a GPU has done it: what is asked of it next waits behind.

        The arguments and errors are those of `encode`; there is at least one piece. A CPU has done all of it on return.
        """
        lengths = [self.spec.frames(len(piece)) for piece in pieces]
        if min(lengths) < 1:
            raise ValueError(f"a piece is shorter than {self.spec.minimum_samples} samples, which make one frame")
        if any(len(piece) > self.spec.framing.computed(len(piece)) for piece in pieces):
            longest = max(len(piece) for piece in pieces)
            raise ValueError(f"a piece of {longest} samples is longer than the window of {self.spec.framing.computed(longest)}")
        outputs = self.spec.outputs
        kept: list[list[Tensor]] = [[] for _ in outputs]
        # Layers are taken as they come out, and only those that are wanted are held: all of a large encoder's
        # would be twenty times the batch. The mean is summed on the way, in float32.
        with computing_on(self.device), torch.inference_mode(), self._computing():
            for k, state in enumerate(self.states(pieces, moments)):
                for output, held in zip(outputs, kept, strict=True):
                    if k not in output.layers:
                        continue
                    if output.label == "mean" and held:
                        held[0] += state
                    else:
                        held.append(state.to(torch.float32, copy=output.label == "mean"))
            for output, held in zip(outputs, kept, strict=True):
                if output.label == "mean":
                    held[0] /= len(output.layers)
            # One copy for all layers: each would wait for the device.
            return Launched(lengths, *to_host(kept, self.device))

    def _computing(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of half precision on a GPU, which is this thread's alone."""
        if self.device.type == "cuda" and self.spec.precision != "float32":
            return torch.autocast("cuda", dtype=HALF[self.spec.precision])
        return contextlib.nullcontext()


class Launched:
    """A batch that a device is at work on, or done with.

    Args:
        lengths: B, frames of each piece.
        copies: (B, T, D) of each layer of each output, on the CPU; a GPU fills them.
        done: has happened once they are filled; None: they are.
    """

    def __init__(self, lengths: Sequence[int], copies: Sequence[Sequence[Tensor]], done: torch.cuda.Event | None) -> None:
        self._lengths, self._copies, self._done = lengths, copies, done

    def frames(self) -> list[tuple[Frames, ...]]:
        """Wait, and return one (T_i, dim) float32 array for each output of each piece, which are copies of their own."""
        # Only this batch is waited for: what was launched after it keeps the device busy meanwhile.
        if self._done is not None:
            self._done.synchronize()
        arrays = [[copy.numpy() for copy in held] for held in self._copies]
        # Cut to a piece's own frames: what lies beyond is of the padding.
        return [
            tuple(
                np.concatenate([array[i, :length] for array in held], axis=1) if len(held) > 1 else held[0][i, :length].copy()
                for held in arrays
            )
            for i, length in enumerate(self._lengths)
        ]


def to_host(kept: Sequence[Sequence[Tensor]], device: torch.device) -> tuple[list[list[Tensor]], torch.cuda.Event | None]:
    """Copy tensors to the CPU, and return what has happened once they are there: on a GPU nothing is waited for here.

    From a GPU they go into pinned memory, one behind the other: pageable memory would be waited for.
    """
    if device.type != "cuda":
        return [[tensor.cpu() for tensor in held] for held in kept], None
    copies = [[torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in held] for held in kept]
    for held, into in zip(kept, copies, strict=True):
        for tensor, copy in zip(held, into, strict=True):
            copy.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record(torch.cuda.current_stream(device))
    return copies, done


class WaveformEncoder(Encoder):
    """wav2vec 2.0, HuBERT, WavLM, UniSpeech-SAT and data2vec."""

    def __init__(self, spec: EncoderSpec, model: Any, device: torch.device) -> None:
        super().__init__(spec, device)
        model.to(device=device, dtype=self.dtype)
        self.stack = ConvStack(model.feature_extractor, device)
        self.projection = model.feature_projection
        self.position = positions_of(model.encoder.pos_conv_embed)
        # data2vec has no choice: it normalises after each layer, and before the first.
        self.norm = None if spec.architecture.get("do_stable_layer_norm", False) else model.encoder.layer_norm
        self.layers = model.encoder.layers
        self.bias = None
        if spec.family == "wavlm" and len(self.layers):
            self.bias = RelativeBias(self.layers[0].attention)
            for layer in self.layers:
                layer.attention = GatedAttention(layer.attention)
        use_products(model)

    def moments(self, samples: npt.NDArray[np.float32]) -> Moments | None:
        """Return variance and mean of the first convolution over an utterance, where a group norm takes them; else None."""
        with computing_on(self.device), torch.inference_mode(), self._computing():
            return self.stack.moments(torch.from_numpy(samples).to(self.device, self.dtype))

    def states(
        self, pieces: Sequence[npt.NDArray[np.float32]], moments: Sequence[Moments | None] | None = None
    ) -> Iterator[Tensor]:
        """Yield hidden states 0..highest, (B, T, D) each."""
        values, samples = filled(pieces)
        features = self.stack(torch.from_numpy(values).to(self.device, self.dtype), samples, moments)  # (B, T, C)
        projected = self.projection(features)
        hidden = projected[0] if isinstance(projected, tuple) else projected  # HuBERT has no second value
        # Frames beyond a piece's own are zeroed before the positional convolution, whose kernel reaches over
        # them, and masked in attention; with pieces of one length nothing is masked, which is another and
        # faster path.
        valid = None
        if min(samples) < max(samples):
            lengths = torch.tensor([self.spec.frames(n) for n in samples], device=self.device)
            valid = torch.arange(hidden.shape[1], device=self.device) < lengths[:, None]  # (B, T)
            hidden = hidden.masked_fill(~valid[:, :, None], 0.0)
        hidden = hidden + self.position(hidden, valid)
        if self.norm is not None:
            hidden = self.norm(hidden)
        yield hidden
        mask = None if valid is None else valid[:, None, None, :]  # (B, 1, 1, T) over keys
        extra = {} if self.bias is None else {"position_bias": self.bias(hidden.shape[1])}
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=mask, **extra)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            yield hidden


def filled(pieces: Sequence[npt.NDArray[np.float32]]) -> tuple[npt.NDArray[np.float32], list[int]]:
    """Return pieces side by side, filled up with zeros to the longest (B, n), and how many samples each has."""
    samples = [len(piece) for piece in pieces]
    values = np.zeros((len(pieces), max(samples)), dtype=np.float32)
    for row, piece in zip(values, pieces, strict=True):
        row[: len(piece)] = piece
    return values, samples
