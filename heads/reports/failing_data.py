"""Where an experiment fails: its UA by what is known of the utterances, the weakest group first.

In goes a contender and the columns of `utterances`; out comes `FigureData`: a row a group with its interval over speakers, and
the SQL that gives the scores. Numbers (duration, level, the raters' agreement) are cut into quarters of the tested utterances;
words (gender, scenario, sentence) are groups as they are. UA of a group is over the classes that occur in it, so groups of
other classes do not quite compare: the number of classes stands beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tfser.heads.reports.figure_data import FigureData, Numbers, identifier, percent_of, text_of
from tfser.heads.reports.material import Contender
from tfser.heads.results.intervals import interval
from tfser.heads.results.marks import explain_marks
from tfser.manifests.utterances import contract_columns
from tfser.manifests.wording import count

NUMBERS = {"duration_s": ("duration", "s"), "rms_db": ("level", "dB")}
WORDS = {"gender": "gender", "scenario": "scenario", "sentence": "sentence", "raters_agree": "raters"}
_ELSEWHERE = {"raters_agree": "rater_bands"}
"""Columns that are not in `utterances`, and the view that has them."""

_AGREEMENT = re.compile(r"agree|consensus|recogni[sz]ed|naturalness|natural_|confidence|raters|votes", re.I)
"""Columns of a corpus's own, when they are numbers, that say how raters judged an utterance."""

_PARTS = 4
_MOST_GROUPS = 12
"""Of one column of words: of more (hundreds of sentences), the weakest."""

_FEWEST = 5
"""Utterances: a group of fewer says nothing."""

Spoken = Mapping[tuple[str, str], Mapping[str, Any]]


def failing(contender: Contender, spoken: Spoken) -> FigureData:
    """Return the score of an experiment in each group of utterances, the weakest first.

    Args:
        contender: the experiment.
        spoken: the columns of `utterances` of each utterance, by corpus and id.
    """
    drawn, sql, few, hidden = _drawn(contender, spoken)
    weakest = drawn[0] if drawn else None
    return FigureData(
        kind="failing",
        title=f"Where it fails: {contender.name}{contender.mark}",
        reading="Nothing is known of these utterances by which they could be grouped."
        if weakest is None
        else f"The weakest group: {weakest['what']} {weakest['group']}, UA {percent_of(weakest['UA'])} % of "
        f"{count(weakest['n'], 'utterance')}.",
        numbers=(Numbers(title="UA of each group", sql=sql, rows=tuple(drawn), checked=("what", "group", "n", "classes", "UA")),),
        notes=tuple(_notes(contender, few, hidden)),
        details={"mean": contender.row["pooled_UA"]},
    )


def _drawn(contender: Contender, spoken: Spoken) -> tuple[list[dict[str, Any]], str, int, int]:
    """Return the groups to draw, the weakest first, the SQL that scores them, and how many are too small or too many to draw."""
    keys = [(key[0], key[1]) for key in contender.outcome.keys]
    drawn: list[dict[str, Any]] = []
    statements: list[str] = []
    few = hidden = 0
    for column, title, unit in _columns(spoken):
        values = [spoken.get(key, {}).get(column) for key in keys]
        groups, group_sql = _parts(column, unit, values) if unit is not None else _by_word(column, values)
        # Small groups swing by chance, and the weakest of many small ones is always very weak: they are counted, not drawn.
        large = [(place, name, members) for place, (name, members) in enumerate(groups) if len(members) >= _FEWEST]
        few += len(groups) - len(large)
        if len(large) < 2:  # one group alone is everybody
            continue
        scored: list[dict[str, Any]] = [
            {"what": title, "group": name, "place": place, **_scored(contender, members)} for place, name, members in large
        ]
        scored.sort(key=lambda row: (row["UA"], row["place"]))
        hidden += max(0, len(scored) - _MOST_GROUPS)
        drawn += scored[:_MOST_GROUPS] if unit is None else scored
        statements.append(_statement(contender, title, column, group_sql))
    drawn.sort(key=lambda row: (row["UA"], row["what"], row["place"]))
    for row in drawn:
        row.pop("place")
    names = {(row["what"], row["group"]) for row in drawn}
    kept = ", ".join(f"({text_of(what)}, {text_of(group)})" for what, group in sorted(names))
    sql = (
        "WITH groups AS (\n" + "\nUNION ALL\n".join(statements) + f'\n)\nSELECT * FROM groups WHERE (what, "group") IN ({kept})\n'
        'ORDER BY UA, what, "group"'
        if drawn
        else "SELECT NULL AS what WHERE false"
    )
    return drawn, sql, few, hidden


