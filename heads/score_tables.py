"""Tables of scores: a row an experiment over its folds and seeds with intervals; or a seed, fold, class, speaker, session.

In go the catalogue's views (`scores`, `fold_scores`, `class_scores`, `speaker_scores`, `session_scores`); out come rows with
scores as shares of 1 (`table`), and the same rows for people, in percent (`shown`). A number whose epoch was chosen by looking at
the test side bears a †, one with a fold that was trained although its audit failed a ‡.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfser.heads.outcomes import Pooled, pooled
from tfser.heads.selections import LEAK, ORDER_SQL, TEST_SIDE, mark, peeks
from tfser.heads.statistics import CONFIDENCE, FEW, METRICS, Interval, interval, new_speaker, seed_scores
from tfser.manifests.catalogue import Connection, rows
from tfser.manifests.display import count
from tfser.manifests.errors import unknown

BY = ("seed", "fold", "class", "speaker", "session")
"""What a table can have rows of, besides experiments."""

_ORDER = f"experiment, level DESC, {ORDER_SQL}"
_WHICH = "starts_with(experiment, ?) AND (level = 'utterance' OR ?) AND (?::VARCHAR IS NULL OR selection = ?)"


_NEW = "new speaker's UA [95 %]"

MAY_GO = ("seconds", "level", "audit", "folds", "seeds", "protocol", "features", "pooled WA [95 %]", "clusters", _NEW, "WA", "UA")
"""Columns of `shown` that a narrow terminal can do without, the first one first."""


def table(
    connection: Connection,
    *,
    by: str | None = None,
    prefix: str = "",
    selection: str | None = None,
    segments: bool = False,
    clusters: str | None = None,
) -> list[dict[str, Any]]:
    """Return a table of scores.

    Args:
        connection: the catalogue.
        by: one of BY; None gives a row an experiment.
        prefix: only experiments whose id begins so.
        selection: only this one.
        segments: segment level, too.
        clusters: what intervals are over (CLUSTERS of heads.outcomes); the speakers if left out.

    Raises:
        UsageError: There is no such table, or no such clusters, or no run of such an id or selection.
    """
    _check(connection, prefix, selection)
    which = [prefix, segments, selection, selection]
    if by is None:
        return _experiments(connection, which, clusters)
    if by == "seed":
        found = rows(connection, f"SELECT * FROM scores WHERE {_WHICH} ORDER BY {_ORDER}, seed", which)
    elif by in ("fold", "speaker", "session"):
        found = _by_part(connection, by, which)
    elif by == "class":
        found = _by_class(connection, which, clusters)
    else:
        raise unknown("table of scores by", by, BY)
    audits = dict(connection.execute(_AUDITS).fetchall())
    return [{**row, "audit": audits[row["experiment"]], "looked_at_test": peeks(row["selection"])} for row in found]


def _check(connection: Connection, prefix: str, selection: str | None) -> None:
    """Refuse the beginning of an id, or a selection, that no run in the catalogue has.

    Raises:
        UsageError: there is none.
    """
    every = "SELECT DISTINCT experiment, selection FROM scores WHERE starts_with(experiment, ?) ORDER BY ALL"
    if prefix and not rows(connection, every, [prefix]):
        raise unknown("experiment that begins with", prefix, sorted({row["experiment"] for row in rows(connection, every, [""])}))
    known = {row["selection"] for row in rows(connection, every, [prefix])}
    if selection is not None and known and selection not in known:
        raise unknown("selection of these runs", selection, sorted(known))


_AUDITS = "SELECT experiment, if(bool_or(audit = 'overridden'), 'overridden', 'passed') FROM runs GROUP BY experiment"


def _experiments(connection: Connection, which: Sequence[Any], clusters: str | None) -> list[dict[str, Any]]:
    by = "f.seed, f.fold"
    over = ", ".join(f"avg(f.{m} ORDER BY {by}) AS {m}, stddev_samp(f.{m} ORDER BY {by}) AS {m}_std" for m in METRICS)
    found = rows(
        connection,
        f"WITH f AS (SELECT * FROM fold_scores WHERE {_WHICH}), s AS (SELECT * FROM scores WHERE {_WHICH}), "
        f"over_runs AS (SELECT experiment, selection, level, count(*) AS runs, {over} FROM f GROUP BY ALL), "
        "over_seeds AS (SELECT experiment, selection, level, any_value(head) AS head, any_value(preset) AS preset, "
        "any_value(recipe) AS recipe, any_value(corpus) AS corpus, any_value(protocol) AS protocol, "
        "any_value(feature_set) AS feature_set, any_value(epochs) AS epochs, list(seed ORDER BY seed) AS seeds, "
        "max(folds) AS folds, any_value(of_folds) AS of_folds, "
        "stddev_samp(UA ORDER BY seed) AS UA_std_seeds, stddev_samp(WA ORDER BY seed) AS WA_std_seeds, "
        "avg(pooled_UA ORDER BY seed) AS pooled_UA, avg(pooled_WA ORDER BY seed) AS pooled_WA, "
        "sum(seconds ORDER BY seed) AS seconds, if(bool_or(audit = 'overridden'), 'overridden', 'passed') AS audit "
        "FROM s GROUP BY ALL) "
        f"SELECT * FROM over_seeds JOIN over_runs USING (experiment, selection, level) ORDER BY {_ORDER}",
        [*which, *which],
    )
    counted = pooled(connection, prefix=which[0], segments=which[1], clusters=clusters)
    return [
        row
        | {"looked_at_test": peeks(row["selection"])}
        | _pooled(counted[row["experiment"], row["selection"], row["level"]], row)
        for row in found
    ]


def _pooled(of: Pooled, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pooled scores with their intervals, and what there is to say about them; without clusters, `row`'s scores."""
    result: dict[str, Any] = {"pooled_seeds": list(of.seeds), "clustered_by": of.by, "clusters": None, "utterances": None}
    notes = [f"seeds {_list(of.dropped)} are not pooled: they did not test the same utterances"] if of.dropped else []
    for metric in METRICS:
        found = Interval(value=0.0, low=None, high=None, std_error=None, df=None, clusters=0)
        if of.counts is not None:
            found = interval(of.counts, metric)
            result |= {"clusters": found.clusters, "utterances": int(of.counts.true[0].sum())}
        result |= {
            f"pooled_{metric}": found.value if of.counts is not None else row.get(f"pooled_{metric}"),
            f"pooled_{metric}_low": found.low,
            f"pooled_{metric}_high": found.high,
            f"pooled_{metric}_df": found.df,
            f"pooled_{metric}_by_seed": list(seed_scores(of.counts, metric)) if of.counts is not None else None,
        }
    if of.by is None:
        notes.append("no intervals: speaker, session and dialogue are unknown for some of the utterances")
    elif (n := result["clusters"]) < FEW:
        notes.append(few(n, of.by))
    return result | _new_speaker(of) | {"confidence": CONFIDENCE, "notes": notes}


