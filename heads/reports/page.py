"""The report page: one HTML file that holds everything, opens from a disk, and needs no script to be read.

In goes the catalogue and what was chosen of it (`tfser.heads.reports.material`); out comes the text of the page, the same bytes
for the same runs: no time of now, sorted, ids by number. Labels, transcripts and names are other people's text: the template
escapes all of it, control characters and marks that turn the direction of writing are shown as escapes, and the page's own
policy lets nothing run but its one short script and fetch nothing at all. The page is kept small: utterances behind the cells of
a confusion are cut to what fits, the number of those left out stands there, and the SQL gives all of them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfser import __version__
from tfser.heads.reports import corpus_data, failing_data, scores_data, trust_data
from tfser.heads.reports.drawing import draw
from tfser.heads.reports.figure_data import FigureData, percent_of, text_of
from tfser.heads.reports.material import Contender, Material, spoken
from tfser.heads.reports.recordings import Heard
from tfser.heads.reports.report_tables import ReportTable, of_numbers, score_table, table_of
from tfser.heads.reports.style import house_style, inline_svg
from tfser.heads.results.marks import explain_marks, is_independent, standing
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.errors import UsageError
from tfser.manifests.wording import count, visible

PAGE_INCHES, SMALL_INCHES = 5.2, 3.3
"""How wide figures of a page are drawn: letters of 7.5 points are read at 1280 pixels and at 420."""

DETAILED = 2
"""Experiments that are shown in detail where none is named: the best of them."""

SCORES_NOTE = (
    "UA: unweighted accuracy, the mean of the classes' recalls; WA: weighted accuracy, the share that is right. Pooled: over all "
    "test utterances of a seed's folds together. The interval is of other speakers of the same kind."
)

_MOST_BYTES = 1_900_000
_CELL_ROWS = (40, 15, 6, 2, 0)
"""Utterances shown a cell: as many as leave the page small."""

_SCRIPT = (
    "function o(){var t=location.hash&&document.getElementById(decodeURIComponent(location.hash.slice(1)));"
    "for(var e=t;e;e=e.parentElement)if(e.tagName==='DETAILS')e.open=true;if(t)t.scrollIntoView()}"
    "addEventListener('hashchange',o);o()"
)
"""Opens what is folded around a link's target, in browsers that do not do so by themselves."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a page is to hold beyond the scores.

    `experiments` are shown in detail. `command` is what was typed. `heard` is the sound of confident mistakes, if asked for.
    """

    experiments: tuple[str, ...]
    command: str
    heard: Heard | None = None
    title: str | None = None


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
        return about | {"svg": _Safe(self.svg), "numbers": self.numbers}


class _Safe(str):
    """SVG that this package made and escaped."""

    def __html__(self) -> str:
        return self


def detailed(material: Material, named: bool) -> tuple[str, ...]:
    """Return the experiments to show in detail: all that were named, else the best few of each group, the best group first."""
    if named:
        return tuple(member.experiment for member in material.members)
    best = [group.members[:DETAILED] for group in material.groups]
    return tuple(member.experiment for members in zip(*_padded(best), strict=True) for member in members if member)[:DETAILED]


def _padded(groups: Sequence[Sequence[Contender]]) -> list[list[Contender | None]]:
    longest = max(map(len, groups))
    return [[*group, *[None] * (longest - len(group))] for group in groups]


def write_page(connection: Connection, material: Material, wishes: Wishes) -> str:
    """Return the text of the page.

    Args:
        connection: the catalogue that the material was read from.
        material: the experiments.
        wishes: what to show of them.
    """
    chosen = [member for member in material.members if member.experiment in wishes.experiments]
    with house_style():
        parts = [_experiment(connection, one, wishes) for one in chosen]
        differences = [drawn(data, f"d{i + 1}") for i, data in enumerate(_differences(material, chosen))]
        forests = [drawn(scores_data.forest(group), f"f{i + 1}") for i, group in enumerate(material.groups)]
        corpora = _corpora(connection, material)
    context = _context(connection, material, wishes, chosen)
    context |= {
        "forests": [of.shown() for of in forests],
        "differences": [of.shown() for of in differences],
        "corpora": corpora,
    }
    text = ""
    for most in _CELL_ROWS:
        shown = [{**part, "cells": _cells(part["one"], part["in_cells"], most)} for part in parts]
        text = render({**context, "experiments": shown})
        sound = sum(map(len, wishes.heard.addresses.values())) if wishes.heard else 0
        if len(text.encode(errors="backslashreplace")) - sound <= _MOST_BYTES:
            break
    return text


def render(context: Mapping[str, Any]) -> str:
    """Return the page of what its template needs."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tfser.heads", "reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["shown"] = lambda value: visible(str(value))
    environment.filters["shown_lines"] = lambda value: "\n".join(visible(line) for line in str(value).split("\n"))
    hashed = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        **context, script=_Safe(_SCRIPT), script_hash=f"sha256-{hashed}", version=__version__
    )


def drawn(data: FigureData, key: str, links: Mapping[str, tuple[str, str]] | None = None, width: float = PAGE_INCHES) -> Drawn:
    """Return a figure drawn, with the tables of its numbers."""
    svg = inline_svg(draw(data, width), key, visible(data.title), visible(data.reading), links)
    return Drawn(key=key, data=data, svg=svg, numbers=[of_numbers(numbers) for numbers in data.numbers])


