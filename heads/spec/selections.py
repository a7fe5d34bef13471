"""Which epoch's predictions are reported: the rules, and keeping what they may yet choose.

Three selections come of every training: ``last`` selects nothing, ``val`` takes the epoch of the best validation UA,
``test-oracle`` that of the best test UA; where dimensions are learned, it is the mean CCC over them instead of UA, and where
both are, the sum of the two. A recipe may add others (``Recipe.selections``), so that published numbers can be compared like
with like. They are named

    <side>-<score>[-patience<P>]        test-WA, test-WA+UA, val-WF1, test-loss-patience8
    <side>-top5

* side: ``val`` or ``test``. **Whatever begins with ``test-`` looked at the test fold: an upper bound, and no result.**
* score: WA, UA, WF1, CCC (mean over the dimensions), sums of these, or loss (mean negative log-likelihood of the utterances,
  the lowest is best).
* patience P: what early stopping would have given, of the same training: epochs after P epochs in a row without a new best are
  not looked at.
* top5, as SpeechFormer's published evaluation reads its logs: the epochs with one of the five highest WA and those with one of
  the five highest UA (equal scores count once) stand for choice; of these the five that stand in most of the two lists, the
  earlier first; of these the one with the highest WA + UA.

On ties the earliest epoch is taken. A side without utterances has no selections.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from tfser.manifests.errors import UsageError

BASE = ("last", "val", "test-oracle")
"""The selections of every training."""

P = TypeVar("P")
_TOP = 5
_PATTERN = re.compile(r"(val|test)-(?:top5|(loss|(?:WA|UA|WF1|CCC)(?:\+(?:WA|UA|WF1|CCC))*)(?:-patience([1-9][0-9]{0,4}))?)")


class Record(Protocol):
    """What a rule reads of an epoch: see `tfser.heads.training.loop.EpochRecord`."""

    @property
    def epoch(self) -> int:
        """From 1."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A way to choose one epoch of a history."""

    side: Literal["val", "test"]
    scores: tuple[str, ...]
    """Summed; the highest is best. Or loss alone."""
    patience: int | None = None
    top: bool = False
    main: bool = field(default=False, repr=False)
    """Whether it is one of every training, which take UA, mean CCC, or their sum, by what is learned."""

    @classmethod
    def parse(cls, name: str) -> Rule:
        """Read a selection's name.

        >>> Rule.parse("test-WA+UA")
        Rule(side='test', scores=('WA', 'UA'), patience=None, top=False)

        Raises:
            UsageError: There is no such selection.
        """
        if name == "val":
            return cls(side="val", scores=("UA",), main=True)
        if name == "test-oracle":
            return cls(side="test", scores=("UA",), main=True)
        match = _PATTERN.fullmatch(name)
        if match is None:
            raise UsageError(
                f"unknown selection {name!r}; write a side (val, test) and a score (WA, UA, WF1, CCC, a sum, loss), as in "
                "val-WF1, test-WA+UA or test-loss-patience8, or test-top5"
            )
        side: Literal["val", "test"] = "val" if match[1] == "val" else "test"
        if match[2] is None:
            return cls(side=side, scores=("WA", "UA"), top=True)
        return cls(side=side, scores=tuple(match[2].split("+")), patience=int(match[3]) if match[3] else None)

    def value(self, record: Record) -> float | None:
        """Return an epoch's score, the higher the better; None where the side has no utterances."""
        values = [getattr(record, f"{self.side}_{score}") for score in self.scores]
        if self.main:
            # A training on dimensions alone has no UA; one on both has two scores, a sum of which chooses.
            both = [*values, getattr(record, f"{self.side}_CCC", None)]
            values = [value for value in both if value is not None] or [None]
        if any(value is None for value in values):
            return None
        return -values[0] if self.scores == ("loss",) else float(sum(values))

    def choose(self, history: Sequence[Record]) -> int | None:
        """Return the number of the chosen epoch, None where the side has no utterances."""
        among = self._shortlist(history) if self.top else history
        best: tuple[float, int] | None = None
        for record in among:
            if best is not None and self.patience is not None and record.epoch - best[1] > self.patience:
                break
            value = self.value(record)
            if value is not None and (best is None or value > best[0]):
                best = (value, record.epoch)
        return None if best is None else best[1]

    def candidates(self, history: Sequence[Record]) -> set[int]:
        """Return the epochs so far that may be chosen in the end, whatever the epochs to come are like."""
        if self.top:
            return {epoch for listed in self._lists(history) for epoch in listed}
        chosen = self.choose(history)
        return set() if chosen is None else {chosen}

    def _lists(self, history: Sequence[Record]) -> list[list[int]]:
        """Return for each score the epochs with one of its five highest values."""
        lists = []
        for score in self.scores:
            values = {record.epoch: getattr(record, f"{self.side}_{score}") for record in history}
            known = {epoch: value for epoch, value in values.items() if value is not None}
            highest = sorted(set(known.values()), reverse=True)[:_TOP]
            lists.append([epoch for epoch, value in known.items() if value in highest])
        return lists

    def _shortlist(self, history: Sequence[Record]) -> list[Record]:
        lists = self._lists(history)
        often = {epoch: sum(epoch in listed for listed in lists) for listed in lists for epoch in listed}
        chosen = sorted(often, key=lambda epoch: (-often[epoch], epoch))[:_TOP]
        return [record for record in history if record.epoch in chosen]


