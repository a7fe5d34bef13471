"""The figures of scores: experiments with intervals, speakers one by one, and confusions.

In go contenders (`tfser.heads.reports.material`); out comes `FigureData`: the numbers of `tfser.heads.results`, and the SQL that
gives them. Nothing is drawn here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfser.heads.reports.figure_data import FigureData, Numbers, Row, list_of, percent_of, text_of
from tfser.heads.reports.material import Contender, ContenderGroup
from tfser.heads.results.intervals import cluster_scores, difference, interval
from tfser.heads.results.marks import explain_marks, is_independent
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.errors import UsageError
from tfser.manifests.wording import count

MOST_ROWS = 40
"""Of a forest: more would be no picture; the table of scores has all."""

_MOST_JOINED = 20
"""Pairs are compared among so many of the best: their number grows with the square."""


def forest(group: ContenderGroup) -> FigureData:
    """Return every experiment of a group with its pooled UA and interval, and which of them are not told apart.

    Two are not told apart where the 95 % interval of their difference over speakers (`heads.results.intervals.difference`) holds
    0. They are compared only where both tested the same utterances and their speakers are new to both.
    """
    shown = group.members[:MOST_ROWS]
    drawn = tuple(
        {
            "experiment": contender.experiment,
            "name": contender.name,
            "pooled_UA": contender.row["pooled_UA"],
            "low": contender.row["pooled_UA_low"],
            "high": contender.row["pooled_UA_high"],
            "clusters": contender.row["clusters"],
            "seeds": len(contender.outcome.seeds),
            "mark": contender.mark,
        }
        for contender in shown
    )
    sql = _forest_sql(shown)
    # Pairs are compared and not intervals laid side by side: two intervals may overlap while the difference
    # over the same speakers is clear.
    joined, compared = _not_told_apart(shown[:_MOST_JOINED])
    notes = list(explain_marks([contender.row for contender in shown]))
    if joined:
        notes.append(
            "Dots on one line at the right: not told apart, the 95 % interval over speakers of each pair's difference holds 0 "
            "(no correction for many comparisons)."
        )
    elif compared:
        notes.append(
            "Every pair that was compared is told apart: the 95 % interval of its difference over speakers leaves 0 out."
        )
    if len(group.members) > len(shown):
        notes.append(f"The best {len(shown)} of {len(group.members)} are drawn.")
    if len(shown) > _MOST_JOINED:
        notes.append(f"Pairs are compared among the best {_MOST_JOINED}.")
    best = drawn[0]
    return FigureData(
        kind="forest",
        title=f"Scores with intervals over speakers: {group.corpus}, {group.protocol}",
        reading=f"{count(len(shown), 'experiment')}; the highest pooled UA is {percent_of(best['pooled_UA'])} % "
        f"{_bounds(best)}({best['name']}).",
        numbers=(Numbers(title="pooled UA", sql=sql, rows=drawn, checked=("experiment", "pooled_UA")),),
        notes=tuple(notes),
        details={"joined": joined, "chance": 1 / len(group.classes) if group.classes else None},
    )


def _forest_sql(shown: Sequence[Contender]) -> str:
    """Return SQL that gives the pooled UA of experiments, the highest first."""
    ids = list_of(contender.experiment for contender in shown)
    selection = shown[0].outcome.selection
    if selection == "last":
        return f"SELECT experiment, pooled_UA FROM results\nWHERE experiment IN {ids}\nORDER BY pooled_UA DESC, experiment"
    of_seeds = " OR ".join(
        f"(experiment = {text_of(contender.experiment)} AND seed IN ({', '.join(map(str, contender.outcome.seeds))}))"
        for contender in shown
    )
    return (
        "SELECT experiment, avg(pooled_UA ORDER BY seed) AS pooled_UA FROM scores\n"
        f"WHERE selection = {text_of(selection)} AND level = 'utterance' AND ({of_seeds})\n"
        "GROUP BY experiment ORDER BY pooled_UA DESC, experiment"
    )


def _bounds(row: Row) -> str:
    return "" if row["low"] is None else f"[{percent_of(row['low'])}, {percent_of(row['high'])}] "


def _not_told_apart(shown: Sequence[Contender]) -> tuple[tuple[tuple[int, ...], ...], int]:
    """Return the largest sets of experiments (their places) of which no pair is told apart, and how many pairs were compared."""
    alike: set[tuple[int, int]] = set()
    compared = 0
    counts = []
    for contender in shown:
        usable = is_independent(contender.row) and None not in contender.outcome.who["speaker"]
        counts.append(contender.outcome.counts(contender.outcome.clusters("speaker"), contender.classes) if usable else None)
    for i, a in enumerate(shown):
        for j in range(i + 1, len(shown)):
            b, of_a, of_b = shown[j], counts[i], counts[j]
            same = a.outcome.keys == b.outcome.keys and a.outcome.labels == b.outcome.labels and a.classes == b.classes
            if not same or of_a is None or of_b is None:
                continue
            compared += 1
            found = difference(of_a, of_b, "UA")
            if found.low is None or found.high is None or found.low <= 0 <= found.high:
                alike.add((i, j))
    return _largest_sets(len(shown), alike), compared


def _largest_sets(n: int, pairs: set[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    """Return sets of places, each pair of which is among the pairs, that together hold every pair: each as large as can be.

    >>> _largest_sets(4, {(0, 1), (1, 2), (0, 2), (2, 3)})
    ((0, 1, 2), (2, 3))
    """
    sets: list[tuple[int, ...]] = []
    for pair in sorted(pairs):
        if any(set(pair) <= set(of) for of in sets):
            continue
        members = list(pair)
        for other in range(n):
            if other not in members and all((min(other, m), max(other, m)) in pairs for m in members):
                members.append(other)
        sets.append(tuple(sorted(members)))
    return tuple(sets)


def speakers(connection: Connection, contender: Contender) -> FigureData:
    """Return the UA of each speaker by itself, the worst first, with how much each says, gender and session.

    Raises:
        UsageError: No speaker of the experiment's test side is known.
    """
    outcome = contender.outcome
    known = [i for i, who in enumerate(outcome.who["speaker"]) if who is not None]
    if not known:
        raise UsageError(f"{contender.experiment}: no speaker of its test side is known, so none can be shown")
    sql = _speakers_sql(contender)
    drawn = _scored_speakers(contender, known, rows(connection, sql))
    missing = len(outcome.keys) - len(known)
    notes = [*explain_marks([contender.row]), "UA of a speaker is over the classes that the speaker has."]
    notes += [f"{count(missing, 'utterance')} of unknown speakers are left out."] if missing else []
    worst, best = drawn[0], drawn[-1]
    return FigureData(
        kind="speakers",
        title=f"One dot a speaker: {contender.name}{contender.mark}",
        reading=f"{count(len(drawn), 'speaker')}, from {percent_of(worst['UA'])} % ({worst['speaker']}) "
        f"to {percent_of(best['UA'])} % ({best['speaker']}).",
        numbers=(Numbers(title="UA of each speaker", sql=sql, rows=tuple(drawn), checked=("speaker", "gender", "n", "UA")),),
        notes=tuple(notes),
        details={
            "mean": contender.row["pooled_UA"],
            "low": contender.row["pooled_UA_low"],
            "high": contender.row["pooled_UA_high"],
            "several": len({row["corpus"] for row in drawn}) > 1,
        },
    )


def _scored_speakers(
    contender: Contender, known: Sequence[int], descriptions: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the score of each speaker, the worst first, of the predictions whose speaker is ``known``, with who it is."""
    outcome = contender.outcome
    counts = outcome.take(known).counts([f"{outcome.keys[i][0]}/{outcome.who['speaker'][i]}" for i in known], contender.classes)
    score = dict(zip(counts.clusters, cluster_scores(counts, "UA").tolist(), strict=True))
    named = [(f"{row['corpus']}/{row['speaker']}", row) for row in descriptions]
    return sorted(
        (
            {
                "corpus": row["corpus"],
                "speaker": row["speaker"],
                "gender": row["gender"],
                "session": row["session"] or None,
                "n": int(counts.true[0, counts.clusters.index(name)].sum()),
                "UA": score[name],
            }
            for name, row in named
        ),
        key=lambda row: (row["UA"], row["corpus"], row["speaker"]),
    )


