"""Filling a catalogue from the cache's files: corpora with their protocols, feature sets, runs.

Goes in: the cache's Parquet and JSON files, as `Cache.sources` lists them. Comes out: rows in the tables of `schema.TABLES`.
What changed in `corpora/` or `features/` is read again as a whole, in SQL; finished runs are added and taken out one by one.
A damaged run costs nobody the rest: it is left out, and listed in `skipped` with the stage `run`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import duckdb

from tfser.manifests import schema
from tfser.manifests.cache import Cache, Stamp
from tfser.manifests.duplicates import read_near_duplicates
from tfser.manifests.errors import TfserError
from tfser.manifests.files import read_json
from tfser.manifests.folds import applicable, install
from tfser.manifests.independence import fold_independence
from tfser.manifests.own_protocols import own_protocols
from tfser.manifests.protocol import JOINED_BY, Protocol
from tfser.manifests.protocols import parse
from tfser.manifests.views import VIEWS

Connection = duckdb.DuckDBPyConnection
Sources = Mapping[str, Stamp]

RUN_TABLES = ("history", "predictions", "metrics", "confusion")
"""Tables of a run, each one Parquet file of that name in the run's folder."""

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
        _read_runs(cache, connection, before, sources)
    if changed("corpora/", "protocols/"):
        _judge_speakers(cache, connection)
    elif changed("runs/"):
        came = {PurePosixPath(p).parts[1] for p in sources if p.startswith("runs/") and sources[p] != before.get(p)}
        _judge_speakers(cache, connection, came)
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


def first_line(error: Exception) -> str:
    """Return the head of a message, as DuckDB writes them."""
    return " ".join(line.strip() for line in str(error).splitlines()[:2] if line.strip())


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


def _read_runs(cache: Cache, connection: Connection, before: Sources, sources: Sources) -> None:
    """Take out runs that changed or went, add those that changed or came; a run counts when it is finished."""
    old, new = ({p: s for p, s in of.items() if p.startswith("runs/")} for of in (before, sources))
    gone = [PurePosixPath(p).parent for p in old if new.get(p) != old[p]]
    if gone:
        for table in ("runs", *RUN_TABLES):
            connection.execute(f"DELETE FROM {table} WHERE run_id IN (SELECT unnest(?))", [[p.name for p in gone]])
        connection.execute(
            "DELETE FROM skipped WHERE stage = 'run' AND path IN (SELECT unnest(?))", [[p.as_posix() for p in gone]]
        )
    folders = [(cache.root / path).parent for path in sorted(p for p in new if old.get(p) != new[p])]
    try:
        _insert_runs(connection, folders)
    except Exception:  # whatever a damaged file makes a library raise: look at each run by itself
        damaged = {folder: reason for folder in folders if (reason := damage(folder)) is not None}
        for folder in folders:
            if folder not in damaged:
                _insert_runs(connection, [folder])
        connection.executemany(
            "INSERT INTO skipped BY NAME SELECT ? AS corpus, NULL AS utterance_id, ? AS path, 'run' AS stage, ? AS reason",
            [(_corpus_of(folder), folder.relative_to(cache.root).as_posix(), damaged[folder]) for folder in damaged],
        )


def damage(folder: Path) -> str | None:
    """Return why the files of a run cannot be read, in one line; None for a run that is whole or still at work.

    Raises:
        FileNotFoundError: if there is no such run, or it went away meanwhile.
    """
    try:
        with contextlib.closing(duckdb.connect()) as trial:
            for table in schema.TABLES:
                if table.name in ("runs", *RUN_TABLES):
                    trial.execute(table.ddl())
            _insert_runs(trial, [folder])
    except Exception as error:
        (folder / "run.json").stat()
        return first_line(error).replace(f"{folder}/", "") or type(error).__name__
    return None


