"""Published numbers beside those of a report: what others print for the same corpus, in tables of their own.

In goes a group of contenders; out come tables, one for each group of `tfser.heads.results.reference_numbers`, and one of the
papers whose heads are here. Every row says where it was read. No number of ours stands in them, and none of them among ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tfser.heads.reports.figure_data import Row
from tfser.heads.reports.material import ContenderGroup
from tfser.heads.reports.report_tables import ReportTable, table_of, without_shared
from tfser.heads.results.marks import HEARD
from tfser.heads.results.published import PAPERS
from tfser.heads.results.reference_numbers import EXPLAINED, GROUPS, METRICS, published_beside, ratings_beside
from tfser.heads.results.written import number_text, score_text
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.protocols.protocol import JOINED_BY

_SCORES = ("UA", "WA", "macro F1")
"""The columns of `METRICS`."""

_MOST = 8
"""Rows of a group that are shown."""


def published_tables(connection: Connection, group: ContenderGroup) -> list[ReportTable]:
    """Return what others print for a group's corpus and number of classes: never of our runs, never in one table with them.

    One table for each of `tfser.heads.results.reference_numbers.GROUPS` that has any, the best first, with the source of each;
    then what the papers whose heads are here print. They are facts of other people's files: no SQL over the cache gives them.
    """
    tables = []
    for corpus, reader in _readers(connection, group.corpus).items():
        printed = published_beside(reader, group.protocol, len(group.classes) or None)
        tables += _by_group(f"published for {corpus}", printed, _SCORES, _scores)
    if of_papers := _printed_by_papers(group):
        tables.append(table_of(f"published for {group.corpus} in the papers of heads that are here, as they print it", of_papers))
    return tables


def published_ratings(connection: Connection, corpora: str, protocol: str, dimensions: tuple[str, ...]) -> list[ReportTable]:
    """Return the same of experiments on dimensions: CCC by dimension, a table for each of the groups that has any."""
    tables = []
    for corpus, reader in _readers(connection, corpora).items():
        printed = ratings_beside(reader, protocol, dimensions)
        tables += _by_group(f"published for {corpus}, CCC", printed, ("CCC",), _ratings)
    return tables


def _readers(connection: Connection, corpora: str) -> dict[str, str]:
    """Return the reader of each of some corpora, by which published numbers go; a corpus that is not here is its own."""
    readers = {row["corpus"]: row["adapter"] for row in rows(connection, "SELECT corpus, adapter FROM corpora")}
    return {corpus: readers.get(corpus, corpus) for corpus in corpora.split(JOINED_BY)}


def _by_group(
    title: str, printed: Sequence[Row], scores: Sequence[str], written: Callable[[Row, str], dict[str, Any]]
) -> list[ReportTable]:
    """Return a table for each group that has any of the published rows, whose scores are `written` with their mark."""
    tables = []
    for kind in GROUPS:
        members = [_line(row, written) for row in printed if row["group"] == kind]
        if not members:
            continue
        shown = table_of(f"{title}, {kind}: {EXPLAINED[kind]}", members[:_MOST])
        left = len(members) - len(shown.rows)
        more = (f"And {left} more: tfser scores --published --format json.",) if left else ()
        heard = (f"{HEARD} {EXPLAINED[GROUPS[2]]}.",) if any(row["speakers"] == "shared" for row in members) else ()
        shown = replace(shown, right=frozenset(scores), notes=(*heard, *more))
        tables.append(without_shared(shown, ("speakers", "training", "protocol there", "source")))
    return tables


def _line(row: Row, written: Callable[[Row, str], dict[str, Any]]) -> dict[str, Any]:
    """Return a published row as a line of a table: its scores, and under which conditions and where they were read."""
    return {
        "encoder": row["encoder"],
        **written(row, HEARD if row["speakers"] == "broken" else ""),
        "speakers": {"kept": "apart", "broken": "shared", "unknown": "not checked"}[row["speakers"]],
        "training": row["training"],
        "protocol there": row["protocol"],
        "source": row["source"] + (f" ({row['note']})" if row["note"] else ""),
    }


def _scores(row: Row, mark: str) -> dict[str, Any]:
    return {name: score_text(row[key], None, mark) for name, key in zip(_SCORES, METRICS, strict=True)}


def _ratings(row: Row, mark: str) -> dict[str, Any]:
    return {"dimension": row["dimension"], "CCC": number_text(row["CCC"], None, mark)}


def _printed_by_papers(group: ContenderGroup) -> list[dict[str, Any]]:
    """Return the rows of the papers' tables for a group's corpus."""
    wanted = {"iemocap", "meld", "casia"} & set(group.corpus.split(JOINED_BY))
    if not wanted:  # the papers' tables know no other corpus
        return []
    printed = []
    for paper in PAPERS.values():
        for table in paper.tables():
            for row in table.rows:
                scores = {k.split(" ", 1)[1]: v for k, v in row.printed.items() if k.split(" ", 1)[0] in wanted}
                if scores:
                    printed.append(
                        {
                            "paper": paper.source,
                            "table": table.number,
                            "row": row.name,
                            **{name: scores.get(name) for name in ("UA", "WA", "WF1")},
                            "protocol there": ", ".join(paper.protocols[c] for c in sorted(wanted) if c in paper.protocols),
                        }
                    )
    return printed
