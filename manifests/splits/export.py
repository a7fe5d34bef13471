"""Splits for others: a protocol's folds as csv, as JSON, or in the form of an audformat database.

Comes in: a protocol of an open catalogue. Goes out, written aside and renamed:

* csv: one row an utterance and fold, with fold, role, corpus, utterance_id, label, path, start_s, end_s;
* json: an object that says what the protocol is (name, hash, classes ...), with those rows under `utterances`;
* audformat: a folder with the header `db.yaml` and one table a fold and side, `db.fold1.train.csv`, of files with label, speaker
  and corpus (segments have start and end); put beside the audio, `audformat.load` reads it. Paths of several corpora begin with
  the corpus's name.

The order is that of fold, role (train, val, test), corpus and utterance_id, so that the same split gives the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from tfser.manifests.catalogue.reading import rows
from tfser.manifests.connections import Connection
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.files import fsync_path
from tfser.manifests.outputs import format_of, writing

FORMATS = ("csv", "json", "audformat")
COLUMNS = ("fold", "role", "corpus", "utterance_id", "label", "path", "start_s", "end_s")
_ABOUT = ("protocol", "corpora", "version", "hash", "folds", "classes", "keeps_apart", "grouped_by", "validation", "summary")
_MARK = "made by tfser protocol export"
_AT_ONCE = 10_000


def export(connection: Connection, protocol: str, corpora: str, path: Path, format: str | None) -> int:
    """Write a protocol's folds; return the number of rows.

    Args:
        connection: an open catalogue that holds the protocol.
        protocol: its name.
        corpora: the corpus, or several joined by +.
        path: the file; of audformat, the folder.
        format: csv, json or audformat; None: by the file's suffix.

    Raises:
        UsageError: if there is no such format, or the path is taken by something that an export does not replace.
    """
    if format is None:
        format = format_of(path, ("csv", "json")) or "csv"
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if format == "audformat":
        return _audformat(connection, protocol, corpora, path.expanduser().absolute())
    with writing(path) as binary, io.TextIOWrapper(binary, encoding="utf-8", newline="") as file:
        if format == "csv":
            return _csv(file, COLUMNS, _rows(connection, protocol, corpora, ""))
        return _json(file, connection, protocol, corpora)


def _rows(connection: Connection, protocol: str, corpora: str, condition: str, more: str = "") -> Iterator[tuple[Any, ...]]:
    """Yield the rows of COLUMNS in their order, without holding all of them."""
    result = connection.execute(
        f"SELECT f.fold, f.role, f.corpus, f.utterance_id, f.label, u.path, u.start_s, u.end_s{more} FROM folds f "
        "JOIN protocols p ON p.protocol = f.protocol AND p.corpus = f.corpus "
        "JOIN utterances u ON u.corpus = f.corpus AND u.utterance_id = f.utterance_id "
        f"WHERE p.protocol = ? AND p.corpora = ? {condition} "
        "ORDER BY f.fold, list_position(['train', 'val', 'test'], f.role), f.corpus, f.utterance_id",
        [protocol, corpora],
    )
    while chunk := result.fetchmany(_AT_ONCE):
        yield from chunk


def _csv(file: TextIO, columns: Sequence[str], lines: Iterator[tuple[Any, ...]]) -> int:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    count = 0
    for row in lines:
        writer.writerow(row)
        count += 1
    return count


def _about(connection: Connection, protocol: str, corpora: str) -> dict[str, Any]:
    of = rows(
        connection, f"SELECT {', '.join(_ABOUT)} FROM protocols WHERE protocol = ? AND corpora = ? LIMIT 1", [protocol, corpora]
    )
    return of[0]


def _json(file: TextIO, connection: Connection, protocol: str, corpora: str) -> int:
    head = json.dumps(_about(connection, protocol, corpora), indent=1, ensure_ascii=False)
    file.write(head.removesuffix("\n}") + ',\n "utterances": [')
    count = 0
    for row in _rows(connection, protocol, corpora, ""):
        file.write((",\n" if count else "\n") + json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False))
        count += 1
    file.write("\n]}\n")
    return count


def _audformat(connection: Connection, protocol: str, corpora: str, path: Path) -> int:
    """Write the folder aside and put it in its place, where an earlier export may stand, and nothing else."""
    _check_place(path)
    description = _about(connection, protocol, corpora)
    several = "+" in corpora
    members = "FROM assignments a JOIN protocols p USING (protocol, corpus) JOIN utterances u USING (corpus, utterance_id) "
    chosen = "WHERE p.protocol = ? AND p.corpora = ?"
    # One segment anywhere makes all tables segmented: a database of both kinds is read by few tools.
    cut = rows(
        connection,
        f"SELECT count(*) AS n {members} {chosen} AND (u.start_s IS NOT NULL OR u.end_s IS NOT NULL)",
        [protocol, corpora],
    )[0]["n"]
    sides = rows(
        connection,
        "SELECT DISTINCT f.fold, f.role FROM folds f JOIN protocols p USING (protocol, corpus) "
        f"{chosen} ORDER BY f.fold, list_position(['train', 'val', 'test'], f.role)",
        [protocol, corpora],
    )
    # Written aside: a folder that was begun and not finished must not look like an export.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    count = 0
    try:
        for side in sides:
            table = temporary / f"db.fold{side['fold']}.{side['role']}.csv"
            found = _rows(
                connection, protocol, corpora, f"AND f.fold = {side['fold']} AND f.role = '{side['role']}'", ", u.speaker"
            )
            index = ["file", "start", "end"] if cut else ["file"]
            with table.open("w", encoding="utf-8", newline="") as file:
                lines = (_indexed(row, bool(cut), several) for row in found)
                count += _csv(file, [*index, "emotion", "speaker", "corpus"], lines)
            fsync_path(table)
        header = _header(description, [f"fold{s['fold']}.{s['role']}" for s in sides], "segmented" if cut else "filewise")
        (temporary / "db.yaml").write_text(json.dumps(header, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        fsync_path(temporary / "db.yaml")
        _put_in_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return count


def _check_place(path: Path) -> None:
    """Refuse a folder that holds anything but an earlier export: --output may name one of somebody's data by mistake.

    Raises:
        UsageError: something else is there, or there is no folder around it.
    """
    if path.exists() and not (path.is_dir() and (not any(path.iterdir()) or _is_export(path))):
        raise UsageError(f"--output {path}: something else is there; name a folder that is new, or empty")
    if not path.parent.is_dir():
        raise UsageError(f"--output {path}: there is no folder {path.parent}; make it first, or name another")


def _put_in_place(temporary: Path, path: Path) -> None:
    """Rename a finished folder; a reader sees the old one, for a moment none, or the new one, and never half of it."""
    if path.exists():
        old = path.with_name(f"{temporary.name}.old")
        path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old)
    else:
        temporary.rename(path)
    fsync_path(path.parent)


def _is_export(path: Path) -> bool:
    header = path / "db.yaml"
    ours = header.is_file() and _MARK in header.read_text(encoding="utf-8", errors="replace")
    return ours and all(p.name.startswith("db.") for p in path.iterdir())


def _indexed(row: tuple[Any, ...], cut: bool, several: bool) -> tuple[Any, ...]:
    """Return one row of an audformat table; times are counted in days, as audformat writes them."""
    _, _, corpus, _, label, path, start, end, speaker = row
    file = f"{corpus}/{path}" if several and not Path(path).is_absolute() else path
    index = (file, _time(start or 0.0), "" if end is None else _time(end)) if cut else (file,)
    return (*index, label, speaker, corpus)


def _time(seconds: float) -> str:
    """Return a time as pandas reads it.

    >>> _time(3.25), _time(90061.5)
    ('0 days 00:00:03.250000', '1 days 01:01:01.500000')
    """
    micro = round(seconds * 1_000_000)
    days, micro = divmod(micro, 86_400_000_000)
    hours, micro = divmod(micro, 3_600_000_000)
    minutes, micro = divmod(micro, 60_000_000)
    whole, micro = divmod(micro, 1_000_000)
    return f"{days} days {hours:02d}:{minutes:02d}:{whole:02d}.{micro:06d}"


def _header(description: dict[str, Any], tables: list[str], kind: str) -> dict[str, Any]:
    """Return the header of the database. It is written as JSON, which is YAML, too."""
    columns = {
        "emotion": {"scheme_id": "emotion"},
        "speaker": {"scheme_id": "speaker"},
        "corpus": {"scheme_id": "corpus"},
    }
    return {
        "name": str(description["corpora"]).replace("+", "-"),
        "source": f"{_MARK}: {description['protocol']}, version {description['version']}, hash {description['hash']}",
        "usage": "research",
        "languages": [],
        "description": f"{description['summary']}; validation {description['validation']}",
        "schemes": {
            "emotion": {"dtype": "str", "labels": list(description["classes"])},
            "speaker": {"dtype": "str"},
            "corpus": {"dtype": "str"},
        },
        "tables": {name: {"type": kind, "columns": columns} for name in tables},
    }