def _speakers_sql(contender: Contender) -> str:
    """Return SQL that scores each speaker by itself, with what is known of who it is."""
    return (
        "WITH recalls AS (\n"
        "  SELECT corpus, speaker, seed, label, count(*) AS n, avg(hit::INTEGER) AS recall\n"
        f"  {contender.source()} AND speaker IS NOT NULL GROUP BY ALL\n"
        "), of_seed AS (\n"
        "  SELECT corpus, speaker, seed, sum(n)::BIGINT AS n, avg(recall ORDER BY label) AS UA FROM recalls GROUP BY ALL\n"
        "), people AS (\n"
        "  SELECT corpus, speaker, min(gender) AS gender, array_to_string(list_sort(list(DISTINCT session)), ', ') AS session\n"
        "  FROM utterances GROUP BY ALL\n"
        ")\n"
        "SELECT corpus, speaker, any_value(gender) AS gender, any_value(session) AS session, max(n) AS n, "
        "avg(UA ORDER BY seed) AS UA\n"
        "FROM of_seed JOIN people USING (corpus, speaker) GROUP BY corpus, speaker ORDER BY UA, corpus, speaker"
    )


def confusion(contender: Contender) -> FigureData:
    """Return whom an experiment takes for whom: counts and shares of each true class, and each recall with its interval.

    Counts are means over the seeds.
    """
    cells, seeds = _cells(contender), len(contender.outcome.seeds)
    classes = contender.classes
    # Shares are of the true class: a class that is never tested has none, which is not the same as 0.
    truth = {name: sum(cells.get((name, other), 0.0) for other in classes) for name in classes}
    drawn = tuple(
        {
            "label": a,
            "predicted": b,
            "n": cells.get((a, b), 0.0),
            "share": cells.get((a, b), 0.0) / truth[a] if truth[a] else None,
        }
        for a in classes
        for b in classes
    )
    sql = _confusion_sql(contender)
    recalls = _recalls(contender, classes)
    notes = list(explain_marks([contender.row]))
    if seeds > 1:
        notes.append(f"Counts are means over {seeds} seeds.")
    weakest = min((row for row in recalls if row["recall"] is not None), key=lambda row: row["recall"])
    return FigureData(
        kind="confusion",
        title=f"Confusion: {contender.name}{contender.mark}",
        reading="Rows are true classes, columns what they were taken for; the lowest recall is "
        f"{percent_of(weakest['recall'])} % ({weakest['label']}).",
        numbers=(
            Numbers(
                title="counts and shares of the true class", sql=sql, rows=drawn, checked=("label", "predicted", "n", "share")
            ),
            Numbers(title="recalls", sql=_recall_sql(contender), rows=recalls, checked=("label", "n", "recall")),
        ),
        notes=tuple(notes),
        details={"classes": classes, "seeds": seeds},
    )


