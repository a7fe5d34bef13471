"""What an extraction did, and how it is said: in lines for people, and as a row for programs. Nothing is printed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tfser.manifests.audits.participation import NO_AUDIO, Tally
from tfser.manifests.utterances import Skipped
from tfser.manifests.wording import count
from tfser.pipeline.resources.part import CorpusPart
from tfser.pipeline.scanning.scan_report import skipped_lines

NOT_COMPUTED = "not computed"
"""Why a feature set that was refused lacks the rest."""

NOT_EXTRACTED = "could not be extracted"

OTHER_PARTS = "left to other parts"
"""Why a part of an extraction leaves utterances out that nobody has extracted yet."""


@dataclass(kw_only=True)
class ExtractReport:
    """What an extraction did: its `tally` adds up, whatever was read, skipped or refused.

    `unreadable` are utterances whose audio the scan could not read, `before` those that were there already, or that another
    process stored meanwhile; `elsewhere` are those that belong to other parts than `part` and are not there yet.
    """

    corpus: str
    feature_set: str
    utterances: int
    before: int
    unreadable: int = 0
    extracted: int = 0
    audio_s: float = 0.0
    seconds: float = 0.0
    bytes: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    part: CorpusPart | None = None
    elsewhere: int = 0
    refused: str | None = None
    """Why the feature set cannot hold this corpus: it has what was finished, and lacks the rest."""

    @property
    def tally(self) -> Tally:
        """Which utterances of the corpus have features now, and why the others have none."""
        used, listed = self.before + self.extracted, self.unreadable + len(self.skipped)
        rest = self.utterances - used - listed - self.elsewhere if self.refused is not None else 0
        left_out = {NO_AUDIO: self.unreadable, NOT_EXTRACTED: len(self.skipped), NOT_COMPUTED: rest, OTHER_PARTS: self.elsewhere}
        return Tally(given=self.utterances, used=used, left_out=left_out)

    def lines(self, listed: Sequence[tuple[str, str]] = ()) -> list[str]:
        """Return what people are told; what was skipped is named unless it is what was `listed` just before."""
        whose = f", part {self.part}" if self.part is not None else ""
        head, utterances = f"{self.corpus} / {self.feature_set}{whose}:", count(self.utterances, "utterance")
        tally = self.tally
        # What other parts do is no fault of these utterances: it is said behind what is.
        own = {reason: number for reason, number in tally.left_out.items() if reason != OTHER_PARTS}
        lost = Tally(given=tally.given - self.elsewhere, used=tally.used, left_out=own)
        reasons = lost.reasons()
        out = f"{lost.lost:,} {'lacking' if self.refused else 'skipped'}" + (f" ({reasons})" if reasons else "")
        out += f", {self.elsewhere:,} {OTHER_PARTS}" if self.part is not None else ""
        lines = [f"repaired: {line}" for line in self.repaired]
        if self.extracted:
            rate = self.audio_s / max(self.seconds, 1e-6)
            lines.append(
                f"{head} {count(self.extracted, 'utterance')} extracted "
                f"({self.audio_s / 60:.1f} min of audio in {self.seconds:.1f} s, "
                f"{rate:,.{0 if rate >= 20 else 1}f} x real time, {self.bytes / 1e6:.1f} MB), {self.before:,} were there, {out}"
            )
        elif self.refused:
            lines.append(f"{head} refused, see below: {self.before:,} of {utterances} are there")
        else:
            lines.append(f"{head} nothing to do: {self.before:,} of {utterances} are there, {out}")
        if self.named() != list(listed):
            lines += skipped_lines(self.corpus, self.named(), "could not be extracted")
        return lines

    def named(self) -> list[tuple[str, str]]:
        """Return what was skipped, with the reasons."""
        return [(s.utterance_id or "?", s.reason) for s in self.skipped]

    def to_row(self) -> dict[str, Any]:
        """Return the counts as programs read them."""
        return {
            "corpus": self.corpus,
            "feature_set": self.feature_set,
            "utterances": self.utterances,
            "before": self.before,
            "extracted": self.extracted,
            "skipped": len(self.skipped),
            "refused": self.refused,
            "audio_s": round(self.audio_s, 3),
            "seconds": round(self.seconds, 3),
            "bytes": self.bytes,
            **self.tally.to_dict(),
        }
