"""What audits found, for people and programs: tables, JSON rows, Markdown for an issue report, and who leaks.

What comes in: the findings of one protocol or foreign split. What goes out: rows for `display.print_rows`, or text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tfser.manifests.audits.foreign import ForeignSplit
from tfser.manifests.audits.matching import Matched, install
from tfser.manifests.audits.participation import Tally, unmatched
from tfser.manifests.audits.participation import finding as absence
from tfser.manifests.audits.run import LEVELS, Audit, Finding, run_audits
from tfser.manifests.audits.seen import audited
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.protocols.independence import NOT_INDEPENDENT, Independence, fold_independence, worst
from tfser.manifests.protocols.protocol import GROUP_COLUMNS
from tfser.manifests.wording import cell, count, ranges

COLUMNS = ("audit", "protocol", "corpus", "fold", "level", "rows", "title", "action", "examples")
"""Of `Finding.to_dict`, as csv and JSON print them."""

_EVERY = 10_000
"""Rows that are kept of each finding where all that leak are to be named."""


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """The findings of one protocol, or of one foreign split (`matched` is then what was found of its rows).

    `independence` says for each fold whether its test speakers are new to the head. Of `utterances`, `unreadable` have no audio
    that can be read.
    """

    corpus: str
    protocol: str
    keeps_apart: tuple[str, ...]
    findings: tuple[Finding, ...]
    matched: Matched | None = None
    independence: Mapping[int, Independence] = field(default_factory=dict)
    utterances: int = 0
    unreadable: int = 0
    tally: Tally | None = None
    """Who takes part in the protocol, and why the others do not."""

    @property
    def errors(self) -> int:
        """Findings that are errors."""
        return sum(finding.level == "error" for finding in self.findings)

    def counted(self, tally: Tally) -> AuditReport:
        """Return the report with who takes part in the protocol, which is a finding of its own."""
        found = absence(tally, protocol=self.protocol, corpus=self.corpus)
        return replace(self, findings=(*self.findings, found), tally=tally)


def in_fold(reports: Sequence[AuditReport], fold: int | None) -> list[AuditReport]:
    """Return the reports that have a fold, with the findings of that fold, and of all folds, alone; None: all as they are.

    Raises:
        UsageError: if none of them has it.
    """
    if fold is None:
        return list(reports)
    if not any(fold in report.independence for report in reports):
        known = sorted({k for report in reports for k in report.independence})
        name = reports[0].protocol if len(reports) == 1 else "every protocol here"
        raise UsageError(f"--fold {fold}: there is no such fold; {name} has {_numbers(known) if known else 'none'}")
    return [
        replace(
            report,
            findings=tuple(f for f in report.findings if f.fold in (None, fold)),
            independence={fold: report.independence[fold]},
        )
        for report in reports
        if fold in report.independence
    ]


def parse_claims(text: str | None) -> tuple[str, ...]:
    """Return the columns that a foreign split is held to keep apart: speakers, unless something else is said.

    >>> parse_claims(None), parse_claims("none"), parse_claims("speaker,session")
    (('speaker',), (), ('speaker', 'session'))

    Raises:
        UsageError: if a word is no column that audits compare.
    """
    words = [word.strip() for word in (text if text is not None else "speaker").split(",")]
    if words == ["none"]:
        return ()
    for word in words:
        if word not in GROUP_COLUMNS:
            raise unknown("claim (--claims)", word, [*GROUP_COLUMNS, "none"])
    return tuple(words)


def protocol_report(
    connection: Connection,
    *,
    protocol: str,
    corpus: str,
    feature_sets: Sequence[str] | None = None,
    audits: Sequence[Audit] | None = None,
    every: bool = False,
) -> AuditReport:
    """Audit a protocol of the catalogue; `every` keeps every row of a finding, not the first few."""
    findings = run_audits(
        connection,
        protocol=protocol,
        corpus=corpus,
        feature_sets=feature_sets,
        audits=audits,
        examples=_EVERY if every else 5,
    )
    # Files that a published split lists and the corpus lacks are no violation of a row, so no audit in SQL sees them.
    findings += unmatched(connection, protocol=protocol, corpus=corpus)
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    # What a protocol promises stands beside what is true of it, fold by fold.
    promised = rows(
        connection, "SELECT keeps_apart FROM protocols WHERE protocol = ? AND corpora = ? LIMIT 1", [protocol, corpus]
    )
    apart = tuple(promised[0]["keeps_apart"]) if promised else ()
    return _reported(connection, protocol, corpus, findings, apart)


def split_report(
    connection: Connection, *, split: ForeignSplit, corpus: str, claims: Sequence[str], audits: Sequence[Audit] | None = None
) -> AuditReport:
    """Audit a foreign split of a corpus.

    Raises:
        UsageError: if the catalogue lacks the corpus.
        TfserError: if no row of the split is an utterance of the corpus, or an audit's query fails.
    """
    if not rows(connection, "SELECT 1 FROM corpora WHERE corpus = ?", [corpus]):
        raise UsageError(f"corpus {corpus} is not in this cache; run `tfser scan --corpus {corpus}` first")
    # Matched once, into temporary tables: the audits and the counts below read the same rows.
    matched = install(connection, corpus, split)
    findings = run_audits(
        connection,
        protocol=split.name,
        corpus=corpus,
        feature_sets=[],
        audits=audits,
        examples=_EVERY,
        claims=claims,
    )
    return _reported(connection, split.name, corpus, findings, tuple(claims), matched)


def _reported(
    connection: Connection,
    protocol: str,
    corpus: str,
    findings: Sequence[Finding],
    keeps_apart: tuple[str, ...],
    matched: Matched | None = None,
) -> AuditReport:
    """Return the report of findings on a protocol, or on the foreign split that was matched, with what was audited."""
    # The same views as the audits saw, so that what is counted is what was judged.
    claims = None if matched is None else keeps_apart
    with audited(connection, protocol=protocol, corpus=corpus, feature_sets=[], claims=claims):
        utterances, unreadable = _counts(connection)
        independence = fold_independence(connection, protocol, corpus)
    return AuditReport(
        corpus=corpus,
        protocol=protocol,
        keeps_apart=keeps_apart,
        findings=tuple(findings),
        matched=matched,
        independence=independence,
        utterances=utterances,
        unreadable=unreadable,
    )


def _counts(connection: Connection) -> tuple[int, int]:
    """Return how many utterances are audited, and how many of them have no audio that can be read."""
    counted = rows(
        connection,
        "SELECT count(*) AS n, count(*) FILTER (m.content_hash IS NULL OR EXISTS (SELECT 1 FROM skipped s WHERE s.stage = 'scan' "
        "AND s.corpus = m.corpus AND s.utterance_id = m.utterance_id)) AS unreadable FROM all_members m",
    )[0]
    return counted["n"], counted["unreadable"]


def leaks(findings: Sequence[Finding], column: str = "speaker") -> list[dict[str, Any]]:
    """Return who stands on both sides, a row each: the folds in which that is so, and utterances by side over these folds."""
    leaking: dict[tuple[str, str], dict[str, Any]] = {}
    for finding in findings:
        if finding.audit != f"{column}_overlap":
            continue
        for row in finding.examples:
            name = str(row[column])
            line = leaking.setdefault((finding.corpus, name), {column: name, "folds": [], "test": [], "train": [], "val": []})
            line["folds"].append(finding.fold)
            for side in ("test", "train", "val"):
                line[side].append(row[f"{side}_utterances"])
    return [
        {
            column: line[column],
            "folds": _numbers(line["folds"]),
            "test_utterances": sum(line["test"]),
            "train_utterances": _spread(line["train"]),
            "val_utterances": _spread(line["val"]),
        }
        for line in leaking.values()
    ]


def table(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return findings for a table: those of one audit and level share a line, and so do all audits that found nothing."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    line: dict[str, Any]
    folds: dict[tuple[str, str], list[int | None]] = {}
    for f in findings:
        if f.level == "ok":
            continue
        example = ", ".join(f"{k} {cell(v)}" for k, v in f.examples[0].items()) if f.examples else ""
        line = {"level": f.level, "audit": f.audit, "folds": "", "rows": 0, "example": example, "action": f.action}
        line = lines.setdefault((f.level, f.audit), line)
        line["rows"] += f.rows
        folds.setdefault((f.level, f.audit), []).append(f.fold)
    for key, line in lines.items():
        line["folds"] = _numbers(folds[key])
    passed = count(sum(f.level == "ok" for f in findings), "other audit" if lines else "audit")
    silent = {"level": "ok", "audit": passed, "folds": "all", "rows": 0, "example": "", "action": "they found nothing"}
    return [*lines.values(), silent]


def summary(report: AuditReport) -> str:
    """Return in one line what was audited, how it ended, and what a score on it is not."""
    apart = f"{' and '.join(name + 's' for name in report.keeps_apart)} apart" if report.keeps_apart else "nothing apart"
    line = f"{report.corpus} / {report.protocol}: " + (f"{report.tally.sentence()}; " if report.tally is not None else "")
    if report.matched is not None:
        m = report.matched
        line += f"{count(m.rows, 'row')}, {count(m.utterances, 'utterance')} in {count(m.folds, 'fold')}"
        line += f", {m.unknown:,} unknown" if m.unknown else ""
        line += f", {m.ambiguous:,} ambiguous" if m.ambiguous else ""
        line += f", {m.left_out:,} of the corpus not in it" if m.left_out else ""
        line += f"; judged as keeping {apart}: "
    forbid = "forbids" if report.errors == 1 else "forbid"
    line += f"{count(report.errors, 'finding')} that {forbid} training" if report.errors else "no errors"
    if report.unreadable:
        line += f"; {report.unreadable:,} of {report.utterances:,} utterances have no readable audio"
    verdict = worst(report.independence.values())
    if verdict != "kept" and report.utterances:
        folds = [fold for fold, of in report.independence.items() if of == verdict]
        where = f" (folds {_numbers(folds)})" if len(report.independence) > 1 else ""
        line += f"; {NOT_INDEPENDENT[verdict]}{where}"
    return line


def markdown(report: AuditReport, command: str, version: str) -> str:
    """Return a report to paste into an issue: verdict, who leaks, findings, what each means and what to do."""
    findings = [f for f in report.findings if f.level != "ok"]
    verdict = "fails" if report.errors else "passes"
    lines = [f"## Split audit: {_code(report.protocol)} of {report.corpus} {verdict}", "", summary(report) + ".", ""]
    for column in GROUP_COLUMNS:
        who = leaks(findings, column)
        if who and (column == "speaker" or column in report.keeps_apart):
            lines += [f"### {column.capitalize()}s on both sides: {len(who)}", "", *_markdown_table(who), ""]
    passed = sum(f.level == "ok" for f in report.findings)
    if findings:
        shown = [{**line, "audit": _code(line["audit"])} for line in table(findings)[:-1]]
        for line in shown:
            del line["action"]
        lines += ["### Findings", "", *_markdown_table(shown), ""]
        said: dict[str, Finding] = {f.audit: f for f in findings}
        lines += [f"* **{f.title}**: {f.explanation}. What to do: {f.action}." for f in said.values()] + [""]
    lines += [f"{count(passed, 'other audit')} found nothing. Made by tfser {version}: {_code(command)}"]
    return "\n".join(lines)


def _markdown_table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(found[0])
    escaped = [[cell(row[name]).replace("|", "\\|").replace("\n", " ") for name in names] for row in found]
    head = [name.replace("_", " ") for name in names]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(names), *escaped)]


def _code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _numbers(folds: Sequence[int | None]) -> str:
    """Write fold numbers with ranges; none is all folds.

    >>> _numbers([1, 2, 3, 5]), _numbers([0, None]), _numbers([None])
    ('1-3, 5', 'all, 0', 'all')
    """
    numbers = ranges(fold for fold in folds if fold is not None)
    return ", ".join(["all"] * (None in folds) + [numbers] * bool(numbers))


def _spread(values: Sequence[int]) -> int | str:
    """Return one number, or the lowest and the highest of several folds."""
    return values[0] if len(set(values)) == 1 else f"{min(values)} to {max(values)}"