def _cells(contender: Contender) -> dict[tuple[str, str], float]:
    """Count true and predicted classes: the mean over the seeds."""
    found: dict[tuple[str, str], float] = {}
    for of_seed in contender.outcome.predicted:
        for pair in zip(contender.outcome.labels, of_seed, strict=True):
            found[pair] = found.get(pair, 0.0) + 1
    return {pair: n / len(contender.outcome.seeds) for pair, n in found.items()}


def _grid(classes: Sequence[str]) -> str:
    """Return the head of SQL that names all pairs of classes, in the order in which they are drawn."""
    values = ", ".join(f"({i}, {text_of(name)})" for i, name in enumerate(classes))
    return f"WITH classes(place, name) AS (VALUES {values})"


def _confusion_sql(contender: Contender) -> str:
    counted = (
        "SELECT label, predicted, sum(n) AS n FROM result_confusion "
        f"WHERE experiment = {text_of(contender.experiment)} GROUP BY ALL"
        if contender.outcome.selection == "last"
        else f"SELECT label, predicted, count(*) AS n {contender.source()} GROUP BY ALL"
    )
    return (
        f"{_grid(contender.classes)},\ncounted AS (\n  {counted}\n)\n"
        f"SELECT a.name AS label, b.name AS predicted, coalesce(n, 0) / {len(contender.outcome.seeds)} AS n,\n"
        "  coalesce(n, 0) / nullif(sum(n) OVER (PARTITION BY a.name), 0) AS share\n"
        "FROM classes a CROSS JOIN classes b LEFT JOIN counted ON label = a.name AND predicted = b.name\n"
        "ORDER BY a.place, b.place"
    )


