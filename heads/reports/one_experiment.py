"""One experiment as a page shows it: its sentence, its figures, the utterances behind each cell, its confident mistakes.

In goes the catalogue and a contender; out come values for the macro `experiment` of parts.html, which the report and `tfser ui`
share. Nothing is trained, and no sound is read: where players are wanted, their addresses are given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tfser.heads.reports import failing_data, scores_data, trust_data
from tfser.heads.reports.dimension_parts import RatedContender, scatter
from tfser.heads.reports.drawing import draw
from tfser.heads.reports.epochs_data import curves
from tfser.heads.reports.figure_data import FigureData, percent_of, text_of
from tfser.heads.reports.material import Contender, spoken
from tfser.heads.reports.recordings import Players
from tfser.heads.reports.report_tables import ReportTable, brief, of_numbers
from tfser.heads.reports.style import inline_svg
from tfser.heads.reports.templates import Safe
from tfser.heads.results.marks import is_independent, standing
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.errors import UsageError
from tfser.manifests.wording import count, visible

PAGE_INCHES, SMALL_INCHES = 5.2, 3.3
"""How wide figures of a page are drawn: letters of 7.5 points are read at 1280 pixels and at 420."""


@dataclass(frozen=True, kw_only=True)
class Links:
    """Where a page leads: `cell` returns it for a true and a predicted class, `utterance` for a corpus and an id.

    None: a cell leads to the page's own list of utterances, an utterance nowhere.
    """

    cell: Callable[[str, str], str] | None = None
    utterance: Callable[[str, str], str] | None = None


@dataclass(kw_only=True)
class Drawn:
    """A figure of the page, drawn once, however often the page is put together."""

    key: str
    data: FigureData
    svg: str = ""
    numbers: list[ReportTable] = field(default_factory=list)

    def shown(self) -> dict[str, Any]:
        """Return what the template takes."""
        data = self.data
        about = {"key": self.key, "kind": data.kind, "title": data.title, "reading": data.reading, "notes": data.notes}
        return about | {"svg": Safe(self.svg), "numbers": self.numbers}


def drawn(data: FigureData, key: str, links: Mapping[str, tuple[str, str]] | None = None, width: float = PAGE_INCHES) -> Drawn:
    """Draw a figure of a page. Call in `house_style`."""
    svg = inline_svg(draw(data, width), key, visible(data.title), visible(data.reading), links)
    return Drawn(key=key, data=data, svg=svg, numbers=[of_numbers(numbers) for numbers in data.numbers])


def experiment_part(
    connection: Connection,
    one: Contender,
    players: Players | None = None,
    links: Links | None = None,
    beside: RatedContender | None = None,
) -> dict[str, Any]:
    """Return everything that a page says of one experiment, its figures drawn. Call in `house_style`.

    Args:
        connection: the catalogue.
        one: the experiment.
        players: those of the page, for its confident mistakes, if sound is wanted.
        links: where cells of the confusion and utterances lead.
        beside: what it says of dimensions, if it learned any beside its classes.
    """
    links = links or Links()
    cells = trust_data.in_cells(connection, one)
    figures, missing = _figures(connection, one, _cell_links(one, cells, links.cell), beside)
    sure = trust_data.read_sureness(connection, one)
    trust = [
        drawn(make(one, sure), f"{one.key}-{make.__name__}", width=SMALL_INCHES)
        for make in (trust_data.reliability, trust_data.risk, trust_data.entropy)
    ]
    return {
        "one": one,
        "key": one.key,
        "name": one.name,
        "title": f"{one.name}{one.mark}" + (f" ({one.incomplete})" if one.incomplete else ""),
        "sentence": sentence(connection, one),
        "figures": [figure.shown() for figure in figures],
        "trust": [figure.shown() for figure in trust],
        "mistakes": _mistakes(connection, one, players, links),
        "missing": missing,
        "in_cells": cells,
    }


def _cell_links(
    one: Contender, cells: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]], cell_link: Callable[[str, str], str] | None
) -> dict[str, tuple[str, str]]:
    """Return by place in the confusion where a cell that holds utterances leads, and what a screen reader says of it."""
    return {
        f"{y}-{x}": (
            cell_link(a, b) if cell_link else f"#{one.key}-cell-{y}-{x}",
            f"{visible(a)} taken for {visible(b)}: {count(len(cells[a, b]), 'utterance')}",
        )
        for y, a in enumerate(one.classes)
        for x, b in enumerate(one.classes)
        if cells.get((a, b))
    }


def _figures(
    connection: Connection, one: Contender, links: Mapping[str, tuple[str, str]], beside: RatedContender | None
) -> tuple[list[Drawn], list[str]]:
    """Return the figures of an experiment, and why others could not be drawn."""
    figures: list[Drawn] = []
    missing: list[str] = []
    about = spoken(connection, [one.experiment])
    drawings: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("speakers", lambda: scores_data.speakers(connection, one)),
        ("confusion", lambda: scores_data.confusion(one)),
        ("curves", lambda: curves(connection, one)),
        ("failing", lambda: failing_data.failing(one, about)),
        *([(name, partial(scatter, beside, name)) for name in beside.rated.dimensions] if beside is not None else ()),
    )
    for kind, make in drawings:
        try:
            data = make()
        except UsageError as error:
            missing.append(str(error))
            continue
        if not data.rows:
            missing.append(f"{data.title}: {data.reading}")
            continue
        figures.append(drawn(data, f"{one.key}-{kind}", links if kind == "confusion" else None))
    return figures, missing


def cells_part(one: Contender, cells: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]], most: int) -> dict[str, Any]:
    """Return the utterances behind each cell, so many of each at most, and how many there are."""
    found = []
    total = sum(map(len, cells.values()))
    shown = 0
    for y, a in enumerate(one.classes):
        for x, b in enumerate(one.classes):
            of = cells.get((a, b), [])
            if not of:
                continue
            # So many of a cell, the surest first; what is left out is counted, and its SQL gives it.
            kept = of[:most]
            shown += len(kept)
            where = f"WHERE p.label = {text_of(a)} AND p.predicted = {text_of(b)}"
            left = (
                (f"The surest {len(kept)} of {len(of):,}; the SQL above gives all with {where}.",) if len(kept) < len(of) else ()
            )
            table = ReportTable(
                title=f"{a} taken for {b}",
                columns=("utterance", "speaker", "probabilities", "seconds", "transcript"),
                rows=tuple(
                    (
                        row["utterance_id"],
                        row["speaker"] or "",
                        trust_data.highest(row["probabilities"]),
                        "" if row["duration_s"] is None else f"{row['duration_s']:.1f}",
                        brief(row["transcript"] or ""),
                    )
                    for row in kept
                ),
                right=frozenset({"seconds"}),
                notes=left,
            )
            title = f"{a} taken for {b}: {count(len(of), 'utterance')}"
            found.append({"id": f"{one.key}-cell-{y}-{x}", "title": title, "table": table})
    seed = one.outcome.seeds[0]
    summary = f"{count(shown, 'utterance')} of {total:,}" if shown < total else count(total, "utterance")
    more = f", of seed {seed}" if len(one.outcome.seeds) > 1 else ""
    return {"cells": found, "summary": summary + more, "sql": trust_data.in_cell_sql(one)}


def _mistakes(connection: Connection, one: Contender, players: Players | None, links: Links) -> dict[str, Any] | None:
    data = trust_data.mistakes(connection, one)
    if not data.rows:
        return None
    columns = ["utterance", "speaker", "true", "taken for", "sure (%)", "seconds", "transcript"]
    lines = []
    for row in data.rows:
        name = row["utterance_id"]
        line: list[Any] = [
            {"href": links.utterance(row["corpus"], name), "text": name} if links.utterance else name,
            row["speaker"] or "",
            row["label"],
            row["predicted"],
            percent_of(row["sure"]),
            "" if row["duration_s"] is None else f"{row['duration_s']:.1f}",
            brief(row["transcript"] or ""),
        ]
        # A player where there is sound, else the reason why there is none.
        if players is not None:
            line.append(players.cell(row["corpus"], name))
        lines.append(tuple(line))
    table = ReportTable(
        title="confident mistakes, the surest first",
        columns=tuple([*columns, "listen"] if players is not None else columns),
        rows=tuple(lines),
        right=frozenset({"sure (%)", "seconds"}),
        notes=() if players is not None else ("tfser report --audio adds players.",),
    )
    return {"title": data.title, "reading": data.reading, "table": table, "numbers": [of_numbers(n) for n in data.numbers]}


def sentence(connection: Connection, one: Contender) -> str:
    """Say in one sentence what an experiment's score is, how it came about, and what it is worth."""
    row, outcome = one.row, one.outcome
    low, high = row["pooled_UA_low"], row["pooled_UA_high"]
    bounds = f" [{percent_of(low)}, {percent_of(high)}]" if low is not None else ""
    over = f" over {count(row['clusters'], row['clustered_by'])}" if row["clusters"] else ""
    hashed = rows(connection, "SELECT DISTINCT protocol_hash FROM runs WHERE experiment = ? ORDER BY 1", [one.experiment])
    hashes = ", ".join(str(found["protocol_hash"]) for found in hashed)
    new = ""
    if is_independent(row) and row.get("new_speaker_UA_low") is not None:
        ends = [percent_of(row[f"new_speaker_UA_{end}"], 0) for end in ("low", "high")]
        new = f"; a new speaker's UA lies between {ends[0]} and {ends[1]} %"
    seeds = f"{count(len(outcome.seeds), 'seed')}"
    lacking = f", incomplete: {one.incomplete}" if one.incomplete else ""
    # What the name says is not said again.
    about = {"preset": f"preset {row['preset']}", "recipe": f"recipe {row['recipe']}", "feature_set": f"on {row['feature_set']}"}
    told = [words for column, words in about.items() if str(row[column]) not in one.name.split()]
    return (
        f"{one.name}{' (' + ', '.join(told) + ')' if told else ''}: pooled UA "
        f"{percent_of(row['pooled_UA'])} %{one.mark}{bounds}{over}, WA {percent_of(row['pooled_WA'])} %, selection "
        f"{outcome.selection}, {seeds}, {count(len(outcome.keys), 'utterance')}{new}; protocol {row['protocol']} "
        f"(hash {hashes}), "
        f"audit {standing(row)}{lacking}."
    )
