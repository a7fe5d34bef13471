"""Which utterances a list shows: from the fields of a form to one statement, and from the statement to one page of rows.

In goes what the address says; out comes SQL over the catalogue's views, which stands on the page (`tfser sql` takes it as it
is), and the rows of one page of it. The user's own condition is part of that statement, and is checked and run as `tfser sql`
checks and runs its own (`tfser.manifests.catalogue.statements`); nothing else of the form is taken as SQL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlencode

from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.catalogue.statements import select, select_part
from tfser.manifests.connections import quote
from tfser.manifests.errors import UsageError, unknown

SIZES = (25, 50, 100, 200)
"""Rows of a page."""

ORDERS: dict[str, str] = {
    "id": "corpus, utterance_id",
    "shortest": "duration_s NULLS LAST, corpus, utterance_id",
    "longest": "duration_s DESC NULLS LAST, corpus, utterance_id",
    "quietest": "rms_db NULLS LAST, corpus, utterance_id",
    "loudest": "rms_db DESC NULLS LAST, corpus, utterance_id",
}
"""In which order utterances are listed, by name."""

_COLUMNS = "corpus, utterance_id, speaker, gender, label, duration_s, rms_db, flags, transcript"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a list is asked for; empty: whatever there is.

    `taken_for` and `truly` are the predicted and the true class of an `experiment`'s last epoch, `outcome` is right or wrong.
    """

    corpus: str = ""
    label: str = ""
    speaker: str = ""
    text: str = ""
    where: str = ""
    experiment: str = ""
    truly: str = ""
    taken_for: str = ""
    outcome: str = ""
    order: str = "id"
    size: int = 50
    page: int = 1

    def address(self, **changes: Any) -> str:
        """Return the query of the address that asks for this, with some fields changed."""
        values = {**vars(self), **changes}
        plain = {field.name: field.default for field in fields(self)}
        return urlencode({name: value for name, value in values.items() if value != plain[name]})

    def statement(self) -> str:
        """Return the SELECT of all that is asked for."""
        conditions = [f"{name} = {quote(value)}" for name in ("corpus", "label", "speaker") if (value := vars(self)[name])]
        if self.text:
            wanted = quote(self.text.lower())
            conditions.append(f"(contains(lower(utterance_id), {wanted}) OR contains(lower(transcript), {wanted}))")
        if self.experiment:
            conditions.append(self._by_prediction())
        if self.where:
            conditions.append(f"(\n{self.where}\n)")  # on lines of its own: it may end with a comment
        chosen = f"\nWHERE {' AND '.join(conditions)}" if conditions else ""
        return f"SELECT {_COLUMNS} FROM utterances{chosen}\nORDER BY {ORDERS[self.order]}"

    def _by_prediction(self) -> str:
        told = {"label": self.truly, "predicted": self.taken_for}
        conditions = [f"experiment = {quote(self.experiment)}", *(f"{k} = {quote(v)}" for k, v in told.items() if v)]
        conditions += [{"right": "hit", "wrong": "NOT hit"}[self.outcome]] if self.outcome else []
        chosen = " AND ".join(conditions)
        return f"(corpus, utterance_id) IN (\n  SELECT (corpus, utterance_id) FROM result_predictions WHERE {chosen})"


def read_asked(given: Mapping[str, str]) -> Asked:
    """Return what the fields of a form ask for.

    Raises:
        UsageError: if a number is none, or a choice is not among those that there are.
    """
    known: dict[str, Any] = {field.name: given.get(field.name, "").strip() for field in fields(Asked) if given.get(field.name)}
    for name in ("size", "page"):
        if name in known:
            known[name] = _number(name, known[name])
    asked = Asked(**{name: value for name, value in known.items() if value != ""})
    if asked.order not in ORDERS:
        raise unknown("order", asked.order, list(ORDERS))
    if asked.size not in SIZES:
        raise UsageError(f"size {asked.size}: {', '.join(map(str, SIZES))} rows can be shown")
    if asked.outcome not in ("", "right", "wrong"):
        raise unknown("outcome", asked.outcome, ["right", "wrong"])
    if (asked.truly or asked.taken_for or asked.outcome) and not asked.experiment:
        raise UsageError("a class that was predicted goes with an experiment")
    return asked


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:9]) >= 1 and len(text) < 10):
        raise UsageError(f"{name} {text!r}: a number from 1 on is wanted")
    return int(text)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One page of a list: rows, how many there are in all, and which page of how many this is."""

    rows: Sequence[Mapping[str, Any]]
    total: int
    page: int
    pages: int


def list_utterances(connection: Connection, asked: Asked) -> Listed:
    """Return the page that is asked for; of a page beyond the last one, the last.

    Raises:
        UsageError: if the condition is no SQL, writes, or reaches beyond the catalogue; the message is DuckDB's.
    """
    statement = asked.statement()
    total = int(select(connection, f"SELECT count(*) FROM (\n{statement}\n)").rows[0][0])
    pages = max(1, -(-total // asked.size))
    page = min(asked.page, pages)
    found = select_part(connection, statement, (page - 1) * asked.size, asked.size)
    return Listed(rows=[dict(zip(found.names, row, strict=True)) for row in found.rows], total=total, page=page, pages=pages)


def choices(connection: Connection, corpus: str = "") -> dict[str, list[str]]:
    """Return what the fields of the form can be: corpora, and the labels and speakers of one or all."""
    options = {"corpora": rows(connection, "SELECT corpus AS name FROM corpora ORDER BY 1")}
    for name, column in (("labels", "label"), ("speakers", "speaker")):
        options[name] = rows(
            connection,
            f"SELECT DISTINCT {column} AS name FROM utterances WHERE {column} IS NOT NULL AND (? = '' OR corpus = ?) ORDER BY 1",
            [corpus, corpus],
        )
    return {name: [str(row["name"]) for row in found] for name, found in options.items()}