def _notes(contender: Contender, few: int, hidden: int) -> list[str]:
    """Return the marks explained, and how many groups are not drawn, and why."""
    notes = list(explain_marks([contender.row]))
    notes.append("UA is over the classes that a group has; quarters are of the tested utterances.")
    if few:
        notes.append(f"{count(few, 'group')} of fewer than {_FEWEST} utterances {'is' if few == 1 else 'are'} left out.")
    if hidden:
        notes.append(f"{count(hidden, 'group')} of many (sentences) {'is' if hidden == 1 else 'are'} not drawn: the weakest are.")
    return notes


def _columns(spoken: Spoken) -> list[tuple[str, str, str | None]]:
    """Return the columns to group by: name, title, and the unit of numbers (None: words)."""
    first = next(iter(spoken.values()), {})
    own = [name for name in first if name not in contract_columns() and _AGREEMENT.search(name)]
    agreed = [
        (name, name.replace("_percent", "").replace("_", " "), "%" if name.endswith("_percent") else "")
        for name in own
        if all(isinstance(row.get(name), (int, float, type(None))) for row in spoken.values())
    ]
    found: list[tuple[str, str, str | None]] = [(name, title, unit) for name, (title, unit) in NUMBERS.items()]
    return [*found, *agreed, *((name, title, None) for name, title in WORDS.items())]


def _parts(column: str, unit: str, values: Sequence[Any]) -> tuple[list[tuple[str, list[int]]], str]:
    """Cut numbers into quarters; return each with its utterances' places, and SQL that names the part of an utterance `u`."""
    numbers = [float(v) for v in values if v is not None]
    if len(set(numbers)) < 2:
        return [], ""
    edges = sorted({float(edge) for edge in np.quantile(numbers, [i / _PARTS for i in range(1, _PARTS)])} - {max(numbers)})
    place = np.searchsorted(edges, [np.nan if v is None else float(v) for v in values], side="left")
    bounds = [min(numbers), *edges, max(numbers)]
    names = [f"{_short(low)} to {_short(high)} {unit}".strip() for low, high in pairwise(bounds)]
    if len(set(names)) < len(names):
        names = [f"{i + 1}: {name}" for i, name in enumerate(names)]
    groups = [(name, [i for i, v in enumerate(values) if v is not None and place[i] == p]) for p, name in enumerate(names)]
    cases = " ".join(
        f"WHEN u.{identifier(column)} <= {edge!r} THEN {text_of(name)}" for edge, name in zip(edges, names, strict=False)
    )
    last = f"ELSE {text_of(names[-1])} END"
    sql = f"CASE WHEN u.{identifier(column)} IS NULL THEN NULL {cases} {last}"
    return groups, sql


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _by_word(column: str, values: Sequence[Any]) -> tuple[list[tuple[str, list[int]]], str]:
    groups: dict[str, list[int]] = {}
    for i, value in enumerate(values):
        if value is not None:
            groups.setdefault(str(value), []).append(i)
    return sorted(groups.items()), f"u.{identifier(column)}::VARCHAR"


def _scored(contender: Contender, members: Sequence[int]) -> dict[str, Any]:
    """Return the score of some utterances with its interval over speakers."""
    part = contender.outcome.take(members)
    by = contender.row["clustered_by"]
    # Names keep the corpus where the whole has several, so that two speakers of one name stay two.
    who = (
        ("all",) * len(members)
        if by is None
        else tuple(f"{key[0]}/{name}" for key, name in zip(part.keys, part.who[by], strict=True))
    )
    bounds = interval(part.counts(who, contender.classes), "UA")
    return {
        "n": len(members),
        "classes": len(set(part.labels)),
        "speakers": None if by is None else bounds.clusters,
        "UA": bounds.value,
        "low": bounds.low,
        "high": bounds.high,
    }


def _statement(contender: Contender, title: str, column: str, group: str) -> str:
    """Return SQL that scores each group of a column."""
    return (
        f'SELECT {text_of(title)} AS what, "group", sum(n)::BIGINT / {len(contender.outcome.seeds)} AS n, '
        "max(classes) AS classes, avg(UA ORDER BY seed) AS UA\n"
        'FROM (\n  SELECT "group", seed, sum(n) AS n, count(*) AS classes, avg(recall ORDER BY label) AS UA\n  FROM (\n'
        f'    SELECT {group} AS "group",\n      p.seed, p.label, count(*) AS n, avg(p.hit::INTEGER) AS recall\n'
        f"    FROM (SELECT * {contender.source()}) p JOIN {_ELSEWHERE.get(column, 'utterances')} u "
        "USING (corpus, utterance_id)\n"
        f'    WHERE u.{identifier(column)} IS NOT NULL GROUP BY ALL\n  ) GROUP BY ALL\n) GROUP BY "group"'
    )
