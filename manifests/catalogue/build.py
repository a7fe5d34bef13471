"""Filling a catalogue from the cache's files: corpora with their protocols, feature sets, runs.

Goes in: the cache's Parquet and JSON files, as `Cache.sources` lists them. Comes out: rows in the tables of `schema.TABLES`.
What changed in `corpora/` or `features/` is read again as a whole, in SQL; finished runs are added and taken out one by one.
A file that is damaged or cannot be read costs nobody the rest: what hangs on it is left out, and listed in `skipped` with the
stage `corpus`, `annotations`, `protocols`, `near-duplicates`, `features` or `run`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

import duckdb

from tfser.manifests.cache import Cache, Stamp
from tfser.manifests.catalogue import schema
from tfser.manifests.catalogue.fill_features import read_features
from tfser.manifests.catalogue.fill_runs import judge_speakers, read_runs
from tfser.manifests.catalogue.filling import LeftOut, insert, registered
from tfser.manifests.catalogue.near_duplicates import read_near_duplicates
from tfser.manifests.catalogue.stored import (
    ANNOTATIONS,
    CORPUS,
    SKIPPED,
    UTTERANCES,
    StoredCorpus,
    asked_protocols,
    read_annotations,
    read_corpus,
)
from tfser.manifests.catalogue.views import VIEWS
from tfser.manifests.connections import Connection, quote_name
from tfser.manifests.errors import DamagedError, TfserError, UnreadableError
from tfser.manifests.protocols.folds import applicable, install
from tfser.manifests.protocols.names import parse
from tfser.manifests.protocols.own import own_protocols, read_kept
from tfser.manifests.protocols.protocol import JOINED_BY, Protocol

Sources = Mapping[str, Stamp]

_OF_CORPORA = ("corpora", "protocols", "assignments", "held_out", "annotations")
_OF_FEATURES = ("feature_sets", "features")
"""The tables that are filled anew as a whole where a file of the corpora, or of the features, has changed."""

_SMALL = 1 << 13
"""Utterances times the files that say something of them, up to which a catalogue is not compressed."""

_STAGES = "('corpus', 'annotations', 'protocols', 'near-duplicates')"
"""Of `skipped`: what is noted while corpora are read."""

_NUMBERS = frozenset(
    ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT", "FLOAT", "DOUBLE")
)


def build(
    cache: Cache, connection: Connection, before: Sources, sources: Sources, *, fresh: bool, is_created: bool = False
) -> dict[str, Stamp]:
    """Bring the tables of an open catalogue from the files of `before` to those of `sources`; return what they now stand for.

    Args:
        cache: the cache.
        connection: the catalogue, open for writing; empty if `fresh`.
        before: the files that it was built from.
        sources: the files that it is to be built from.
        fresh: create the tables, read everything.
        is_created: the tables of a fresh one are there already, empty.

    Raises:
        TfserError: if a file of the cache cannot be read.
    """

    def changed(*prefixes: str) -> bool:
        a, b = ({p: s for p, s in of.items() if p.startswith(prefixes)} for of in (before, sources))
        return fresh or a != b

    if fresh and not is_created:
        create(connection)
    left_out = LeftOut(cache, connection)
    # Corpora before features, since features count only where an utterance has their content hash; runs after
    # both, since predictions name utterances.
    connection.execute("BEGIN")
    if changed("corpora/", "protocols/"):
        if not fresh:
            _empty(connection, _OF_CORPORA, f"stage IN {_STAGES}")
        _read_corpora(cache, connection, left_out)
    if changed("corpora/", "features/"):
        if not fresh:
            _empty(connection, _OF_FEATURES, f"stage <> 'run' AND stage NOT IN {_STAGES}")
        read_features(cache, connection, sources, left_out)
    connection.execute("COMMIT")
    if changed("runs/"):
        unread = read_runs(cache, connection, before, sources)
        sources = {path: stamp for path, stamp in sources.items() if path not in unread}
    # Whether speakers are new to a head follows from protocols: where these changed every run is judged again,
    # else only those that came.
    if changed("corpora/", "protocols/") and any(p.startswith("runs/") for p in sources):
        judge_speakers(cache, connection)
    elif came := {PurePosixPath(p).parts[1] for p in sources if p.startswith("runs/") and sources[p] != before.get(p)}:
        judge_speakers(cache, connection, came)
    # What could not be read just now has no stamp, so it is looked at again though no file has changed.
    kept = {place: stamp for place, stamp in sources.items() if place not in left_out.again}
    _conclude(connection, kept, fresh=fresh)
    return kept


def _conclude(connection: Connection, kept: Sources, *, fresh: bool) -> None:
    """Write what a catalogue now stands for, last of all, and put it on the disk."""
    # In one transaction: a build that dies before it is begun anew by the next command.
    connection.execute("BEGIN")
    if not fresh:
        connection.execute("DELETE FROM sources")
    if kept:
        sizes, times = zip(*kept.values(), strict=True)
        connection.execute("INSERT INTO sources SELECT unnest(?), unnest(?), unnest(?)", [list(kept), list(sizes), list(times)])
    connection.execute("COMMIT")
    # To choose how each column is best compressed is a fifth of the work of a small catalogue, and saves it nothing: a column
    # takes whole blocks anyway.
    (utterances,) = connection.execute("SELECT count(*) FROM utterances").fetchall()[0]
    small = utterances * len(kept) <= _SMALL
    connection.execute(f"SET force_compression = '{'uncompressed' if small else 'auto'}'")
    connection.execute("CHECKPOINT")


def _empty(connection: Connection, tables: Sequence[str], skipped: str) -> None:
    """Empty tables that are to be filled anew, and take out of `skipped` what was noted while they were filled before."""
    for table in tables:
        connection.execute(f"DELETE FROM {table}")
    connection.execute(f"DELETE FROM skipped WHERE {skipped}")


def create(connection: Connection, views: Collection[str] = tuple(VIEWS)) -> None:
    """Create the empty tables and views; `AUDITED_VIEWS` are all that protocols and audits read, and a tenth of the work."""
    connection.execute("CREATE TABLE meta (version INTEGER)")
    connection.execute("INSERT INTO meta VALUES (?)", [schema.VERSION])
    connection.execute("CREATE TABLE sources (path VARCHAR, size BIGINT, mtime_ns BIGINT)")
    for table in schema.TABLES:
        if not table.view:
            connection.execute(table.ddl())
    for name, body in VIEWS.items():
        if name in views:
            connection.execute(f"CREATE VIEW {name} AS {body}")


def insert_corpora(connection: Connection, corpora: Sequence[StoredCorpus]) -> None:
    """Fill the empty tables `corpora` and `utterances`, the latter made anew with the columns of the corpora's own.

    A column that several corpora have takes their common type; where numbers meet something else, it is text.
    """
    table = next(t for t in schema.TABLES if t.name == "utterances")
    # DuckDB's names know no case: `Emotion` and `emotion` are one column.
    contract = {name.casefold() for name, _, _ in table.columns}
    own: dict[str, tuple[str, set[str]]] = {}
    for corpus in corpora:
        with registered(connection, corpus.utterances):
            described = connection.execute("DESCRIBE incoming").fetchall()
        for name, kind, *_ in described:
            if name.casefold() not in contract:
                own.setdefault(name.casefold(), (name, set()))[1].add("VARCHAR" if kind == '"NULL"' else kind)
    connection.execute("DROP TABLE IF EXISTS utterances")
    connection.execute(table.ddl())
    for name, kinds in own.values():
        kind = "DOUBLE" if len(kinds) > 1 and kinds <= _NUMBERS else "VARCHAR" if len(kinds) > 1 else min(kinds)
        connection.execute(f"ALTER TABLE utterances ADD COLUMN {quote_name(name)} {kind}")
    for corpus in corpora:
        corpus_json = corpus.about
        expected = corpus_json.get("expected")  # none: a scan that is older than the key
        published = expected.get("utterances") if isinstance(expected, dict) else None
        names = ("adapter", "root", "scanned_at", "default_protocol")
        connection.execute(
            "INSERT INTO corpora VALUES (?, ?, ?, ?, ?, ?, ?)",
            [corpus.name, *(corpus_json[name] for name in names), json.dumps(corpus_json["options"]), published],
        )
        insert(connection, "utterances", corpus.utterances)


def asked_file(cache: Cache, corpora: str) -> Path:
    """Return the file of the protocols that somebody asked for beyond the corpus's own; of several corpora, over any several."""
    return cache.protocols / "asked.json" if JOINED_BY in corpora else cache.corpus(corpora) / "protocols.json"


