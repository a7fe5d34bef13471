"""The DuckDB catalogue: an index over the cache's files, always up to date, never in anybody's way.

The file is never written in place. `refresh` compares the stamps of the cache's files with those that the catalogue was built
from; if they differ it builds a new file aside (runs are added to a copy, everything else that changed is read again) and
renames it over the old one. Readers hold the old file open meanwhile and lose nothing.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb

from tfser.manifests import schema
from tfser.manifests.cache import Cache, Stamp
from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.manifests.files import aside, read_json, sweep, write_json
from tfser.manifests.protocols import applicable, install, parse

Connection = duckdb.DuckDBPyConnection

RUN_TABLES = ("history", "predictions", "metrics", "confusion")
"""Tables of a run, each one Parquet file of that name in the run's folder."""

_FOLDS = """
SELECT a.protocol, a.corpus, k.fold,
  CASE WHEN a.role IS NOT NULL THEN a.role
       WHEN a.fold = k.fold THEN 'test'
       WHEN p.validation = 'next-group' AND a.fold = k.fold % p.folds + 1 THEN 'val'
       ELSE 'train' END AS role,
  a.utterance_id, a.label, p.validation
FROM assignments a
JOIN protocols p ON p.protocol = a.protocol AND p.corpus = a.corpus
JOIN (SELECT protocol, corpus, unnest(range(1, folds + 1))::INTEGER AS fold FROM protocols) k
  ON k.protocol = a.protocol AND k.corpus = a.corpus
WHERE a.fold IS NOT NULL
"""

_FOLD_UTTERANCES = """
SELECT f.protocol, f.corpus, f.fold, f.role, f.utterance_id, f.label,
  u.speaker, u.session, u.dialogue, u.content_hash, u.duration_s
FROM folds f JOIN utterances u ON u.corpus = f.corpus AND u.utterance_id = f.utterance_id
"""

_SCORES = """
WITH fold_scores AS (
  SELECT r.experiment, r.seed, m.selection, m.level, m.fold,
    any_value(r.head) AS head, any_value(r.preset) AS preset, any_value(r.recipe) AS recipe, any_value(r.corpus) AS corpus,
    any_value(r.protocol) AS protocol, any_value(r.feature_set) AS feature_set, any_value(r.epochs) AS epochs,
    any_value(r.seconds) AS seconds,
    max(m.value) FILTER (m.metric = 'WA') AS WA, max(m.value) FILTER (m.metric = 'UA') AS UA,
    max(m.value) FILTER (m.metric = 'WF1') AS WF1, max(m.value) FILTER (m.metric = 'macro_F1') AS macro_F1
  FROM metrics m JOIN runs r USING (run_id) WHERE m.class IS NULL GROUP BY ALL
), class_counts AS (
  SELECT r.experiment, r.seed, c.selection, c.level, c.label,
    sum(c.count) FILTER (c.label = c.predicted) AS hits, sum(c.count) AS total
  FROM confusion c JOIN runs r USING (run_id) GROUP BY ALL HAVING sum(c.count) > 0
), pooled AS (
  SELECT experiment, seed, selection, level, sum(coalesce(hits, 0)) / sum(total) AS pooled_WA,
    avg(coalesce(hits, 0) / total) AS pooled_UA
  FROM class_counts GROUP BY ALL
)
SELECT s.experiment, any_value(head) AS head, any_value(preset) AS preset, any_value(recipe) AS recipe,
  any_value(s.corpus) AS corpus, any_value(s.protocol) AS protocol, any_value(feature_set) AS feature_set, s.seed,
  any_value(epochs) AS epochs, s.selection, s.level, count(*) AS folds,
  (SELECT any_value(p.folds) FROM protocols p WHERE p.protocol = any_value(s.protocol) AND p.corpus = any_value(s.corpus))
    AS of_folds,
  avg(WA) AS WA, stddev_samp(WA) AS WA_std, avg(UA) AS UA, stddev_samp(UA) AS UA_std, avg(WF1) AS WF1,
  avg(macro_F1) AS macro_F1, any_value(pooled_WA) AS pooled_WA, any_value(pooled_UA) AS pooled_UA, sum(seconds) AS seconds
FROM fold_scores s JOIN pooled USING (experiment, seed, selection, level)
GROUP BY s.experiment, s.seed, s.selection, s.level
"""

