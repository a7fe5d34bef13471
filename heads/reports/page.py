"""The report page: one HTML file that holds everything, opens from a disk, and needs no script to be read.

In goes the catalogue and what was chosen of it (`tfser.heads.reports.material`); out comes the text of the page, the same bytes
for the same runs: no time of now, sorted, ids by number. Labels, transcripts and names are other people's text: the template
escapes all of it, control characters and marks that turn the direction of writing are shown as escapes, and the page's own
policy lets nothing run but its one short script and fetch nothing at all. The page is kept small: utterances behind the cells of
a confusion are cut to what fits, the number of those left out stands there, and the SQL gives all of them. Where that is not
enough, fewer experiments are shown in detail, and long tables are cut; what is left out is said, and where it is found.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfser import __version__
from tfser.heads.reports import corpus_data, scores_data
from tfser.heads.reports.dimension_parts import SCORES_NOTE as RATINGS_NOTE
from tfser.heads.reports.dimension_parts import RatedContender, dimension_tables, rated_beside, rated_sentence
from tfser.heads.reports.figure_data import FigureData
from tfser.heads.reports.material import Contender, Material
from tfser.heads.reports.one_experiment import cells_part, drawn, experiment_part, sentence
from tfser.heads.reports.published_data import published_ratings, published_tables
from tfser.heads.reports.recordings import Heard, Players
from tfser.heads.reports.report_tables import of_numbers, score_table, shortened, table_of
from tfser.heads.reports.style import house_style
from tfser.heads.reports.templates import Safe, environment
from tfser.heads.results.marks import explain_marks, is_independent
from tfser.manifests.catalogue.reading import Connection
from tfser.manifests.notes import note
from tfser.manifests.wording import count

DETAILED = 2
"""Experiments that are shown in detail where none is named: the best of them."""

SCORES_NOTE = (
    "UA: unweighted accuracy, the mean of the classes' recalls; WA: weighted accuracy, the share that is right. Pooled: over all "
    "test utterances of a seed's folds together. The interval is of other speakers of the same kind."
)

SENTENCES = 6
"""Experiments that a sentence is said of at the head."""

_MOST_BYTES = 1_900_000
_CELL_ROWS = (40, 15, 6, 2, 0)
"""Utterances shown a cell: as many as leave the page small."""

_MOST_ROWS = 200
"""Rows of a table of scores, and speakers of a corpus."""

_SCRIPT = (
    "function o(){var t=location.hash&&document.getElementById(decodeURIComponent(location.hash.slice(1)));"
    "for(var e=t;e;e=e.parentElement)if(e.tagName==='DETAILS')e.open=true;if(t)t.scrollIntoView()}"
    "document.querySelectorAll('a.same').forEach(function(a){var p=document.getElementById(a.hash.slice(1)).cloneNode();"
    "p.id='';a.replaceWith(p)});addEventListener('hashchange',o);o()"
)
"""Opens what is folded around a link's target, in browsers that do not by themselves; puts players where links lead to one."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a page is to hold beyond the scores.

    `experiments` are shown in detail. `command` is what was typed. `heard` is the sound of confident mistakes, if asked for.
    """

    experiments: tuple[str, ...]
    command: str
    heard: Heard | None = None
    title: str | None = None


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
    rated = {one.experiment: of for one in material.members if (of := rated_beside(connection, one)) is not None}
    with house_style():
        context = _context(connection, material, wishes, chosen, rated)
        forests = [drawn(scores_data.forest(group), f"f{i + 1}") for i, group in enumerate(material.groups)]
        about = {"forests": [of.shown() for of in forests], "corpora": _corpora(connection, material)}
        around = {**context, **about, "differences": [], "experiments": []}
        parts = _parts(connection, chosen, wishes, rated, around)
        shown_in_detail = chosen[: len(parts)]
        differences = [drawn(data, f"d{i + 1}") for i, data in enumerate(_differences(material, shown_in_detail))]
    if len(parts) < len(chosen):
        context = _context(connection, material, wishes, shown_in_detail, rated)
        context["subtitle"] += f" {_not_in_detail(chosen[len(parts) :])}"
    context |= {**about, "differences": [of.shown() for of in differences]}
    text = ""
    for most in _CELL_ROWS:
        shown = [{**part, "cells": cells_part(part["one"], part["in_cells"], most)} for part in parts]
        text = render({**context, "experiments": shown})
        sound = sound_bytes(text, wishes.heard.addresses.values()) if wishes.heard else 0
        if len(text.encode(errors="backslashreplace")) - sound <= _MOST_BYTES:
            break
    return text


def _parts(
    connection: Connection,
    chosen: Sequence[Contender],
    wishes: Wishes,
    rated: Mapping[str, RatedContender],
    around: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return the experiments in detail, from the first on as many as the page has room for: one at least. Call in `house_style`.

    Args:
        connection: the catalogue.
        chosen: the experiments to show in detail.
        wishes: what else the page is to hold.
        rated: by experiment, what it says of dimensions.
        around: what the template takes for the rest of the page.
    """
    players = Players(wishes.heard) if wishes.heard else None
    addresses = wishes.heard.addresses.values() if wishes.heard else ()
    is_tight = len(chosen) > DETAILED
    room = _MOST_BYTES - len(render(around).encode(errors="backslashreplace")) if is_tight else 0
    parts: list[dict[str, Any]] = []
    for one in chosen:
        part = experiment_part(connection, one, players, beside=rated.get(one.experiment))
        if is_tight:
            # Without a single utterance behind its cells, which the page can do without.
            macro: Any = environment("reports").get_template("parts.html").module
            text = str(macro.experiment({**part, "cells": cells_part(one, part["in_cells"], 0)}))
            room -= len(text.encode(errors="backslashreplace")) - sound_bytes(text, addresses)
            if parts and room < 0:
                note(f"not in detail: {', '.join(each.name for each in chosen[len(parts) :])}: {_TOO_LARGE}")
                break
        parts.append(part)
    return parts


