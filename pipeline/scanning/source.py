"""What is scanned: a corpus, its folder or table, and how it is read.

In: a `Source`, of the command line or of a program. Out of `scan_source`: the report of its scan
(`tfser.pipeline.scanning.scan`). What was said in an earlier scan of the same corpus need not be said again
(`tfser.pipeline.corpora.locate`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from tfser.manifests.cache import Cache
from tfser.manifests.options import Option
from tfser.pipeline.corpora import Located, locate, with_annotations
from tfser.pipeline.scanning.scan import ScanListeners, ScanOptions, scan
from tfser.pipeline.scanning.scan_report import ScanReport


@dataclass(frozen=True, kw_only=True)
class Source:
    """A corpus as it was named; what is None or empty is taken from the last scan of it."""

    panel: ClassVar[str] = "Corpus"
    corpus: Annotated[str, Option("A known corpus (see `tfser corpora`), or one scanned before.", metavar="NAME")]
    root: Annotated[
        Path | None, Option("Its folder or URL (s3://...); else $TFSER_CORPORA/<corpus>, or the last scan's.", metavar="DIR")
    ] = None
    name: Annotated[str | None, Option("Name it gets in the cache, for a second copy or a table.", metavar="NAME")] = None
    table: Annotated[Path | None, Option("With --corpus table: the csv, tsv or Parquet file.", metavar="FILE")] = None
    columns: Annotated[
        Mapping[str, str],
        Option("With table or audformat: what a column is called, e.g. label=emo.", flag="--column", metavar="OURS=THEIRS"),
    ] = field(default_factory=dict)
    delimiter: Annotated[str | None, Option("With --corpus table: between columns; guessed if left out.")] = None
    annotations: Annotated[
        Path | None, Option("Single ratings: csv, tsv or Parquet, a row a rating; none: those of the corpus.", metavar="FILE")
    ] = None
    annotation_columns: Annotated[
        Mapping[str, str],
        Option("What a column of it is called, e.g. rater=worker.", flag="--annotation-column", metavar="OURS=THEIRS"),
    ] = field(default_factory=dict)
    scale: Annotated[
        str | None,
        Option("Ends of the scale that valence, arousal and dominance are rated on: 1-7, -1:1.", metavar="LOW-HIGH"),
    ] = None
    rescan: Annotated[bool, Option("Decode every file again, and read weights again, instead of believing size and time.")] = (
        False
    )
    max_duration: Annotated[
        float | None, Option("Longest utterance; half an hour unless asked before.", metavar="SECONDS", minimum=0.1)
    ] = None
    allow_loss: Annotated[bool, Option("Go on even if most of what the last scan could read is gone from the folder.")] = False

    def locate(self, cache: Cache) -> Located:
        """Return the reader, the folder and the reader's options.

        Raises:
            UsageError: if the corpus is unknown, or its folder or table is nowhere to be found.
        """
        located = locate(
            cache,
            self.corpus,
            name=self.name,
            root=self.root,
            table=self.table,
            columns=self.columns or None,
            delimiter=self.delimiter,
            scale=self.scale,
        )
        return with_annotations(cache, located, self.annotations, self.annotation_columns or None)


def scan_source(
    cache: Cache,
    source: Source,
    located: Located,
    listeners: ScanListeners,
) -> ScanReport:
    """Index a source into the cache, as `tfser.pipeline.scanning.scan.scan`, which says what is raised.

    Args:
        cache: where to.
        source: what was asked.
        located: where that is (`Source.locate`).
        listeners: who hears how it goes.
    """
    return scan(
        cache,
        located.reader,
        corpus=located.corpus,
        root=located.root,
        options=located.options,
        how=ScanOptions(rescan=source.rescan, max_duration_s=source.max_duration, allow_loss=source.allow_loss),
        listeners=listeners,
    )