def _read_corpora(cache: Cache, connection: Connection, left_out: LeftOut) -> None:
    # All corpora are read anew where one has changed: their own columns make up the table `utterances`, whose
    # types depend on all of them.
    own = own_protocols(cache)
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
    # Protocols come last: their conditions and classes read utterances and ratings.
    names = [corpus.name for corpus in corpora]
    _read_annotations(cache, connection, names, left_out)
    for corpus in corpora:
        wanted = [*applicable(connection, corpus.name), *_asked(cache, corpus.name, left_out)]
        if corpus.about["default_protocol"]:
            wanted.append(str(corpus.about["default_protocol"]))
        _install_all(connection, corpus.name, wanted, own)
    _install_all(connection, JOINED_BY, _asked(cache, JOINED_BY, left_out), own)
    read_near_duplicates(
        cache, connection, names, lambda corpus, path, error: left_out.note("near-duplicates", corpus, path, error)
    )


def _read_annotations(cache: Cache, connection: Connection, names: Sequence[str], left_out: LeftOut) -> None:
    """Fill the table of single ratings; a corpus whose file cannot be read keeps its utterances."""
    for name in names:
        try:
            insert(connection, "annotations", read_annotations(cache, name))
        except (DamagedError, UnreadableError) as error:
            left_out.note("annotations", name, cache.corpus(name) / ANNOTATIONS, error)


def _places_of(cache: Cache, corpus: str) -> set[str]:
    return {f"corpora/{corpus}/{name}" for name in (CORPUS, UTTERANCES, SKIPPED)}


def _asked(cache: Cache, corpora: str, left_out: LeftOut) -> list[str]:
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
            is_here = not protocol.over and corpus != JOINED_BY
            if protocol.name in installed or not (is_here or known_corpora(connection, protocol, corpus)):
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
    found = connection.execute("SELECT count(*) FROM corpora WHERE list_contains(?, corpus)", [wanted]).fetchall()
    return found == [(len(wanted),)]
