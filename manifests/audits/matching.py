"""Which utterance of a corpus a row of a foreign split means.

Splits name utterances by ids or by paths: absolute or relative to some other root, with another suffix, with backslashes, with
the corpus's name before the id. A path fits the utterances whose own path ends like it, the more parts the better; an id fits
the utterance of that id. Several that fit equally well are several: nothing is guessed, but that of ids which recur in the
corpus's own splits (MELD's) the one of the row's side is meant.

`install` puts the matched rows into a connection for `run_audits(claims=...)`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tfser.manifests.audits.foreign import ForeignSplit
from tfser.manifests.audits.seen import SPLIT_COLUMNS
from tfser.manifests.audits.split_records import SplitRow
from tfser.manifests.connections import Connection
from tfser.manifests.errors import TfserError
from tfser.manifests.labels import normalise
from tfser.manifests.protocols.finder import Finder


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


def install(connection: Connection, corpus: str, split: ForeignSplit) -> Matched:
    """Match a foreign split with a corpus, and put its rows into temporary tables of the connection.

    Raises:
        TfserError: if no row of it is an utterance of the corpus.
    """
    rows = connection.execute(
        "SELECT utterance_id, path, split FROM utterances WHERE corpus = ? ORDER BY utterance_id", [corpus]
    ).fetchall()
    finder = Finder(corpus, rows)
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
        for column, value in zip(columns.values(), _values(entry, split.numbers, corpus, name, len(found)), strict=True):
            column.append(value)
    if not counts[1]:
        example = split.entries[0].names[0]
        have = rows[0][0] if rows else "none"
        raise TfserError(
            f"{split.name}: none of its {len(split.entries):,} rows is an utterance of {corpus} (it writes {example!r}, the "
            f"corpus has {have!r}); say --corpus NAME for the corpus that it is of"
        )
    _store(connection, columns)
    return Matched(
        rows=len(split.entries),
        matched=counts[1],
        unknown=counts[0],
        ambiguous=counts[2],
        folds=len(split.folds),
        utterances=len(seen),
        left_out=len(rows) - len(seen),
    )


def _store(connection: Connection, columns: dict[str, list[object]]) -> None:
    """Put the rows, by column, where the audits find them: `foreign_rows`, and `foreign_members` of those matched."""
    import pyarrow as pa

    connection.register("read_rows", pa.table({name: pa.array(values) for name, values in columns.items()}))
    casts = ", ".join(f"{part.split()[0]}::{part.split()[1]} AS {part.split()[0]}" for part in SPLIT_COLUMNS.split(", "))
    connection.execute(f"CREATE OR REPLACE TEMP TABLE foreign_rows AS SELECT {casts} FROM read_rows")
    connection.unregister("read_rows")
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE foreign_members AS SELECT r.fold, r.role, r.corpus, r.utterance_id, "
        "coalesce(r.label, u.label) AS label FROM foreign_rows r JOIN utterances u "
        "ON u.corpus = r.corpus AND u.utterance_id = r.utterance_id WHERE r.matches = 1"
    )


def _values(entry: SplitRow, number: dict[str, int], corpus: str, name: str | None, matches: int) -> tuple[object, ...]:
    return (
        *(entry.file, entry.line, entry.names[0], number[entry.fold or "1"], entry.role, corpus, name, matches),
        *(normalise(entry.label), entry.speaker),
    )
