"""Opening a database in audEERING's audformat: its header, its tables, and what the codes of its schemes stand for.

Comes in: the folder that holds `db.yaml`. Goes out: one `Column` for each column of its filewise and segmented tables, as plain
Python values. The header is read as data (the library's own loader would also build objects that a header names), and tables
from csv or Parquet only: their pickled form is a program, and is never run.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfser.manifests.errors import TfserError, UsageError, first_line

Key = tuple[str, float | None, float | None]
"""File, start and end in seconds; None, None is the whole file."""

SIDES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "devel", "development", "val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "eval", "evaluation"), "test"),
}
"""Parts of a table's name, and types of splits, that say whose side its rows are on."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table: its value for each file or segment, and what its scheme says of the values.

    `meanings` has, for a value, a text or a mapping (as `gender` and `age` of a speaker). `split` is the side of the table.
    """

    table: str
    column: str
    scheme: str | None
    split: str | None
    values: Mapping[Key, Any]
    meanings: Mapping[Any, Any] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """The table's name with the part that names a side replaced: tables of one family are parts of one."""
        return ".".join("*" if part.casefold() in SIDES else part for part in self.table.split("."))

    @property
    def place(self) -> str:
        """How the column is called where it has to be named."""
        return f"{self.table}/{self.column}"


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What is in a database: columns in the order of its tables, files, and facts by the one level of its misc tables."""

    name: str
    licence: str | None
    columns: tuple[Column, ...]
    files: tuple[str, ...]
    facts: Mapping[str, Mapping[Any, Mapping[str, Any]]]


def header_of(root: Path) -> dict[str, Any]:
    """Return the header of the database in a folder.

    Raises:
        UsageError: if there is none, or audformat is not installed.
        TfserError: if it cannot be read, or asks for more than data.
    """
    file = root / "db.yaml"
    if not file.is_file():
        below = sorted(path.parent for path in root.glob("**/db.yaml"))[:3] if root.is_dir() else []
        hint = f"; there is one in {' and '.join(str(path) for path in below)}: name that folder with --root" if below else ""
        raise UsageError(f"{root}: there is no db.yaml, the header of an audformat database, in it{hint}")
    try:
        import audformat  # noqa: F401
        import yaml
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{root}: databases in audformat are read with its library: pip install '.[audformat]' ({error.name} is missing)"
        ) from error
    try:
        header = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TfserError(f"{file}: cannot be read as a header ({first_line(error)})") from error
    if not isinstance(header, dict) or not isinstance(header.get("name"), str):
        raise TfserError(f"{file}: cannot be read as a header (it names no database)")
    return header


def open_database(root: Path) -> Opened:
    """Read a database.

    Raises:
        UsageError, TfserError: as `header_of`; or if a table cannot be read.
    """
    header = header_of(root)
    import audformat

    try:
        database = audformat.Database.load_header_from_yaml(header)
    except Exception as error:  # whatever a header that is off makes the library raise
        raise TfserError(f"{root / 'db.yaml'}: audformat cannot read it ({first_line(error)})") from error
    values: dict[str, dict[str, list[Any]]] = {}
    for name in [*database.misc_tables, *database.tables]:  # the first may hold the labels of the others
        with _without_pickles(root, name) as path:
            try:
                database[name].load(str(path))
                values[name] = _values(database, name, path)
            except Exception as error:
                raise TfserError(f"{root}: audformat cannot read the table {name} ({first_line(error)})") from error
    # What is said of speakers or files once, in a table of its own, is joined by the index's name.
    facts = {
        str(table.df.index.names[0]).casefold(): _facts(table.df.index, values[name])
        for name, table in database.misc_tables.items()
        if table.df.index.nlevels == 1
    }
    columns = tuple(_columns(database, values))
    licence = header.get("license")
    return Opened(
        name=header["name"],
        licence=str(licence) if licence else None,
        columns=columns,
        files=tuple(sorted({key[0] for column in columns for key in column.values})),
        facts=facts,
    )


def _columns(database: Any, values: Mapping[str, Mapping[str, list[Any]]]) -> Iterator[Column]:
    """Yield the columns of a database's tables, in their order, with their values by table and column."""
    for name, table in database.tables.items():
        # A split may stand in the header or, as many databases have it, in the table's name alone; two sides in
        # one name say nothing.
        keys = [_key(entry) for entry in table.df.index]
        side = database.splits[table.split_id].type if table.split_id in database.splits else None
        parts = [part for part in name.split(".") if part.casefold() in SIDES]
        split = SIDES.get(str(side).casefold()) or (SIDES[parts[0].casefold()] if len(parts) == 1 else None)
        for column, header in table.columns.items():
            scheme = database.schemes[header.scheme_id] if header.scheme_id is not None else None
            labels = scheme.labels if scheme is not None else None
            if isinstance(labels, str):
                labels = _facts(database.misc_tables[labels].df.index, values[labels])
            yield Column(
                table=name,
                column=column,
                scheme=header.scheme_id,
                split=split,
                values=dict(zip(keys, values[name][column], strict=True)),
                meanings={plain(value): meaning for value, meaning in labels.items()} if isinstance(labels, dict) else {},
            )