def _experiment(connection: Connection, one: Contender, wishes: Wishes) -> dict[str, Any]:
    """Return everything that the page says of one experiment, its figures drawn."""
    figures: list[Drawn] = []
    missing: list[str] = []
    cells = trust_data.in_cells(connection, one)
    links = {
        f"{y}-{x}": (f"#{one.key}-cell-{y}-{x}", f"{a} taken for {b}: {count(len(cells[a, b]), 'utterance')}")
        for y, a in enumerate(one.classes)
        for x, b in enumerate(one.classes)
        if cells.get((a, b))
    }
    about = spoken(connection, [one.experiment])
    drawings: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("speakers", lambda: scores_data.speakers(connection, one)),
        ("confusion", lambda: scores_data.confusion(one)),
        ("curves", lambda: scores_data.curves(connection, one)),
        ("failing", lambda: failing_data.failing(one, about)),
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
        "mistakes": _mistakes(connection, one, wishes.heard),
        "missing": missing,
        "in_cells": cells,
    }


def _cells(one: Contender, cells: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]], most: int) -> dict[str, Any]:
    """Return the utterances behind each cell, so many of each at most, and how many there are."""
    found = []
    total = sum(map(len, cells.values()))
    shown = 0
    for y, a in enumerate(one.classes):
        for x, b in enumerate(one.classes):
            of = cells.get((a, b), [])
            if not of:
                continue
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
                        row["transcript"] or "",
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


def _mistakes(connection: Connection, one: Contender, heard: Heard | None) -> dict[str, Any] | None:
    data = trust_data.mistakes(connection, one)
    if not data.rows:
        return None
    columns = ["utterance", "speaker", "true", "taken for", "sure (%)", "seconds", "transcript"]
    lines = []
    for row in data.rows:
        line: list[Any] = [
            row["utterance_id"],
            row["speaker"] or "",
            row["label"],
            row["predicted"],
            percent_of(row["sure"]),
            "" if row["duration_s"] is None else f"{row['duration_s']:.1f}",
            row["transcript"] or "",
        ]
        if heard is not None:
            key = (row["corpus"], row["utterance_id"])
            missing = heard.missing.get(key, "no sound")
            address = heard.addresses.get(key)
            line.append({"audio": address, "text": row["utterance_id"] if address else missing})
        lines.append(tuple(line))
    table = ReportTable(
        title="confident mistakes, the surest first",
        columns=tuple([*columns, "listen"] if heard is not None else columns),
        rows=tuple(lines),
        right=frozenset({"sure (%)", "seconds"}),
        notes=() if heard is not None else ("tfser report --audio adds players.",),
    )
    return {"title": data.title, "reading": data.reading, "table": table, "numbers": [of_numbers(n) for n in data.numbers]}


def _differences(material: Material, chosen: Sequence[Contender]) -> list[FigureData]:
    """Return the difference of the first two experiments in detail, of each group that has two."""
    found = []
    for group in material.groups:
        members = [member for member in group.members if member in chosen]
        if len(members) > 1:
            found.append(scores_data.confusion_difference(members[0], members[1]))
    return found


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
    return (
        f"{one.name} ({row['head']} {row['preset']}, recipe {row['recipe']}, on {row['feature_set']}): pooled UA "
        f"{percent_of(row['pooled_UA'])} %{one.mark}{bounds}{over}, WA {percent_of(row['pooled_WA'])} %, selection "
        f"{outcome.selection}, {seeds}, {count(len(outcome.keys), 'utterance')}{new}; protocol {row['protocol']} "
        f"(hash {hashes}), "
        f"audit {standing(row)}{lacking}."
    )


def _corpora(connection: Connection, material: Material) -> list[dict[str, Any]]:
    found = []
    for i, group in enumerate(material.groups):
        table, notes = corpus_data.speakers_table(connection, group)
        lengths = corpus_data.durations(connection, group)
        found.append(
            {
                "title": f"{group.corpus}, {group.protocol}",
                "notes": notes,
                "speakers": table,
                "durations": drawn(lengths, f"l{i + 1}").shown() if lengths else None,
                "duplicates": of_numbers(corpus_data.duplicates(connection, group)),
            }
        )
    return found


def _context(connection: Connection, material: Material, wishes: Wishes, chosen: Sequence[Contender]) -> dict[str, Any]:
    """Return what the template needs beside figures."""
    members = material.members
    findings, findings_sql = corpus_data.audit_findings(connection, members)
    licences, licences_sql = corpus_data.corpora_rows(connection, material.groups)
    tables = [score_table(material, group) for group in material.groups]
    published = [
        table_of(f"Published for {group.corpus}: as papers print it, under their own protocols, not ours", found)
        for group in material.groups
        if (found := corpus_data.published_rows(group))
    ]
    corpora = ", ".join(dict.fromkeys(group.corpus for group in material.groups))
    detail = f", {len(chosen)} of them in detail" if len(chosen) < len(members) else ""
    left = f"; {len(material.left_out)} left out, listed below" if material.left_out else ""
    heard = wishes.heard
    if heard is not None and heard.missing:
        left += f"; {count(len(heard.missing), 'recording')} could not be had"
    return {
        "title": wishes.title or f"Speech emotion recognition on {corpora}",
        "subtitle": f"{count(len(members), 'experiment')}{detail}{left}.",
        "sentences": [{"text": sentence(connection, one), "alarm": not is_independent(one.row)} for one in members[:40]],
        "marks": explain_marks([one.row for one in members]),
        "score_tables": tables,
        "published": published,
        "left_out": table_of("left out, and why", [{"what": a, "why": b} for a, b in material.left_out])
        if material.left_out
        else None,
        "audits": table_of("findings of the audits", findings, most=100, sql=findings_sql),
        "licences": table_of("corpora", licences, sql=licences_sql),
        "made": [corpus_data.how_made(connection, one) for one in chosen],
        "command": wishes.command,
        "scores_note": SCORES_NOTE,
    }
