"""`tfser scan`, and what other commands that scan show while they do: progress, counts, what was skipped."""

from __future__ import annotations

from typing import Annotated

import typer

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import refresh
from tfser.manifests.commands.printing import Printing
from tfser.manifests.display import Output, bar, print_rows, say, utterance_bar
from tfser.manifests.errors import TfserError
from tfser.manifests.options import Option
from tfser.pipeline.scanning.scan import ScanListeners
from tfser.pipeline.scanning.scan_report import ScanReport
from tfser.pipeline.scanning.source import Source, scan_source
from tfser.pipeline.stores.corpus_copy import with_copy

Strict = Annotated[bool, Option("Exit with 1 if anything was skipped.")]


def scan(*, source: Source, strict: Strict = False, printing: Printing) -> None:
    """Index a corpus without extracting: who speaks what, where, how long, how loud.

    Raises:
        TfserError: if nothing of the corpus can be heard.

    Example:
        tfser scan --corpus emodb --root ~/corpora/emodb
        tfser scan --corpus table --table mine.csv --column label=emo --column speaker=who
    """
    store = printing.store
    report = show_scan(store, source)
    refresh(store)
    if printing.format is not Output.table:
        print_rows([report.to_row()], printing.format)
    if report.failure is not None:
        raise TfserError(report.failure)
    if strict and report.skipped:
        raise typer.Exit(1)


def show_scan(store: Cache, source: Source, is_brief: bool = False) -> ScanReport:
    """Scan a source under a progress bar, say what was found, and return it.

    Args:
        store: the cache.
        source: what is scanned.
        is_brief: where nothing has changed since the last scan, say that in one line, and not again what that one said.
    """
    source = with_copy(store, source, say)
    located = source.locate(store)
    with utterance_bar(f"scanning {located.corpus}") as begin, bar(f"generating {located.corpus}") as generating:
        report = scan_source(
            store,
            source,
            located,
            ScanListeners(
                begin=lambda files: begin(files, 0.0),
                on_prepare=lambda done, total: generating(completed=done, total=total),
                on_wait=say,
            ),
        )
    for line in report.brief() if is_brief and not report.changed else report.lines():
        say(line)
    return report