def _insert_runs(connection: Connection, folders: Sequence[Path]) -> None:
    """Insert the finished ones among runs, all of them or, on an error, none.

    Raises:
        TfserError: if a file cannot be read, or holds what is no run or does not fit the tables.
    """
    columns = next(t for t in schema.TABLES if t.name == "runs").columns
    finished: list[Path] = []
    connection.execute("BEGIN")
    try:
        for folder in folders:
            about = read_json(folder / "run.json")
            if not isinstance(about, dict):
                raise TfserError(f"{folder / 'run.json'}: cannot be read (it describes no run)")
            if about.get("status") != "finished":
                continue
            if about.get("run_id") != folder.name:
                raise TfserError(f"{folder / 'run.json'}: cannot be read (it describes the run {about.get('run_id')!r})")
            finished.append(folder)
            values = [_column(about.get(name), kind) for name, kind, _ in columns]  # null: the run is older than the column
            with _part("run.json"):
                connection.execute(f"INSERT INTO runs VALUES ({', '.join('?' * len(values))})", values)
        for table in RUN_TABLES if finished else ():
            with _part(f"{table}.parquet"):
                connection.execute(
                    f"INSERT INTO {table} BY NAME SELECT * EXCLUDE (filename) REPLACE (CASE WHEN contains(filename, run_id) "
                    "THEN run_id ELSE error('rows of another run') END AS run_id) "
                    "FROM read_parquet(?, union_by_name = true, filename = true)",
                    [[str(folder / f"{table}.parquet") for folder in finished]],
                )
    except BaseException:
        with contextlib.suppress(duckdb.Error):
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _column(value: Any, kind: str) -> Any:
    """Return what run.json says as a column of `runs` takes it: mappings and lists are JSON, but for columns of a list's type."""
    return json.dumps(value) if isinstance(value, (dict, list)) and not kind.endswith("[]") else value


def _judge_speakers(cache: Cache, connection: Connection, only: Collection[str] | None = None) -> None:
    """Say of each run, or of `only` those, whether its test speakers are new to it (`runs.speakers_kept`), of old runs, too.

    While the catalogue holds the very rows that a run was made of (the protocol's hash), their speakers decide, as they are known
    now. Of any other run stands what it stored itself, and else that nobody can tell.
    """
    found = connection.execute(
        "SELECT r.run_id, r.protocol, r.corpus, r.fold, bool_or(p.hash IS NOT NULL) FROM runs r LEFT JOIN protocols p "
        "ON p.protocol = r.protocol AND p.corpora = r.corpus AND p.hash = r.protocol_hash "
        "WHERE ?::VARCHAR[] IS NULL OR list_contains(?, r.run_id) GROUP BY ALL",
        [None if only is None else list(only)] * 2,
    ).fetchall()
    pairs = {(protocol, corpus) for _, protocol, corpus, _, here in found if here}
    judged = {pair: fold_independence(connection, *pair) for pair in pairs}
    verdicts: dict[str, str] = {}
    for run_id, protocol, corpus, fold, here in found:
        verdict = judged[protocol, corpus].get(fold) if here else _stored_verdict(cache, run_id)
        verdicts[run_id] = verdict or "unknown"
    if verdicts:
        connection.execute("BEGIN")
        connection.execute(
            "UPDATE runs SET speakers_kept = v.verdict FROM (SELECT unnest(?) AS run_id, unnest(?) AS verdict) v "
            "WHERE v.run_id = runs.run_id AND runs.speakers_kept IS DISTINCT FROM v.verdict",
            [list(verdicts), list(verdicts.values())],
        )
        connection.execute("COMMIT")


def _stored_verdict(cache: Cache, run_id: str) -> str | None:
    """Return what a run says of its test speakers; None where it says nothing that is known here."""
    about = read_json(cache.runs / run_id / "run.json")
    stored = about.get("speakers_kept")
    return stored if stored in ("kept", "broken", "unknown") else None


@contextlib.contextmanager
def _part(file: str) -> Iterator[None]:
    """Name the file of a run in whatever its content makes DuckDB raise, which is not always an error of its own."""
    try:
        yield
    except Exception as error:
        raise TfserError(f"{file}: {first_line(error)}") from error


def _corpus_of(folder: Path) -> str | None:
    """Return the corpus of a damaged run, where the run still says it."""
    with contextlib.suppress(TfserError, RecursionError):
        about = read_json(folder / "run.json")
        corpus = about.get("corpus") if isinstance(about, dict) else None
        return corpus if isinstance(corpus, str) else None
    return None
