"""SpeechFormer++: SpeechFormer with a learned token for each second, which gathers what its second says and gives it back.

After Chen, Xing, Xu, Pang and Du, "SpeechFormer++: A Hierarchical Efficient Framework for Paralinguistic Speech Processing"
(TASLP 2023), and the sizes and the order of its published code. Stages, merges and classifier are those of
`tfser.heads.models.speechformer`; letters as there, W word tokens.

In all stages but the last, attention goes in two steps:

1. A word token attends to itself and to the tokens of its second; what it gathers is o_j.
2. A token attends to those in its window, and to o_j of its second. The two have softmaxes of their own: over the window, and,
   of the scores with o_j, over the tokens of the second. o_j serves as key and as value. The two results are added.

In the last stage all tokens, words too, attend to all. Words are mapped and normed by the merges, and are part of the last mean.

Ours: a second is a second. The published code parts 326 frames evenly into 7 words, so that a word of a padded batch covers 47
frames, whatever the utterance; here an utterance has a word for each begun second, and those beyond the seventh begin from the
same learned token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from tfser.heads.models.blocks import masked_mean, positions, valid_frames, windowed_attention
from tfser.heads.models.frame_head import FrameHead, width_check
from tfser.heads.models.speechformer import SpeechFormer, SpeechFormerConfig, SpeechLayer, settle_hop
from tfser.heads.spec.settings import ABOVE_0


@dataclass(frozen=True, kw_only=True)
class SpeechFormerPPConfig(SpeechFormerConfig):
    """Sizes; the defaults are the published ones.

    Raises:
        UsageError: A value makes no sense.
    """

    words: Annotated[int, ABOVE_0] = 7
    """Learned word tokens; later seconds begin from the last one."""


class WordLayer(SpeechLayer):
    """A layer over words and tokens; ``window`` None: all attend to all."""

    def both(
        self, words: Tensor, x: Tensor, places: Tensor | float, there: Tensor, valid: Tensor, member: Tensor | None
    ) -> Tensor:
        """Transform words (b, W, D) and tokens (b, T, D), and return them one after the other (b, W + T, D).

        ``there`` (b, W) and ``valid`` (b, T) say which there are, ``member`` (b, W, T) which token lies in which second;
        None: there are no windows. ``places`` are added to what attention sees of all of them.
        """
        x = torch.cat([words, x], dim=1)
        if member is None:
            return self.at(x, places, torch.cat([there, valid], dim=1))
        attended = self._gather(x + places, valid, member)
        return self._transform(self.attention_norm(x + self._drop(attended)))

    def _gather(self, x: Tensor, valid: Tensor, member: Tensor) -> Tensor:
        """Attend in the two steps of the module's text: (b, W + T, D), (b, T), (b, W, T) -> (b, W + T, D)."""
        assert self.window is not None
        W = member.shape[1]
        q, k, v = self._split(self.query(x)), self._split(self.key(x)), self._split(self.value(x))  # (b, H, W + T, d) each
        scale, lowest = q.shape[-1] ** -0.5, torch.finfo(torch.float32).min
        (wq, q), (wk, k), (wv, v) = ((part[:, :, :W], part[:, :, W:]) for part in (q, k, v))

        # 1. Each word: its own score beside those of its second's tokens.
        itself = (wq * wk).sum(dim=-1, keepdim=True) * scale  # (b, H, W, 1)
        of_tokens = (wq @ k.transpose(2, 3) * scale).float().masked_fill(~member[:, None], lowest)  # (b, H, W, T)
        weights = torch.cat([itself.float(), of_tokens], dim=-1).softmax(dim=-1).to(v.dtype)
        gathered = self._drop(weights[..., :1]) * wv + self._drop(weights[..., 1:]) @ v  # (b, H, W, d): o_j

        # 2. Each token: its window, and its second's word with a softmax over the second.
        scores = (gathered @ q.transpose(2, 3) * scale).float().masked_fill(~member[:, None], lowest)  # (b, H, W, T)
        share = (scores.softmax(dim=-1) * member[:, None]).to(v.dtype)
        tokens = windowed_attention(q, k, v, valid, self.window) + share.transpose(2, 3) @ gathered  # (b, H, T, d)
        mixed: Tensor = self.out(torch.cat([gathered, tokens], dim=2).transpose(1, 2).flatten(2))
        return mixed


class SpeechFormerPP(SpeechFormer):
    """The whole network: SpeechFormer's stages and classifier, with words."""

    layer: ClassVar[type[SpeechLayer]] = WordLayer

    def _add_own(self, config: SpeechFormerConfig) -> None:
        assert isinstance(config, SpeechFormerPPConfig)
        self.second = config.in_frames(config.merges_ms[-1])
        self.always: int | None = None  # how many words there are in a graph, which has no number that depends on a length
        self.words = nn.Parameter(torch.empty(config.words, self.width))
        nn.init.trunc_normal_(self.words, std=0.02)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:  # (B, L, D_in), (B,) -> (B, K)
        """Classify utterances."""
        valid = valid_frames(frames, lengths)  # (B, T)
        x = self.input(frames)  # (B, T, D)
        begun = -(-x.shape[1] // self.second) if self.always is None else self.always
        number = torch.arange(begun, device=x.device)  # (W,) one for each begun second; those too many are not `there`
        there = number * self.second < lengths[:, None]  # (B, W)
        W, known = len(number), len(self.words)
        begins = number.clamp(max=known - 1)
        words = self.words[begins].to(x.dtype).expand(len(x), -1, -1)  # (B, W, D)
        # Frames come after all words that are known, whatever the batch's longest utterance needs.
        table = positions(known + x.shape[1], self.width, x.device).to(x.dtype)
        places: Tensor | float = torch.cat([table[begins], table[known:]])  # (W + T, D)
        second = self.second
        for stage_number, (norm, stage) in enumerate(zip(self.norms, self.stages, strict=True)):
            member = None
            if stage_number < len(self.merges):
                # Merges are rounded down, so that tokens may be left behind the last second: its word takes them, too.
                last = there.sum(dim=1, keepdim=True) - 1  # (B, 1)
                of = (torch.arange(x.shape[1], device=x.device) // second).minimum(last)  # (B, T)
                member = (of[:, None] == number[:, None]) & valid[:, None]  # (B, W, T)
            words, x = norm(words), norm(x)
            for layer in stage:  # type: ignore[attr-defined]
                words, x = layer.both(words, x, places, there, valid, member).split((W, x.shape[1]), dim=1)
            places = 0.0
            if stage_number < len(self.merges):
                merge: Any = self.merges[stage_number]
                words = merge.norm(merge.linear(words))
                x, valid = merge(x, valid)
                second = max(1, second // merge.tokens)
        pooled = masked_mean(torch.cat([words, x], dim=1), torch.cat([there, valid], dim=1))  # (B, D)
        logits: Tensor = self.classifier(pooled)  # (B, K)
        return logits


HEAD = FrameHead(
    name="speechformer_pp",
    summary="SpeechFormer with a learned token a second, which gathers and gives back",
    source="Chen et al. 2023, SpeechFormer++",
    presets={"full": SpeechFormerPPConfig()},
    features=("hubert-large", "wavlm-large", "logmel"),
    build=SpeechFormerPP,
    check=width_check("speechformer_pp", "heads"),
    settle=settle_hop,
    printed_parameters={1024: 66.9},
)
