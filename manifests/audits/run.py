"""Audits of a split: every .sql file in `audits/` is one, and this module runs them.

A file opens with a header of `-- key: text` lines: title, level, explanation, action, and, where its errors are not leaks but
something that is lacking (a class, features), `-- kind: gap`. Its query reads the catalogue's tables and
returns one row a violation, with at least protocol, corpus, fold (null: the whole protocol) and level (error, warning, info);
the other columns say what was found. It needs no Python: put a file there and it runs; users' own folders of such files run
beside the packaged ones. What the tables hold while audits run is said in `audited`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb

from tfser.manifests.audits.seen import audited
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.catalogue.statements import one_select
from tfser.manifests.connections import interruptibly
from tfser.manifests.errors import TfserError, UsageError, first_line
from tfser.manifests.texts import read_text

LEVELS = ("error", "warning", "info", "ok")
_KEYS = ("title", "level", "explanation", "action")
_FEW = 200
"""Violations that are counted here; the windows that count more in the database are most of the cost of an audit without any."""

_KINDS = ("leak", "gap")
"""What an audit's errors are: something that stands on two sides, or something that is lacking. Each has its own override."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """One .sql file: its header and its query."""

    name: str
    title: str
    level: str
    explanation: str
    action: str
    query: str
    kind: str = "leak"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one audit found in one fold (fold None: in the protocol as a whole), at one level.

    `rows` counts the violations and `examples` holds the first few. An audit that found nothing gives one Finding of
    level `ok` with no rows.
    """

    audit: str
    title: str
    protocol: str
    corpus: str
    fold: int | None
    level: str
    rows: int
    action: str
    examples: tuple[dict[str, Any], ...] = ()
    explanation: str = ""
    kind: str = "leak"

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as `tfser audit --format json` prints it."""
        return {
            "audit": self.audit,
            "protocol": self.protocol,
            "corpus": self.corpus,
            "fold": self.fold,
            "level": self.level,
            "rows": self.rows,
            "title": self.title,
            "action": self.action,
            "examples": list(self.examples),
        }

    def sentence(self) -> str:
        """Return the finding in one line, with its first example."""
        where = f"fold {self.fold}" if self.fold is not None else "all folds"
        example = ", ".join(f"{key} {value}" for key, value in self.examples[0].items()) if self.examples else ""
        return f"{self.title} ({where}, {self.rows} {'row' if self.rows == 1 else 'rows'}" + (
            f"; for instance {example})" if example else ")"
        )


def parse_audit(name: str, text: str) -> Audit:
    """Return the audit of a file's text.

    Raises:
        TfserError: if the header lacks one of its lines or names a kind that there is none of, or the text is anything but one
            SELECT.
    """
    header: dict[str, str] = {}
    for line in text.split("\n"):
        if not line.startswith("--"):
            break
        key, _, value = line.removeprefix("--").strip().partition(":")
        header[key.strip()] = value.strip()
    if missing := [key for key in _KEYS if not header.get(key)]:
        raise TfserError(f"audit {name}.sql: the header lacks `-- {missing[0]}: ...`")
    if (kind := header.get("kind", "leak")) not in _KINDS:
        raise TfserError(f"audit {name}.sql: kind {kind!r} is none of {', '.join(_KINDS)}")
    try:
        query = one_select(text)
    except UsageError as error:
        raise TfserError(f"audit {name}.sql: {error}") from error
    return Audit(name=name, query=query, kind=kind, **{key: header[key] for key in _KEYS})


@functools.cache
def packaged_audits() -> tuple[Audit, ...]:
    """Return the audits that come with tfser, by name; they are read once a process."""
    folder = resources.files("tfser.manifests.audits")
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=lambda entry: entry.name)
    return tuple(parse_audit(entry.name.removesuffix(".sql"), entry.read_text(encoding="utf-8")) for entry in files)


