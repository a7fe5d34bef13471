"""`tfser report`: a page that people send to co-authors, or its tables."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tfser.heads.reports import corpus_data, failing_data, page, report_tables, scores_data
from tfser.heads.reports.dimension_parts import dimension_tables, rated_beside
from tfser.heads.reports.material import Material, read_material, spoken
from tfser.heads.reports.recordings import listen
from tfser.heads.reports.trust_data import mistakes
from tfser.heads.reports.wishes import ReportWishes
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, open_catalogue
from tfser.manifests.commands.printing import InCache
from tfser.manifests.display import say, show
from tfser.manifests.errors import UsageError
from tfser.manifests.experiment_names import meant_by
from tfser.manifests.garbage import rarely_collected
from tfser.manifests.options import Option
from tfser.manifests.outputs import check_output, format_of, output_to, writing
from tfser.manifests.wording import size

PAGE = Path("report.html")


class ReportKind(StrEnum):
    """How a report is written."""

    html = "html"
    markdown = "markdown"
    latex = "latex"


@rarely_collected()
def report(
    experiments: Annotated[
        list[str] | None,
        typer.Argument(metavar="EXPERIMENT", help="Ids, enough of them, or names; all complete ones if left out."),
    ] = None,
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The page (report.html if left out); tables: else standard output."),
    ] = None,
    format: Annotated[
        ReportKind | None, Option("html, or the tables as markdown or latex; by the output's suffix if left out.")
    ] = None,
    wishes: ReportWishes,
    place: InCache,
) -> None:
    """Write a page of scores with intervals, speakers, confusions, errors and audits, with the SQL of each number.

    It is one file that opens from a disk and needs no network. --format markdown and latex write its tables.

    Raises:
        UsageError: if there is no such experiment, or nothing to report.

    Example:
        tfser report
        tfser report svm logreg --output report.html --audio
    """
    kind = format or _kind_of(output)
    if kind is not ReportKind.html and wishes.audio:
        raise UsageError("--audio goes with a page, not with --format markdown or latex")
    target = (output or PAGE) if kind is ReportKind.html else output
    check_output(target)
    store = place.store
    named = experiments or []
    with open_catalogue(store) as connection:
        if report_dimensions(store, connection, named, wishes, kind, target):
            return
        material = read_material(store, connection, named, selection=wishes.selection)
        if kind is ReportKind.html:
            assert target is not None
            text, files = page_text(connection, material, wishes, named, target)
        else:
            tables = table_lines(connection, material, kind)
    if kind is not ReportKind.html:
        _write_tables(target, tables)
        return
    assert target is not None
    write(target, text, files)
    say_where(target, text, files, material)


def _write_tables(target: Path | None, lines: Sequence[str]) -> None:
    with output_to(target):
        show(*lines)
    if target is not None:
        say(f"tables written to {target}")


def report_dimensions(
    store: Cache, connection: Connection, named: list[str], wishes: ReportWishes, kind: ReportKind, target: Path | None
) -> bool:
    """Write the page or tables of experiments on dimensions, where these alone are meant; return whether they are.

    Raises:
        UsageError: some of those named learned classes, and some dimensions.
    """
    from tfser.heads.reports.dimension_page import dimension_tables_of, rated_experiments, write_dimension_page
    from tfser.heads.reports.report_tables import latex_of, markdown_of

    rated, classes = rated_experiments(connection, [meant_by(store, name) for name in named])
    if not rated:
        return False
    if classes and named:
        raise UsageError(f"{rated[0]} learned dimensions and {classes[0]} classes: a report is of one kind; name those alone")
    if classes:
        for name in rated:
            say(f"left out: {name}: it learned dimensions; `tfser report {name}` shows it")
        return False
    if wishes.audio:
        raise UsageError("--audio is of mistaken classes, and these experiments rate dimensions; leave it out")
    if kind is not ReportKind.html:
        tables = dimension_tables_of(connection, rated, wishes.selection)
        _write_tables(target, markdown_of(tables) if kind is ReportKind.markdown else latex_of(tables))
        return True
    assert target is not None
    command = " ".join(["tfser report", *map(shlex.quote, named), "--output", shlex.quote(target.name)])
    text = write_dimension_page(connection, rated, wishes.selection, command, wishes.title)
    write(target, text, {})
    say(f"{target} ({size(len(text.encode()))}): open it in a browser")
    return True


def say_where(target: Path, text: str, files: dict[str, bytes], material: Material) -> None:
    """Say what was left out, and where the page lies."""
    for what, why in material.left_out:
        say(f"left out: {what}: {why}")
    beside = f", with {len(files)} recordings in {target.parent / _beside(target)}" if files else ""
    say(f"{target} ({size(len(text.encode()))}){beside}: open it in a browser")


@rarely_collected()
def report_here(store: Cache, target: Path) -> None:
    """Write the page of everything in a cache, and say where it lies.

    Raises:
        UsageError: if there is nothing to report.
    """
    with open_catalogue(store) as connection:
        material = read_material(store, connection)
        text, files = page_text(connection, material, ReportWishes(), [], target)
    write(target, text, files)
    say(f"the report page: {target}; open it in a browser")


def _kind_of(output: Path | None) -> ReportKind:
    """Return how to write by the output's suffix: a page where it says nothing else."""
    suffix = None if output is None else format_of(output, ("html", "htm", "md", "tex"))
    return {"md": ReportKind.markdown, "tex": ReportKind.latex}.get(suffix or "html", ReportKind.html)


