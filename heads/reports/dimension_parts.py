"""What pages say of an experiment's dimensions: the table of CCC with intervals, a sentence, and a scatter of each.

In goes an experiment that rates, alone (`tfser.heads.reports.dimension_page`) or beside its classes (`tfser.heads.reports.page`,
`one_experiment`); out come tables, words and figures that are not drawn yet, each with the SQL of its numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tfser.heads.reports.figure_data import FigureData, Numbers, text_of
from tfser.heads.reports.material import Contender
from tfser.heads.reports.report_tables import ReportTable, without_shared
from tfser.heads.results.dimension_tables import MEAN, Row, dimension_table
from tfser.heads.results.marks import mark, standing
from tfser.heads.results.outcomes import Subject, find, targets_of
from tfser.heads.results.rating_outcomes import RatedOutcome, read_rated_outcome
from tfser.heads.results.score_tables import Wanted
from tfser.heads.results.written import bounds_text, number_text
from tfser.manifests.catalogue.reading import Connection
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


def rated_members(
    connection: Connection, experiments: Sequence[str], selection: str
) -> tuple[list[RatedContender], list[tuple[str, str]]]:
    """Return experiments on dimensions as a page has them, and those that are left out, each with its reason.

    Args:
        connection: the catalogue.
        experiments: on dimensions.
        selection: how their epochs were chosen; of heads that are fitted at once, last.

    Raises:
        UsageError: none of them has predictions of this selection.
    """
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


def rated_beside(connection: Connection, one: Contender) -> RatedContender | None:
    """Return what an experiment of a page says of dimensions beside its classes, by the same choice of epochs; None: nothing."""
    name, selection = one.experiment, one.outcome.selection
    if not targets_of(connection, Subject(experiment=name)):
        return None
    table = dimension_table(connection, Wanted(experiment=name, selection=selection))
    found = tuple(row for row in table if row["experiment"] == name)
    rated = read_rated_outcome(connection, find(connection, name), selection=selection)
    return RatedContender(shown=one, rows=found, rated=rated)


def dimension_tables(members: Sequence[RatedContender]) -> list[ReportTable]:
    """Return a table of scores for each protocol and set of dimensions."""
    groups: dict[tuple[str, str, tuple[str, ...]], list[RatedContender]] = {}
    for member in members:
        row = member.rows[-1]
        groups.setdefault((str(row["corpus"]), str(row["protocol"]), member.rated.dimensions), []).append(member)
    tables = []
    for (corpus, protocol, dimensions), of in groups.items():
        lines = [_line(member, row) for member in of for row in member.rows]
        of_all = ReportTable(
            title=f"{corpus}, {protocol}: {', '.join(dimensions)}",
            columns=tuple(lines[0]),
            rows=tuple(tuple(line.values()) for line in lines),
            right=frozenset(lines[0]) - {"experiment", "dimension", "selection", "clusters", "audit"},
        )
        # What all rows share is said once below, so that the table fits the page.
        tables.append(without_shared(of_all, ("selection", "folds", "clusters", "audit"), fewest=1))
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


def rated_sentence(member: RatedContender) -> str:
    """Say in one sentence what an experiment's CCC is, how it came about, and what it is worth."""
    row = member.rows[-1]
    scored = bounds_text(row["pooled_CCC"], row["pooled_CCC_low"], row["pooled_CCC_high"], mark(row))
    what = f"mean over {len(member.rated.dimensions)} dimensions" if row["dimension"] == MEAN else str(row["dimension"])
    over = f" over {count(row['clusters'], row['clustered_by'])}" if row["clusters"] else ""
    return (
        f"{member.shown.name}: pooled CCC {scored}{over} ({what}), mean over folds {number_text(row['CCC'], row['CCC_std'])}, "
        f"selection {row['selection']}, {count(len(row['seeds']), 'seed')}, {count(row['utterances'], 'utterance')}; "
        f"protocol {row['protocol']}, audit {standing(row)}."
    )


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
    # A point an utterance and seed, as the SQL gives them: a mean over seeds would look better than any of them.
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
