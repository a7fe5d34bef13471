"""The figures of probabilities: are they as right as they say, what is gained by answering less often, and where they are sure.

In go contenders; out comes `FigureData` with the SQL over the catalogue's views that gives the same numbers. In what is drawn,
seeds are pooled: each seed's prediction of an utterance counts as one. ECE and Brier score are means over the seeds, with their
intervals over speakers, and are those of `tfser scores --by calibration` (`tfser.heads.results.calibration`). What a head is sure
of is its largest probability.

* ECE: expected calibration error over ten bins of equal width (Guo et al., "On calibration of modern neural networks", ICML
  2017): the mean distance, by the bins' sizes, of the share that is right from the mean of what the head is sure of.
* Brier score: the mean over utterances of the sum over classes of (probability - truth)^2 (Brier, Monthly Weather Review 78,
  1950): 0 is best, and guessing evenly gives 1 - 1/K.
* Risk against coverage (Geifman and El-Yaniv, NeurIPS 2017): the share that is wrong among the surest of all answers.
* Entropy of the probabilities as a share of ln K: 0 is certain, 1 is even.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.heads.reports.figure_data import FigureData, Numbers, Row, percent_of, text_of
from tfser.heads.reports.material import Contender
from tfser.heads.results.calibration import measured
from tfser.heads.results.intervals import count as count_predictions
from tfser.heads.results.intervals import interval
from tfser.heads.results.marks import explain_marks
from tfser.manifests.catalogue.reading import Connection
from tfser.manifests.wording import count

BINS = 10
_STEPS = 20

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sureness:
    """The probabilities of one experiment, seeds one after the other: n predictions.

    `sure` (n,) is the largest probability, `brier` (n,) the squared distance from the truth, `loss` (n,) the log loss, `entropy`
    (n,) a share of ln K, `right` (n,) whether the class of the largest is true. `who` names each one's cluster, None where there
    are none.
    """

    sure: Values
    brier: Values
    loss: Values
    entropy: Values
    right: npt.NDArray[np.bool_]
    ids: tuple[tuple[Any, ...], ...]
    who: tuple[str, ...] | None


def with_probabilities(one: Contender, columns: str) -> str:
    """Return SQL that gives columns of predictions `r` beside their probabilities `q.probabilities`."""
    outcome = one.outcome
    return (
        f"SELECT {columns}\n  FROM (SELECT * {one.source()}) r\n"
        "    JOIN predictions q ON q.run_id = r.run_id AND q.corpus = r.corpus\n"
        f"    AND q.utterance_id = r.utterance_id AND q.selection = {text_of(outcome.selection)} AND q.level = 'utterance'"
    )


def read_sureness(connection: Connection, one: Contender) -> Sureness:
    """Read the probabilities of an experiment out of the catalogue, in the order of seed, corpus, utterance and fold."""
    K = max(2, len(one.classes))
    sql = with_probabilities(
        one,
        "r.seed, r.corpus, r.utterance_id, r.fold, r.speaker, r.session, r.dialogue, r.hit, "
        "map_values(q.probabilities) AS p, coalesce(q.probabilities[r.label], 0) AS of_true",
    )
    table = connection.execute(f"{sql}\nORDER BY r.seed, r.corpus, r.utterance_id, r.fold").fetchall()
    p = np.array([row[8] for row in table], dtype=np.float64)  # (n, K)
    of_true = np.array([row[9] for row in table], dtype=np.float64)
    logs = np.log(np.where(p > 0, p, 1.0))
    by = one.row["clustered_by"]
    place = {"speaker": 4, "session": 5, "dialogue": 6}
    return Sureness(
        sure=p.max(axis=1),
        brier=(p**2).sum(axis=1) - 2 * of_true + 1,
        loss=-np.log(np.maximum(of_true, 1e-12)),
        entropy=-(p * logs).sum(axis=1) / np.log(K),
        right=np.array([row[7] for row in table], dtype=bool),
        ids=tuple(row[:4] for row in table),
        who=None if by is None else tuple(f"{row[1]}/{row[place[by]]}" for row in table),
    )


def reliability(one: Contender, sure: Sureness) -> FigureData:
    """Return how often an experiment is right where it is so and so sure, with ECE and Brier score."""
    # Of equal width and not of equal numbers: they are what the expected calibration error is defined over, and
    # what SQL can state.
    bins = np.minimum(np.floor(sure.sure * BINS), BINS - 1).astype(int)
    drawn: list[Row] = []
    for b in sorted(set(bins.tolist())):
        in_bin = bins == b
        low, high = _share_interval(sure, in_bin)
        drawn.append(
            {
                "bin": b,
                "n": int(in_bin.sum()),
                "sure": float(sure.sure[in_bin].mean()),
                "right": float(sure.right[in_bin].mean()),
                "low": low,
                "high": high,
            }
        )
    measures = measured(_cells_of(sure, bins))
    bins_sql, totals_sql = _reliability_sql(one)
    mean_sure, mean_right = float(sure.sure.mean()), float(sure.right.mean())
    tendency = "too sure of itself" if mean_sure > mean_right else "less sure than it could be"
    return FigureData(
        kind="reliability",
        title=f"Reliability: {one.name}{one.mark}",
        reading=f"ECE {percent_of(measures['ECE'])} points{_bounds(measures, 'ECE', 100, 1)}, Brier score {measures['Brier']:.3f}"
        f"{_bounds(measures, 'Brier', 1, 3)}; it is {percent_of(mean_sure)} % sure on average and "
        f"{percent_of(mean_right)} % right: {tendency}.",
        numbers=(
            Numbers(
                title="bins of the largest probability", sql=bins_sql, rows=tuple(drawn), checked=("bin", "n", "sure", "right")
            ),
            Numbers(
                title="ECE and Brier score",
                sql=totals_sql,
                rows=({key: measures[key] for name in ("ECE", "Brier") for key in (name, f"{name}_low", f"{name}_high")},),
                checked=("ECE", "Brier"),
            ),
        ),
        notes=(*_interval_note(one, measures), *explain_marks([one.row])),
        details={"ECE": measures["ECE"], "Brier": measures["Brier"]},
    )


def _cells_of(sure: Sureness, bins: npt.NDArray[np.intp]) -> list[tuple[Any, ...]]:
    """Return the predictions as `measured` takes them, each a cell of its own."""
    who = sure.who or (None,) * len(bins)
    columns = zip(sure.ids, who, bins.tolist(), sure.right, sure.sure, sure.loss, sure.brier, strict=True)
    return [
        (ids[0], name, bin_, 1, int(right), float(top), float(loss), float(brier), name is not None)
        for ids, name, bin_, right, top, loss, brier in columns
    ]


def _bounds(found: Mapping[str, Any], name: str, scale: float, digits: int) -> str:
    """Return the interval of a measure in brackets; nothing where there is none."""
    low, high = found[f"{name}_low"], found[f"{name}_high"]
    return "" if low is None else f" [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def _interval_note(one: Contender, found: Mapping[str, Any]) -> list[str]:
    """Say what the intervals are over; few utterances alone make an ECE larger than zero."""
    if found["ECE_low"] is None:
        return []
    over = count(found["clusters"], one.row["clustered_by"])
    return [f"Brackets: 95 % over {over} (delete-one jackknife); that of ECE is a rough guide."]


def _reliability_sql(one: Contender) -> tuple[str, str]:
    """Return SQL that gives the bins, and SQL that gives ECE and Brier score."""
    table = with_probabilities(
        one, f"least(floor(list_max(map_values(q.probabilities)) * {BINS}), {BINS - 1})::INTEGER AS bin,\n"
        "    list_max(map_values(q.probabilities)) AS sure, r.hit, r.seed"
    )  # fmt: skip
    bins_sql = (
        f'WITH p AS (\n  {table}\n)\nSELECT bin, count(*) AS n, avg(sure) AS sure, avg(hit::INTEGER) AS "right"\n'
        "FROM p GROUP BY bin ORDER BY bin"
    )
    squares = with_probabilities(
        one,
        "r.seed, list_sum(list_transform(map_values(q.probabilities), lambda x: x * x))\n"
        "    - 2 * coalesce(q.probabilities[r.label], 0) + 1 AS brier",
    )
    totals_sql = (
        f"WITH p AS (\n  {table}\n), b AS (\n  SELECT seed, count(*) AS n, avg(sure) AS sure, avg(hit::INTEGER) AS hits "
        "FROM p GROUP BY seed, bin\n"
        "), e AS (\n  SELECT sum(n * abs(hits - sure)) / sum(n) AS ECE FROM b GROUP BY seed\n"
        f"), s AS (\n  SELECT avg(brier) AS Brier FROM (\n  {squares}) GROUP BY seed\n)\n"
        "SELECT (SELECT avg(ECE) FROM e) AS ECE, (SELECT avg(Brier) FROM s) AS Brier"
    )
    return bins_sql, totals_sql


def _share_interval(sure: Sureness, of: npt.NDArray[np.bool_]) -> tuple[float | None, float | None]:
    """Return the interval over speakers of the share that is right among some predictions; none without speakers."""
    if sure.who is None:
        return None, None
    places = np.flatnonzero(of)
    right = ["right" if sure.right[i] else "wrong" for i in places]
    found = interval(count_predictions([sure.who[i] for i in places], ["right"] * len(places), right, ("right", "wrong")), "WA")
    return found.low, found.high


def risk(one: Contender, sure: Sureness) -> FigureData:
    """Return the share that is wrong among the surest answers, by how many of all are answered."""
    order = sorted(range(len(sure.sure)), key=lambda i: (-sure.sure[i], sure.ids[i]))
    wrong = np.cumsum(~sure.right[order])
    n = len(order)
    drawn = []
    for step in range(1, _STEPS + 1):
        answered = -(-n * step // _STEPS)
        drawn.append({"coverage": step / _STEPS, "answered": answered, "risk": float(wrong[answered - 1] / answered)})
    ranked = with_probabilities(
        one, "r.hit, row_number() OVER (ORDER BY list_max(map_values(q.probabilities)) DESC, r.seed, r.corpus, r.utterance_id, "
        "r.fold) AS place,\n    count(*) OVER () AS total"
    )  # fmt: skip
    sql = (
        f"WITH ranked AS (\n  {ranked}\n), steps AS (SELECT unnest(range(1, {_STEPS + 1})) AS step)\n"
        f"SELECT step / {_STEPS} AS coverage, count(*) AS answered, avg((NOT hit)::INTEGER) AS risk\n"
        f"FROM steps JOIN ranked ON place <= (total * step + {_STEPS - 1}) // {_STEPS}\nGROUP BY step ORDER BY step"
    )
    half = drawn[_STEPS // 2 - 1]
    return FigureData(
        kind="risk",
        title=f"Risk against coverage: {one.name}{one.mark}",
        reading=f"Wrong in {percent_of(drawn[-1]['risk'])} % of all answers, in {percent_of(half['risk'])} % of the surer half.",
        numbers=(Numbers(title="risk by coverage", sql=sql, rows=tuple(drawn), checked=("coverage", "answered", "risk")),),
        notes=tuple(explain_marks([one.row])),
    )


def entropy(one: Contender, sure: Sureness) -> FigureData:
    """Return how even the probabilities are where the experiment is right and where it is wrong."""
    bins = np.minimum(np.floor(sure.entropy * BINS), BINS - 1).astype(int)
    drawn = tuple(
        {
            "bin": b,
            "right": int((sure.right & (bins == b)).sum()),
            "wrong": int((~sure.right & (bins == b)).sum()),
        }
        for b in range(BINS)
    )
    K = max(2, len(one.classes))
    table = with_probabilities(
        one, "greatest(list_sum(list_transform(map_values(q.probabilities), lambda x: if(x > 0, -x * ln(x), 0)))"
        f" / ln({K}), 0) AS entropy, r.hit"
    )  # fmt: skip
    sql = (
        f"WITH p AS (\n  {table}\n), bins AS (SELECT unnest(range({BINS})) AS bin)\n"
        'SELECT bin, count(*) FILTER (hit) AS "right", count(*) FILTER (NOT hit) AS wrong\n'
        f"FROM bins LEFT JOIN p ON least(floor(entropy * {BINS}), {BINS - 1}) = bin GROUP BY bin ORDER BY bin"
    )
    means = [float(sure.entropy[of].mean()) if of.any() else None for of in (sure.right, ~sure.right)]
    answered = " and ".join(
        f"{value:.2f} where it is {word}" for value, word in zip(means, ("right", "wrong"), strict=True) if value is not None
    )
    return FigureData(
        kind="entropy",
        title=f"Entropy of right and wrong: {one.name}{one.mark}",
        reading=f"The mean entropy is {answered} (0 certain, 1 even).",
        numbers=(Numbers(title="predictions by entropy", sql=sql, rows=drawn, checked=("bin", "right", "wrong")),),
        notes=tuple(explain_marks([one.row])),
        details={"means": means},
    )


def mistakes(connection: Connection, one: Contender, most: int = 20) -> FigureData:
    """Return the wrong predictions that an experiment is surest of, the surest first: what to listen to."""
    table = with_probabilities(
        one,
        "r.corpus, r.utterance_id, r.speaker, r.seed, r.fold, r.label, r.predicted,\n"
        "    list_max(map_values(q.probabilities)) AS sure, coalesce(q.probabilities[r.label], 0) AS of_true, r.hit",
    )
    sql = (
        f"WITH p AS (\n  {table}\n)\n"
        "SELECT p.corpus, p.utterance_id, p.speaker, p.seed, p.fold, p.label, p.predicted, sure, of_true,\n"
        "  u.duration_s, u.transcript\n"
        "FROM p LEFT JOIN utterances u ON u.corpus = p.corpus AND u.utterance_id = p.utterance_id\n"
        "WHERE NOT hit QUALIFY row_number() OVER (\n"
        "    PARTITION BY p.corpus, p.utterance_id ORDER BY sure DESC, p.seed, p.fold) = 1\n"
        f"ORDER BY sure DESC, p.corpus, p.utterance_id LIMIT {most}"
    )
    result = connection.execute(sql)
    names = [column[0] for column in result.description or ()]
    drawn = tuple(dict(zip(names, row, strict=True)) for row in result.fetchall())
    return FigureData(
        kind="mistakes",
        title=f"Mistakes worth listening to: {one.name}{one.mark}",
        reading=f"The {count(len(drawn), 'mistake')} that it is surest of." if drawn else "It made no mistake.",
        numbers=(Numbers(title="confident mistakes", sql=sql, rows=drawn, checked=tuple(names)),),
        notes=tuple(explain_marks([one.row])),
    )


def in_cells(connection: Connection, one: Contender) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the utterances of each cell of a confusion of the first seed, the surest first, with their probabilities."""
    outcome = one.outcome
    sql = in_cell_sql(one)
    result = connection.execute(f"{sql} WHERE p.seed = {outcome.seeds[0]}\nORDER BY sure DESC, p.corpus, p.utterance_id, p.fold")
    names = [column[0] for column in result.description or ()]
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for values in result.fetchall():
        row = dict(zip(names, values, strict=True))
        found.setdefault((row["label"], row["predicted"]), []).append(row)
    return found


def in_cell_sql(one: Contender) -> str:
    """Return SQL that gives an experiment's utterances with their probabilities; the reader adds which cell."""
    table = with_probabilities(
        one,
        "r.corpus, r.utterance_id, r.speaker, r.seed, r.fold, r.label, r.predicted,\n"
        "    list_max(map_values(q.probabilities)) AS sure, q.probabilities",
    )
    return (
        f"WITH p AS (\n  {table}\n)\n"
        "SELECT p.corpus, p.utterance_id, p.speaker, p.seed, p.fold, p.label, p.predicted, sure, probabilities, u.duration_s,\n"
        "  u.transcript FROM p LEFT JOIN utterances u ON u.corpus = p.corpus AND u.utterance_id = p.utterance_id"
    )


def highest(probabilities: Any, most: int = 3) -> str:
    """Return the largest probabilities in words: `anger 71 %, fear 20 %`."""
    pairs: Sequence[tuple[str, float]] = sorted(dict(probabilities or {}).items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{name} {100 * value:.0f} %" for name, value in pairs[:most])