def _new_speaker(of: Pooled) -> dict[str, Any]:
    """Return where a further speaker's scores would lie; None where the clusters are not speakers."""
    result: dict[str, Any] = {"new_speaker_utterances": None}
    for metric in ("UA", "WA"):
        found = new_speaker(of.counts, metric) if of.counts is not None and of.by == "speaker" else None
        if found is not None and found.low is not None:
            result["new_speaker_utterances"] = found.utterances
        ends = (found.low, found.high) if found else (None, None)
        result |= {f"new_speaker_{metric}_low": ends[0], f"new_speaker_{metric}_high": ends[1]}
    return result


def few(n: int, by: str) -> str:
    """Return what is to be said of intervals over few clusters."""
    if n == 1:
        return f"no intervals: one {by} alone says nothing about others"
    return (
        f"only {n} {by}s: the intervals are wide, and right only if {by}s vary about normally, which {n} cannot show: "
        "rare bad ones are easily missed"
    )


def _by_part(connection: Connection, by: str, which: Sequence[Any]) -> list[dict[str, Any]]:
    """Return a row a fold, speaker or session: the means over the seeds, with deviations over them."""
    names = METRICS if by == "fold" else ("UA", "WA")
    key = by if by == "fold" else f"corpus, {by}"
    over = ", ".join(f"avg({m} ORDER BY seed) AS {m}, stddev_samp({m} ORDER BY seed) AS {m}_std" for m in names)
    extra = "" if by == "fold" else ", any_value(n_by_class) AS n_by_class"
    return rows(
        connection,
        f"SELECT experiment, selection, level, {key}, list(seed ORDER BY seed) AS seeds, max(n) AS n, avg(hits) AS hits, "
        f"{over}{extra} FROM {by}_scores WHERE {_WHICH} GROUP BY experiment, selection, level, {key} ORDER BY {_ORDER}, {key}",
        which,
    )