def audits_in(folder: Path) -> list[Audit]:
    """Return the audits of a folder of the user's own, by name.

    Raises:
        UsageError: if there is no such folder, it holds no .sql file, or one bears the name of a packaged audit.
        TfserError: if a file cannot be read, its header lacks one of its lines, or it holds anything but one SELECT.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix == ".sql") if folder.is_dir() else None
    if not files:
        raise UsageError(f"--audits {folder}: " + ("no such folder" if files is None else "no .sql file in it"))
    taken = {audit.name for audit in packaged_audits()}
    if clash := [file.stem for file in files if file.stem in taken]:
        raise UsageError(f"--audits {folder}: {clash[0]}.sql has the name of an audit that comes with tfser; rename it")
    return [parse_audit(file.stem, read_text(file, f"audit {file}")) for file in files]


def run_audits(
    connection: Connection,
    *,
    protocol: str,
    corpus: str,
    feature_sets: Sequence[str] | None = None,
    audits: Sequence[Audit] | None = None,
    examples: int = 5,
    claims: Sequence[str] | None = None,
) -> list[Finding]:
    """Run the audits over one protocol, or over a foreign split; errors first.

    Args:
        connection: an open catalogue.
        protocol: the protocol's canonical name, whose rows must be in the catalogue, or what the foreign split is called.
        corpus: the corpus; of a protocol over several, all of them as `protocols.corpora` joins them.
        feature_sets: the ones that have to be complete; None takes those that hold any feature of the corpus and
            are bound to no fold (a collapsed layer mix is).
        audits: which ones; None runs all that are packaged.
        examples: rows to keep of each finding.
        claims: audit the foreign split that `matching.install` put into the connection, which is held to keep these columns
            apart; None: the protocol.

    Raises:
        TfserError: if an audit's query fails, or names a level that there is not.
    """
    findings: list[Finding] = []
    chosen = packaged_audits() if audits is None else audits
    # Of users' own audits nobody knows what they come to read.
    queries = [audit.query for audit in chosen] if set(chosen) <= set(packaged_audits()) else None

    def run() -> None:
        with audited(connection, protocol=protocol, corpus=corpus, feature_sets=feature_sets, claims=claims, queries=queries):
            for audit in chosen:
                findings.extend(_run(connection, audit, protocol, corpus, examples))

    interruptibly(connection, run)
    return sorted(findings, key=lambda f: (LEVELS.index(f.level), f.audit, -1 if f.fold is None else f.fold))


def _run(connection: Connection, audit: Audit, protocol: str, corpus: str, examples: int) -> list[Finding]:
    try:
        grouped = _grouped(connection, audit, max(1, examples))
    except duckdb.Error as error:
        raise TfserError(f"audit {audit.name}: {first_line(error)}") from error
    # Users' own audits are held to the same words: a misspelt level would be no error, and let a leak pass.
    if off := [level for _, level in grouped if level not in LEVELS]:
        raise TfserError(f"audit {audit.name}: level {off[0]!r} is none of {', '.join(LEVELS)}")
    # What is left of a row are the columns that say what was found.
    plain = {"protocol", "corpus", "fold", "level", "place_", "number_", "count_"}
    findings = [
        Finding(
            audit=audit.name,
            title=audit.title,
            protocol=protocol,
            corpus=corpus,
            fold=fold,
            level=level,
            rows=count,
            action=audit.action,
            examples=tuple({k: v for k, v in row.items() if k not in plain} for row in members[:examples]),
            explanation=audit.explanation,
            kind=audit.kind,
        )
        for (fold, level), (count, members) in grouped.items()
    ]
    return findings or [
        Finding(audit=audit.name, title=audit.title, protocol=protocol, corpus=corpus, fold=None, level="ok", rows=0, action="")
    ]


def _grouped(
    connection: Connection, audit: Audit, examples: int
) -> dict[tuple[int | None, str], tuple[int, list[dict[str, Any]]]]:
    """Return what an audit finds by fold and level: how many violations, and the first of them in the query's own order."""
    grouped: dict[tuple[int | None, str], tuple[int, list[dict[str, Any]]]] = {}
    # REPLACE refuses a query that lacks one of the two columns.
    violations = rows(connection, f"SELECT * REPLACE (fold AS fold, level AS level) FROM ({audit.query}\n) LIMIT {_FEW + 1}")
    if len(violations) <= _FEW:
        for row in violations:
            count, members = grouped.setdefault((row["fold"], row["level"]), (0, []))
            grouped[row["fold"], row["level"]] = (count + 1, [*members, row] if count < examples else members)
        return grouped
    # A leak of a million pairs is counted in the database, and costs a few rows here.
    violations = rows(
        connection,
        f"WITH found AS ({audit.query}\n), placed AS (SELECT *, row_number() OVER () AS place_ "
        "FROM found), numbered AS (SELECT *, row_number() OVER (PARTITION BY fold, level ORDER BY place_) AS number_, "
        "count(*) OVER (PARTITION BY fold, level) AS count_ FROM placed) "
        "SELECT * FROM numbered WHERE number_ <= ? ORDER BY fold NULLS FIRST, level, number_",
        [examples],
    )
    for row in violations:
        _, members = grouped.setdefault((row["fold"], row["level"]), (row["count_"], []))
        members.append(row)
    return grouped


def blocking(findings: Sequence[Finding], fold: int) -> list[Finding]:
    """Return the findings that forbid training on a fold: the errors in it, and those of the protocol as a whole."""
    return [f for f in findings if f.level == "error" and f.fold in (None, fold)]
