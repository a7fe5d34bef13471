"""Filling a catalogue from the cache's files: corpora with their protocols, feature sets, runs.

Goes in: the cache's Parquet and JSON files, as `Cache.sources` lists them. Comes out: rows in the tables of `schema.TABLES`.
What changed in `corpora/` or `features/` is read again as a whole, in SQL; finished runs are added and taken out one by one.
A damaged run costs nobody the rest: it is left out, and listed in `skipped` with the stage `run`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import duckdb

from tfser.manifests import schema
from tfser.manifests.cache import Cache, Stamp
from tfser.manifests.duplicates import read_near_duplicates
from tfser.manifests.errors import DamagedError, MissingFileError, TfserError, UnreadableError
from tfser.manifests.files import read_json
from tfser.manifests.folds import applicable, install
from tfser.manifests.own_protocols import own_protocols
from tfser.manifests.protocol import JOINED_BY, Protocol
from tfser.manifests.protocols import parse
from tfser.manifests.run_files import TABLES, StoredRun, first_line, read_about, read_run, row_of, shown
from tfser.manifests.views import VIEWS

Connection = duckdb.DuckDBPyConnection
Sources = Mapping[str, Stamp]

_AT_ONCE = 64
"""Runs whose rows are inserted at once."""

_NUMBERS = frozenset(
    ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT", "FLOAT", "DOUBLE")
)


def build(cache: Cache, connection: Connection, before: Sources, sources: Sources, *, fresh: bool) -> None:
    """Bring the tables of an open catalogue from the files of `before` to those of `sources`.

    Args:
        cache: the cache.
        connection: the catalogue, open for writing; empty if `fresh`.
        before: the files that it was built from.
        sources: the files that it is to be built from.
        fresh: create the tables, read everything.

    Raises:
        TfserError: if a file of the cache cannot be read.
    """

    def changed(*prefixes: str) -> bool:
        a, b = ({p: s for p, s in of.items() if p.startswith(prefixes)} for of in (before, sources))
        return fresh or a != b

    if fresh:
        create(connection)
    connection.execute("BEGIN")
    if changed("corpora/", "protocols/"):
        _read_corpora(cache, connection)
    if changed("corpora/", "features/"):
        _read_features(cache, connection, sources)
    connection.execute("COMMIT")
    if changed("runs/"):
        unread = _read_runs(cache, connection, before, sources)
        sources = {path: stamp for path, stamp in sources.items() if path not in unread}
    connection.execute("BEGIN")
    connection.execute("DELETE FROM sources")
    if sources:
        sizes, times = zip(*sources.values(), strict=True)
        connection.execute(
            "INSERT INTO sources SELECT unnest(?), unnest(?), unnest(?)", [list(sources), list(sizes), list(times)]
        )
    connection.execute("COMMIT")
    connection.execute("CHECKPOINT")


def create(connection: Connection) -> None:
    """Create the empty tables and the views."""
    connection.execute("CREATE TABLE meta (version INTEGER)")
    connection.execute("INSERT INTO meta VALUES (?)", [schema.VERSION])
    connection.execute("CREATE TABLE sources (path VARCHAR, size BIGINT, mtime_ns BIGINT)")
    for table in schema.TABLES:
        if not table.view:
            connection.execute(table.ddl())
    for name, body in VIEWS.items():
        connection.execute(f"CREATE VIEW {name} AS {body}")


def read_corpus(cache: Cache, connection: Connection, corpus: str) -> dict[str, object]:
    """Insert one corpus and its utterances; return what `corpus.json` says.

    Raises:
        TfserError: if a file cannot be read.
    """
    about: dict[str, object] = read_json(cache.corpus(corpus) / "corpus.json")
    names = ("adapter", "root", "scanned_at", "default_protocol")
    expected = about.get("expected")  # none: a scan that is older than the key
    published = expected.get("utterances") if isinstance(expected, dict) else None
    connection.execute(
        "INSERT INTO corpora VALUES (?, ?, ?, ?, ?, ?, ?)",
        [corpus, *(about.get(name) for name in names), json.dumps(about.get("options", {})), published],
    )
    _insert(connection, "utterances", [cache.corpus(corpus) / "utterances.parquet"])
    return about


def asked_for(cache: Cache, corpora: str) -> list[str]:
    """Return the protocols that somebody asked for beyond the corpus's own; of several corpora, those over any several."""
    path = asked_file(cache, corpora)
    return [str(spec) for spec in read_json(path)] if path.exists() else []


