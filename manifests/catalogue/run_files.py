"""Runs as they lie on disk, read whole: every file is what was written, and the files agree with one another.

What comes in: the folder of a run. What goes out: what the run says of itself and the rows of its tables, fit for the catalogue;
nothing for a run that is not finished. A finished run's `run.json` is sealed and lists the SHA-256 of each of its other files.
Runs of the versions before have neither; of those, and of all others too, the tables are compared (`run_agreement`). Nothing
here writes.

What was read and does not fit is a `DamagedError`; whatever could not be read, or is of a newer version, an `UnreadableError`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfser.manifests import files, seals
from tfser.manifests.cache import AGAIN, BEFORE, Cache, run_of
from tfser.manifests.catalogue import schema
from tfser.manifests.catalogue.rating_agreement import check_ratings
from tfser.manifests.catalogue.run_agreement import check_agreement
from tfser.manifests.errors import DamagedError, FileError, MissingFileError, UnreadableError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

TABLES = ("history", "predictions", "metrics", "confusion")
"""Tables of a run, each one Parquet file of that name in the run's folder."""

RATED = "rated_predictions"
"""The table that runs on dimensions have besides."""


def tables_of(about: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tables that a run has by what it says of itself: one on dimensions has its ratings besides."""
    return (*TABLES, RATED) if about.get("targets") else TABLES


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A finished run: the content of run.json, and its tables with exactly the catalogue's columns."""

    about: dict[str, Any]
    tables: Mapping[str, pa.Table]


def place(folder: Path, name: str) -> str:
    """Return what the seal of a run's file is bound to; a run that is trained again is sealed for where it will lie."""
    return f"runs/{run_of(folder.name)}/{name}"


def read_about(folder: Path) -> dict[str, Any]:
    """Return the content of run.json.

    Raises:
        DamagedError: if it is not what was written, or describes no run or another one.
        UnreadableError: if it cannot be read now, or is missing (`MissingFileError`).
    """
    path = folder / "run.json"
    about = files.read_json(path, place=place(folder, "run.json"))
    if not isinstance(about, dict) or "status" not in about:
        raise DamagedError("it describes no run", at=path)
    if about.get("run_id", run_of(folder.name)) != run_of(folder.name):
        raise DamagedError(f"it describes the run {about['run_id']!r}", at=path)
    return about


def read_run(folder: Path, *, weights: bool = False) -> StoredRun | None:
    """Return a finished run that is whole; None where it is not finished.

    Args:
        folder: of the run.
        weights: look at its weights, too.

    Raises:
        DamagedError: if a file is missing or is not what was written, or they contradict one another.
        UnreadableError: if a file cannot be read now or understood, or run.json is missing (`MissingFileError`).
    """
    for last in (False, False, True):
        before = files.read_bytes(folder / "run.json")
        try:
            return _read(folder, weights)
        except DamagedError:
            # Exchanged for a new one while it was read: that is no damage.
            if last or files.read_bytes(folder / "run.json") == before:
                raise
    raise AssertionError  # the last round returns or raises


def shown(folder: Path, error: BaseException) -> str:
    """Return an error's line with the run's files called as in its folder."""
    return " ".join(str(error).split()).replace(f"{folder}/", "")


def run_folders(cache: Cache) -> list[Path]:
    """Return whatever lies below runs/ and is of a run, left-overs of an exchange too, in order."""
    return sorted(p for p in cache.runs.glob("*") if not p.name.startswith(".") or p.name.endswith((AGAIN, BEFORE)))


def check_run(folder: Path) -> None:
    """Look at everything that lies in a folder of `run_folders`; nothing is said of a run that is whole or only begun.

    Raises:
        DamagedError: if something is there that is not what was written, or was left by an exchange of runs that was killed.
        UnreadableError: if something cannot be read now or understood.
    """
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise DamagedError("no folder of a run", at=folder)
        check_begun(folder)
        read_run(folder, weights=True)
    except MissingFileError:  # removed just now, or nothing is in it yet
        return
    except OSError as error:
        raise files.could_not_read(folder, error) from error


def check_begun(folder: Path) -> None:
    """Refuse a folder that holds results and no run.json.

    Raises:
        DamagedError: if there is no run.json, and anything else but temporary files and a checkpoint.
    """
    if not os.path.lexists(folder / "run.json"):
        left = sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and p.name != "checkpoint")
        if left and not os.path.lexists(folder / "run.json"):  # still: it is written first
            raise DamagedError(f"is missing, beside {', '.join(left)}", at=folder / "run.json")


