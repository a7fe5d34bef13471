"""Filling a catalogue from the cache's files: corpora with their protocols, feature sets, runs.

Goes in: the cache's Parquet and JSON files, as `Cache.sources` lists them. Comes out: rows in the tables of `schema.TABLES`.
What changed in `corpora/` or `features/` is read again as a whole, in SQL; finished runs are added and taken out one by one.
A file that is damaged or cannot be read costs nobody the rest: what hangs on it is left out, and listed in `skipped` with the
stage `corpus`, `protocols`, `near-duplicates`, `features` or `run`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import duckdb

from tfser.manifests.cache import Cache, Stamp
from tfser.manifests.catalogue import schema
from tfser.manifests.catalogue.near_duplicates import read_near_duplicates
from tfser.manifests.catalogue.run_files import TABLES, StoredRun, read_about, read_run, row_of, shown
from tfser.manifests.catalogue.stored import (
    CORPUS,
    FEATURE_SET,
    SKIPPED,
    UTTERANCES,
    StoredCorpus,
    asked_protocols,
    read_corpus,
    read_feature_set,
    read_skipped,
)
from tfser.manifests.catalogue.views import VIEWS
from tfser.manifests.connections import Connection, quote_name
from tfser.manifests.errors import DamagedError, MissingFileError, TfserError, UnknownContentError, UnreadableError
from tfser.manifests.protocols.folds import applicable, install
from tfser.manifests.protocols.independence import fold_independence
from tfser.manifests.protocols.names import parse
from tfser.manifests.protocols.own import own_protocols, read_kept
from tfser.manifests.protocols.protocol import JOINED_BY, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

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
    left_out = _LeftOut(cache, connection)
    connection.execute("BEGIN")
    if changed("corpora/", "protocols/"):
        _read_corpora(cache, connection, left_out)
    if changed("corpora/", "features/"):
        _read_features(cache, connection, sources, left_out)
    connection.execute("COMMIT")
    if changed("runs/"):
        unread = _read_runs(cache, connection, before, sources)
        sources = {path: stamp for path, stamp in sources.items() if path not in unread}
    if changed("corpora/", "protocols/"):
        _judge_speakers(cache, connection)
    elif changed("runs/"):
        came = {PurePosixPath(p).parts[1] for p in sources if p.startswith("runs/") and sources[p] != before.get(p)}
        _judge_speakers(cache, connection, came)
    connection.execute("BEGIN")
    connection.execute("DELETE FROM sources")
    kept = {place: stamp for place, stamp in sources.items() if place not in left_out.again}
    if kept:
        sizes, times = zip(*kept.values(), strict=True)
        connection.execute("INSERT INTO sources SELECT unnest(?), unnest(?), unnest(?)", [list(kept), list(sizes), list(times)])
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


def insert_corpora(connection: Connection, corpora: Sequence[StoredCorpus]) -> None:
    """Fill the empty tables `corpora` and `utterances`, the latter made anew with the columns of the corpora's own.

    A column that several corpora have takes their common type; where numbers meet something else, it is text.
    """
    table = next(t for t in schema.TABLES if t.name == "utterances")
    known = {name.casefold() for name, _, _ in table.columns}
    own: dict[str, tuple[str, set[str]]] = {}
    for corpus in corpora:
        with _registered(connection, corpus.utterances):
            described = connection.execute("DESCRIBE incoming").fetchall()
        for name, kind, *_ in described:
            if name.casefold() not in known:
                own.setdefault(name.casefold(), (name, set()))[1].add("VARCHAR" if kind == '"NULL"' else kind)
    connection.execute("DROP TABLE IF EXISTS utterances")
    connection.execute(table.ddl())
    for name, kinds in own.values():
        kind = "DOUBLE" if len(kinds) > 1 and kinds <= _NUMBERS else "VARCHAR" if len(kinds) > 1 else min(kinds)
        connection.execute(f"ALTER TABLE utterances ADD COLUMN {quote_name(name)} {kind}")
    for corpus in corpora:
        about = corpus.about
        expected = about.get("expected")  # none: a scan that is older than the key
        published = expected.get("utterances") if isinstance(expected, dict) else None
        names = ("adapter", "root", "scanned_at", "default_protocol")
        connection.execute(
            "INSERT INTO corpora VALUES (?, ?, ?, ?, ?, ?, ?)",
            [corpus.name, *(about[name] for name in names), json.dumps(about["options"]), published],
        )
        _insert(connection, "utterances", corpus.utterances)


def asked_file(cache: Cache, corpora: str) -> Path:
    """Return the file of the protocols that somebody asked for beyond the corpus's own; of several corpora, over any several."""
    return cache.protocols / "asked.json" if JOINED_BY in corpora else cache.corpus(corpora) / "protocols.json"


@contextlib.contextmanager
def _registered(connection: Connection, table: pa.Table) -> Iterator[None]:
    """Let SQL read an Arrow table under the name `incoming`.

    DuckDB is never handed a path: it would read the file a second time, after its seal was looked at, and take a cache whose
    path has `[` or `*` for a pattern.
    """
    connection.register("incoming", table)
    try:
        yield
    finally:
        connection.unregister("incoming")


