"""Reading a table's file: csv, tsv and other delimited text, or Parquet.

Comes in: a file as spreadsheets and programs write them (a mark in front, semicolons, blanks around names and values, an
unnamed index column, names that occur twice). Goes out: an Arrow table of distinct, stripped names. Columns that are taken for
one of ours stay text (speaker 03 stays 03); of the others, those whose values agree on a type take it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tfser.manifests.errors import TfserError, UsageError, first_line
from tfser.pipeline.corpora.base import read_text

if TYPE_CHECKING:
    import pyarrow as pa

_BLANKS = " \t\n\v\f\r\u00a0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""What stands around values and is none of them. U+0085 is not among these: it is the dots of a text read as Latin-1."""


def load(file: Path, delimiter: str | None, as_text: Collection[str]) -> pa.Table:
    """Read a table.

    Args:
        file: csv, tsv or any delimited text, or Parquet.
        delimiter: between columns of text; None: guessed from the header.
        as_text: names (case-folded) of columns that stay text.

    Raises:
        UsageError: if there is no such file, or the delimiter is not one character.
        TfserError: if it cannot be read as a table, or is empty.
    """
    if not file.is_file():
        raise UsageError(f"--table {file}: no such file")
    import pyarrow as pa

    try:
        if file.suffix.lower() in {".parquet", ".pq"}:
            import pyarrow.parquet as pq

            return _plain_times(_named(pq.read_table(file, partitioning=None)))
        return _typed(_named(_read_text_table(file, delimiter)), as_text)
    except (pa.ArrowException, OSError, csv.Error) as error:
        raise TfserError(f"{file}: cannot be read as a table ({first_line(error)})") from error


def _read_text_table(file: Path, delimiter: str | None) -> pa.Table:
    """Read delimited text, every column as text without blanks around it; nothing where nothing stands."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv as arrow_csv

    text = re.sub(r"\r\n|\r", "\n", read_text(file)).lstrip("\n")
    if not text.strip():
        raise TfserError(f"{file}: the table is empty")
    if delimiter is not None and len(delimiter) != 1:
        raise UsageError(f"--delimiter {delimiter!r}: one character, as in --delimiter ';'")
    if said := re.match(r"sep=(.)\n", text):  # what spreadsheets write for themselves
        text = text[said.end() :]
        delimiter = delimiter or said[1]
    mark = delimiter or _guess(text)
    header = next(csv.reader(io.StringIO(text, newline=""), delimiter=mark))  # lines end at \n alone, as Arrow sees them
    names = [str(i) for i in range(len(header))]
    table = arrow_csv.read_csv(
        pa.BufferReader(text.encode("utf-8", "replace")),
        # Without threads: one that is still at work when the interpreter exits aborts the process.
        read_options=arrow_csv.ReadOptions(column_names=names, block_size=1 << 24, use_threads=False),
        parse_options=arrow_csv.ParseOptions(delimiter=mark, newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
    ).slice(1)  # the header, which may hold one name twice
    columns = []
    for column in table.columns:
        stripped = pc.utf8_trim(column, characters=_BLANKS)
        columns.append(pc.if_else(pc.equal(stripped, ""), pa.scalar(None, pa.string()), stripped))
    return pa.Table.from_arrays(columns, names=header)


def _guess(text: str) -> str:
    """Return what parts the columns: the mark that makes the most names of the header, outside of quotes."""
    header = text.split("\n", 1)[0]
    return max(",;\t|", key=lambda mark: len(next(csv.reader([header], delimiter=mark))))


def _named(table: pa.Table) -> pa.Table:
    """Strip the names; a column without a name and the second of a name (whatever its case) get one by their place."""
    names: list[str] = []
    taken: set[str] = set()
    for place, column in enumerate(table.column_names, 1):
        name = column.strip() or f"column_{place}"
        while name.casefold() in taken:
            name = f"{name}_{place}"
        taken.add(name.casefold())
        names.append(name)
    return table.rename_columns(names)


def _typed(table: pa.Table, as_text: Collection[str]) -> pa.Table:
    """Return the table with the columns that are nobody's but the corpus's own typed by their values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kinds: Sequence[pa.DataType] = (pa.int64(), pa.float64(), pa.bool_(), pa.date32(), pa.timestamp("us"))
    for i, name in enumerate(table.column_names):
        column = table.column(i)
        if name.casefold() in as_text or column.null_count == len(column):
            continue
        if pc.any(pc.match_substring_regex(column, r"^[+-]?0\d")).as_py():  # a code, not a number
            continue
        column = _with_points(column)
        for kind in kinds:
            try:
                table = table.set_column(i, name, column.cast(kind))
                break
            except pa.ArrowException:
                continue
    return table


def _with_points(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of decimal commas with points; one that is no such column, or may hold thousands (1,234), as it is."""
    import pyarrow.compute as pc

    def every(pattern: str) -> bool:
        return bool(pc.all(pc.match_substring_regex(column, pattern)).as_py())

    if every(r"^[+-]?\d+(,\d+)?$") and not every(r"^[+-]?\d{1,3}(,\d{3})?$"):
        return pc.replace_substring(column, ",", ".")
    return column


def _plain_times(table: pa.Table) -> pa.Table:
    """Return the table with every time as Python has it: microseconds, lengths of time as seconds, what does not fit as text.

    Parquet holds years that Python's dates do not, and names of time zones that no machine knows.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for i, field in enumerate(table.schema):
        kind, column = field.type, table.column(i)
        if pa.types.is_duration(kind):
            per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
            column = pc.divide(column.cast(pa.int64()).cast(pa.float64(), safe=False), float(per_second))
        elif pa.types.is_time64(kind) and kind.unit == "ns":
            column = column.cast(pa.time64("us"), safe=False)
        elif pa.types.is_timestamp(kind) and kind.unit == "ns":
            column = column.cast(pa.timestamp("us", kind.tz), safe=False)
        elif not (pa.types.is_temporal(kind) or pa.types.is_nested(kind) or pa.types.is_dictionary(kind)):
            continue
        table = table.set_column(i, field.name, _with_python_values(column))
    return table


def _with_python_values(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as it is if Python has all its values, else as text; a time zone that is unknown is then left out."""
    import pyarrow as pa

    try:
        column.to_pylist()
    except (ValueError, OverflowError, LookupError, OSError, ImportError, pa.ArrowException):
        kind = column.type
    else:
        return column
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        column = column.cast(pa.int64()).cast(pa.timestamp(kind.unit))
    try:
        return column.cast(pa.string())
    except pa.ArrowException:  # nested values, or a year of five digits
        return pa.chunked_array([pa.array([_as_text(value) for value in column], pa.string())])


def _as_text(value: pa.Scalar) -> str | None:
    """Return a value as text without asking Python what it is: of a time, the number that is stored."""
    import pyarrow as pa

    if not value.is_valid:
        return None
    if pa.types.is_temporal(value.type):
        return str(value.cast(pa.int64() if value.type.bit_width == 64 else pa.int32()).as_py())
    return " ".join(pa.array([value]).to_string().split())
