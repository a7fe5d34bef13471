"""Files of features that somebody else computed: npy, npz, csv and parquet, read into one matrix an id.

What comes in: a file. What goes out: `Given`: the ids in the file's order, the frames of each, (t, D) float32, and whether
each is one vector that stands for the whole utterance. What is read, by what the file is called:

* ``.npy``: (n, D) numbers; the ids are lines of a text file, in the same order.
* ``.npz``: an array an id, (D,) or (t, D); or the arrays `utterance_id` (n,) and `features` (n, D).
* ``.csv``, ``.tsv``, ``.parquet``: a column of ids, and columns of numbers, which are the features in the file's order; of
  parquet also one column of lists. Several rows of one id are its frames, in the file's order, where frames were announced.
* a folder: one ``ID.npy`` an utterance.

Nothing is guessed: a number that is none, an id that stands there twice, a column of words or a vector of another width ends
it, with the place. Pickled objects are never loaded.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.manifests.errors import UsageError
from tfser.manifests.texts import read_text
from tfser.manifests.wording import count

Frames = npt.NDArray[np.float32]

ID_COLUMNS = ("utterance_id", "utterance", "id", "file", "filename", "path", "name")
"""Columns that are taken for the ids' where none is named, the first one that is there."""

ROW_NUMBERS = re.compile(r"|Unnamed: \d+|__index_level_\d+__")
"""What data frames call the column of their row numbers where they write it out: no feature of anybody's voice."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a file holds: a matrix (t, D) float32 an id, all of one width, all finite."""

    frames: dict[str, Frames]
    per_utterance: bool
    """One vector an id, (1, D) each."""
    columns: tuple[str, ...] = ()
    """The features' names, where the file has any."""

    @property
    def dim(self) -> int:
        """Numbers in a frame."""
        return int(next(iter(self.frames.values())).shape[1])

    def digest(self) -> str:
        """Return 32 hexadecimal digits over the ids and all numbers, whatever the file's format and the order of its rows."""
        found = hashlib.sha256()
        for name in sorted(self.frames):
            of = self.frames[name]
            found.update(f"{name}\t{of.shape[0]}\t{of.shape[1]}\n".encode())
            found.update(np.ascontiguousarray(of, dtype="<f4").tobytes())
        return found.hexdigest()[:32]