_VIEWS = {"folds": _FOLDS, "fold_utterances": _FOLD_UTTERANCES, "scores": _SCORES}


def refresh(cache: Cache, *, rebuild: bool = False) -> bool:
    """Bring the catalogue up to date with the cache's files; return whether anything had changed.

    Args:
        cache: the cache.
        rebuild: build it from nothing, whatever stands there.

    Raises:
        TfserError: if a file of the cache cannot be read.
    """
    if not rebuild and _built_from(cache.catalogue) == cache.sources():
        return False
    with cache.lock("catalogue"):
        sources = cache.sources()
        before = None if rebuild else _built_from(cache.catalogue)
        if before == sources:
            return False
        sweep(cache.root)
        with aside(cache.catalogue) as temporary:
            if before is not None:
                shutil.copyfile(cache.catalogue, temporary)
            with contextlib.closing(duckdb.connect(str(temporary))) as connection:
                _build(cache, connection, before or {}, sources, fresh=before is None)
    return True


def _built_from(path: Path) -> dict[str, Stamp] | None:
    """Return the stamps that a catalogue was built from; None if there is none that this version can read."""
    if not path.exists():
        return None
    try:
        with contextlib.closing(duckdb.connect(str(path), read_only=True)) as connection:
            version = connection.execute("SELECT version FROM meta").fetchone()
            if version != (schema.VERSION,):
                return None
            return {p: (size, mtime) for p, size, mtime in connection.execute("FROM sources").fetchall()}
    except duckdb.Error:
        return None


def _build(
    cache: Cache, connection: Connection, before: dict[str, Stamp], sources: dict[str, Stamp], *, fresh: bool
) -> None:
    def changed(*prefixes: str) -> bool:
        a, b = ({p: s for p, s in of.items() if p.startswith(prefixes)} for of in (before, sources))
        return fresh or a != b

    if fresh:
        _create(connection)
    connection.execute("BEGIN")
    if changed("corpora/"):
        _read_corpora(cache, connection)
    if changed("corpora/", "features/"):
        _read_features(cache, connection)
    if changed("runs/"):
        _read_runs(cache, connection, before, sources)
    connection.execute("DELETE FROM sources")
    if sources:
        connection.executemany("INSERT INTO sources VALUES (?, ?, ?)", [[p, *stamp] for p, stamp in sources.items()])
    connection.execute("COMMIT")
    connection.execute("CHECKPOINT")


def _create(connection: Connection) -> None:
    """Create the empty tables and the views."""
    connection.execute("CREATE TABLE meta (version INTEGER)")
    connection.execute("INSERT INTO meta VALUES (?)", [schema.VERSION])
    connection.execute("CREATE TABLE sources (path VARCHAR, size BIGINT, mtime_ns BIGINT)")
    for table in schema.TABLES:
        if not table.view:
            connection.execute(table.ddl())
    for name, body in _VIEWS.items():
        connection.execute(f"CREATE VIEW {name} AS {body}")


def _insert(connection: Connection, table: str, files: Sequence[Path], select: str = "*") -> None:
    """Insert the rows of Parquet files into a table, by column name."""
    if files:
        try:
            connection.execute(
                f"INSERT INTO {table} BY NAME SELECT {select} FROM read_parquet(?, union_by_name = true)",
                [[str(f) for f in files]],
            )
        except duckdb.Error as error:
            raise TfserError(
                f"the cache's files for {table} cannot be read ({_first_line(error)}); look with `tfser cache verify`"
            ) from error


