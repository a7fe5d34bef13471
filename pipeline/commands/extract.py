"""`tfser extract`: a corpus scanned, and the frames that its feature set lacks computed and stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated

import typer

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import refresh_if_possible
from tfser.manifests.commands.printing import InCache
from tfser.manifests.display import Output, print_rows, say, utterance_bar
from tfser.manifests.errors import TfserError
from tfser.manifests.feature_name import FeatureName, joined_names
from tfser.manifests.options import Option
from tfser.manifests.wording import count
from tfser.pipeline.commands.join import show_join
from tfser.pipeline.commands.scan import Strict, show_scan
from tfser.pipeline.derived.from_stacks import take_stored_layers
from tfser.pipeline.extraction.extract import extract_pass
from tfser.pipeline.extraction.extract_report import ExtractReport
from tfser.pipeline.extraction.new_shards import ShardWriting
from tfser.pipeline.features.engine import Compute, Computing
from tfser.pipeline.features.registry import FeatureRequest, Pass, feature_pass
from tfser.pipeline.scanning.scan_report import ScanReport
from tfser.pipeline.scanning.source import Source


class ShardKind(StrEnum):
    """File format of new shards."""

    hdf5 = "hdf5"
    parquet = "parquet"


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """What a scan and an extraction after it did."""

    scanned: ScanReport
    reports: Sequence[ExtractReport]

    @property
    def refused(self) -> list[str]:
        """Why feature sets got nothing."""
        return [report.refused for report in self.reports if report.refused is not None]

    @property
    def skipped(self) -> bool:
        """Whether anything was skipped."""
        return bool(self.scanned.skipped) or any(report.skipped for report in self.reports)


def extract(
    *,
    features: Annotated[str, Option("See `tfser features`; or the hub id or folder of an encoder.", metavar="NAME")] = "logmel",
    shards: Annotated[ShardKind, Option("File format of new shards.", flag="--format")] = ShardKind.hdf5,
    report_as: Annotated[
        Output, Option("Print the counts on standard output, too: csv or json.", flag="--report")
    ] = Output.table,
    strict: Strict = False,
    source: Source,
    request: FeatureRequest,
    computing: Computing,
    place: InCache,
) -> None:
    """Scan a corpus and extract what its feature set lacks; a second run does nothing.

    Raises:
        UsageError: if the request is off.
        TfserError: if nothing of the corpus can be heard, or a feature set cannot be made.

    Example:
        tfser extract --corpus emodb --root ~/corpora/emodb
        tfser extract --corpus emodb --features whisper-base --layer all --dtype float16
    """
    store = place.store
    memo = store.root / "weights.json"
    wanted = feature_pass(features, replace(request, memo=memo, rehash=source.rescan))
    for note in wanted.notes:
        say(note)
    compute = computing.settled(features, is_encoder=wanted.is_encoder, tell=say)
    done = show_extraction(store, source, wanted, compute, shards)
    if report_as is not Output.table:
        print_rows([report.to_row() for report in done.reports], report_as)
    if done.refused:
        raise TfserError("; ".join(done.refused))
    if strict and done.skipped:
        raise typer.Exit(1)


def show_extraction(
    store: Cache, source: Source, wanted: Pass, compute: Compute, shards: ShardKind = ShardKind.hdf5
) -> Extracted:
    """Scan a source and extract what is missing of it, each under a progress bar; say what was done, and return it.

    Raises:
        TfserError: if nothing of the corpus can be heard.
    """
    scanned = _scanned(store, source)
    reports = extract_scanned(store, scanned.corpus, wanted, compute, shards)
    say(f"cache: {store.root}")
    return Extracted(scanned=scanned, reports=reports)


def _scanned(store: Cache, source: Source) -> ScanReport:
    """Scan a source under a progress bar, and say what was found.

    Raises:
        TfserError: if nothing of the corpus can be heard.
    """
    scanned = show_scan(store, source, is_brief=True)
    if scanned.failure is not None:
        refresh_if_possible(store)
        raise TfserError(scanned.failure)
    return scanned


def extract_scanned(
    store: Cache, corpus: str, wanted: Pass, compute: Compute, shards: ShardKind = ShardKind.hdf5
) -> Sequence[ExtractReport]:
    """Extract what feature sets lack of a scanned corpus, under a progress bar; say what was done, and return it."""
    try:
        with utterance_bar("taking stored layers") as begin:
            taken = take_stored_layers(store, corpus, wanted, ShardWriting(begin=begin, on_wait=say))
        for of in taken:
            written = count(of.report.written, "utterance")
            say(f"{corpus} / {of.feature_set}: {written} taken from {of.stack}, without audio")
        with utterance_bar(f"extracting {', '.join(of.name for of in wanted.sets)}") as begin:
            how = ShardWriting(format=shards.value, begin=begin, on_wait=say)
            reports = extract_pass(store, corpus, wanted, compute, how)
    finally:  # what was extracted before a failure counts
        refresh_if_possible(store)
    listed: list[tuple[str, str]] = []
    for report in reports:
        for line in report.lines(listed):
            say(line)
        listed = report.named()
    return reports


def extract_synthetic(store: Cache, names: Sequence[str] = ("logmel",)) -> None:
    """Make the built-in corpus and feature sets of it, joined ones and what they are joined of, as far as they are not there.

    Args:
        store: the cache.
        names: of front-ends, with their settings: `logmel`, `logmel+mfcc+logmel+hop_s=0.02`.
    """
    corpus = _scanned(store, Source(corpus="synthetic")).corpus
    for part in dict.fromkeys(part for name in names for part in joined_names(name)):
        front_end = FeatureName.parse(part)
        settings = dict(option.split("=", 1) for option in front_end.options)
        extract_scanned(store, corpus, feature_pass(front_end.encoder, FeatureRequest(settings=settings)), Compute(tell=say))
    for name in names:
        if len(joined_names(name)) > 1:
            show_join(store, name, corpus)
    say(f"cache: {store.root}")
