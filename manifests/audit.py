"""Audits of a split: every .sql file in `audits/` is one, and this module runs them.

A file opens with a header of `-- key: text` lines: title, level, explanation, action. Its query reads the catalogue's tables and
returns one row a violation, with at least protocol, corpus, fold (null: the whole protocol) and level (error, warning, info);
the other columns say what was found. It needs no Python: put a file there and it runs. The tables `folds`, `fold_utterances`,
`fold_roles`, `assignments`, `protocols`, `skipped` and `checked_feature_sets` (feature_set, corpus) hold only what is being
audited. Utterances that the scan or every checked feature set listed as skipped, so that nobody trains or tests on them, are
not among their rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import duckdb

from tfser.manifests.catalogue import Connection, rows
from tfser.manifests.errors import TfserError

LEVELS = ("error", "warning", "info", "ok")
_VIEWS = (
    *("fold_utterances", "folds", "fold_roles", "assignments", "unused"),
    *("skipped", "protocols", "checked_feature_sets"),
)
"""Temporary views that stand before the tables while audits run."""
_KEYS = ("title", "level", "explanation", "action")


@dataclass(frozen=True, kw_only=True)
class Audit:
    """One .sql file: its header and its query."""

    name: str
    title: str
    level: str
    explanation: str
    action: str
    query: str


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
        TfserError: if the header lacks one of its lines.
    """
    header: dict[str, str] = {}
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        key, _, value = line.removeprefix("--").strip().partition(":")
        header[key.strip()] = value.strip()
    if missing := [key for key in _KEYS if not header.get(key)]:
        raise TfserError(f"audit {name}.sql: the header lacks `-- {missing[0]}: ...`")
    return Audit(name=name, query=text, **{key: header[key] for key in _KEYS})


def packaged_audits() -> list[Audit]:
    """Return the audits that come with tfser, by name."""
    folder = resources.files("tfser.manifests.audits")
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=lambda entry: entry.name)
    return [parse_audit(entry.name.removesuffix(".sql"), entry.read_text(encoding="utf-8")) for entry in files]


def run_audits(
    connection: Connection,
    *,
    protocol: str,
    corpus: str,
    feature_sets: Sequence[str] | None = None,
    audits: Sequence[Audit] | None = None,
    examples: int = 5,
) -> list[Finding]:
    """Run the audits over one protocol of one corpus; errors first.

    Args:
        connection: an open catalogue.
        protocol: the protocol's canonical name; its rows must be in the catalogue.
        corpus: the corpus.
        feature_sets: the ones that have to be complete; None takes those that hold any feature of the corpus.
        audits: which ones; None runs all that are packaged.
        examples: rows to keep of each finding.

    Raises:
        TfserError: if an audit's query fails, or names a level that there is not.
    """
    _limit(connection, protocol, corpus, feature_sets)
    findings: list[Finding] = []
    try:
        for audit in packaged_audits() if audits is None else audits:
            findings += _run(connection, audit, protocol, corpus, examples)
    finally:
        for name in _VIEWS:
            connection.execute(f"DROP VIEW IF EXISTS temp.{name}")
    return sorted(findings, key=lambda f: (LEVELS.index(f.level), f.audit, f.fold or 0))


def _limit(connection: Connection, protocol: str, corpus: str, feature_sets: Sequence[str] | None) -> None:
    """Let temporary views of the tables' own names stand before them, which hold only what is audited."""
    database = (connection.execute("SELECT current_database()").fetchone() or ("memory",))[0]
    p, c, main = _quote(protocol), _quote(corpus), f'"{database}".main'
    if feature_sets is None:
        chosen = f"SELECT DISTINCT feature_set, corpus FROM {main}.features WHERE corpus = {c}"
    else:
        chosen = f"SELECT unnest([{', '.join(_quote(f) for f in feature_sets)}]::VARCHAR[]) AS feature_set, {c} AS corpus"
    views = {
        "checked_feature_sets": chosen,
        # What a reader passed over (stage read) was never an utterance, though it may bear the id of one; nor is a run.
        "skipped": f"SELECT * FROM {main}.skipped WHERE corpus = {c} AND stage NOT IN ('read', 'run')",
        "unused": "WITH excused AS (SELECT DISTINCT s.utterance_id, s.stage, c.feature_set FROM temp.skipped s "
        "LEFT JOIN temp.checked_feature_sets c ON s.stage = 'extract:' || c.feature_set) "
        "SELECT utterance_id FROM excused WHERE utterance_id NOT IN (SELECT f.utterance_id "
        f"FROM {main}.features f JOIN temp.checked_feature_sets USING (feature_set, corpus)) GROUP BY utterance_id "
        "HAVING bool_or(stage = 'scan') OR (count(DISTINCT feature_set) > 0 AND count(DISTINCT feature_set) = "
        "(SELECT count(*) FROM temp.checked_feature_sets))",
        "protocols": f"SELECT * FROM {main}.protocols WHERE protocol = {p} AND corpus = {c}",
        "fold_roles": f"SELECT * FROM {main}.fold_roles WHERE protocol = {p} AND corpus = {c}",
    }
    for name in ("assignments", "folds", "fold_utterances"):
        views[name] = (
            f"SELECT * FROM {main}.{name} m WHERE m.protocol = {p} AND m.corpus = {c} "
            "AND NOT EXISTS (SELECT 1 FROM temp.unused s WHERE s.utterance_id = m.utterance_id)"
        )
    for name, body in views.items():
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {body}")


def _run(connection: Connection, audit: Audit, protocol: str, corpus: str, examples: int) -> list[Finding]:
    try:
        found = rows(
            connection,
            f"WITH found AS ({audit.query.rstrip().rstrip(';')}\n), placed AS (SELECT *, row_number() OVER () AS place_ "
            "FROM found), numbered AS (SELECT *, row_number() OVER (PARTITION BY fold, level ORDER BY place_) AS number_, "
            "count(*) OVER (PARTITION BY fold, level) AS count_ FROM placed) "
            "SELECT * FROM numbered WHERE number_ <= ? ORDER BY fold NULLS FIRST, level, number_",
            [max(1, examples)],
        )
    except duckdb.Error as error:
        raise TfserError(f"audit {audit.name}: {str(error).splitlines()[0]}") from error
    grouped: dict[tuple[int | None, str], list[dict[str, Any]]] = {}
    for row in found:
        if row["level"] not in LEVELS:
            raise TfserError(f"audit {audit.name}: level {row['level']!r} is none of {', '.join(LEVELS)}")
        grouped.setdefault((row["fold"], row["level"]), []).append(row)
    plain = {"protocol", "corpus", "fold", "level", "place_", "number_", "count_"}
    findings = [
        Finding(
            audit=audit.name,
            title=audit.title,
            protocol=protocol,
            corpus=corpus,
            fold=fold,
            level=level,
            rows=members[0]["count_"],
            action=audit.action,
            examples=tuple({k: v for k, v in row.items() if k not in plain} for row in members[:examples]),
        )
        for (fold, level), members in grouped.items()
    ]
    return findings or [
        Finding(
            audit=audit.name, title=audit.title, protocol=protocol, corpus=corpus, fold=None, level="ok", rows=0, action=""
        )
    ]


def blocking(findings: Sequence[Finding], fold: int) -> list[Finding]:
    """Return the findings that forbid training on a fold: the errors in it, and those of the protocol as a whole."""
    return [f for f in findings if f.level == "error" and f.fold in (None, fold)]


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