def plain(value: Any) -> Any:
    """Return a value of pandas as Python has it: lengths of time in seconds, None where there is nothing."""
    if value is None or type(value).__name__ in ("NaTType", "NAType"):
        return None
    if isinstance(value, datetime.timedelta):  # pandas' are of this type, too
        return value.total_seconds()
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _key(entry: Any) -> Key:
    if isinstance(entry, str):
        return entry, None, None
    file, start, end = entry
    start_s, end_s = plain(start), plain(end)
    return (file, None, None) if not start_s and end_s is None else (file, start_s or 0.0, end_s)


def _values(database: Any, name: str, path: Path) -> dict[str, list[Any]]:
    """Return the values of a table's columns, by column.

    The library takes N/A, NA, null and nan in a csv file for nothing. In columns of text they are words: what stands in the
    file is taken where the library has nothing.
    """
    table = database[name]
    values = {column: [plain(value) for value in table.df[column]] for column in table.columns}
    file = Path(f"{path}.csv")
    if Path(f"{path}.parquet").is_file() or not any(None in column for column in values.values()):
        return values
    from pyarrow import csv

    written = csv.read_csv(
        file,
        parse_options=csv.ParseOptions(newlines_in_values=True),
        read_options=csv.ReadOptions(use_threads=False),
        convert_options=csv.ConvertOptions(column_types=dict.fromkeys(values, "string"), strings_can_be_null=False),
    )
    for column, about in table.columns.items():
        scheme = database.schemes[about.scheme_id] if about.scheme_id is not None else None
        if (scheme is None or scheme.dtype in ("str", "object")) and column in written.column_names:
            cells = written[column].to_pylist()
            values[column] = [(cell or None) if v is None else v for v, cell in zip(values[column], cells, strict=True)]
    return values


def _facts(index: Any, values: Mapping[str, list[Any]]) -> dict[Any, dict[str, Any]]:
    """Return the rows of a misc table by its index."""
    rows = zip(*values.values(), strict=True) if values else ((),) * len(index)
    return {plain(of): dict(zip(values, row, strict=True)) for of, row in zip(index, rows, strict=True)}


@contextlib.contextmanager
def _without_pickles(root: Path, table: str) -> Iterator[Path]:
    """Yield the path of a table without extension, from which the library loads csv or Parquet.

    Raises:
        TfserError: if it is there in neither form.
    """
    stem = f"db.{table}"
    files = [file for ending in ("parquet", "csv") if (file := root / f"{stem}.{ending}").is_file()]
    pickled = (root / f"{stem}.pkl").exists()
    if not files:
        hint = "; its pickled form could run any program: save the database as csv or parquet" if pickled else ""
        raise TfserError(f"{root}: the table {table} is there neither as {stem}.csv nor as {stem}.parquet{hint}")
    if not pickled:
        yield root / stem
        return
    with tempfile.TemporaryDirectory() as folder:  # the library would take the pickle where one is beside
        for file in files:
            shutil.copyfile(file, Path(folder, file.name))
        yield Path(folder, stem)