def _read_corpora(cache: Cache, connection: Connection) -> None:
    names = cache.corpora()
    files = [cache.corpus(name) / "utterances.parquet" for name in names]
    for table in ("corpora", "utterances", "protocols", "assignments"):
        connection.execute(f"DELETE FROM {table}")
    if files:  # columns of the corpora's own: the table takes whatever columns its files have
        connection.execute("DROP TABLE utterances")
        connection.execute(
            "CREATE TABLE utterances AS SELECT * FROM read_parquet(?, union_by_name = true)", [[str(f) for f in files]]
        )
    for name in names:
        about = read_json(cache.corpus(name) / "corpus.json")
        connection.execute(
            "INSERT INTO corpora VALUES (?, ?, ?, ?, ?, ?)",
            [
                name,
                about["adapter"],
                about["root"],
                about["scanned_at"],
                about["default_protocol"],
                json.dumps(about["options"]),
            ],
        )
        wanted = dict.fromkeys([*applicable(connection, name), *_asked_for(cache, name)])
        if about["default_protocol"]:
            wanted.setdefault(about["default_protocol"])
        for spec in wanted:
            with contextlib.suppress(TfserError):  # one that no longer fits the rows: `ensure_protocol` says why
                install(connection, name, parse(spec))


def _read_features(cache: Cache, connection: Connection) -> None:
    connection.execute("DELETE FROM feature_sets")
    connection.execute("DELETE FROM features")
    connection.execute("DELETE FROM skipped")
    _insert(connection, "skipped", sorted(cache.root.glob("corpora/*/skipped.parquet")))
    _insert(connection, "skipped", sorted(cache.root.glob("features/*/*/skipped.parquet")))
    sets = [(path.parent, read_json(path)) for path in sorted(cache.features.glob("*/feature_set.json"))]
    newest: dict[str, str] = {}
    for _, about in sorted(sets, key=lambda pair: pair[1]["created_at"]):
        newest[about["name"]] = about["fingerprint"]
    for folder, about in sets:
        current = newest[about["name"]] == about["fingerprint"]
        name = about["name"] if current else f"{about['name']}@{about['fingerprint'][:8]}"
        relative = folder.relative_to(cache.root).as_posix()
        connection.execute(
            "INSERT INTO feature_sets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                name,
                about["fingerprint"],
                about["kind"],
                about["dim"],
                about["dtype"],
                about["hop_s"],
                about["created_at"],
                json.dumps(about["config"]),
                relative,
            ],
        )
        files = sorted(p for p in folder.glob("*/*.rows.parquet") if not p.name.startswith("."))
        if files:
            connection.execute(
                """
                INSERT INTO features
                SELECT ? AS feature_set, r.corpus, r.utterance_id, ? || '/' || r.corpus || '/' || r.shard AS shard,
                  r.first_frame, r.frames, r.dim
                FROM (SELECT *, parse_path(filename)[-2] AS corpus FROM read_parquet(?, filename = true)) r
                JOIN utterances u
                  ON u.corpus = r.corpus AND u.utterance_id = r.utterance_id AND u.content_hash = r.content_hash
                QUALIFY row_number() OVER (PARTITION BY r.corpus, r.utterance_id ORDER BY r.shard) = 1
                """,
                [name, relative, [str(f) for f in files]],
            )


def _read_runs(cache: Cache, connection: Connection, before: dict[str, Stamp], sources: dict[str, Stamp]) -> None:
    """Take out runs that changed or went, add those that changed or came; a run counts when it is finished."""
    old, new = ({p: s for p, s in of.items() if p.startswith("runs/")} for of in (before, sources))
    gone = [Path(p).parent.name for p in old if new.get(p) != old[p]]
    for run_id in gone:
        for table in ("runs", *RUN_TABLES):
            connection.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])
    folders = []
    for path in sorted(p for p in new if old.get(p) != new[p]):
        about = read_json(cache.root / path)
        if about["status"] == "finished":
            folders.append((cache.root / path).parent)
            columns = next(t for t in schema.TABLES if t.name == "runs").columns
            values = [about[name] for name, _, _ in columns]
            connection.execute(
                f"INSERT INTO runs VALUES ({', '.join('?' * len(values))})",
                [json.dumps(v) if isinstance(v, (dict, list)) else v for v in values],
            )
    for table in RUN_TABLES:
        _insert(connection, table, [folder / f"{table}.parquet" for folder in folders])