def read_given(
    path: Path,
    *,
    as_frames: bool = False,
    ids: Path | None = None,
    id_column: str | None = None,
    ignore: Sequence[str] = (),
) -> Given:
    """Read a file of features.

    Args:
        path: the file, or a folder of npy files.
        as_frames: whether an utterance has frames over time; else one vector each.
        ids: a text file with an id a line, for npy.
        id_column: of a table; None: the first of `ID_COLUMNS` that it has.
        ignore: columns of a table that are no features.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    readers: dict[str, Callable[[], tuple[list[tuple[str, Any]], tuple[str, ...]]]] = {
        ".npy": lambda: (_of_npy(path, ids), ()),
        ".npz": lambda: (_of_npz(path), ()),
        **dict.fromkeys((".csv", ".tsv", ".parquet"), lambda: _of_table(path, id_column, ignore, as_frames)),
    }
    empty: tuple[str, ...] = ()
    if path.is_dir():
        rows, columns = _of_folder(path), empty
    elif path.suffix.lower() in readers:
        if ids is not None and path.suffix.lower() != ".npy":
            raise UsageError(f"--ids is for .npy files; {path} names its utterances itself")
        rows, columns = readers[path.suffix.lower()]()
    else:
        raise UsageError(f"{path}: features are read from {', '.join(readers)} files or a folder of .npy files")
    return Given(frames=_checked(path, rows, columns, as_frames), per_utterance=not as_frames, columns=columns)


def _checked(path: Path, rows: Sequence[tuple[str, Any]], columns: Sequence[str], as_frames: bool) -> dict[str, Frames]:
    """Return the rows as matrices, each of which is what was announced."""
    checked: dict[str, Frames] = {}
    width: tuple[str, int] | None = None
    for name, value in rows:
        if not name:
            raise UsageError(f"{path}: row {len(checked) + 1} has no utterance id")
        if name in checked:
            hint = "" if as_frames else "; if its rows are frames over time, say how far apart: --hop SECONDS"
            raise UsageError(f"{path}: the utterance {name!r} stands there twice{hint}")
        # Booleans to floats, one vector or one matrix: anything else was exported by mistake.
        try:
            array = np.asarray(value)
        except ValueError as error:  # a list whose own lists differ in length
            raise UsageError(f"{path}: the features of {name!r} are frames of unequal widths ({error})") from error
        if array.dtype.kind not in "fiub" or array.ndim not in (1, 2) or array.size == 0:
            what = f"{array.dtype} of the shape {array.shape}"
            raise UsageError(f"{path}: the features of {name!r} are {what}; numbers (D,) or (frames, D) are wanted")
        matrix = np.atleast_2d(array)
        if not as_frames and len(matrix) > 1:
            raise UsageError(f"{path}: {name!r} has {len(matrix)} frames; say how far apart they are: --hop SECONDS")
        # Numbers are judged as they will be trained on: one that float32 has no room for is as bad as NaN.
        with np.errstate(over="ignore"):
            narrow = matrix.astype(np.float32)
        if not np.isfinite(narrow).all():
            row, column = np.argwhere(~np.isfinite(narrow))[0]
            where = columns[column] if columns else f"column {column + 1}"
            frame = f", frame {row + 1}" if len(matrix) > 1 else ""
            raise UsageError(f"{path}: {name!r}, {where}{frame}: {matrix[row, column]} is no number that can be trained on")
        width = width or (name, narrow.shape[1])
        if narrow.shape[1] != width[1]:
            raise UsageError(f"{path}: {name!r} is {narrow.shape[1]} numbers wide, and {width[0]!r} {width[1]}")
        checked[name] = narrow
    if not checked:
        raise UsageError(f"{path}: there are no features in it")
    return checked


def _of_npy(path: Path, ids: Path | None) -> list[tuple[str, Any]]:
    if ids is None:
        raise UsageError(f"{path}: an npy file names no utterances; give their ids, one a line, with --ids FILE")
    names = [line.strip() for line in read_text(ids, str(ids)).splitlines()]
    array = _loaded(path)
    if array.ndim != 2 or len(array) != len(names):
        raise UsageError(f"{path} has the shape {array.shape}, and {ids} {count(len(names), 'line')}: a row an id is wanted")
    return list(zip(names, array, strict=True))


def _of_npz(path: Path) -> list[tuple[str, Any]]:
    archive = _opened(path)
    if isinstance(archive, np.ndarray):
        raise UsageError(f"{path}: this is a single array; call it .npy")
    with archive:
        try:
            arrays = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise UsageError(f"{path}: cannot be read as npz ({error})") from error
    key = next((name for name in ID_COLUMNS if name in arrays and arrays[name].dtype.kind in "US"), None)
    if key is None:
        return list(arrays.items())
    others = [name for name in arrays if name != key]
    if len(others) != 1 or arrays[key].ndim != 1 or len(arrays[key]) != len(arrays[others[0]]):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise UsageError(f"{path}: beside {key} (n,) one array (n, D) is wanted, not {shapes}")
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in arrays[key].tolist()]
    return list(zip(names, arrays[others[0]], strict=True))


def _of_folder(path: Path) -> list[tuple[str, Any]]:
    return [(file.stem, _loaded(file)) for file in sorted(path.glob("*.npy"))]


def _loaded(path: Path) -> npt.NDArray[Any]:
    array = _opened(path)
    if not isinstance(array, np.ndarray):
        raise UsageError(f"{path}: this is an npz archive; call it .npz")
    return array


def _opened(path: Path) -> Any:
    """Return what NumPy reads of a file; never what has to be unpickled."""
    try:
        with path.open("rb") as file:
            is_archive = file.read(2) == b"PK"
        if is_archive and not zipfile.is_zipfile(path):  # NumPy would find that out, and leave the file open
            raise ValueError("an archive that breaks off")
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "no array of numbers"
        raise UsageError(f"{path}: cannot be read as {path.suffix.removeprefix('.')} ({reason})") from error


def _of_table(
    path: Path, id_column: str | None, ignore: Sequence[str], as_frames: bool
) -> tuple[list[tuple[str, Any]], tuple[str, ...]]:
    """Return the rows of a table, those of one id together where they are frames, and the names of its features."""
    table = _read_table(path, id_column)
    names = table.column_names
    key = id_column or next((name for name in ID_COLUMNS if name in names), None)
    if key not in names:
        raise UsageError(f"{path}: which column holds the utterance ids? It has {_few(names)}; say --id-column NAME")
    for name in ignore:
        if name not in names:
            raise UsageError(f"--ignore {name}: {path} has no such column; it has {_few(names)}")
    columns = tuple(name for name in names if name != key and name not in ignore)
    if not columns:
        raise UsageError(f"{path}: there are no features beside the column {key}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{path}: two columns are called {twice!r}, and which of them is meant nobody can say")
    numbers = next((name for name in columns if ROW_NUMBERS.fullmatch(name)), None)
    if numbers is not None:
        way_out = f"leave it out with --ignore '{numbers}'" if numbers else "write the file without it (of pandas: index=False)"
        raise UsageError(f"{path}: the column {numbers!r} looks like a data frame's row numbers, and is no feature; {way_out}")
    ids = ["" if value is None else str(value) for value in table[key].to_pylist()]
    values = _numbers(path, table, columns)
    if values is None:  # one column of lists
        lists = table[columns[0]].to_pylist()
        return [(name, [] if value is None else value) for name, value in zip(ids, lists, strict=True)], ()
    if not as_frames:
        return list(zip(ids, values, strict=True)), columns
    frames: dict[str, list[int]] = {}
    for row, name in enumerate(ids):
        frames.setdefault(name, []).append(row)
    return [(name, values[value]) for name, value in frames.items()], columns


def _numbers(path: Path, table: Any, columns: Sequence[str]) -> npt.NDArray[np.float64] | None:
    """Return the columns as (n, D) numbers, empty cells as NaN; None where the only one is of lists."""
    import pyarrow as pa

    kinds = {name: table.schema.field(name).type for name in columns}
    of_lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if len(columns) == 1 and any(is_one(kinds[columns[0]]) for is_one in of_lists):
        return None
    for name, kind in kinds.items():
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
            raise UsageError(f"{path}: the column {name} is no numbers ({kind}); leave it out with --ignore {name}")
    numbers = (table[name].cast(pa.float64(), safe=False).fill_null(float("nan")) for name in columns)
    return np.stack([column.to_numpy() for column in numbers], axis=1)


def _read_table(path: Path, id_column: str | None) -> Any:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if path.suffix.lower() == ".parquet":
            return pa.parquet.read_table(path)
        with path.open("rb") as file:
            head = file.readline()
        mark = max((b",", b";", b"\t"), key=head.count).decode()
        ids = {name: pa.string() for name in (*ID_COLUMNS, *([id_column] if id_column else []))}  # 0301 stays 0301
        table = pa.csv.read_csv(
            path,
            parse_options=pa.csv.ParseOptions(delimiter=mark),
            convert_options=pa.csv.ConvertOptions(column_types=ids),
        )
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path}: cannot be read as {path.suffix.removeprefix('.')} ({reason})") from error
    return table


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
