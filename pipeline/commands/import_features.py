"""`tfser import-features`: features that were computed elsewhere, as a feature set of the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from tfser.manifests.catalogue.reading import refresh
from tfser.manifests.commands.printing import InCache
from tfser.manifests.display import say, utterance_bar
from tfser.manifests.options import Option
from tfser.manifests.wording import count
from tfser.pipeline.commands.scan import Strict
from tfser.pipeline.extraction.new_shards import ShardWriting
from tfser.pipeline.feature_files import read_given
from tfser.pipeline.import_features import ImportReport, import_features, imported

NAMED = 5
"""Utterances that are named; of more, the number is said."""


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """What is imported, and how it is read."""

    panel: ClassVar[str] = "Features"
    corpus: Annotated[str, Option("The scanned corpus whose utterances the file is of.", metavar="NAME")]
    name: Annotated[str | None, Option("What to call the feature set; the file's name if left out.", metavar="NAME")] = None
    hop: Annotated[float | None, Option("Seconds between frames; without it, one vector an utterance.", metavar="SECONDS")] = None
    ids: Annotated[Path | None, Option("For .npy: a text file with an utterance id a line.", metavar="FILE")] = None
    id_column: Annotated[str | None, Option("The column of utterance ids.", metavar="NAME")] = None
    ignore: Annotated[tuple[str, ...], Option("Columns that are no features: a list, or repeated.", metavar="NAMES")] = ()
    dtype: Annotated[str, Option("Storage: float32 or float16.")] = "float32"
    words: Annotated[str | None, Option("Where they come from, in your words; kept with them.", metavar="TEXT")] = None


def import_own(
    *,
    file: Annotated[
        Path, typer.Argument(help="A .npy, .npz, .csv, .tsv or .parquet file, or a folder of ID.npy.", metavar="FILE")
    ],
    request: ImportRequest,
    strict: Strict = False,
    place: InCache,
) -> None:
    """Store features that were computed elsewhere, one vector an utterance or frames, as a feature set to train on.

    Ids mean utterances by their id, or else by the path, name or stem of their file. Whatever does not match is counted and
    named.

    Raises:
        UsageError: if the file cannot be read, or does not hold what was announced.

    Example:
        tfser import-features prosody.csv --corpus emodb --name prosody
        tfser import-features frames.npz --corpus emodb --hop 0.02
    """
    store = place.store
    given = read_given(
        file, as_frames=request.hop is not None, ids=request.ids, id_column=request.id_column, ignore=request.ignore
    )
    target = imported(given, file, name=request.name, hop_s=request.hop, dtype=request.dtype, words=request.words)
    with utterance_bar(f"importing {target.name}") as begin:
        report = import_features(store, request.corpus, given, target, ShardWriting(begin=begin, on_wait=say))
    refresh(store)
    for line in _lines(request.corpus, report):
        say(line)
    if strict and (report.strangers or report.lacking or report.unreadable):
        raise typer.Exit(1)


def _lines(corpus: str, report: ImportReport) -> list[str]:
    """Return what an import did, in sentences whose numbers add up."""
    named = f"{corpus} / {report.feature_set}"
    lines = [f"repaired: {line}" for line in report.repaired]
    lines.append(
        f"{named}: {count(report.rows, 'id')} in the file, {report.used:,} of them an utterance's: "
        f"{report.written:,} written, {report.before:,} were there, {len(report.unreadable):,} without readable audio"
    )
    for names, what in (
        (report.strangers, "in the file and no utterance's (or of several)"),
        (report.lacking, "of the corpus and not in the file (`tfser audit` misses them)"),
        (report.unreadable, "without readable audio, which nothing can be tied to"),
    ):
        if names:
            more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
            lines.append(f"{named}: {len(names):,} {what}: {', '.join(names[:NAMED])}{more}")
    return lines