def _asked_for(cache: Cache, corpus: str) -> list[str]:
    path = cache.corpus(corpus) / "protocols.json"
    return list(read_json(path)) if path.exists() else []


@contextlib.contextmanager
def open_catalogue(cache: Cache) -> Iterator[Connection]:
    """Yield a read-only connection to the up-to-date catalogue.

    If another program holds the file open for writing (the plain `duckdb` shell without -readonly does), the connection is to
    a private copy built from the cache's files instead, so that nobody waits.

    Raises:
        TfserError: if there is no such cache.
    """
    if not cache.root.is_dir():
        raise TfserError(f"no cache at {cache.root}; fill one with `tfser extract --corpus NAME`, or name another with --cache")
    refresh(cache)
    try:
        connection = duckdb.connect(str(cache.catalogue), read_only=True)
    except duckdb.IOException:
        connection = duckdb.connect()
        _build(cache, connection, {}, cache.sources(), fresh=True)
    with contextlib.closing(connection):
        connection.execute("SET enable_progress_bar = false")
        yield connection


def select(connection: Connection, query: str) -> Connection:
    """Run one reading statement.

    Raises:
        UsageError: if the text is empty, holds several statements, or one that writes.
        TfserError: if DuckDB refuses it; the message is DuckDB's own.
    """
    try:
        statements = duckdb.extract_statements(query)
    except duckdb.Error as error:
        raise UsageError(f"SQL: {_first_line(error)}") from error
    if len(statements) != 1:
        raise UsageError(f"SQL: give one statement, not {len(statements)}")
    reading = ("SELECT", "EXPLAIN", "PRAGMA", "CALL", "RELATION", "LOGICAL_PLAN")
    if statements[0].type.name not in reading:
        raise UsageError(f"SQL: only statements that read are run here, not {statements[0].type.name}; the cache is not edited by SQL")
    try:
        return connection.execute(query)
    except duckdb.Error as error:
        raise UsageError(f"SQL: {_first_line(error)}") from error


def _first_line(error: duckdb.Error) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:2] if line.strip())


def ensure_protocol(cache: Cache, corpus: str, spec: str) -> str:
    """Make sure that the catalogue holds a protocol's rows for a corpus; return the protocol's canonical name.

    Raises:
        UsageError: if the specification is off or meant for another corpus.
        TfserError: if the corpus is not in the cache, or its rows cannot fill the protocol.
    """
    protocol = parse(spec)
    with open_catalogue(cache) as connection:
        if not connection.execute("SELECT 1 FROM corpora WHERE corpus = ?", [corpus]).fetchone():
            raise unknown("corpus", corpus, cache.corpora())
        if connection.execute(
            "SELECT 1 FROM protocols WHERE protocol = ? AND corpus = ?", [protocol.name, corpus]
        ).fetchone():
            return protocol.name
    with contextlib.closing(duckdb.connect()) as trial:  # say what is wrong before anything is written
        _create(trial)
        _read_corpora(cache, trial)
        install(trial, corpus, protocol)
    with cache.lock(f"corpora/{corpus}"):
        asked = _asked_for(cache, corpus)
        if protocol.name not in asked:
            write_json(cache.corpus(corpus) / "protocols.json", [*asked, protocol.name])
    refresh(cache)
    return protocol.name


def rows(connection: Connection, query: str, parameters: Iterable[Any] = ()) -> list[dict[str, Any]]:
    """Run a query of tfser's own and return its rows as dictionaries."""
    result = connection.execute(query, list(parameters))
    names = [column[0] for column in result.description or ()]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]