def _beside(target: Path) -> str:
    """Return the name of the folder beside a page that holds its recordings."""
    return f"{target.stem}-audio"


def page_text(
    connection: Connection, material: Material, wishes: ReportWishes, named: list[str], target: Path
) -> tuple[str, dict[str, bytes]]:
    """Return the page, and by name the recordings that go beside it."""
    chosen = page.detailed(material, bool(named))
    heard = None
    if wishes.audio:
        of = [member for member in material.members if member.experiment in chosen]
        wanted = [(row["corpus"], row["utterance_id"]) for one in of for row in mistakes(connection, one).rows]
        heard = listen(connection, wanted, _beside(target), wishes.audio_mb)
    words = ["tfser report", *map(shlex.quote, named), "--output", shlex.quote(target.name)]
    words += [f"--selection {shlex.quote(wishes.selection)}"] if wishes.selection != "last" else []
    words += ["--audio"] if wishes.audio else []
    asked = page.Wishes(experiments=chosen, command=" ".join(words), heard=heard, title=wishes.title)
    return page.write_page(connection, material, asked), dict(heard.files) if heard else {}


def write(target: Path, text: str, files: dict[str, bytes]) -> None:
    """Write the page, its recordings first, so that a page never lacks one."""
    if files:
        (target.parent / _beside(target)).mkdir(exist_ok=True)
    for name, content in files.items():
        with writing(target.parent / name) as file:
            file.write(content)
    with writing(target) as file:
        file.write(text.encode(errors="backslashreplace"))


def table_lines(connection: Connection, material: Material, kind: ReportKind) -> list[str]:
    """Return the tables of a report: scores, of each experiment recalls, speakers and groups, and the scores of dimensions."""
    tables = [report_tables.score_table(material, group) for group in material.groups]
    for one in material.members:
        tables.append(report_tables.recall_table(scores_data.confusion(one)))
        if any(who is not None for who in one.outcome.who["speaker"]):
            tables.append(report_tables.speaker_table(scores_data.speakers(connection, one)))
        groups = failing_data.failing(one, spoken(connection, [one.experiment]))
        if groups.rows:
            tables.append(report_tables.failing_table(groups))
    beside = [rated for one in material.members if (rated := rated_beside(connection, one)) is not None]
    tables += dimension_tables(beside)
    for group in material.groups:
        table, _ = corpus_data.speakers_table(connection, group)
        if table.rows:
            tables.append(table)
    if material.left_out:
        rows = [{"what": what, "why": why} for what, why in material.left_out]
        tables.append(report_tables.table_of(f"left out: {len(rows)}", rows))
    return report_tables.markdown_of(tables) if kind is ReportKind.markdown else report_tables.latex_of(tables)
