"""What the pages of results show: all experiments, one of them, several side by side, audits, and the answer to a statement.

In goes an open catalogue; out come values for the templates. Scores, comparisons and audits are those of `tfser scores`,
`tfser compare` and `tfser audit`, by the same functions; figures are those of the report. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from tfser.heads.reports import corpus_data, scores_data, trust_data
from tfser.heads.reports.dimension_parts import rated_beside
from tfser.heads.reports.material import Contender, read_material
from tfser.heads.reports.one_experiment import Links, cells_part, drawn, experiment_part
from tfser.heads.reports.recordings import Heard, Players
from tfser.heads.reports.report_tables import ReportTable, table_of
from tfser.heads.reports.style import house_style
from tfser.heads.reports.ui.library import Library
from tfser.heads.reports.ui.one_utterance import address_of
from tfser.heads.results.compare import Comparison, notes
from tfser.heads.results.compare import compare as compare_two
from tfser.heads.results.comparison_texts import compared_line, in_words, pair_lines, system_lines
from tfser.heads.results.dimension_tables import dimension_table
from tfser.heads.results.many import compare_many
from tfser.heads.results.many import in_words as many_in_words
from tfser.heads.results.marks import explain_marks, mark, standing
from tfser.heads.results.score_tables import Wanted, table
from tfser.heads.results.written import bounds_text, interval_text, score_text
from tfser.manifests.audits.participation import definition, participation
from tfser.manifests.audits.report import leaks, protocol_report, summary
from tfser.manifests.audits.report import table as findings_table
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.catalogue.statements import select_part
from tfser.manifests.errors import UsageError
from tfser.manifests.wording import cell, count, of_classes

MOST_COMPARED = 12
"""Experiments that are set side by side."""

ROWS = 100
"""Of an answer to a statement, a page."""

_MOST_PAIRS, _MOST_SPEAKERS = 66, 60


def selections(connection: Connection) -> list[str]:
    """Return the ways of choosing an epoch that finished runs have, `last` first."""
    found = rows(connection, "SELECT DISTINCT selection FROM metrics ORDER BY selection <> 'last', selection")
    return [str(row["selection"]) for row in found]


def experiment_lists(connection: Connection, selection: str) -> tuple[list[ReportTable], list[str]]:
    """Return a table for each protocol and set of classes, each row with a box to tick, the best first; and what marks mean.

    Raises:
        UsageError: No run has that selection.
    """
    if not rows(connection, "SELECT 1 FROM runs LIMIT 1"):
        return [], []
    scores = table(connection, Wanted(selection=selection))
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in scores:
        groups.setdefault((row["corpus"], row["protocol"], tuple(row["classes"] or ())), []).append(row)
    tables = []
    for (corpus, protocol, classes), members in groups.items():
        best = sorted(members, key=lambda row: (-(row["pooled_UA"] or 0.0), row["experiment"]))
        tables.append(
            ReportTable(
                title=f"{corpus}, {protocol}: {of_classes(classes)}",
                columns=("experiment", "tick", "pooled UA [95 %]", "features", "WA", "seeds", "folds", "clusters", "audit"),
                rows=tuple(_experiment_row(row, selection) for row in best),
                right=frozenset({"pooled UA [95 %]", "WA", "seeds", "folds"}),
            )
        )
    rated = dimension_table(connection, Wanted(selection=selection))
    if rated:
        tables.append(_rated_list(rated))
    return tables, explain_marks([*scores, *rated])


def _rated_list(rated: Sequence[Mapping[str, Any]]) -> ReportTable:
    """Return the experiments on dimensions, which have no page of their own here and no box to tick."""
    return ReportTable(
        title="valence, arousal, dominance (`tfser report` and `tfser compare` show more of these)",
        columns=("experiment", "dimension", "pooled CCC [95 %]", "features", "corpus, protocol", "seeds", "folds", "audit"),
        rows=tuple(
            (
                row["experiment"],
                row["dimension"],
                bounds_text(row["pooled_CCC"], row["pooled_CCC_low"], row["pooled_CCC_high"], mark(row)),
                row["feature_set"],
                f"{row['corpus']}, {row['protocol']}",
                str(len(row["seeds"])),
                f"{row['folds']}/{row['of_folds'] or '?'}",
                standing(row),
            )
            for row in rated
        ),
        right=frozenset({"pooled CCC [95 %]", "seeds", "folds"}),
    )


def _experiment_row(row: Mapping[str, Any], selection: str) -> tuple[Any, ...]:
    marks, UA = mark(row), row["pooled_UA"]
    query = {"id": row["experiment"]} | ({"selection": selection} if selection != "last" else {})
    name = " ".join(str(row[key]) for key in ("head", "preset", "recipe"))
    name += f" ({row['differs']})" if row["differs"] else ""
    return (
        {"href": f"experiment?{urlencode(query)}", "text": name},
        {"box": row["experiment"], "name": "e", "text": f"compare {row['experiment']}"},
        "" if UA is None else interval_text(UA, row["pooled_UA_low"], row["pooled_UA_high"], marks),
        row["feature_set"],
        "" if row["WA"] is None else score_text(row["WA"], None, marks),
        str(len(row["seeds"])),
        f"{row['folds']}/{row['of_folds'] or '?'}",
        count(row["clusters"], row["clustered_by"]) if row["clusters"] else "",
        standing(row),
    )


def one_experiment(library: Library, connection: Connection, name: str, selection: str) -> dict[str, Any]:
    """Return the page of one experiment: what the report says of it, its cells and mistakes linked to what can be heard.

    Raises:
        UsageError: There is no such experiment, or no such selection of it.
    """
    (one,) = read_material(library.cache, connection, [name], selection=selection).members
    addresses = {}
    for row in trust_data.mistakes(connection, one).rows:
        key = (row["corpus"], row["utterance_id"])
        addresses[key] = f"sound?{urlencode({'corpus': key[0], 'id': key[1]})}"
    heard = Heard(addresses=addresses, files={}, missing={}, megabytes=0.0)

    def cell_link(truly: str, taken_for: str) -> str:
        return f"utterances?{urlencode({'experiment': one.experiment, 'truly': truly, 'taken_for': taken_for})}"

    # What a list of utterances can filter by is the last epoch's predictions; cells of another selection are listed below.
    with library.drawing, house_style():
        links = Links(cell=cell_link if selection == "last" else None, utterance=address_of)
        part = experiment_part(connection, one, Players(heard), links, rated_beside(connection, one))
    return {**part, "cells": None if selection == "last" else cells_part(one, part["in_cells"], 15)}


def compared(library: Library, connection: Connection, names: Sequence[str], selection: str) -> dict[str, Any]:
    """Return several experiments side by side: scores, differences with tests, and what they take for what.

    Raises:
        UsageError: Fewer than two are named, or too many, or what they tested does not compare.
    """
    names = list(dict.fromkeys(names))
    if len(names) < 2:
        raise UsageError("tick two experiments or more of one protocol, to compare them")
    if len(names) > MOST_COMPARED:
        raise UsageError(f"{len(names)} are ticked; {MOST_COMPARED} can be set side by side (`tfser compare` takes more)")
    material = read_material(library.cache, connection, names, selection=selection)
    if len(material.groups) > 1 or len(material.members) < len(names):
        why = "; ".join(f"{what} {reason}" for what, reason in material.left_out) or ", ".join(
            f"{group.corpus} {group.protocol}" for group in material.groups
        )
        raise UsageError(f"these experiments did not test the same utterances under one protocol, and do not compare: {why}")
    by_name = {one.experiment: one for one in material.members}
    found = _two(by_name[names[0]], by_name[names[1]]) if len(names) == 2 else _many([by_name[name] for name in names])
    with library.drawing, house_style():
        figures = [drawn(scores_data.forest(material.groups[0]), "forest")]
        if len(names) == 2:
            figures.append(drawn(scores_data.confusion_difference(by_name[names[0]], by_name[names[1]]), "difference"))
    return {**found, "figures": [figure.shown() for figure in figures], "names": names}


def _two(a: Contender, b: Contender) -> dict[str, Any]:
    comparison: Comparison = compare_two(a.outcome, b.outcome)
    lines = {
        "scores, in percent [95 %]": [compared_line(comparison, row, "score", row.name) for row in comparison.scores],
        "recalls, in percent [95 %]": [compared_line(comparison, row, "recall of", row.name) for row in comparison.classes],
        f"by {comparison.clustered_by}": [
            compared_line(comparison, row, str(comparison.clustered_by), row.name) for row in comparison.speakers[:_MOST_SPEAKERS]
        ],
    }
    return {
        "who": [f"{side}: {one.name}, {one.experiment} (audit {standing(one.row)})" for side, one in (("A", a), ("B", b))],
        "tables": [table_of(title, of) for title, of in lines.items() if of],
        "words": in_words(comparison),
        "notes": [*notes(comparison), *explain_marks([comparison.a.row(), comparison.b.row()])],
    }


def _many(members: Sequence[Contender]) -> dict[str, Any]:
    comparison = compare_many([one.outcome for one in members])
    pairs = pair_lines(comparison, _MOST_PAIRS)
    return {
        "who": [],
        "tables": [
            table_of(title, lines)
            for title, lines in (("scores, in percent", system_lines(comparison)), ("pairs", pairs))
            if lines
        ],
        "words": many_in_words(comparison),
        "notes": explain_marks([side.row() for side in comparison.outcomes]),
    }


def audits(library: Library, connection: Connection, corpus: str, protocol: str) -> dict[str, Any]:
    """Return which protocols there are, and of one of them what the audits find now; of all runs, what they found then.

    Raises:
        UsageError: There is no such protocol.
    """
    protocols = rows(connection, "SELECT DISTINCT protocol, corpora FROM protocols ORDER BY corpora, protocol")
    links = [
        {
            "href": f"audits?{urlencode({'corpus': row['corpora'], 'protocol': row['protocol']})}",
            "text": f"{row['protocol']} ({row['corpora']})",
            "is_here": (row["corpora"], row["protocol"]) == (corpus, protocol),
        }
        for row in protocols
    ]
    report: dict[str, Any] | None = None
    if protocol:
        if not any(link["is_here"] for link in links):
            raise UsageError(f"there is no protocol {protocol!r} of {corpus or 'any corpus'} in this cache")
        judged = protocol_report(connection, protocol=protocol, corpus=corpus).counted(
            participation(connection, protocol=protocol, corpus=corpus, defined=definition(library.cache, protocol))
        )
        report = {
            "title": f"{corpus}, {protocol}",
            "summary": summary(judged),
            "errors": judged.errors,
            "findings": table_of("findings, the worst first", findings_table(judged.findings)),
            "leaks": table_of("speakers on both sides", leaks(judged.findings), most=200),
        }
    return {"links": links, "report": report, "stored": _stored_findings(library, connection)}


def _stored_findings(library: Library, connection: Connection) -> ReportTable | None:
    """Return what the audits found when the runs of this cache were trained; None where no run has been."""
    if not rows(connection, "SELECT 1 FROM runs LIMIT 1"):
        return None
    try:
        members = read_material(library.cache, connection).members
    except UsageError:  # runs without a whole experiment
        return None
    found, sql = corpus_data.audit_findings(connection, members)
    return table_of("found when the runs were trained", found, most=200, sql=sql)


def answer(connection: Connection, query: str, page: int) -> dict[str, Any]:
    """Return a page of the rows that a statement gives; utterances in it lead to their pages.

    Raises:
        UsageError: if the statement is none that reads; the message is DuckDB's.
    """
    # One row more than a page holds tells whether there is another page, without counting them all.
    part = select_part(connection, query, (page - 1) * ROWS, ROWS + 1)
    places = {name: i for i, name in reversed(list(enumerate(part.names)))}
    who, where = places.get("utterance_id"), places.get("corpus")

    def shown(row: Sequence[Any], i: int) -> Any:
        if i == who and row[i]:
            corpus = str(row[where]) if where is not None and row[where] else ""
            return {"href": address_of(corpus, str(row[i])), "text": str(row[i])}
        return cell(row[i])

    # Numbers stand to the right, by what the rows hold: a statement declares no types.
    columns = tuple(part.names)
    shown_rows = part.rows[:ROWS]
    numeric = frozenset(
        name
        for i, name in enumerate(columns)
        if any(isinstance(row[i], (int, float)) and not isinstance(row[i], bool) for row in shown_rows)
    )
    return {
        "table": ReportTable(
            title=f"rows {(page - 1) * ROWS + 1:,} to {(page - 1) * ROWS + len(shown_rows):,}" if shown_rows else "no rows",
            columns=columns,
            rows=tuple(tuple(shown(row, i) for i in range(len(columns))) for row in shown_rows),
            right=numeric,
        ),
        "plan": "\n".join(str(row[-1]) for row in shown_rows) if part.is_plan else None,
        "has_more": len(part.rows) > ROWS,
    }


def overview(connection: Connection) -> dict[str, Any]:
    """Return what the cache holds: corpora, feature sets, runs, and what was left out of the catalogue with its reason."""
    corpora = rows(
        connection,
        "SELECT c.corpus, count(u.utterance_id) AS utterances, count(DISTINCT u.speaker) AS speakers, "
        "count(DISTINCT u.label) AS labels, round(coalesce(sum(u.duration_s), 0) / 3600, 2) AS hours, "
        "(SELECT count(*) FROM skipped s WHERE s.corpus = c.corpus AND s.stage IN ('read', 'scan')) AS skipped, c.root "
        "FROM corpora c LEFT JOIN utterances u USING (corpus) GROUP BY c.corpus, c.root ORDER BY c.corpus",
    )
    lines = tuple(
        (
            {"href": f"utterances?{urlencode({'corpus': row['corpus']})}", "text": row["corpus"]},
            *(cell(row[name]) for name in ("utterances", "speakers", "labels", "hours", "skipped", "root")),
        )
        for row in corpora
    )
    columns = ("corpus", "utterances", "speakers", "labels", "hours", "skipped", "folder")
    features = rows(
        connection,
        "SELECT s.feature_set, count(f.utterance_id) AS utterances, any_value(f.dim) AS width "
        "FROM feature_sets s LEFT JOIN features f USING (feature_set) GROUP BY s.feature_set ORDER BY s.feature_set",
    )
    (runs,) = rows(connection, "SELECT count(*) AS runs, count(DISTINCT experiment) AS experiments FROM runs")
    left_out = rows(
        connection,
        "SELECT path, stage, reason FROM skipped WHERE stage IN ('corpus', 'protocols', 'near-duplicates', 'features', 'run') "
        "ORDER BY path, reason",
    )
    return {
        "corpora": ReportTable(title="corpora", columns=columns, rows=lines, right=frozenset(columns[1:6])),
        "features": table_of("feature sets", features),
        "runs": runs,
        "left_out": table_of("left out of the catalogue, and why", left_out, most=100),
        "skipped": table_of("files that a scan passed over", _skipped(connection), most=100),
    }


def _skipped(connection: Connection) -> list[dict[str, Any]]:
    return rows(
        connection,
        "SELECT corpus, coalesce(utterance_id, path) AS what, stage, reason FROM skipped WHERE stage IN ('read', 'scan') "
        "ORDER BY ALL LIMIT 101",
    )
