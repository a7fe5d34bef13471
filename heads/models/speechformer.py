"""SpeechFormer: attention within windows as long as frames, phonemes and words, then over the utterance; tokens merge between.

After Chen, Xing, Xu, Pang and Du, "SpeechFormer: A Hierarchical Efficient Framework Incorporating the Characteristics of Speech"
(Interspeech 2022), and the sizes and the order of its published code. Letters: B samples, T tokens (frames at first), D width.

    stage      frame    phoneme   word     utterance
    layers     2        2         4        4
    window     50 ms    400 ms    2 s      all
    then merge to tokens of 50 ms, 250 ms and 1 s, by the mean, a linear map and a layer norm; at last: mean over tokens -> MLP

A stage begins with a layer norm. A layer is Speech-MSA and a feed-forward network, each with a residual and post-norm; in the
first stage alone sinusoids of the place are added to what attention sees. Windows and merges are counted in tokens of their
stage, rounded down as published: with frames of 20 ms windows of 2, 10 and 8 tokens (the next odd number: each token sees as
many on either side) and merges of 2, 6 and 4 (tokens of 40, 240 and 960 ms).

Ours: nothing beyond an utterance's end is attended to or merged, so its last token is the mean of the frames that there are
(published: zeros fill it up, and at both ends windows hold zeros, which draw attention).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, TypeVar

from torch import Tensor, nn
from torch.nn import functional

from tfser.heads.models.blocks import (
    TransformerLayer,
    frame_classifier,
    input_map,
    masked_mean,
    positions,
    valid_frames,
    windowed_attention,
)
from tfser.heads.models.frame_head import AttentionSettings, FrameHead, width_check
from tfser.heads.spec.settings import ABOVE_0, BELOW_1
from tfser.manifests.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class SpeechFormerConfig(AttentionSettings):
    """Sizes; the defaults are the published ones.

    Raises:
        UsageError: A value makes no sense.
    """

    classifier_dropout: Annotated[float, BELOW_1] = 0.5
    """In the classifier, while training."""
    layers: Annotated[tuple[int, ...], ABOVE_0] = (2, 2, 4, 4)
    """Of each stage."""
    windows_ms: Annotated[tuple[int, ...], ABOVE_0] = (50, 400, 2000)
    """What a token sees, in milliseconds, in every stage but the last, which sees all."""
    merges_ms: Annotated[tuple[int, ...], ABOVE_0] = (50, 250, 1000)
    """How long a token is after each stage but the last, in milliseconds."""
    hop_ms: Annotated[float | None, ABOVE_0] = None
    """Milliseconds from frame to frame; None: the features'."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.layers) - 1 == len(self.windows_ms) == len(self.merges_ms):
            raise self._off("layers", "one number more than windows_ms and merges_ms have")

    def in_frames(self, milliseconds: float) -> int:
        """Return how many whole frames a time holds, one at least."""
        assert self.hop_ms is not None
        return max(1, int(milliseconds / self.hop_ms + 1e-6))

    def stages(self) -> list[tuple[int, int]]:
        """Return for each stage but the last the window and the merge, in tokens of that stage."""
        found, merged = [], 1
        for window, merge in zip(self.windows_ms, self.merges_ms, strict=True):
            found.append((max(1, self.in_frames(window) // merged), max(1, self.in_frames(merge) // merged)))
            merged = self.in_frames(merge)
        return found


class SpeechLayer(TransformerLayer):
    """A Transformer layer whose tokens see those around them; ``window`` None: all."""

    def __init__(self, config: SpeechFormerConfig, width: int, window: int | None) -> None:
        super().__init__(width, config.heads, config.feed_forward, config.dropout)
        self.window = window

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        if self.window is None:
            return super()._attend(q, k, v, valid)
        assert valid is not None
        q, k, v = self._split(self.query(q)), self._split(self.key(k)), self._split(self.value(v))
        attended = windowed_attention(q, k, v, valid, self.window)  # (b, heads, tokens, width / heads)
        mixed: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return mixed

    def at(self, x: Tensor, places: Tensor | float, valid: Tensor) -> Tensor:  # (b, tokens, D), (tokens, D) -> (b, tokens, D)
        """Transform tokens; attention sees ``places`` added to them, the residual does not."""
        seen = x + places
        return self._transform(self.attention_norm(x + self._drop(self._attend(seen, seen, seen, valid))))


class Merge(nn.Module):
    """Mean over so many tokens, a linear map and a layer norm."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.linear = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the merged tokens (B, T', D), and which there are (B, T'), of tokens (B, T, D) and (B, T)."""
        fill = -x.shape[1] % self.tokens
        x = functional.pad(x.masked_fill(~valid[:, :, None], 0.0), (0, 0, 0, fill))
        there = functional.pad(valid, (0, fill)).view(len(x), -1, self.tokens)  # (B, T', tokens)
        count = there.sum(dim=2).clamp(min=1)  # (B, T')
        mean = x.view(len(x), -1, self.tokens, x.shape[2]).sum(dim=2) / count[:, :, None]  # (B, T', D)
        return self.norm(self.linear(mean)), there.any(dim=2)


class SpeechFormer(nn.Module):
    """The whole network."""

    layer: ClassVar[type[SpeechLayer]] = SpeechLayer
    """What its stages are made of."""

    def __init__(self, config: SpeechFormerConfig, dim: int, n_classes: int) -> None:
        super().__init__()
        if config.hop_ms is None:
            raise UsageError("hop_ms is not settled yet; see HeadSpec.settled")
        width = config.width or dim
        self.width = width
        self.input = input_map(dim, width)
        self._add_own(config)
        sizes = [*config.stages(), (None, None)]
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in sizes)
        self.stages = nn.ModuleList(
            nn.ModuleList(self.layer(config, width, window) for _ in range(layers))
            for layers, (window, _) in zip(config.layers, sizes, strict=True)
        )
        self.merges = nn.ModuleList(Merge(width, merge) for _, merge in sizes if merge is not None)
        self.classifier = frame_classifier(width, config.hidden, n_classes, config.classifier_dropout)

    def _add_own(self, config: SpeechFormerConfig) -> None:
        """Add what a network that is built upon this one has besides; here, where its weights' turn to be drawn is."""

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:  # (B, L, D_in), (B,) -> (B, K)
        """Classify utterances."""
        valid = valid_frames(frames, lengths)  # (B, T)
        x = self.input(frames)  # (B, T, D)
        places: Tensor | float = positions(x.shape[1], self.width, x.device).to(x.dtype)
        for number, (norm, stage) in enumerate(zip(self.norms, self.stages, strict=True)):
            x = norm(x)
            for layer in stage:  # type: ignore[attr-defined]
                x = layer.at(x, places, valid)
            places = 0.0
            if number < len(self.merges):
                x, valid = self.merges[number](x, valid)
        logits: Tensor = self.classifier(masked_mean(x, valid))  # (B, K)
        return logits


C = TypeVar("C", bound=SpeechFormerConfig)


def settle_hop(config: C, hop_s: float, longest: int, device: str) -> C:
    """Return the configuration with the features' hop, where it leaves that open."""
    return config if config.hop_ms is not None else replace(config, hop_ms=round(1000 * hop_s, 4))


HEAD = FrameHead(
    name="speechformer",
    summary="attention in windows of frames, phonemes and words, merged between",
    source="Chen et al. 2022, SpeechFormer",
    presets={"full": SpeechFormerConfig()},
    features=("hubert-large", "wavlm-large", "logmel"),
    build=SpeechFormer,
    check=width_check("speechformer", "heads"),
    settle=settle_hop,
    printed_parameters={1024: 66.9},
)
