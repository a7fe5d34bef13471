"""CA-MSER's head: a spectrogram, MFCC and an encoder's frames, each by a network of its own; the first two weigh the third.

After Zou, Si, Chen, Rajan and Chng, "Speech Emotion Recognition with Co-Attention Based Multi-Level Acoustic Information"
(ICASSP 2022), and the sizes and the order of its published code. Letters: b segments, T frames (300, 3 s at 10 ms), E the
encoder's width, K classes.

    s = ReLU(Linear(AlexNet's convolutions(spectrogram)))                        (b, 128), by way of 256 maps of 6 x 6
    m = ReLU(Linear(all states of a BiLSTM of two layers(MFCC of unit length)))   (b, 128)
    w = ReLU(Linear([s; m]))                                                     (b, T): the co-attention weights of frames
    e = ReLU(Linear(w frames))                                                   (b, 128)
    [s; m; e] -> Linear-ReLU 128 -> Linear-ReLU 128 -> logits

What comes in is a joined feature set of three parts (`tfser cache join --features logmel+mfcc+wav2vec2-base/12`); `part_dims` are
the widths of the first two. Ours: the spectrogram is the log-Mel one, of one channel and scaled to AlexNet's image, where the
published code has a coloured picture of another; AlexNet begins untrained, not from ImageNet, and its own classifier, whose
result the published code throws away, is not built; the encoder is not trained along, and its frames come at the pace of the
log-Mel ones, so there are 300 weights where there were 149. LSTMs are computed in float32 under autocast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from tfser.heads.models.blocks import BidirectionalLSTM
from tfser.heads.spec.head import Network
from tfser.heads.spec.recipes import FRAMES_RECIPES
from tfser.heads.spec.settings import ABOVE_0, BELOW_1, Settings
from tfser.manifests.errors import UsageError

_SMALLEST_IMAGE = 63
"""Below it AlexNet's strides leave nothing."""


@dataclass(frozen=True, kw_only=True)
class CAMSERConfig(Settings):
    """Sizes; the defaults are the published ones.

    Raises:
        UsageError: A value makes no sense.
    """

    part_dims: Annotated[tuple[int, ...], ABOVE_0] = (80, 40)
    """Columns of the spectrogram and of MFCC; the encoder's are the rest. A joined feature set says its own."""
    segment_frames: Annotated[int, ABOVE_0] = 300
    """T: frames of one segment."""
    image: Annotated[tuple[int, ...], ABOVE_0] = (256, 384)
    """Height and width that the spectrogram is scaled to."""
    lstm_units: Annotated[int, ABOVE_0] = 256
    """Of the BiLSTM, each way."""
    hidden: Annotated[int, ABOVE_0] = 128
    """Width of s, m and e, and of the last layers."""
    dropout: Annotated[float, BELOW_1] = 0.1
    """Before each linear layer, while training."""
    lstm_dropout: Annotated[float, BELOW_1] = 0.5
    """Between the BiLSTM's layers, while training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.part_dims) != 2:
            raise self._off("part_dims", "two widths: of the spectrogram and of MFCC")
        if len(self.image) != 2 or min(self.image) < _SMALLEST_IMAGE:
            raise self._off("image", f"a height and a width from {_SMALLEST_IMAGE} on")


def alexnet_convolutions() -> nn.Sequential:
    """Return AlexNet's convolutions (Krizhevsky 2014, as torchvision has them): (b, 1, h, w) to (b, 256, 6, 6)."""
    return nn.Sequential(
        *(nn.Conv2d(1, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        nn.AdaptiveAvgPool2d(6),
    )


class CAMSER(nn.Module):
    """The whole network."""

    def __init__(self, config: CAMSERConfig, dim: int, n_classes: int) -> None:
        super().__init__()
        bands, coefficients = config.part_dims
        self.sizes = (bands, coefficients, dim - bands - coefficients)
        self.frames, self.image = config.segment_frames, config.image
        self.convolutions = alexnet_convolutions()
        self.lstm = BidirectionalLSTM(coefficients, config.lstm_units, layers=2, rate=config.lstm_dropout)
        self.drop = nn.Dropout(config.dropout)
        self.of_spectrogram = nn.Linear(256 * 36, config.hidden)
        self.of_mfcc = nn.Linear(2 * config.lstm_units * config.segment_frames, config.hidden)
        self.weights = nn.Linear(2 * config.hidden, config.segment_frames)
        self.of_encoder = nn.Linear(self.sizes[2], config.hidden)
        self.mixed = nn.Linear(3 * config.hidden, config.hidden)
        self.last = nn.Linear(config.hidden, config.hidden)
        self.classifier = nn.Linear(config.hidden, n_classes)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:  # (b, T, D), (b,) -> (b, K)
        """Classify whole segments; ``lengths`` are all T, since shorter utterances fill their segment cyclically.

        Raises:
            UsageError: The segments are of another length.
        """
        if frames.shape[1] != self.frames:
            raise UsageError(f"segments of {frames.shape[1]} frames; this head was built for {self.frames}")
        spectrogram, mfcc, encoder = torch.split(frames, list(self.sizes), dim=-1)  # (b, T, bands), (b, T, .), (b, T, E)
        picture = functional.interpolate(spectrogram.transpose(1, 2)[:, None], size=tuple(self.image), mode="bilinear")
        s = self._relu(self.of_spectrogram, self.convolutions(picture).flatten(1))  # (b, 128)
        states = self.lstm(functional.normalize(mfcc, dim=-1), lengths)  # (b, T, 2 units)
        m = self._relu(self.of_mfcc, states.flatten(1))  # (b, 128)
        w = self._relu(self.weights, torch.cat([s, m], dim=-1))  # (b, T)
        e = self._relu(self.of_encoder, (w[:, None] @ encoder.to(w.dtype))[:, 0])  # (b, 128)
        mixed = self._relu(self.mixed, torch.cat([s, m, e], dim=-1))  # (b, 128)
        logits: Tensor = self.classifier(self._relu(self.last, mixed))  # (b, K)
        return logits

    def _relu(self, linear: nn.Module, x: Tensor) -> Tensor:
        return functional.relu(linear(self.drop(x)))


def _check(config: CAMSERConfig, dim: int) -> None:
    if dim <= sum(config.part_dims):
        raise UsageError(
            f"ca_mser: of a width of {dim}, part_dims={','.join(map(str, config.part_dims))} leave nothing for an encoder; "
            "it reads three feature sets side by side: `tfser cache join --features logmel+mfcc+wav2vec2-base/12`"
        )


HEAD = Network(
    name="ca_mser",
    summary="a CNN on log-Mel and a BiLSTM on MFCC weigh an encoder's frames; reads the three joined",
    source="Zou et al. 2022, CA-MSER",
    presets={"full": CAMSERConfig()},
    default_preset="full",
    recipes=FRAMES_RECIPES,
    default_recipe="default",
    features=("logmel+mfcc+wav2vec2-base/12", "logmel+mfcc+wavlm-large/12"),
    inputs="segments",
    build=CAMSER,
    check=_check,
    typical_dim=888,
    printed_otherwise="175 M in print, 149 of them its encoder's and those of a classifier that its code throws away",
    reads=("logmel", "mfcc", "*"),
    unstackable="torch.func has no rule for its LSTM",
)