def _read(folder: Path, weights: bool) -> StoredRun | None:
    run = read_about(folder)
    if run["status"] != "finished":
        return None
    listed = run.get("files")
    digests: dict[str, str] = listed if isinstance(listed, dict) else {}
    # A run that lists its files is sealed: what is in it was written so, perhaps by another version.
    _check_values(folder, run, UnreadableError if digests else DamagedError)
    tables = {name: _read_table(folder, name, digests) for name in tables_of(run)}
    if weights:
        for name in digests.keys() - {f"{table}.parquet" for table in tables}:
            read_file(folder, name, digests)
    try:
        if run.get("targets"):
            check_ratings(folder, run, tables)
        if run.get("classes") or not run.get("targets"):
            check_agreement(folder, run, tables)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # what nobody thought of is not shown either
        kind = UnreadableError if digests else DamagedError
        raise kind(f"its tables cannot be compared ({first_line(error, 2)})", at=folder) from error
    return StoredRun(about=run, tables=tables)


def read_file(folder: Path, name: str, digests: Mapping[str, str]) -> tuple[bytes, bool]:
    """Return the content of a file of a finished run, and whether it has a seal.

    Raises:
        DamagedError: if it is missing or not what was written.
        UnreadableError: if it cannot be read now.
    """
    path = folder / name
    try:
        content = files.read_bytes(path)
    except MissingFileError as error:
        files.read_bytes(folder / "run.json")  # gone as well: somebody removes the run
        raise DamagedError("is missing", at=path) from error
    if name in digests and hashlib.sha256(content).hexdigest() != digests[name]:
        raise DamagedError("its content is not what was written there", at=path)
    return content, seals.is_sealed(content, place(folder, name), str(path))


def _read_table(folder: Path, name: str, digests: Mapping[str, str]) -> pa.Table:
    """Return a table of a run with exactly the columns of the catalogue's; those that are younger than the run are null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / f"{name}.parquet"
    content, is_sealed = read_file(folder, path.name, digests)
    files.check_parquet(path, content)
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise files.could_not_read(path, error) from error
    # What is sealed was written so, perhaps by another version; what is not may be anything.
    kind = UnreadableError if is_sealed else DamagedError
    if not is_sealed:
        try:
            table.validate(full=True)  # texts that are none, and places beyond the end, which the reader takes as they are
        except (pa.ArrowException, ValueError) as error:
            raise kind(f"holds what cannot be ({first_line(error, 2)})", at=path) from error
    wanted = columns_of(name)
    if unknown := sorted(set(table.column_names) - set(wanted.names)):
        raise UnreadableError(f"has a column {unknown[0]!r} that this version of tfser does not know", at=path)
    arrays = []
    for field in wanted:
        if field.name not in table.column_names:
            arrays.append(pa.nulls(len(table), field.type))
            continue
        try:
            arrays.append(table[field.name].cast(field.type))
        except (pa.ArrowException, ValueError) as error:
            raise kind(f"its column {field.name} does not hold {field.type} ({first_line(error, 2)})", at=path) from error
    return pa.table(arrays, schema=wanted)


def columns_of(table: str) -> pa.Schema:
    """Return the Arrow schema of one of the catalogue's tables of runs."""
    import pyarrow as pa

    kinds = {
        "VARCHAR": pa.string(),
        "INTEGER": pa.int32(),
        "BIGINT": pa.int64(),
        "DOUBLE": pa.float64(),
        "MAP(VARCHAR,DOUBLE)": pa.map_(pa.string(), pa.float64()),
    }
    columns = next(t.columns for t in schema.TABLES if t.name == table)
    return pa.schema([(name, kinds[kind]) for name, kind, _ in columns])


def row_of(about: Mapping[str, Any]) -> list[Any]:
    """Return a run's row of the catalogue's table; null where a column is younger than the run."""
    columns = next(t.columns for t in schema.TABLES if t.name == "runs")
    return [_column(about.get(name), kind) for name, kind, _ in columns]


def _column(value: Any, kind: str) -> Any:
    """Return a value of run.json as a column takes it: mappings and lists are JSON, but for columns of a list's type."""
    return json.dumps(value) if isinstance(value, (dict, list)) and not kind.endswith("[]") else value


def _check_values(folder: Path, about: Mapping[str, Any], kind_of_error: type[FileError]) -> None:
    """Refuse a run.json whose values do not fit the catalogue's columns."""
    most = {"INTEGER": 2**31, "BIGINT": 2**63}
    for name, kind, _ in next(t.columns for t in schema.TABLES if t.name == "runs"):
        value = about.get(name)
        if value is None:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if kind == "VARCHAR[]":
            fits = isinstance(value, list) and all(isinstance(each, str) for each in value)
        elif kind == "VARCHAR":
            fits = isinstance(value, (str, dict, list))
        elif kind == "DOUBLE":
            fits = number and math.isfinite(value)
        else:
            fits = number and isinstance(value, int) and -most[kind] <= value < most[kind]
        if not fits:
            raise kind_of_error(f"{name} is {str(value)[:40]}, which is out of range or no {kind}", at=folder / "run.json")
