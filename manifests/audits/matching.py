"""Which utterance of a corpus a row of a foreign split means.

Splits name utterances by ids or by paths: absolute or relative to some other root, with another suffix, with backslashes, with
the corpus's name before the id. A path fits the utterances whose own path ends like it, the more parts the better; an id fits
the utterance of that id. Several that fit equally well are several: nothing is guessed, but that of ids which recur in the
corpus's own splits (MELD's) the one of the row's side is meant.

`install` puts the matched rows into a connection for `audit.run_audits(is_foreign=True)`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tfser.manifests.audits.foreign import ForeignSplit, SplitRow
from tfser.manifests.audits.seen import SPLIT_COLUMNS
from tfser.manifests.connections import Connection
from tfser.manifests.errors import TfserError
from tfser.manifests.labels import normalise


@dataclass(frozen=True, kw_only=True)
class Matched:
    """What was found: rows of the split, those that are one utterance, none, or several; utterances of the corpus not in it."""

    rows: int
    matched: int
    unknown: int
    ambiguous: int
    folds: int
    utterances: int
    left_out: int


class Finder:
    """Finds utterances by what others call them."""

    def __init__(self, corpus: str, rows: Sequence[tuple[str, str, str | None]]) -> None:
        """Take the corpus's name and its utterances: id, path, the corpus's own split."""
        self._prefixes = tuple(f"{_fold(corpus)}{mark}" for mark in "-_/:")
        self._rows = rows
        self._by_id: dict[str, list[int]] = defaultdict(list)
        self._by_stem: dict[str, list[int]] = defaultdict(list)
        self._parts: list[tuple[str, ...]] = []
        for i, (name, path, _) in enumerate(rows):
            self._by_id[_fold(name)].append(i)
            parts = _parts(path)
            self._parts.append(parts)
            self._by_stem[parts[-1]].append(i)

    def find(self, names: Sequence[str], role: str | None) -> list[int]:
        """Return the utterances (by number) that a row's names fit best; none, one, or several that fit equally well."""
        several: list[int] = []
        for name in names:
            found = self._exact(name) or self._by_name(name)
            if len(found) > 1 and role is not None:
                found = [i for i in found if self._rows[i][2] == role] or found
            if len(found) == 1:
                return found
            several = several or found
        return several

    def _exact(self, name: str) -> list[int]:
        """Return the utterance whose id this is to the letter, where ids differ in case alone."""
        found = self._by_id.get(_fold(name), [])
        return [i for i in found if self._rows[i][0] == name] or found

    def _by_name(self, name: str) -> list[int]:
        parts = _parts(name)
        if not parts:
            return []
        if found := self._by_stem.get(parts[-1]):
            lengths = [_common_tail(parts, self._parts[i]) for i in found]
            found = [i for i, n in zip(found, lengths, strict=True) if n == max(lengths)]
            if len(found) > 1 and (exact := [i for i in found if self._parts[i] == parts]):
                found = exact
            return found
        if found := self._by_id.get(parts[-1]):
            return found
        for prefix in self._prefixes:
            if parts[-1].startswith(prefix):
                bare = parts[-1][len(prefix) :]
                return self._by_id.get(bare) or self._by_stem.get(bare) or []
        return []


def _fold(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip()).casefold()


def _parts(path: str) -> tuple[str, ...]:
    """Return a path's parts without drive, dots and suffix, folded for comparison.

    >>> _parts(r"D:\\IEMOCAP\\Session1\\Ses01F_impro01_F000.WAV")
    ('iemocap', 'session1', 'ses01f_impro01_f000')
    """
    folded = re.sub(r"^[a-z]:", "", _fold(path).replace("\\", "/"))
    parts = [part for part in folded.split("/") if part not in ("", ".", "..")]
    if parts:
        parts[-1] = re.sub(r"\.[a-z][a-z0-9]{1,4}$", "", parts[-1])
    return tuple(parts)


def _common_tail(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Return how many last parts two paths share."""
    count = 0
    for x, y in zip(reversed(a), reversed(b), strict=False):
        if x != y:
            break
        count += 1
    return count


def install(connection: Connection, corpus: str, split: ForeignSplit) -> Matched:
    """Match a foreign split with a corpus, and put its rows into temporary tables of the connection.

    Raises:
        TfserError: if no row of it is an utterance of the corpus.
    """
    import pyarrow as pa

    rows = connection.execute(
        "SELECT utterance_id, path, split FROM utterances WHERE corpus = ? ORDER BY utterance_id", [corpus]
    ).fetchall()
    finder = Finder(corpus, rows)
    number = split.numbers
    columns: dict[str, list[object]] = {part.split()[0]: [] for part in SPLIT_COLUMNS.split(", ")}
    seen: set[str] = set()
    # How many utterances a row may mean: none, one, several. Only the first kind is evidence; a row that may
    # mean two is counted and left out, since a guess could invent a leak or hide one.
    counts = [0, 0, 0]
    for entry in split.entries:
        found = finder.find(entry.names, entry.role)
        name = rows[found[0]][0] if len(found) == 1 else None
        counts[min(len(found), 2)] += 1
        if name is not None:
            seen.add(name)
        for column, value in zip(columns.values(), _values(entry, number, corpus, name, len(found)), strict=True):
            column.append(value)
    if not counts[1]:
        example = split.entries[0].names[0]
        have = rows[0][0] if rows else "none"
        raise TfserError(
            f"{split.name}: none of its {len(split.entries):,} rows is an utterance of {corpus} (it writes {example!r}, the "
            f"corpus has {have!r}); say --corpus NAME for the corpus that it is of"
        )
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    connection.register("read_rows", table)
    casts = ", ".join(f"{part.split()[0]}::{part.split()[1]} AS {part.split()[0]}" for part in SPLIT_COLUMNS.split(", "))
    connection.execute(f"CREATE OR REPLACE TEMP TABLE foreign_rows AS SELECT {casts} FROM read_rows")
    connection.unregister("read_rows")
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE foreign_members AS SELECT r.fold, r.role, r.corpus, r.utterance_id, "
        "coalesce(r.label, u.label) AS label FROM foreign_rows r JOIN utterances u "
        "ON u.corpus = r.corpus AND u.utterance_id = r.utterance_id WHERE r.matches = 1"
    )
    return Matched(
        rows=len(split.entries),
        matched=counts[1],
        unknown=counts[0],
        ambiguous=counts[2],
        folds=len(split.folds),
        utterances=len(seen),
        left_out=len(rows) - len(seen),
    )


def _values(entry: SplitRow, number: dict[str, int], corpus: str, name: str | None, matches: int) -> tuple[object, ...]:
    return (
        *(entry.file, entry.line, entry.names[0], number[entry.fold or "1"], entry.role, corpus, name, matches),
        *(normalise(entry.label), entry.speaker),
    )