def _insert(connection: Connection, table: str, rows: pa.Table) -> None:
    """Insert the rows of an Arrow table into a table, by column name."""
    with _registered(connection, rows):
        connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")


class _LeftOut:
    """Notes in `skipped` what of the cache's files the catalogue does without, so that every command can say so.

    `again` are those that could not be read just now: their stamps are not kept, so that the next refresh tries them again.
    """

    def __init__(self, cache: Cache, connection: Connection) -> None:
        self._cache, self._connection = cache, connection
        self.again: set[str] = set()

    def note(self, stage: str, corpus: str | None, path: Path, error: Exception) -> None:
        """Note one file."""
        place, reason = self._cache.place(path), str(error).replace(f"{self._cache.root}/", "")
        if isinstance(error, UnreadableError):
            self.again |= {place}
        self._connection.execute(
            "INSERT INTO skipped BY NAME SELECT ? AS corpus, NULL AS utterance_id, ? AS path, ? AS stage, ? AS reason",
            [corpus, place, stage, reason.removeprefix(f"{place}: ").removeprefix(f"{place}/")],
        )


def _read_corpora(cache: Cache, connection: Connection, left_out: _LeftOut) -> None:
    own = own_protocols(cache)
    for table in ("corpora", "protocols", "assignments", "held_out"):
        connection.execute(f"DELETE FROM {table}")
    connection.execute("DELETE FROM skipped WHERE stage IN ('corpus', 'protocols', 'near-duplicates')")
    corpora: list[StoredCorpus] = []
    for name in sorted({*cache.corpora(), *cache.broken_corpora()}):
        try:
            corpora.append(read_corpus(cache, name))
        except (DamagedError, UnreadableError) as error:  # costs nobody the other corpora
            left_out.note("corpus", name, cache.corpus(name), error)
            left_out.again |= _places_of(cache, name) if isinstance(error, UnreadableError) else set()
    for path in sorted(cache.protocols.glob("[!.]*.toml")):
        try:
            read_kept(path)
        except (DamagedError, UnreadableError) as error:
            left_out.note("protocols", None, path, error)
    insert_corpora(connection, corpora)
    names = [corpus.name for corpus in corpora]
    for corpus in corpora:
        wanted = [*applicable(connection, corpus.name), *_asked(cache, corpus.name, left_out)]
        if corpus.about["default_protocol"]:
            wanted.append(str(corpus.about["default_protocol"]))
        _install_all(connection, corpus.name, wanted, own)
    _install_all(connection, JOINED_BY, _asked(cache, JOINED_BY, left_out), own)
    read_near_duplicates(
        cache, connection, names, lambda corpus, path, error: left_out.note("near-duplicates", corpus, path, error)
    )


def _places_of(cache: Cache, corpus: str) -> set[str]:
    return {f"corpora/{corpus}/{name}" for name in (CORPUS, UTTERANCES, SKIPPED)}


def _asked(cache: Cache, corpora: str, left_out: _LeftOut) -> list[str]:
    """Return the protocols that were asked for; none, and a note, where their list cannot be read."""
    path = asked_file(cache, corpora)
    try:
        return asked_protocols(cache, path)
    except (DamagedError, UnreadableError) as error:
        left_out.note("protocols", None if corpora == JOINED_BY else corpora, path, error)
        return []


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


def _read_features(cache: Cache, connection: Connection, sources: Sources, left_out: _LeftOut) -> None:
    for table in ("feature_sets", "features"):
        connection.execute(f"DELETE FROM {table}")
    connection.execute("DELETE FROM skipped WHERE stage NOT IN ('run', 'corpus', 'protocols', 'near-duplicates')")
    for (corpus,) in connection.execute("SELECT corpus FROM corpora ORDER BY corpus").fetchall():
        # A corpus whose list of what was passed over cannot be read is not in the table `corpora`.
        _insert(connection, "skipped", read_skipped(cache, cache.corpus(corpus) / SKIPPED))
    sets: list[tuple[Path, dict[str, Any]]] = []
    for place in sorted(p for p in sources if p.startswith("features/") and p.endswith(f"/{FEATURE_SET}")):
        folder = (cache.root / place).parent
        try:
            sets.append((folder, read_feature_set(cache, folder)))
        except (DamagedError, UnreadableError) as error:
            left_out.note("features", None, folder / FEATURE_SET, error)
    names = _set_names([about for _, about in sets])
    lists = [cache.root / p for p in sorted(sources) if p.startswith("features/") and p.endswith(f"/{SKIPPED}")]
    shards = [cache.root / p for p in sorted(sources) if p.endswith(".rows.parquet")]
    for folder, about in sets:
        name = names[about["name"], about["fingerprint"]]
        keys = ("fingerprint", "kind", "dim", "dtype", "hop_s", "created_at")
        source = json.dumps(about["source"]) if "source" in about else None
        connection.execute(
            "INSERT INTO feature_sets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [name, *(about[key] for key in keys), json.dumps(about["config"]), source, cache.place(folder)],
        )
        for path in (path for path in lists if path.parent.parent == folder):
            try:
                table = read_skipped(cache, path)
            except (DamagedError, UnreadableError) as error:
                left_out.note("features", path.parent.name, path, error)
                continue
            with _registered(connection, table):  # an outdated set's stages bear its whole name, see the table `feature_sets`
                connection.execute(
                    "INSERT INTO skipped BY NAME "
                    "SELECT * REPLACE (split_part(stage, ':', 1) || ':' || ? AS stage) FROM incoming",
                    [name],
                )
        own = [path for path in shards if path.parent.parent == folder]
        _insert_features(cache, connection, folder, name, about["dim"], own, left_out)


