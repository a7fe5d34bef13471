"""Runs to rows, one by one: those that came are added, those that went are taken out, and each is judged by its speakers.

In: the folders below `runs/`. Out: the table `runs` and those of `run_files.TABLES`. A run counts when it is finished and whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

import duckdb

from tfser.manifests.cache import Cache, Stamp
from tfser.manifests.catalogue.filling import insert
from tfser.manifests.catalogue.run_files import RATED, TABLES, StoredRun, read_about, read_run, row_of, shown
from tfser.manifests.connections import Connection
from tfser.manifests.errors import DamagedError, MissingFileError, TfserError, UnreadableError
from tfser.manifests.protocols.independence import fold_independence

_AT_ONCE = 64
"""Runs whose rows are inserted at once."""


def read_runs(cache: Cache, connection: Connection, before: Mapping[str, Stamp], sources: Mapping[str, Stamp]) -> set[str]:
    """Take out runs that changed or went, add those that changed or came; a run counts when it is finished and whole.

    Returns:
        Those of the sources that are left out: they are looked at again next time.

    Raises:
        MissingFileError: if a run went away meanwhile.
    """
    old, new = ({p: s for p, s in of.items() if p.startswith("runs/")} for of in (before, sources))
    gone = [PurePosixPath(p).parent for p in old if new.get(p) != old[p]]
    come = [PurePosixPath(p).parent for p in sorted(new) if old.get(p) != new[p]]
    unread: set[str] = set()
    left_out: list[tuple[str | None, str, str]] = []
    if not gone and not come:
        return unread
    connection.execute("BEGIN")
    try:
        if gone:
            for table in ("runs", *TABLES, RATED):
                connection.execute(f"DELETE FROM {table} WHERE run_id IN (SELECT unnest(?))", [[p.name for p in gone]])
        # What was said of a run that changed is said again if it still holds; one that could not be read has no stamp in
        # `before`, and was spoken of nevertheless.
        paths = [p.as_posix() for p in {*gone, *come}]
        connection.execute("DELETE FROM skipped WHERE stage = 'run' AND path IN (SELECT unnest(?))", [paths])
        # In parts, so that never more than the rows of so many runs are in memory.
        for first in range(0, len(come), _AT_ONCE):
            _insert_runs(connection, _whole(cache, come[first : first + _AT_ONCE], left_out, unread))
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


def _whole(
    cache: Cache, paths: Sequence[PurePosixPath], left_out: list[tuple[str | None, str, str]], unread: set[str]
) -> list[StoredRun]:
    """Return the finished runs of some folders; what is damaged or cannot be read is added to `left_out` and `unread`.

    Raises:
        MissingFileError: if a run went away meanwhile.
    """
    whole: list[StoredRun] = []
    for path in paths:
        folder = cache.root / path
        # A run that is damaged costs nobody the others; one that vanished meanwhile stops the build, which is begun again.
        try:
            run = read_run(folder)
        except MissingFileError:
            raise
        except (DamagedError, UnreadableError) as error:
            left_out.append((_corpus_of(folder), path.as_posix(), shown(folder, error)))
            # A damaged one, too: its stamp is that of run.json, and says nothing of a table that is put back from a copy.
            unread.add((path / "run.json").as_posix())
        else:
            whole += [] if run is None else [run]
    return whole


def _insert_runs(connection: Connection, runs: Sequence[StoredRun]) -> None:
    """Insert finished runs that were read whole."""
    import pyarrow as pa

    if not runs:
        return
    rows = [row_of(run.about) for run in runs]
    connection.executemany(f"INSERT INTO runs VALUES ({', '.join('?' * len(rows[0]))})", rows)
    for table in (*TABLES, RATED):
        if tables := [run.tables[table] for run in runs if table in run.tables]:
            insert(connection, table, pa.concat_tables(tables))


def judge_speakers(cache: Cache, connection: Connection, only: Collection[str] | None = None) -> None:
    """Say of each run, or of `only` those, whether its test speakers are new to it (`runs.speakers_kept`), of old runs, too.

    While the catalogue holds the very rows that a run was made of (the protocol's hash), their speakers decide, as they are known
    now. Of any other run stands what it stored itself, and else that nobody can tell.
    """
    stored = connection.execute(
        "SELECT r.run_id, r.protocol, r.corpus, r.fold, bool_or(p.hash IS NOT NULL) FROM runs r LEFT JOIN protocols p "
        "ON p.protocol = r.protocol AND p.corpora = r.corpus AND p.hash = r.protocol_hash "
        "WHERE ?::VARCHAR[] IS NULL OR list_contains(?, r.run_id) GROUP BY ALL",
        [None if only is None else list(only)] * 2,
    ).fetchall()
    pairs = {(protocol, corpus) for _, protocol, corpus, _, here in stored if here}
    judged = {pair: fold_independence(connection, *pair) for pair in pairs}
    verdicts: dict[str, str] = {}
    for run_id, protocol, corpus, fold, here in stored:
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