class Keeper(Generic[P]):
    """Keeps the predictions of those epochs of a training that a selection has chosen or may yet choose.

    Args:
        added: selections beyond the three of every training.
    """

    def __init__(self, added: Iterable[str] = ()) -> None:
        names = [name for name in dict.fromkeys([*BASE, *added]) if name != "last"]
        self.rules = {name: Rule.parse(name) for name in names}
        self.kept: dict[int, P] = {}

    def add(self, history: Sequence[Record], prediction: P) -> Mapping[str, int]:
        """Take in the last epoch of the history; return the epoch that each selection chooses now."""
        latest = history[-1].epoch
        wanted = {latest}.union(*(rule.candidates(history) for rule in self.rules.values()))
        self.kept = {epoch: of for epoch, of in {**self.kept, latest: prediction}.items() if epoch in wanted}
        return self.chosen(history)

    def chosen(self, history: Sequence[Record]) -> Mapping[str, int]:
        """Return the epoch that each selection chooses of a history; those of a side without utterances are left out."""
        if not history:
            return {}
        found = {name: rule.choose(history) for name, rule in self.rules.items()}
        return {"last": history[-1].epoch} | {name: epoch for name, epoch in found.items() if epoch is not None}


ORDER_SQL = (
    "CASE WHEN selection = 'last' THEN 1 WHEN selection = 'val' THEN 2 WHEN NOT starts_with(selection, 'test-') THEN 3 "
    "WHEN selection = 'test-oracle' THEN 4 ELSE 5 END, selection"
)
"""The order in which selections are shown: no choice, chosen on validation utterances, chosen on the test fold."""


def check_name(selection: str) -> None:
    """Refuse what is no selection's name.

    Raises:
        UsageError: as `Rule.parse` has it.
    """
    if selection not in BASE:
        Rule.parse(selection)


def peeks(selection: str) -> bool:
    """Tell whether a selection looked at the test side."""
    return selection.startswith("test-")


def explain(selections: Iterable[str], by: str = "UA") -> str:
    """Say in one line how each selection came about (``by`` which score), and which of them are no results."""
    said = {"last": "no epoch chosen", "val": f"chosen on validation utterances, by {by}"}
    names = list(dict.fromkeys(selections))
    parts = [f"{name}: {said[name]}" for name in names if name in said]
    others = [name for name in names if name not in said and not peeks(name)]
    if others:
        parts.append(f"{', '.join(others)}: chosen on validation utterances")
    if test := [name for name in names if peeks(name)]:
        parts.append(f"{', '.join(test)}: chosen on the test fold, an upper bound and no result")
    return ". ".join(parts) + "."
