"""`tfser audit`: a protocol, or a split that others publish, looked through for leaks, and what was found."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tfser import __version__
from tfser.manifests.audits import report as audit_report
from tfser.manifests.audits.foreign import read_split
from tfser.manifests.audits.participation import definition, participation
from tfser.manifests.audits.report import AuditReport
from tfser.manifests.audits.run import audits_in, packaged_audits
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.commands.printing import InCache
from tfser.manifests.display import Output, print_rows, say, show, utterance_bar
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.options import Option
from tfser.manifests.protocols.protocol import JOINED_BY
from tfser.manifests.splits.choose import choose_corpus, settled
from tfser.manifests.splits.split import Split
from tfser.manifests.wording import count
from tfser.pipeline.copies.fingerprints import update_fingerprints
from tfser.pipeline.copies.search import search
from tfser.pipeline.features.layer_views import layer_views
from tfser.pipeline.scanning.scan_report import skipped_lines


class AuditOutput(StrEnum):
    """How `tfser audit` prints its findings."""

    table = "table"
    csv = "csv"
    json = "json"
    markdown = "markdown"


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """What is audited beside a protocol, by what, and what is shown of it."""

    features: Annotated[
        tuple[str, ...],
        Option("Feature sets that must be complete; else those that hold any.", metavar="NAME", commas=False),
    ] = ()
    fold: Annotated[int | None, Option("Only findings of this fold (and of all folds).", minimum=0)] = None
    all_protocols: Annotated[bool, Option("All protocols that the cache knows for the corpus.", flag="--all")] = False
    published: Annotated[
        tuple[str, ...],
        Option(
            "A split that others publish: csv, json, jsonl or a folder; repeat.", flag="--split", metavar="FILE", commas=False
        ),
    ] = ()
    claims: Annotated[str | None, Option("What it must keep apart (default: speaker).", metavar="COLUMNS")] = None
    audits: Annotated[Path | None, Option("A folder of your own .sql audits, run beside the others.", metavar="DIR")] = None
    near_duplicates: Annotated[bool, Option("First look for copies that were re-encoded, trimmed or made louder.")] = False


def audit(
    *,
    request: AuditRequest,
    split: Split,
    format: Annotated[AuditOutput, Option("How to print the findings.")] = AuditOutput.table,
    place: InCache,
) -> None:
    """Check a protocol, or a split of others, for leaks: who and what stands on both sides. Exits with 1 on an error.

    Example:
        tfser audit --corpus emodb --protocol loso-speaker
        tfser audit --corpus iemocap --split theirs.csv --claims speaker,session --format markdown
    """
    found = audit_report.in_fold(audited(place.store, split, request, every=format is AuditOutput.markdown), request.fold)
    print_reports(found, format)
    if any(report.errors for report in found):
        raise typer.Exit(1)


def audited(store: Cache, split: Split, request: AuditRequest, *, every: bool = False) -> list[AuditReport]:
    """Return the reports of what was asked for: of one protocol, of all that the cache knows of a corpus, or of another's split.

    Args:
        store: the cache.
        split: the protocol, or the corpus of a published split.
        request: what is audited.
        every: whether reports hold every example of a leak, and not the first few.

    Raises:
        UsageError: if the request is off.
        TfserError: as audits do.
    """
    if request.published and (split.protocol or split.labels or split.validation or request.all_protocols or request.features):
        raise UsageError("--split goes without --protocol, --labels, --validation, --features and --all")
    if request.claims is not None and not request.published:
        raise UsageError("--claims goes with --split; a protocol says by itself what it keeps apart")
    if request.all_protocols and split.protocol:
        raise UsageError("--all goes without --protocol")
    # Files and claims are read before the catalogue is opened: what is off is said at once, and not after minutes.
    foreign = read_split([Path(path) for path in request.published]) if request.published else None
    apart = audit_report.parse_claims(request.claims)
    corpus, name = _chosen(store, split, named=foreign is None and not request.all_protocols)
    audits = [*packaged_audits(), *(audits_in(request.audits) if request.audits else ())]
    if request.near_duplicates:
        _find_near_duplicates(store, corpus)
    with open_catalogue(store) as connection:
        features = _stored(rows(connection, "FROM feature_sets"), request.features)
        if foreign is not None:
            for note in foreign.notes:
                say(note)
            return [audit_report.split_report(connection, split=foreign, corpus=corpus, claims=apart, audits=audits)]
        of_corpus = "SELECT DISTINCT protocol FROM protocols WHERE corpora = ? ORDER BY protocol"
        names = [name] if name else [row["protocol"] for row in rows(connection, of_corpus, [corpus])]
        return [
            audit_report.protocol_report(
                connection, protocol=each, corpus=corpus, feature_sets=features or None, audits=audits, every=every
            ).counted(participation(connection, protocol=each, corpus=corpus, defined=definition(store, each)))
            for each in names
        ]


def _stored(sets: Sequence[Mapping[str, Any]], asked: Sequence[str]) -> list[str]:
    """Return the feature sets whose shards hold what was asked for: of one layer that is read out of a stack, the stack.

    Raises:
        UsageError: if there is no such feature set.
    """
    known, views = [row["feature_set"] for row in sets], layer_views(sets)
    for name in asked:
        if name not in known and name not in views:
            raise unknown("feature set", name, known)
    return list(dict.fromkeys(name if name in known else views[name].stack for name in asked))


def _chosen(store: Cache, split: Split, *, named: bool) -> tuple[str, str | None]:
    """Return the corpus and, where one is audited, the protocol."""
    return settled(store, split, split.protocol) if named else (choose_corpus(store, split.corpus), None)


def _find_near_duplicates(store: Cache, corpora: str) -> None:
    """Bring fingerprints and pairs of each corpus up to date, and say what was found."""
    for corpus in corpora.split(JOINED_BY):
        with utterance_bar(f"fingerprints of {corpus}") as begin:
            report = update_fingerprints(store, corpus, begin=lambda files: begin(files, 0.0), on_wait=say)
        for line in skipped_lines(corpus, report.failed, "could not be compared"):
            say(line)
    for corpus in corpora.split(JOINED_BY):
        found = search(store, corpus)
        short = f", {found.too_short:,} too short" if found.too_short else ""
        others = f" with one another and {found.others:,} of other corpora" if found.others else ""
        pairs = count(found.pairs, "pair")
        say(f"{corpus}: {count(found.compared, 'fingerprint')} compared{others}{short}; {pairs} of near-duplicates")


def print_reports(reports: Sequence[AuditReport], format: AuditOutput) -> None:
    """Print findings, and say in a line each what they come to.

    In a table, findings of one audit and level share a line, and speakers on both sides follow.
    """
    findings = [finding for report in reports for finding in report.findings]
    if format is AuditOutput.markdown:
        command = " ".join(["tfser", *sys.argv[1:]])
        text = "\n\n".join(audit_report.markdown(report, command, __version__) for report in reports)
        show(*text.split("\n"))
    elif format is not AuditOutput.table:
        print_rows([finding.to_dict() for finding in findings], Output(format.value), audit_report.COLUMNS)
    else:
        several = len(reports) > 1
        lines = [
            ({"protocol": report.protocol} if several else {}) | line
            for report in reports
            for line in audit_report.table(report.findings)
        ]
        print_rows(lines, Output.table)
        for report in reports:
            if report.matched is not None and (who := audit_report.leaks(report.findings)):
                show("", f"speakers on both sides of {report.protocol}:")
                print_rows(who, Output.table)
    for report in reports:
        forbid = "; what to do stands beside them" if report.errors else ""
        say(audit_report.summary(report) + forbid)