def asked_file(cache: Cache, corpora: str) -> Path:
    """Return the file that lists them."""
    return cache.protocols / "asked.json" if JOINED_BY in corpora else cache.corpus(corpora) / "protocols.json"


def make_utterances(connection: Connection, files: Sequence[Path]) -> None:
    """Make the empty table `utterances` anew, with the columns of the corpora's own behind the contract's.

    A column that several corpora have takes their common type; where numbers meet something else, it is text.

    Raises:
        TfserError: if a file cannot be read.
    """
    table = next(t for t in schema.TABLES if t.name == "utterances")
    known = {name.casefold() for name, _, _ in table.columns}
    own: dict[str, tuple[str, set[str]]] = {}
    for file in files:
        with _readable("utterances"):
            described = connection.execute("DESCRIBE FROM read_parquet(?)", [str(file)]).fetchall()
        for name, kind, *_ in described:
            if name.casefold() not in known:
                own.setdefault(name.casefold(), (name, set()))[1].add(kind)
    connection.execute("DROP TABLE IF EXISTS utterances")
    connection.execute(table.ddl())
    for name, kinds in own.values():
        kind = "DOUBLE" if len(kinds) > 1 and kinds <= _NUMBERS else "VARCHAR" if len(kinds) > 1 else min(kinds)
        quoted = name.replace('"', '""')
        connection.execute(f'ALTER TABLE utterances ADD COLUMN "{quoted}" {kind}')


@contextlib.contextmanager
def _readable(table: str) -> Iterator[None]:
    """Turn DuckDB's error over a file of the cache into one that says what to do."""
    try:
        yield
    except duckdb.Error as error:
        raise TfserError(
            f"the cache's files for {table} cannot be read ({first_line(error)}); look with `tfser cache verify`"
        ) from error


def _insert(connection: Connection, table: str, files: Sequence[Path]) -> None:
    """Insert the rows of Parquet files into a table, by column name."""
    if files:
        with _readable(table):
            connection.execute(
                f"INSERT INTO {table} BY NAME SELECT * FROM read_parquet(?, union_by_name = true)", [[str(f) for f in files]]
            )


def _read_corpora(cache: Cache, connection: Connection) -> None:
    names, own = cache.corpora(), own_protocols(cache)
    for table in ("corpora", "protocols", "assignments", "held_out"):
        connection.execute(f"DELETE FROM {table}")
    make_utterances(connection, [cache.corpus(name) / "utterances.parquet" for name in names])
    for name in names:
        about = read_corpus(cache, connection, name)
        wanted = [*applicable(connection, name), *asked_for(cache, name)]
        if about.get("default_protocol"):
            wanted.append(str(about["default_protocol"]))
        _install_all(connection, name, wanted, own)
    _install_all(connection, JOINED_BY, asked_for(cache, JOINED_BY), own)
    read_near_duplicates(cache, connection, names)


def _install_all(connection: Connection, corpus: str, wanted: Sequence[str], own: Mapping[str, Protocol]) -> None:
    """Install protocols but those that do not fit the rows: `ensure_protocol` says why."""
    installed: set[str] = set()
    for spec in wanted:
        with contextlib.suppress(TfserError):
            protocol = parse(spec, own)
            if protocol.name in installed or not known_corpora(connection, protocol, corpus):
                continue
            installed.add(protocol.name)
            if protocol.where == "TRUE":
                install(connection, corpus, protocol)
                continue
            connection.execute("COMMIT")  # a condition that cannot be computed on some row undoes what was begun
            try:
                connection.execute("BEGIN")
                install(connection, corpus, protocol)
                connection.execute("COMMIT")
            except TfserError:
                with contextlib.suppress(duckdb.Error):
                    connection.execute("ROLLBACK")
            connection.execute("BEGIN")


def known_corpora(connection: Connection, protocol: Protocol, corpus: str) -> bool:
    """Tell whether the catalogue holds every corpus of a protocol."""
    wanted = list(protocol.over or (corpus,))
    found = connection.execute("SELECT count(*) FROM corpora WHERE list_contains(?, corpus)", [wanted]).fetchone()
    return found == (len(wanted),)


