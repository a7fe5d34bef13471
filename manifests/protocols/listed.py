"""Splits that the field uses, as data of the package: which file is tested in which fold, read out of published repositories.

`lists/` holds a table a split (file name, and its fold or its side) and `index.json`, which says of each where it was read, under
which licence, by whom it is used, and what a look at the file names says of its speakers. Ids and folds are facts; nothing else
of those repositories is here. What comes out is a `Protocol` called `emobox:emodb`, and, for a corpus of the cache, the fold
and side of each of its utterances, with a count of what was not found in it (`Placed`).

A split whose test speakers are not in train keeps speakers apart, and its audit fails where a copy of the corpus says otherwise.
One whose test speakers train, or where file names do not tell, claims nothing: its scores are marked, not refused.
"""

from __future__ import annotations

import functools
import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from tfser.manifests.errors import unknown
from tfser.manifests.protocols.finder import Finder
from tfser.manifests.protocols.independence import Independence
from tfser.manifests.protocols.protocol import Protocol
from tfser.manifests.texts import packaged

ORIGINS = {"emobox": "EmoBox", "s3prl": "s3prl", "emosuperb": "EMO-SUPERB"}
"""What stands before the colon, and who published the split."""

_IEMOCAP4 = {"anger": "anger", "happiness": "happiness", "excitement": "happiness", "neutral": "neutral", "sadness": "sadness"}
_CLASSES = {"emobox:iemocap": _IEMOCAP4, "s3prl:iemocap": _IEMOCAP4}
"""Where the published classes are not the corpus's labels."""


@dataclass(frozen=True, kw_only=True)
class PublishedList:
    """One published split.

    `corpus` is what tfser calls the corpus, `word` what the publisher does. `rows` files stand in `folds` folds; one fold means
    fixed sides, several that each file is tested once and trains otherwise. `speaker_in_name` finds the speaker in a file's name
    (None: names do not tell); `shared_speakers` then holds for each fold how many test speakers train, and how many there are.
    """

    name: str
    corpus: str
    word: str
    used_by: str
    source: str
    read: str
    licence: str
    rows: int
    folds: int
    validation: str
    speaker_in_name: str | None
    shared_speakers: tuple[tuple[int, int], ...] | None

    @property
    def independence(self) -> Independence:
        """Whether test speakers train, as far as the files' names tell: `unknown` where they name nobody."""
        if self.shared_speakers is None:
            return "unknown"
        return "broken" if any(shared for shared, _ in self.shared_speakers) else "kept"

    @property
    def verdict(self) -> str:
        """The audit's verdict on the speakers, in a few words."""
        if self.shared_speakers is None:
            return "speakers not told by its file names"
        if self.independence == "kept":
            return "no test speaker trains"
        each = "" if self.folds == 1 else f" in each of {self.folds} folds"
        shared, tested = max(self.shared_speakers)
        if len(set(self.shared_speakers)) == 1:
            return f"{shared} of {tested} test speakers train{each}"
        return f"up to {shared} of {tested} test speakers train"

    def speaker(self, name: str) -> str | None:
        """Return the speaker that a file's name holds; None where it holds none."""
        match = re.search(self.speaker_in_name, name) if self.speaker_in_name else None
        return "-".join(match.groups()) if match else None

    def places(self) -> list[tuple[str, str]]:
        """Return each file's name with the fold that tests it, or with its side where there is one fold."""
        file = resources.files("tfser.manifests.protocols").joinpath(f"lists/{self.name.replace(':', '_')}.tsv.gz")
        lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")[1:-1]
        return [(name, place) for name, _, place in (line.partition("\t") for line in lines)]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Where a published split puts a corpus's utterances.

    `folds` and `roles` are by utterance id; a role is None where the fold alone says it. Of the list's `rows`, `unknown` are no
    utterance of the corpus, and `ambiguous` could be several, or are one that the list names twice in different places.
    """

    folds: dict[str, int]
    roles: dict[str, str | None]
    rows: int
    unknown: int
    ambiguous: int
    example: str | None
    """One of the names that were not found."""


@functools.cache
def published_lists() -> dict[str, PublishedList]:
    """Return the published splits, by name."""
    splits = {}
    for name, about in json.loads(packaged("manifests.protocols", "lists/index.json")).items():
        shared = about.pop("shared_speakers")
        pairs = None if shared is None else tuple((both, tested) for both, tested in shared)
        splits[name] = PublishedList(name=name, corpus=name.partition(":")[2], shared_speakers=pairs, **about)
    return splits


def find_list(origin: str, corpus: str) -> PublishedList:
    """Return the split that a publisher has for a corpus, under tfser's name of the corpus or the publisher's own.

    Raises:
        UsageError: if there is none.
    """
    of_origin = [of for of in published_lists().values() if of.name.startswith(f"{origin}:")]
    for of in of_origin:
        if corpus in (of.corpus, of.word):
            return of
    raise unknown(f"corpus of {ORIGINS[origin]}'s splits", corpus, [of.corpus for of in of_origin])


def list_protocol(published: PublishedList) -> Protocol:
    """Return a published split as a protocol."""
    folds = f"{published.folds} folds" if published.folds > 1 else "1 fold"
    origin = ORIGINS[published.name.partition(":")[0]]
    return Protocol(
        name=published.name,
        summary=f"{origin}'s {published.corpus}: {folds}; {published.verdict.partition(' in each')[0]}",
        labels=_CLASSES.get(published.name),
        grouped_by="utterance_id",
        k=published.folds if published.folds > 1 else None,
        sides=None if published.folds > 1 else {"train": "train", "test": "test"},
        others="leave-out",
        keeps_apart=("speaker",) if published.independence == "kept" else (),
        validation=published.validation,
        used_by=(f"{published.used_by}; {published.source}, read {published.read}; {published.licence}",),
        listed=published.name,
    )


def place_list(published: PublishedList, corpus: str, utterances: Sequence[tuple[str, str, str | None]]) -> Placed:
    """Find the utterances of a corpus that a published split names.

    Args:
        published: the split.
        corpus: what the corpus is called in the cache.
        utterances: id, path and the corpus's own split of each.
    """
    finder = Finder(corpus, utterances)
    placed: dict[str, set[str]] = {}
    unknown_rows = ambiguous = 0
    example = None
    rows = published.places()
    for name, place in rows:
        hits = finder.find([name], None)
        if len(hits) == 1:
            placed.setdefault(utterances[hits[0]][0], set()).add(place)
            continue
        unknown_rows, ambiguous = unknown_rows + (not hits), ambiguous + bool(hits)
        example = example or name
    sure = {name: next(iter(places)) for name, places in placed.items() if len(places) == 1}
    return Placed(
        folds={name: int(place) if published.folds > 1 else 1 for name, place in sure.items()},
        roles={name: None if published.folds > 1 else place for name, place in sure.items()},
        rows=len(rows),
        unknown=unknown_rows,
        ambiguous=ambiguous + len(placed) - len(sure),
        example=example,
    )