_TOO_LARGE = "the page would pass 2 MB; a report that names fewer experiments has room for them"


def _not_in_detail(left: Sequence[Contender]) -> str:
    """Return the sentence on experiments that somebody named and that the page has no room for."""
    return f"Not in detail: {', '.join(one.name for one in left)}: {_TOO_LARGE} (tfser report {left[0].experiment})."


def sound_bytes(text: str, addresses: Iterable[str]) -> int:
    """Count what players' addresses take of a page: sound stands there once, or never; files' names wherever they are heard.

    >>> sound_bytes("<audio src='data:A'></audio>", ["data:A", "data:B"])
    6
    """
    return sum(len(address) * text.count(address) for address in set(addresses))


def render(context: Mapping[str, Any]) -> str:
    """Return the page of what its template needs."""
    hashed = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    return (
        environment("reports")
        .get_template("page.html")
        .render(**context, script=Safe(_SCRIPT), script_hash=f"sha256-{hashed}", version=__version__)
    )


def _differences(material: Material, chosen: Sequence[Contender]) -> list[FigureData]:
    """Return the difference of the first two experiments in detail, of each group that has two."""
    found = []
    for group in material.groups:
        members = [member for member in group.members if member in chosen]
        if len(members) > 1:
            found.append(scores_data.confusion_difference(members[0], members[1]))
    return found


def _corpora(connection: Connection, material: Material) -> list[dict[str, Any]]:
    found = []
    for i, group in enumerate(material.groups):
        table, notes = corpus_data.speakers_table(connection, group)
        table = shortened(table, _MOST_ROWS, "the SQL below gives all")
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


def _context(
    connection: Connection, material: Material, wishes: Wishes, chosen: Sequence[Contender], rated: Mapping[str, RatedContender]
) -> dict[str, Any]:
    """Return what the template needs beside figures."""
    members = material.members
    findings, findings_sql = corpus_data.audit_findings(connection, members)
    licences, licences_sql = corpus_data.corpora_rows(connection, material.groups)
    left_out = table_of("left out, and why", [{"what": a, "why": b} for a, b in material.left_out])
    every_score = [score_table(material, group) for group in material.groups]
    tables = [shortened(of, _MOST_ROWS, "`tfser scores` shows all") for of in every_score]
    published = {of.title: of for group in material.groups for of in published_tables(connection, group)}
    for of in rated.values():
        row = of.shown.row
        found = published_ratings(connection, str(row["corpus"]), str(row["protocol"]), of.rated.dimensions)
        published |= {each.title: each for each in found}
    corpora = ", ".join(dict.fromkeys(group.corpus for group in material.groups))
    detail = f", {len(chosen)} of them in detail" if len(chosen) < len(members) else ""
    left = f"; {len(material.left_out)} left out, listed below" if material.left_out else ""
    # A sentence for those in detail and the next best: of more, nobody reads them, and the table has all.
    told = [*chosen, *(one for one in members if one not in chosen)][:SENTENCES]
    sentences = [{"text": sentence(connection, one), "alarm": not is_independent(one.row)} for one in told]
    of_ratings = [rated[one.experiment] for one in told if one.experiment in rated]
    sentences += [{"text": rated_sentence(of), "alarm": not is_independent(of.rows[-1])} for of in of_ratings]
    heard = wishes.heard
    if heard is not None and heard.missing:
        left += f"; {count(len(heard.missing), 'recording')} could not be had"
    return {
        "title": wishes.title or f"Speech emotion recognition on {corpora}",
        "subtitle": f"{count(len(members), 'experiment')}{detail}{left}.",
        "sentences": sentences,
        "more": f"{len(members) - len(told)} more stand in the table." if len(told) < len(members) else "",
        "marks": explain_marks([one.row for one in members]),
        "score_tables": [*tables, *dimension_tables(list(rated.values()))],
        "published": list(published.values()),
        "left_out": shortened(left_out, _MOST_ROWS, "`tfser report --format markdown` lists all") if left_out.rows else None,
        "left_out_count": len(left_out.rows),
        "audits": table_of("findings of the audits", findings, most=100, sql=findings_sql),
        "licences": table_of("corpora", licences, sql=licences_sql),
        "made": [corpus_data.how_made(connection, one) for one in chosen],
        "command": wishes.command,
        "scores_note": f"{SCORES_NOTE} {RATINGS_NOTE}" if rated else SCORES_NOTE,
    }