def _by_class(connection: Connection, which: Sequence[Any], clusters: str | None) -> list[dict[str, Any]]:
    names = ("recall", "precision", "F1")
    over = ", ".join(f"avg({m} ORDER BY seed) AS {m}, stddev_samp({m} ORDER BY seed) AS {m}_std" for m in names)
    found = rows(
        connection,
        "SELECT experiment, selection, level, class, list(seed ORDER BY seed) AS seeds, max(n) AS n, avg(hits) AS hits, "
        f"avg(predicted) AS predicted, {over} FROM class_scores WHERE {_WHICH} "
        f"GROUP BY experiment, selection, level, class ORDER BY {_ORDER}, class",
        which,
    )
    counted = pooled(connection, prefix=which[0], segments=which[1], clusters=clusters)
    for row in found:
        of = counted[row["experiment"], row["selection"], row["level"]].counts
        recall = None
        if of is not None and row["class"] in of.classes and row["n"]:
            recall = interval(of.only(row["class"]), "UA")
        row |= {
            "recall_low": recall.low if recall else None,
            "recall_high": recall.high if recall else None,
            "clusters": recall.clusters if recall else None,
        }
    return found


def shown(found: Sequence[Mapping[str, Any]], by: str | None = None) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows as people read them, and the lines that explain the marks and notes below them."""
    if not found:
        why = f" by {by}: nothing that was tested has a known {by}" if by else ": no finished run in this cache"
        return [], [f"no scores{why}"]
    result = []
    for row in found:
        line: dict[str, Any] = {"experiment": row["experiment"]}
        if by is None:
            line |= {
                "features": row["feature_set"],
                "protocol": row["protocol"],
                "level": row["level"],
                "selection": row["selection"],
                "seeds": len(row["seeds"]),
                "folds": f"{row['folds']} of {row['of_folds'] or '?'}",
                "UA": _spread(row, "UA"),
                "WA": _spread(row, "WA"),
                "pooled UA [95 %]": _range(row, "pooled_UA"),
                "pooled WA [95 %]": _range(row, "pooled_WA"),
                _NEW: _from_to(row, "new_speaker_UA"),
                "clusters": count(row["clusters"], row["clustered_by"]) if row["clusters"] else "",
                "seconds": round(row["seconds"], 1),
                "audit": row["audit"],
            }
        elif by == "seed":
            line |= {name: row[name] for name in ("recipe", "feature_set", "protocol", "seed", "level", "selection")}
            line |= {"folds": f"{row['folds']} of {row['of_folds'] or '?'}", "UA": _spread(row, "UA"), "WA": _spread(row, "WA")}
            line |= {"pooled_UA": _one(row, "pooled_UA"), "pooled_WA": _one(row, "pooled_WA")}
            line |= {"seconds": round(row["seconds"], 1), "audit": row["audit"]}
        else:
            line |= {"level": row["level"], "selection": row["selection"], "seeds": len(row["seeds"]), by: row[by], "n": row["n"]}
            if by == "class":
                line |= {"recall [95 %]": _range(row, "recall"), "precision": _one(row, "precision"), "F1": _one(row, "F1")}
                line |= {"taken for it": f"{row['predicted']:.1f}", "clusters": row["clusters"]}
            else:
                line |= {"UA": _spread(row, "UA"), "WA": _spread(row, "WA")}
        result.append(line)
    return result, legend(found)


def legend(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines that explain the marks and hold the notes of rows."""
    lines = []
    if any(peeks(row["selection"]) for row in found):
        lines.append(f"{TEST_SIDE} the epoch was chosen by looking at the test side: no estimate for new speakers")
    if any(row["audit"] == "overridden" for row in found):
        lines.append(f"{LEAK} a fold was trained although its audit failed (--allow-leaks)")
    experiments = dict.fromkeys(row["experiment"] for row in found)
    of_note: dict[str, dict[str, None]] = {}
    for row in found:
        for note in row.get("notes", ()):
            of_note.setdefault(note, {})[row["experiment"]] = None
    for note, of in of_note.items():  # what holds of several is said once
        who = "all of them" if 1 < len(of) == len(experiments) else ", ".join(of)
        lines.append(f"{who}: {note}")
    return lines


def marks(row: Mapping[str, Any]) -> str:
    """Return the marks of a row's numbers."""
    return mark(row["selection"], row["audit"])


def _one(row: Mapping[str, Any], name: str) -> str:
    return "" if row[name] is None else f"{100 * row[name]:.1f}{marks(row)}"


def _spread(row: Mapping[str, Any], name: str) -> str:
    if row[name] is None:
        return ""
    deviation = row[f"{name}_std"]
    return f"{100 * row[name]:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}") + marks(row)


def _range(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return _one(row, name) + ("" if low is None else f" [{100 * low:.1f}, {100 * high:.1f}]")


def _from_to(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if low is None else f"{100 * low:.0f} to {100 * high:.0f}{marks(row)}"


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