def _recall_sql(contender: Contender) -> str:
    return (
        f"{_grid(contender.classes)}\nSELECT name AS label, count(p.label) / {len(contender.outcome.seeds)} AS n, "
        "avg(hit::INTEGER) AS recall\n"
        f"FROM classes LEFT JOIN (SELECT * {contender.source()}) p ON p.label = name\nGROUP BY name, place ORDER BY place"
    )


def _recalls(contender: Contender, classes: Sequence[str]) -> tuple[Row, ...]:
    by = contender.row["clustered_by"]
    who = ("all",) * len(contender.outcome.keys) if by is None else contender.outcome.clusters(by)
    counts = contender.outcome.counts(who, classes)
    drawn = []
    for k, name in enumerate(classes):
        n = float(counts.true[0, :, k].sum())
        if not n:
            drawn.append({"label": name, "n": 0.0, "recall": None, "low": None, "high": None})
            continue
        found = interval(counts.only(name), "UA")
        drawn.append({"label": name, "n": n, "recall": found.value, "low": found.low, "high": found.high})
    return tuple(drawn)


def confusion_difference(a: Contender, b: Contender) -> FigureData:
    """Return by how much the row shares of A's confusion are above those of B's.

    Raises:
        UsageError: The two do not tell the same classes apart.
    """
    if set(a.classes) != set(b.classes):
        raise UsageError(f"{a.experiment} and {b.experiment} tell other classes apart: there is no difference of confusions")
    # Shares and not counts are compared: the two may have tested different numbers of utterances.
    of_a, of_b = ({(row["label"], row["predicted"]): row["share"] for row in confusion(contender).rows} for contender in (a, b))
    drawn = tuple(
        {
            "label": x,
            "predicted": y,
            "share_a": of_a[x, y],
            "share_b": of_b[x, y],
            "difference": None if of_a[x, y] is None or of_b[x, y] is None else of_a[x, y] - of_b[x, y],
        }
        for x in a.classes
        for y in a.classes
    )

    sql = _difference_sql(a, b)
    largest = max(drawn, key=lambda row: abs(row["difference"] or 0.0))
    return FigureData(
        kind="difference",
        title=f"Difference of confusions: {a.name}{a.mark} minus {b.name}{b.mark}",
        reading=f"Points of each row's share; the largest change is {100 * (largest['difference'] or 0):+.1f} points: "
        f"{largest['label']} taken for {largest['predicted']}.",
        numbers=(
            Numbers(
                title="shares of the true class",
                sql=sql,
                rows=drawn,
                checked=("label", "predicted", "share_a", "share_b", "difference"),
            ),
        ),
        notes=tuple(explain_marks([a.row, b.row])),
        details={"classes": a.classes, "a": a.name, "b": b.name},
    )


def _difference_sql(a: Contender, b: Contender) -> str:
    """Return SQL that gives the row shares of two confusions and their difference."""

    def counted(contender: Contender) -> str:
        return f"SELECT label, predicted, count(*) AS n {contender.source()} GROUP BY ALL"

    def share(of: str) -> str:
        return f"coalesce({of}.n, 0) / nullif(sum({of}.n) OVER (PARTITION BY p.name), 0) AS share_{of}"

    return (
        f"{_grid(a.classes)},\na AS (\n  {counted(a)}\n), b AS (\n  {counted(b)}\n), both_sides AS (\n"
        f"  SELECT p.place AS row_place, q.place AS column_place, p.name AS label, q.name AS predicted, {share('a')},\n"
        f"    {share('b')}\n  FROM classes p CROSS JOIN classes q\n"
        "  LEFT JOIN a ON a.label = p.name AND a.predicted = q.name LEFT JOIN b ON b.label = p.name AND b.predicted = q.name\n)\n"
        "SELECT label, predicted, share_a, share_b, share_a - share_b AS difference FROM both_sides\n"
        "ORDER BY row_place, column_place"
    )