def _read_features(cache: Cache, connection: Connection, sources: Sources) -> None:
    for table in ("feature_sets", "features"):
        connection.execute(f"DELETE FROM {table}")
    connection.execute("DELETE FROM skipped WHERE stage <> 'run'")
    lists = [p for p in sorted(sources) if PurePosixPath(p).name == "skipped.parquet"]
    _insert(connection, "skipped", [cache.root / p for p in lists if p.startswith("corpora/")])
    shards: dict[str, list[str]] = {}
    for path in sorted(sources):
        if path.endswith(".rows.parquet"):
            shards.setdefault(PurePosixPath(path).parts[1], []).append(str(cache.root / path))
    found = sorted(p for p in sources if p.startswith("features/") and p.endswith("/feature_set.json"))
    sets = [(PurePosixPath(path).parent, read_json(cache.root / path)) for path in found]
    newest: dict[str, str] = {}
    for _, about in sorted(sets, key=lambda pair: pair[1]["created_at"]):
        newest[about["name"]] = about["fingerprint"]
    for folder, about in sets:
        current = newest[about["name"]] == about["fingerprint"]
        name = about["name"] if current else f"{about['name']}@{about['fingerprint'][:8]}"
        keys = ("fingerprint", "kind", "dim", "dtype", "hop_s", "created_at")
        source = json.dumps(about["source"]) if "source" in about else None
        connection.execute(
            "INSERT INTO feature_sets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [name, *(about[key] for key in keys), json.dumps(about["config"]), source, folder.as_posix()],
        )
        own = [str(cache.root / p) for p in lists if p.startswith(f"{folder.as_posix()}/")]
        if own:
            with _readable("skipped"):  # an outdated set's stages bear its whole name: they say nothing about the current one
                connection.execute(
                    "INSERT INTO skipped BY NAME SELECT * REPLACE (split_part(stage, ':', 1) || ':' || ? AS stage) "
                    "FROM read_parquet(?, union_by_name = true)",
                    [name, own],
                )
        if shards.get(folder.name):
            with _readable("features"):
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
                    [name, folder.as_posix(), shards[folder.name]],
                )


def _read_runs(cache: Cache, connection: Connection, before: Sources, sources: Sources) -> set[str]:
    """Take out runs that changed or went, add those that changed or came; a run counts when it is finished and whole.

    Returns:
        Those of the sources that could not be read now: they are looked at again next time.

    Raises:
        MissingFileError: if a run went away meanwhile.
    """
    old, new = ({p: s for p, s in of.items() if p.startswith("runs/")} for of in (before, sources))
    gone = [PurePosixPath(p).parent for p in old if new.get(p) != old[p]]
    come = [PurePosixPath(p).parent for p in sorted(new) if old.get(p) != new[p]]
    unread: set[str] = set()
    left_out: list[tuple[str | None, str, str]] = []
    connection.execute("BEGIN")
    try:
        if gone:
            for table in ("runs", *TABLES):
                connection.execute(f"DELETE FROM {table} WHERE run_id IN (SELECT unnest(?))", [[p.name for p in gone]])
        if gone or come:
            paths = [p.as_posix() for p in {*gone, *come}]
            connection.execute("DELETE FROM skipped WHERE stage = 'run' AND path IN (SELECT unnest(?))", [paths])
        # In parts, so that never more than the rows of so many runs are in memory.
        for first in range(0, len(come), _AT_ONCE):
            whole: list[StoredRun] = []
            for path in come[first : first + _AT_ONCE]:
                folder = cache.root / path
                try:
                    run = read_run(folder)
                except MissingFileError:
                    raise
                except (DamagedError, UnreadableError) as error:
                    left_out.append((_corpus_of(folder), path.as_posix(), shown(folder, error)))
                    if isinstance(error, UnreadableError):
                        unread.add((path / "run.json").as_posix())
                else:
                    whole += [] if run is None else [run]
            _insert_runs(connection, whole)
        if left_out:
            connection.executemany(
                "INSERT INTO skipped BY NAME SELECT ? AS corpus, NULL AS utterance_id, ? AS path, 'run' AS stage, ? AS reason",
                left_out,
            )
    except BaseException:
        with contextlib.suppress(duckdb.Error):
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return unread


def _insert_runs(connection: Connection, runs: Sequence[StoredRun]) -> None:
    """Insert finished runs that were read whole."""
    import pyarrow as pa

    if not runs:
        return
    rows = [row_of(run.about) for run in runs]
    connection.executemany(f"INSERT INTO runs VALUES ({', '.join('?' * len(rows[0]))})", rows)
    for table in TABLES:
        connection.register("rows_of_runs", pa.concat_tables([run.tables[table] for run in runs]))
        connection.execute(f"INSERT INTO {table} BY NAME FROM rows_of_runs")
        connection.unregister("rows_of_runs")


def _corpus_of(folder: Path) -> str | None:
    """Return the corpus of a run that is left out, where the run still says it."""
    with contextlib.suppress(TfserError):
        corpus = read_about(folder).get("corpus")
        return corpus if isinstance(corpus, str) else None
    return None
