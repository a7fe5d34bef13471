"""Published numbers beside those of a report: what others print for the same corpus, in tables of their own.

In goes a group of contenders; out come tables, one for each group of `tfser.heads.results.reference_numbers`, and one of the
papers whose heads are here. Every row says where it was read. No number of ours stands in them, and none of them among ours.
"""

from __future__ import annotations

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
    readers = {row["corpus"]: row["adapter"] for row in rows(connection, "SELECT corpus, adapter FROM corpora")}
    tables = []
    for corpus in group.corpus.split(JOINED_BY):
        found = published_beside(readers.get(corpus, corpus), group.protocol, len(group.classes) or None)
        for kind in GROUPS:
            members = [_published_line(row) for row in found if row["group"] == kind]
            if members:
                shown = table_of(f"published for {corpus}, {kind}: {EXPLAINED[kind]}", members[:_MOST])
                left = len(members) - len(shown.rows)
                more = (f"And {left} more: tfser scores --published --format json.",) if left else ()
                heard = (f"{HEARD} {EXPLAINED[GROUPS[2]]}.",) if any(row["speakers"] == "shared" for row in members) else ()
                shown = replace(shown, right=frozenset(_SCORES), notes=(*heard, *more))
                tables.append(without_shared(shown, ("speakers", "training", "protocol there", "source")))
    printed = _printed_by_papers(group)
    if printed:
        tables.append(table_of(f"published for {group.corpus} in the papers of heads that are here, as they print it", printed))
    return tables


def published_ratings(
    connection: Connection, corpora: str, protocol: str, dimensions: tuple[str, ...]
) -> list[ReportTable]:
    """Return the same of experiments on dimensions: CCC by dimension, a table for each of the groups that has any."""
    readers = {row["corpus"]: row["adapter"] for row in rows(connection, "SELECT corpus, adapter FROM corpora")}
    tables = []
    for corpus in corpora.split(JOINED_BY):
        found = ratings_beside(readers.get(corpus, corpus), protocol, dimensions)
        for kind in GROUPS:
            members = [_rated_line(row) for row in found if row["group"] == kind]
            if members:
                shown = table_of(f"published for {corpus}, CCC, {kind}: {EXPLAINED[kind]}", members[:_MOST])
                left = len(members) - len(shown.rows)
                more = (f"And {left} more: tfser scores --published --format json.",) if left else ()
                shown = replace(shown, right=frozenset({"CCC"}), notes=more)
                tables.append(without_shared(shown, ("speakers", "training", "protocol there", "source")))
    return tables


def _rated_line(row: Row) -> dict[str, Any]:
    return {
        "encoder": row["encoder"],
        "dimension": row["dimension"],
        "CCC": number_text(row["CCC"], None, HEARD if row["speakers"] == "broken" else ""),
        "speakers": {"kept": "apart", "broken": "shared", "unknown": "not checked"}[row["speakers"]],
        "training": row["training"],
        "protocol there": row["protocol"],
        "source": row["source"] + (f" ({row['note']})" if row["note"] else ""),
    }


def _published_line(row: Row) -> dict[str, Any]:
    heard = HEARD if row["speakers"] == "broken" else ""
    scores = {name: score_text(row[key], None, heard) for name, key in zip(_SCORES, METRICS, strict=True)}
    apart = {"kept": "apart", "broken": "shared", "unknown": "not checked"}[row["speakers"]]
    return {
        "encoder": row["encoder"],
        **scores,
        "speakers": apart,
        "training": row["training"],
        "protocol there": row["protocol"],
        "source": row["source"] + (f" ({row['note']})" if row["note"] else ""),
    }


def _printed_by_papers(group: ContenderGroup) -> list[dict[str, Any]]:
    """Return the rows of the papers' tables for a group's corpus."""
    wanted = {"iemocap", "meld", "casia"} & set(group.corpus.split(JOINED_BY))
    if not wanted:  # the papers' tables know no other corpus
        return []
    found = []
    for paper in PAPERS.values():
        for table in paper.tables():
            for row in table.rows:
                scores = {k.split(" ", 1)[1]: v for k, v in row.printed.items() if k.split(" ", 1)[0] in wanted}
                if scores:
                    found.append(
                        {
                            "paper": paper.source,
                            "table": table.number,
                            "row": row.name,
                            **{name: scores.get(name) for name in ("UA", "WA", "WF1")},
                            "protocol there": ", ".join(paper.protocols[c] for c in sorted(wanted) if c in paper.protocols),
                        }
                    )
    return found