_SHARD_COLUMNS = ("utterance_id", "content_hash", "shard", "first_frame", "frames", "dim", "checksum")


def _insert_features(
    cache: Cache, connection: Connection, folder: Path, name: str, dim: int, shards: Sequence[Path], left_out: _LeftOut
) -> None:
    """Insert where the frames of one feature set lie, of all utterances that still have the content they were made of."""
    import pyarrow as pa
    import pyarrow.compute as pc

    tables: list[pa.Table] = []
    for path in shards:
        corpus = path.parent.name
        try:
            table = cache.read_table(path).replace_schema_metadata(None)
            if missing := set(_SHARD_COLUMNS) - set(table.column_names):
                raise UnknownContentError(f"{path}: cannot be understood (it has no column {min(missing)})")
            if pc.any(pc.not_equal(table["dim"], dim)).as_py():
                raise DamagedError(f"{path}: its frames are not {dim} numbers wide, as those of {name} are")
        except (DamagedError, UnreadableError) as error:
            left_out.note("features", corpus, path, error)
            continue
        tables.append(table.select(_SHARD_COLUMNS).append_column("corpus", pa.array([corpus] * table.num_rows, pa.string())))
    if not tables:
        return
    with _registered(connection, pa.concat_tables(tables)):
        connection.execute(
            """
            INSERT INTO features
            SELECT ? AS feature_set, r.corpus, r.utterance_id, ? || '/' || r.corpus || '/' || r.shard AS shard,
              r.first_frame, r.frames, r.dim, r.checksum
            FROM incoming r
            JOIN utterances u
              ON u.corpus = r.corpus AND u.utterance_id = r.utterance_id AND u.content_hash = r.content_hash
            QUALIFY row_number() OVER (PARTITION BY r.corpus, r.utterance_id ORDER BY r.shard) = 1
            """,
            [name, cache.place(folder)],
        )


def _set_names(sets: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """Return the name of each feature set, by what its folder is called after: its own, or with the fingerprint behind an @.

    The newest configuration of a front-end or encoder has the name, older ones are outdated. Two encoders of one name (two
    folders called alike) are no versions of each other: then nobody has the name alone, and whoever asks for it has to choose.
    What was extracted twice in one way, under names of the user's own, has one fingerprint and two names.
    """
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for about in sorted(sets, key=lambda about: str(about["created_at"])):
        by_name.setdefault(about["name"], []).append(about)
    names = {}
    for name, versions in by_name.items():
        newest = versions[-1]
        is_one = not any(other_encoder(about, newest) for about in versions)
        for about in versions:
            names[name, about["fingerprint"]] = name if is_one and about is newest else f"{name}@{about['fingerprint'][:8]}"
    return names


def other_encoder(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Tell whether two feature sets are of two encoders: other weights from another place.

    Other weights from the same place are a new version of it, and the same weights at another place are a copy.
    """
    places = [(about.get("source") or {}).get("weights") for about in (a, b)]
    weights = [(about.get("config") or {}).get("weights") for about in (a, b)]
    return None not in (*places, *weights) and places[0] != places[1] and weights[0] != weights[1]


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
        # A run on all utterances (fold 0) is tested on nobody, so it takes nothing from what its experiment's scores are worth.
        verdicts[run_id] = "kept" if fold == 0 else verdict or "unknown"
    if verdicts:
        connection.execute("BEGIN")
        connection.execute(
            "UPDATE runs SET speakers_kept = v.verdict FROM (SELECT unnest(?) AS run_id, unnest(?) AS verdict) v "
            "WHERE v.run_id = runs.run_id AND runs.speakers_kept IS DISTINCT FROM v.verdict",
            [list(verdicts), list(verdicts.values())],
        )
        connection.execute("COMMIT")


def _stored_verdict(cache: Cache, run_id: str) -> str | None:
    """Return what a run says of its test speakers; None where it says nothing that is known here, or cannot be read."""
    try:
        stored = read_about(cache.runs / run_id).get("speakers_kept")
    except (DamagedError, UnreadableError):
        return None
    return stored if stored in ("kept", "broken", "unknown") else None


def _corpus_of(folder: Path) -> str | None:
    """Return the corpus of a run that is left out, where the run still says it."""
    with contextlib.suppress(TfserError):
        corpus = read_about(folder).get("corpus")
        return corpus if isinstance(corpus, str) else None
    return None
