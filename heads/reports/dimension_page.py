"""The report page of experiments on dimensions alone: a table of CCC with intervals, and for each dimension a scatter of the
ratings.

In goes the catalogue and which experiments; out comes the text of the page, of the same template, style and policy as that
of classes (`tfser.heads.reports.page`, which has those on both), without what only classes have (confusions, reliability,
mistakes). Each figure's numbers stand below it with the SQL that gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfser.heads.reports import corpus_data
from tfser.heads.reports.dimension_parts import (
    SCORES_NOTE,
    RatedContender,
    dimension_tables,
    rated_members,
    rated_sentence,
    scatter,
)
from tfser.heads.reports.material import ContenderGroup
from tfser.heads.reports.one_experiment import PAGE_INCHES, drawn
from tfser.heads.reports.page import SENTENCES, render
from tfser.heads.reports.published_data import published_ratings
from tfser.heads.reports.report_tables import ReportTable, table_of
from tfser.heads.reports.style import house_style
from tfser.heads.results.marks import explain_marks, is_independent
from tfser.heads.results.outcomes import find
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.wording import count


def rated_experiments(connection: Connection, named: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the experiments that are named (all, where none is), those on dimensions and those on classes.

    One on both stands among those on classes, unless it is named beside some on dimensions alone, and no others.
    """
    sql = "SELECT experiment, any_value(targets) AS targets, any_value(classes) AS classes FROM runs GROUP BY 1 ORDER BY 1"
    of = {row["experiment"]: row for row in rows(connection, sql)}
    chosen = list(dict.fromkeys(find(connection, name).experiment for name in named)) or list(of)
    alone = [name for name in chosen if of[name]["targets"] and not of[name]["classes"]]
    if named and alone and all(of[name]["targets"] for name in chosen):
        return chosen, []
    return alone, [name for name in chosen if name not in alone]


def write_dimension_page(
    connection: Connection, experiments: Sequence[str], selection: str, command: str, title: str | None
) -> str:
    """Return the text of the page.

    Args:
        connection: the catalogue.
        experiments: on dimensions, which are shown.
        selection: how their epochs were chosen; of heads that are fitted at once, last.
        command: what was typed.
        title: of the page; None: by its corpora.

    Raises:
        UsageError: none of them has predictions of this selection.
    """
    members, left_out = rated_members(connection, experiments, selection)
    with house_style():
        parts = [_experiment(member) for member in members]
    shown = [member.shown for member in members]
    corpora = tuple(dict.fromkeys(str(one.row["corpus"]) for one in shown))
    groups = [
        ContenderGroup(
            corpus=corpus, protocols=(), classes=(), members=tuple(one for one in shown if one.row["corpus"] == corpus)
        )
        for corpus in corpora
    ]
    findings, findings_sql = corpus_data.audit_findings(connection, shown)
    licences, licences_sql = corpus_data.corpora_rows(connection, groups)
    return render(
        {
            "title": title or f"Valence, arousal and dominance on {', '.join(corpora)}",
            "subtitle": f"{count(len(members), 'experiment')}.",
            "sentences": [{"text": rated_sentence(of), "alarm": not is_independent(of.shown.row)} for of in members[:SENTENCES]],
            "more": f"{len(members) - SENTENCES} more stand in the table." if len(members) > SENTENCES else "",
            "marks": explain_marks([one.row for one in shown]),
            "score_tables": dimension_tables(members),
            "scores_note": SCORES_NOTE,
            "forests": [],
            "published": _published(connection, members),
            "differences": [],
            "corpora": [],
            "experiments": parts,
            "left_out": table_of("left out, and why", [{"what": a, "why": b} for a, b in left_out]) if left_out else None,
            "left_out_count": len(left_out),
            "audits": table_of("findings of the audits", findings, most=100, sql=findings_sql),
            "licences": table_of("corpora", licences, sql=licences_sql),
            "made": [corpus_data.how_made(connection, one) for one in shown],
            "command": command,
        }
    )


def dimension_tables_of(connection: Connection, experiments: Sequence[str], selection: str) -> list[ReportTable]:
    """Return the tables of the page alone, for Markdown and LaTeX."""
    return dimension_tables(rated_members(connection, experiments, selection)[0])


def _published(connection: Connection, members: Sequence[RatedContender]) -> list[ReportTable]:
    """Return the published numbers of the members' corpora, protocols and dimensions, each table once."""
    found: dict[str, ReportTable] = {}
    for member in members:
        corpus, protocol = str(member.shown.row["corpus"]), str(member.shown.row["protocol"])
        found.update({table.title: table for table in published_ratings(connection, corpus, protocol, member.rated.dimensions)})
    return list(found.values())


def _experiment(member: RatedContender) -> dict[str, Any]:
    """Return what the page says of one experiment, its figures drawn."""
    one = member.shown
    figures = [drawn(scatter(member, name), f"{one.key}-{name}", width=PAGE_INCHES) for name in member.rated.dimensions]
    return {
        "one": one,
        "key": one.key,
        "name": one.name,
        "title": f"{one.name}{one.mark}",
        "sentence": rated_sentence(member),
        "figures": [figure.shown() for figure in figures],
        "cells": None,
        "trust": [],
        "mistakes": None,
        "missing": [],
    }
