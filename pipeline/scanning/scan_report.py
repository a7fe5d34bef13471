"""What a scan found, and how it is said: in lines for people, and as a row for programs.

What comes in: what a reader and the decoder gave. What goes out: counts that add up (`tally`), and text. Nothing is printed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfser.manifests.audits.participation import NO_AUDIO, NO_LABEL, NO_UTTERANCE, Tally, unlabelled_query
from tfser.manifests.utterances import Skipped
from tfser.manifests.wording import count, listed

_MOST_CLASSES = 12
"""Classes that a line names, the largest first."""

_MOST_LISTED = 5
"""Skipped utterances that are named."""


@dataclass(frozen=True, kw_only=True)
class ScanReport:
    """What a scan did: how many utterances there are, how many were decoded now, what was skipped, what the reader noted.

    `readable` are those with audio, whether decoded now or before, `usable` those of them with a label. `classes` counts the
    labels of all utterances, `unlabelled` those that have none. `columns` says which column of a table was taken for what,
    `audio_s` is the audio of the readable ones, `reason` why the first unreadable one is that.
    """

    corpus: str
    root: Path
    utterances: int
    decoded: int
    removed: int
    changed: bool
    skipped: tuple[Skipped, ...]
    default_protocol: str | None
    notes: tuple[str, ...] = ()
    readable: int = 0
    usable: int = 0
    unlabelled: int = 0
    speakers: int = 0
    classes: Mapping[str, int] = field(default_factory=dict)
    audio_s: float = 0.0
    columns: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None

    @property
    def tally(self) -> Tally:
        """Everything that the reader saw (rows of a table, files), and what became of it."""
        unread = sum(row.stage == "read" for row in self.skipped)
        left_out = {
            NO_UTTERANCE: unread,
            NO_AUDIO: self.utterances - self.readable,
            NO_LABEL: self.readable - self.usable,
        }
        return Tally(given=self.utterances + unread, used=self.usable, left_out=left_out)

    @property
    def failure(self) -> str | None:
        """Say why nothing can be made of the corpus though there are rows: none of its audio can be read."""
        if self.readable or not self.utterances:
            return None
        first = f" ({self.reason})" if self.reason else ""
        return (
            f"{self.corpus}: none of the {count(self.utterances, 'utterance')} in {self.root} has audio that can be read"
            f"{first}; all of them: {_skipped_query(self.corpus)}"
        )

    def brief(self) -> list[str]:
        """Return what people are told where the last scan told all of it: that nothing had changed, and who takes no part."""
        who = f"; {self._participation()}" if self.tally.lost else ""
        return [f"{self.corpus}: {count(self.utterances, 'utterance')} in {self.root}; nothing had changed{who}"]

    def _participation(self) -> str:
        return self.tally.sentence("rows and files" if self.tally.left_out[NO_UTTERANCE] else "utterances")

    def lines(self) -> list[str]:
        """Return what people are told: what there is, which column is what, what was noted, and who takes no part and why."""
        done = "nothing had changed" if not self.changed else f"{count(self.decoded, 'utterance')} decoded now"
        sentences = [f"{count(self.utterances, 'utterance')} in {self.root}; {done}", self._content()]
        if self.columns:
            taken = (ours if ours == theirs else f"{ours} from {theirs}" for ours, theirs in self.columns.items())
            sentences.append(f"columns: {', '.join(taken)}")
        sentences += self.notes
        if self.removed:
            sentences.append(f"{count(self.removed, 'utterance')} of the last scan are gone from the corpus")
        if self.unlabelled:
            have = "has no label and takes" if self.unlabelled == 1 else "have no label and take"
            sentences.append(f"{self.unlabelled:,} of {self.utterances:,} {have} no part: {unlabelled_query(self.corpus)}")
        if self.tally.lost > self.tally.left_out[NO_LABEL]:
            sentences.append(self._participation())
        lines = [f"{self.corpus}: {line}" for line in sentences]
        for words, stage in (
            ("could not be scanned", "scan"),
            ("were passed over as no utterances of their own", "read"),
            ("lines of ratings are of no use", "rating"),
        ):
            listed = [(s.utterance_id or s.path or "?", s.reason) for s in self.skipped if s.stage == stage]
            lines += skipped_lines(self.corpus, listed, words)
        return lines

    def to_row(self) -> dict[str, Any]:
        """Return the counts as `--format json` prints them."""
        return {
            "corpus": self.corpus,
            "root": str(self.root),
            "utterances": self.utterances,
            "decoded": self.decoded,
            "changed": self.changed,
            "removed": self.removed,
            "skipped": len(self.skipped),
            "default_protocol": self.default_protocol,
            "readable": self.readable,
            "unlabelled": self.unlabelled,
            "speakers": self.speakers,
            "classes": dict(self.classes),
            "audio_s": round(self.audio_s, 3),
            "columns": dict(self.columns),
            "notes": list(self.notes),
            **self.tally.to_dict(),
        }

    def _content(self) -> str:
        """Say what the corpus holds: speakers, audio, classes with their counts."""
        who = count(self.speakers, "speaker") if self.speakers else "no speakers"
        largest = sorted(self.classes.items(), key=lambda item: (-item[1], item[0]))
        named = listed([f"{label} {number:,}" for label, number in largest], _MOST_CLASSES)
        several = f"{len(largest):,} {'class' if len(largest) == 1 else 'classes'}"
        return f"{who}, {self.audio_s / 60:,.1f} min of audio, " + (f"{several}: {named}" if largest else "no labels")


def skipped_lines(corpus: str, skipped: Sequence[tuple[str, str]], what: str) -> list[str]:
    """Say how many were left out, and the first few; the whole list is a query away."""
    if not skipped:
        return []
    lines = [f"{corpus}: {len(skipped):,} {what}:"]
    lines += [f"  {name}: {reason}" for name, reason in skipped[:_MOST_LISTED]]
    if len(skipped) > _MOST_LISTED:
        lines.append(f"  ... all of them: {_skipped_query(corpus)}")
    return lines


def _skipped_query(corpus: str) -> str:
    return f"tfser sql \"SELECT * FROM skipped WHERE corpus = '{corpus}'\""
