"""The report page of experiments on dimensions: a table of CCC with intervals, and for each dimension a scatter of the ratings.

In goes the catalogue and which experiments; out comes the text of the page, of the same template, style and policy as that
of classes (`tfser.heads.reports.page`), without what only classes have (confusions, reliability, mistakes). Each figure's
numbers stand below it with the SQL that gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfser.heads.reports import corpus_data
from tfser.heads.reports.figure_data import FigureData, Numbers, text_of
from tfser.heads.reports.material import Contender, ContenderGroup
from tfser.heads.reports.one_experiment import PAGE_INCHES, drawn
from tfser.heads.reports.page import SENTENCES, render
from tfser.heads.reports.published_data import published_ratings
from tfser.heads.reports.report_tables import ReportTable, table_of
from tfser.heads.reports.style import house_style
from tfser.heads.results.dimension_tables import MEAN, Row, dimension_table
from tfser.heads.results.marks import explain_marks, is_independent, mark, standing
from tfser.heads.results.outcomes import find
from tfser.heads.results.rating_outcomes import RatedOutcome, read_rated_outcome
from tfser.heads.results.score_tables import Wanted
from tfser.heads.results.written import bounds_text, number_text
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.errors import UsageError
from tfser.manifests.wording import count

SCORES_NOTE = (
    "CCC: concordance correlation, the correlation times what a scale shift (predictions are spread less or more widely than the "
    "ratings; 1: as widely) and a location shift (their mean is off; 0: not) cost. Pooled: over all test utterances of a seed's "
    "folds together; the mean over folds forgives shifts from fold to fold, the pooled score does not. MAE is in points of the "
    "corpus's scale. The interval is of other speakers of the same kind."
)


@dataclass(frozen=True, kw_only=True)
class RatedContender:
    """An experiment of the page: its rows of the table of scores, the last one over all dimensions, and its predictions."""

    shown: Contender
    rows: tuple[Row, ...]
    rated: RatedOutcome


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
    members, left_out = _members(connection, experiments, selection)
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
    published = {
        table.title: table
        for member in members
        for table in published_ratings(
            connection, str(member.shown.row["corpus"]), str(member.shown.row["protocol"]), member.rated.dimensions
        )
    }
    findings, findings_sql = corpus_data.audit_findings(connection, shown)
    licences, licences_sql = corpus_data.corpora_rows(connection, groups)
    return render(
        {
            "title": title or f"Valence, arousal and dominance on {', '.join(corpora)}",
            "subtitle": f"{count(len(members), 'experiment')}.",
            "sentences": [{"text": _sentence(of), "alarm": not is_independent(of.shown.row)} for of in members[:SENTENCES]],
            "more": f"{len(members) - SENTENCES} more stand in the table." if len(members) > SENTENCES else "",
            "marks": explain_marks([one.row for one in shown]),
            "score_tables": dimension_tables(members),
            "scores_note": SCORES_NOTE,
            "forests": [],
            "published": list(published.values()),
            "differences": [],
            "corpora": [],
            "experiments": parts,
            "left_out": table_of("left out, and why", [{"what": a, "why": b} for a, b in left_out]) if left_out else None,
            "audits": table_of("findings of the audits", findings, most=100, sql=findings_sql),
            "licences": table_of("corpora", licences, sql=licences_sql),
            "made": [corpus_data.how_made(connection, one) for one in shown],
            "command": command,
        }
    )


def dimension_tables_of(connection: Connection, experiments: Sequence[str], selection: str) -> list[ReportTable]:
    """Return the tables of the page alone, for Markdown and LaTeX."""
    return dimension_tables(_members(connection, experiments, selection)[0])


def _members(
    connection: Connection, experiments: Sequence[str], selection: str
) -> tuple[list[RatedContender], list[tuple[str, str]]]:
    found, left_out = list[RatedContender](), list[tuple[str, str]]()
    for name in experiments:
        table = [row for row in dimension_table(connection, Wanted(experiment=name)) if row["experiment"] == name]
        have = {row["selection"] for row in table}
        chosen = selection if selection in have else "last"
        of = tuple(row for row in table if row["selection"] == chosen)
        if (selection not in have and have != {"last"}) or not of:
            left_out.append((name, f"has no predictions of the selection {selection}"))
            continue
        rated = read_rated_outcome(connection, find(connection, name), selection=chosen)
        row = of[-1]
        key = f"e{len(found) + 1}"
        called = f"{row['head']} {row['preset']} on {row['feature_set']} ({name.rpartition('-')[2][:6]})"
        shown = Contender(experiment=name, name=called, row=row, outcome=rated.of, key=key)
        found.append(RatedContender(shown=shown, rows=of, rated=rated))
    if not found:
        raise UsageError(f"nothing to report: {left_out[0][0]} {left_out[0][1]}" if left_out else "nothing to report")
    return found, left_out


def dimension_tables(members: Sequence[RatedContender]) -> list[ReportTable]:
    """Return a table of scores for each protocol and set of dimensions."""
    groups: dict[tuple[str, str, tuple[str, ...]], list[RatedContender]] = {}
    for member in members:
        row = member.shown.row
        groups.setdefault((str(row["corpus"]), str(row["protocol"]), member.rated.dimensions), []).append(member)
    tables = []
    for (corpus, protocol, dimensions), of in groups.items():
        lines = [_line(member, row) for member in of for row in member.rows]
        tables.append(
            ReportTable(
                title=f"{corpus}, {protocol}: {', '.join(dimensions)}",
                columns=tuple(lines[0]),
                rows=tuple(tuple(line.values()) for line in lines),
                right=frozenset(lines[0]) - {"experiment", "dimension", "selection", "clusters", "audit"},
            )
        )
    return tables


def _line(member: RatedContender, row: Row) -> dict[str, str]:
    signs = mark(row)
    return {
        "experiment": member.shown.name,
        "dimension": str(row["dimension"]),
        "selection": str(row["selection"]),
        "folds": f"{row['folds']}/{row['of_folds'] or '?'}",
        "CCC": number_text(row["CCC"], row["CCC_std"], signs),
        "pooled CCC [95 %]": bounds_text(row["pooled_CCC"], row["pooled_CCC_low"], row["pooled_CCC_high"], signs),
        "pearson": number_text(row["pooled_pearson"], None, signs),
        "MAE": number_text(row["pooled_MAE"], None, signs),
        "scale shift": number_text(row["scale_shift"], digits=2),
        "location shift": number_text(row["location_shift"], sign="+", digits=2),
        "clusters": count(row["clusters"], row["clustered_by"]) if row["clusters"] else "",
        "audit": standing(row),
    }


def _sentence(member: RatedContender) -> str:
    row = member.shown.row
    scored = bounds_text(row["pooled_CCC"], row["pooled_CCC_low"], row["pooled_CCC_high"], mark(row))
    what = f"mean over {len(member.rated.dimensions)} dimensions" if row["dimension"] == MEAN else str(row["dimension"])
    over = f" over {count(row['clusters'], row['clustered_by'])}" if row["clusters"] else ""
    return (
        f"{member.shown.name}: pooled CCC {scored}{over} ({what}), mean over folds {number_text(row['CCC'], row['CCC_std'])}, "
        f"selection {row['selection']}, {count(len(row['seeds']), 'seed')}, {count(row['utterances'], 'utterance')}; "
        f"protocol {row['protocol']}, audit {standing(row)}."
    )


def _experiment(member: RatedContender) -> dict[str, Any]:
    """Return what the page says of one experiment, its figures drawn."""
    one = member.shown
    figures = [drawn(scatter(member, name), f"{one.key}-{name}", width=PAGE_INCHES) for name in member.rated.dimensions]
    return {
        "one": one,
        "key": one.key,
        "name": one.name,
        "title": f"{one.name}{one.mark}",
        "sentence": _sentence(member),
        "figures": [figure.shown() for figure in figures],
        "cells": None,
        "trust": [],
        "mistakes": None,
        "missing": [],
    }


def scatter(member: RatedContender, dimension: str) -> FigureData:
    """Return predicted against true ratings of one dimension, a row an utterance and seed, on the corpus's scale where it
    is one."""
    of, t = member.rated, member.rated.dimensions.index(dimension)
    row = next(row for row in member.rows if row["dimension"] == dimension)
    sql = (
        "SELECT utterance_id, speaker, seed, rating, predicted FROM test_ratings\n"
        f"WHERE experiment = {text_of(member.shown.experiment)} AND selection = {text_of(str(row['selection']))} "
        f"AND level = 'utterance' AND dimension = {text_of(dimension)}\nORDER BY corpus, utterance_id, seed"
    )
    found = tuple(
        {
            "utterance_id": key[1],
            "speaker": of.of.who["speaker"][i],
            "seed": seed,
            "rating": float(of.true[i, t]),
            "predicted": float(of.predicted[s, i, t]),
        }
        for i, key in enumerate(of.of.keys)
        for s, seed in enumerate(of.of.seeds)
    )
    ccc = bounds_text(row["pooled_CCC"], row["pooled_CCC_low"], row["pooled_CCC_high"])
    pearson, scale = number_text(row["pooled_pearson"]), number_text(row["scale_shift"], digits=2)
    shift = number_text(row["location_shift"], sign="+", digits=2)
    reading = (
        f"{dimension} as it was predicted against how it was rated, both on 0..1: CCC {ccc}, correlation {pearson or 'none'}, "
        f"scale shift {scale or 'none'}, location shift {shift or 'none'}. On the line a prediction is right; "
        "a cloud that is flatter than the line shows a scale shift below 1, one beside it a location shift."
    )
    numbers = Numbers(title=f"{dimension}: ratings", sql=sql, rows=found, checked=("utterance_id", "speaker", "seed"))
    return FigureData(kind="scatter", title=f"{dimension}: predicted against rated", reading=reading, numbers=(numbers,))
