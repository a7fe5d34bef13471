"""Shards: the frames of several utterances in one file, and the small file of rows that makes them count.

A shard `<name>` is two files of one folder:

    <name>.h5               HDF5: `frames` (sum of frames, dim) contiguous, `offsets` (n + 1,), `utterance_id` (n,)
    <name>.frames.parquet   or Parquet: one row an utterance, its frames one uncompressed binary value
    <name>.rows.parquet     one row an utterance: where its frames lie, and their CRC-32

Files are written aside (`.<name>.<pid>-<random>.tmp`), synchronised and renamed, and the rows come last: a shard exists
when its rows do, so a killed or full-disk writer leaves nothing that counts. No file holds a time or a random name, so
the same members give the same bytes.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import secrets
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from tfser.manifests.errors import TfserError, UsageError, unknown

Array = npt.NDArray[Any]
StorageDtype = Literal["float32", "float16"]
ShardFormat = Literal["hdf5", "parquet"]

SUFFIXES: dict[str, str] = {"hdf5": ".h5", "parquet": ".frames.parquet"}
"""What a shard's file name ends in, by format."""

ROWS_SUFFIX = ".rows.parquet"
VERSION = "1"
ROW_GROUP = 64
"""Utterances in a row group of Parquet, at most."""

_GROUP_BYTES = 1 << 28
_PAGE = 4096
_MAX_BUFFERS = 1024  # of one pwritev: Linux's IOV_MAX


class ShardError(TfserError):
    """A shard's file is missing, damaged or not what its rows say."""


@dataclass(frozen=True, kw_only=True)
class ShardMember:
    """One utterance to store: its key, the hash of its samples, its frames (t, dim)."""

    utterance_id: str
    content_hash: str
    frames: Array


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """A written shard, and what its rows need.

    Attributes:
        path: the file.
        dtype: of the frames, 'float32' or 'float16'.
        dim: numbers in a frame.
        size_bytes: of the file.
        checksum: 8 hex digits, the CRC-32 of all frame bytes in order.
        utterance_ids, content_hashes, first_frames, frames, checksums: one for each member, in order.
    """

    path: Path
    dtype: StorageDtype
    dim: int
    size_bytes: int
    checksum: str
    utterance_ids: tuple[str, ...]
    content_hashes: tuple[str, ...]
    first_frames: tuple[int, ...]
    frames: tuple[int, ...]
    checksums: tuple[str, ...]


def write_shard(
    folder: Path,
    name: str,
    members: Sequence[ShardMember],
    *,
    dtype: StorageDtype,
    format: ShardFormat,
    attributes: dict[str, str] | None = None,
) -> ShardFile:
    """Write the frames of ``members`` to ``<folder>/<name>.h5`` or ``.frames.parquet``; `write_rows` makes them count.

    Args:
        folder: made if it is missing.
        name: of the shard, without a suffix.
        members: at least one, their utterance ids distinct, all of one dim.
        dtype: what the frames are stored as, little-endian.
        format: 'hdf5' or 'parquet'.
        attributes: words stored in the file (feature set, corpus ...); they play no part in reading.

    Raises:
        TfserError: no members, a repeated utterance, different widths, or a value that is NaN, infinite or too large
            for ``dtype``.
        OSError: the disk is full or cannot be written; nothing is left behind.
    """
    if format not in SUFFIXES:
        raise unknown("shard format", format, list(SUFFIXES))
    if dtype not in get_args(StorageDtype):
        raise unknown("storage dtype", dtype, list(get_args(StorageDtype)))
    if not name or name != Path(name).name or name.startswith("."):
        raise UsageError(f"{name!r} cannot be the name of a shard")
    stored = _storable(name, members, dtype)
    checksums = [zlib.crc32(frames.data) for frames in stored]
    total = 0
    for frames in stored:
        total = zlib.crc32(frames.data, total)
    lengths = [len(frames) for frames in stored]
    ids = [member.utterance_id for member in members]
    words = {**(attributes or {}), "tfser_shard": VERSION, "checksum": f"{total:08x}"}
    path = folder / f"{name}{SUFFIXES[format]}"
    write = _write_hdf5 if format == "hdf5" else _write_parquet
    _replace(path, lambda aside: write(aside, ids, stored, words))
    return ShardFile(
        path=path,
        dtype=dtype,
        dim=int(stored[0].shape[1]),
        size_bytes=path.stat().st_size,
        checksum=f"{total:08x}",
        utterance_ids=tuple(ids),
        content_hashes=tuple(member.content_hash for member in members),
        first_frames=tuple(int(n) for n in np.cumsum([0, *lengths[:-1]])),
        frames=tuple(lengths),
        checksums=tuple(f"{checksum:08x}" for checksum in checksums),
    )


def write_rows(shard: ShardFile) -> Path:
    """Write ``<name>.rows.parquet`` beside a shard's file, after which the shard counts; return its path.

    Raises:
        OSError: the disk is full or cannot be written; nothing is left behind.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = len(shard.utterance_ids)
    table = pa.table(
        {
            "utterance_id": pa.array(shard.utterance_ids, pa.string()),
            "content_hash": pa.array(shard.content_hashes, pa.string()),
            "shard": pa.array([shard.path.name] * n, pa.string()),
            "first_frame": pa.array(shard.first_frames, pa.int64()),
            "frames": pa.array(shard.frames, pa.int64()),
            "dim": pa.array([shard.dim] * n, pa.int32()),
            "checksum": pa.array(shard.checksums, pa.string()),
        },
        schema=rows_schema(),
    ).replace_schema_metadata(
        {
            "tfser_rows": VERSION,
            "shard_size_bytes": str(shard.size_bytes),
            "shard_checksum": shard.checksum,
            "dtype": shard.dtype,
        }
    )
    path = rows_path(shard.path)
    _replace(path, lambda aside: pq.write_table(table, aside))
    return path


def rows_schema() -> Any:
    """Return the pyarrow schema of the rows."""
    import pyarrow as pa

    return pa.schema(
        [
            ("utterance_id", pa.string()),
            ("content_hash", pa.string()),
            ("shard", pa.string()),
            ("first_frame", pa.int64()),
            ("frames", pa.int64()),
            ("dim", pa.int32()),
            ("checksum", pa.string()),
        ]
    )


def rows_path(shard: Path) -> Path:
    """Return the path of a shard's rows.

    >>> rows_path(Path("a/0123.h5")).name, rows_path(Path("a/0123.frames.parquet")).name
    ('0123.rows.parquet', '0123.rows.parquet')
    """
    return shard.with_name(_stem(shard) + ROWS_SUFFIX)


def _stem(shard: Path) -> str:
    for suffix in SUFFIXES.values():
        if shard.name.endswith(suffix):
            return shard.name.removesuffix(suffix)
    raise ShardError(f"{shard}: not the name of a shard; it would end in {' or '.join(SUFFIXES.values())}")


def read_rows(folder: Path, *, report: Callable[[str], None] | None = None) -> Any:
    """Return the rows of all shards of a folder as one pyarrow table, in the order of the shards' names.

    Row files that cannot be read, and those whose shard is missing or of another size than when it was written, are
    left out; each is one line to ``report``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for path in sorted(folder.glob(f"[!.]*{ROWS_SUFFIX}")):
        try:
            table = pq.read_table(path, memory_map=False)
            problem = _rows_problem(folder, table)
        except (pa.ArrowException, OSError, ValueError) as error:
            table, problem = None, f"cannot be read ({_one_line(error)})"
        if problem is None:
            tables.append(table.select(rows_schema().names).replace_schema_metadata(None))
        elif report is not None:
            report(f"{path}: left out: {problem}; extract again")
    return pa.concat_tables(tables) if tables else rows_schema().empty_table()


def _rows_problem(folder: Path, table: Any) -> str | None:
    """Return why the rows of one shard cannot count, None if they do."""
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if not table.schema.remove_metadata().equals(rows_schema()):
        return "its columns are not those of feature rows"
    if not metadata.get("shard_size_bytes", "").isdigit() or table.num_rows == 0:
        return "it does not say how large its shard is"
    shards = set(table.column("shard").to_pylist())
    if len(shards) != 1:
        return f"it names {len(shards)} shards"
    shard = folder / str(shards.pop())
    try:
        size = shard.stat().st_size
    except OSError:
        return f"{shard.name} is missing"
    if size != int(metadata["shard_size_bytes"]):
        return f"{shard.name} has {size} bytes, {metadata['shard_size_bytes']} were written"
    return None


def _storable(name: str, members: Sequence[ShardMember], dtype: StorageDtype) -> list[Array]:
    """Return each member's frames as little-endian C-order ``dtype``, checked."""
    if not members:
        raise TfserError(f"shard {name}: no utterances to write")
    ids = {member.utterance_id for member in members}
    if len(ids) != len(members):
        raise TfserError(f"shard {name}: {len(members) - len(ids)} utterances are there twice")
    stored = []
    for member in members:
        shape = member.frames.shape
        if len(shape) != 2 or shape[1] != members[0].frames.shape[-1] or not shape[1]:
            raise TfserError(
                f"shard {name}: {member.utterance_id} has frames of the shape {shape}, "
                f"the first utterance {members[0].frames.shape}"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            frames = np.ascontiguousarray(member.frames, dtype=np.dtype(dtype).newbyteorder("<"))
        if not np.isfinite(frames).all():
            if np.isfinite(member.frames).all():
                largest = float(np.abs(member.frames).max())
                raise TfserError(f"{member.utterance_id}: {largest:g} is too large for {dtype}; store float32 instead")
            raise TfserError(f"{member.utterance_id}: its features hold NaN or infinite values; they are not stored")
        stored.append(frames)
    return stored


def _write_hdf5(path: Path, ids: list[str], stored: list[Array], words: dict[str, str]) -> None:
    """Let HDF5 lay the file out, then write the frames where it says: faster, and a full disk is an OSError."""
    import h5py

    offsets = np.cumsum([0, *(len(frames) for frames in stored)], dtype="<i8")
    shape, dtype = (int(offsets[-1]), stored[0].shape[1]), stored[0].dtype
    with (
        _as_os_errors(path),
        h5py.File(path, "w", libver="v110", alignment_threshold=_PAGE, alignment_interval=_PAGE) as file,
    ):
        for key in sorted(words):
            file.attrs[key] = words[key]
        file.create_dataset("offsets", data=offsets, track_times=False)
        texts = np.array(ids, dtype=object)
        file.create_dataset("utterance_id", data=texts, dtype=h5py.string_dtype("utf-8"), track_times=False)
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_layout(h5py.h5d.CONTIGUOUS)
        how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        how.set_obj_track_times(False)
        kind, space = h5py.h5t.py_create(dtype, logical=True), h5py.h5s.create_simple(shape)
        position = h5py.h5d.create(file.id, b"frames", kind, space, dcpl=how).get_offset()
    with path.open("r+b", buffering=0) as raw:
        # Few large writes: the page cache then holds large folios, and reading them is twice as fast.
        rest = [_as_bytes(frames) for frames in stored if frames.size]
        while rest:
            done = os.pwritev(raw.fileno(), rest[:_MAX_BUFFERS], position)
            position += done
            while rest and done >= len(rest[0]):
                done -= len(rest.pop(0))
            if done:
                rest[0] = rest[0][done:]


@contextlib.contextmanager
def _as_os_errors(path: Path) -> Iterator[None]:
    """Give a plain OSError for those that HDF5 hides in pages of words, or in a RuntimeError when a file is closed."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        found = re.search(r"errno = (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error


def _write_parquet(path: Path, ids: list[str], stored: list[Array], words: dict[str, str]) -> None:
    """Write row groups of one page each, so that the bytes of a value can be found without reading the others."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    dim, word = stored[0].shape[1], f"float{8 * stored[0].dtype.itemsize}"
    schema = pa.schema(
        [
            pa.field("utterance_id", pa.string(), nullable=False),
            pa.field("frames", pa.int64(), nullable=False),
            pa.field("dim", pa.int32(), nullable=False),
            pa.field("dtype", pa.string(), nullable=False),
            pa.field("data", pa.large_binary(), nullable=False),
        ],
        metadata={key: words[key] for key in sorted(words)},
    )
    with (
        path.open("wb") as raw,
        pq.ParquetWriter(raw, schema, compression="none", use_dictionary=False, write_statistics=False) as file,
    ):
        for group in _row_groups([frames.nbytes for frames in stored]):
            sizes = np.cumsum([0, *(frames.nbytes for frames in stored[group])], dtype=np.int64)
            buffer = np.concatenate([frames.reshape(-1) for frames in stored[group]])
            n = len(sizes) - 1
            columns = [
                pa.array(ids[group], pa.string()),
                pa.array([len(frames) for frames in stored[group]], pa.int64()),
                pa.array([dim] * n, pa.int32()),
                pa.array([word] * n, pa.string()),
                pa.Array.from_buffers(pa.large_binary(), n, [None, pa.py_buffer(sizes), pa.py_buffer(buffer)]),
            ]
            file.write_table(pa.table(columns, schema=schema), row_group_size=n)


def _row_groups(sizes: list[int]) -> list[slice]:
    """Return slices of at most ROW_GROUP values and, unless one value is larger, _GROUP_BYTES."""
    groups, start, held = [], 0, 0
    for i, size in enumerate(sizes):
        if i > start and (i - start == ROW_GROUP or held + size > _GROUP_BYTES):
            groups.append(slice(start, i))
            start, held = i, 0
        held += size
    return [*groups, slice(start, len(sizes))]


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a file aside, then synchronise it and rename it to ``path``; remove it if anything fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name.split(".", 1)[0]
    aside = path.with_name(f".{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        write(aside)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _as_bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class ShardReader:
    """Reads a shard of either format; use it as a context manager.

    HDF5 and pyarrow are only asked where the frames lie; the frames come from a memory map of the file, which copies
    twice as fast as read() does (the kernel's own copying is slower than memcpy). A finished shard is never changed in
    place, only replaced, so a map stays whole.

    Attributes:
        path: the file.
        dim: numbers in a frame.
        dtype: of the frames, little-endian float16 or float32.
        offsets: (n + 1,) int64, the first frame of each utterance, and their sum.

    Raises:
        ShardError: the file is missing, truncated or not a shard.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_hdf5 = path.name.endswith(SUFFIXES["hdf5"])
        with _as_shard_errors(path):
            _stem(path)
            layout = _hdf5_layout(path) if self._is_hdf5 else _parquet_layout(path)
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.dim, self.dtype, self.offsets = layout.dim, layout.dtype, layout.offsets
            self._starts, self._frame_bytes = layout.starts, self.dim * self.dtype.itemsize
            end = int((self._starts + np.diff(self.offsets) * self._frame_bytes).max(initial=0))
            if end > len(mapped):
                raise ValueError(f"its frames end at byte {end}, the file at {len(mapped)}")
        self._bytes: npt.NDArray[np.uint8] | None = np.frombuffer(mapped, np.uint8)

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; arrays that were handed out stay valid."""
        self._bytes = None

    @property
    def utterance_ids(self) -> tuple[str, ...]:
        """The utterances in the order of their frames, read from the file at each use."""
        with _as_shard_errors(self.path):
            return _utterance_ids(self.path)

    @property
    def attributes(self) -> dict[str, str]:
        """The words that were stored, read from the file at each use."""
        with _as_shard_errors(self.path):
            return _attributes(self.path)

    def frames_of(self, first_frame: int, frames: int) -> Array:
        """Return ``frames`` frames from ``first_frame`` on, (frames, dim) and read-only.

        A view of the mapped file where it can be: HDF5 always; Parquet, if the stretch is within one utterance and
        happens to be aligned. A copy else.

        Raises:
            ShardError: the shard ends before, or the reader is closed.
        """
        segments = self._segments(first_frame, frames)
        if len(segments) == 1 and segments[0].ctypes.data % self.dtype.itemsize == 0:
            return segments[0].view(self.dtype).reshape(frames, self.dim)
        copy = np.empty((frames, self.dim), self.dtype)
        self.read_into(copy, first_frame, frames)
        copy.flags.writeable = False
        return copy

    def read_into(self, dest: Array, first_frame: int, frames: int) -> None:
        """Read ``frames`` frames from ``first_frame`` on into ``dest``, (frames, dim) of the shard's dtype, C order.

        Raises:
            ShardError: the shard ends before, or the reader is closed.
            TfserError: ``dest`` does not fit.
        """
        if dest.shape != (frames, self.dim) or dest.dtype != self.dtype or not dest.flags.c_contiguous:
            raise TfserError(
                f"{dest.shape} {dest.dtype} cannot take frames of {self.path.name}: "
                f"({frames}, {self.dim}) {self.dtype} in C order is wanted"
            )
        target, at = dest.reshape(-1).view(np.uint8), 0
        for segment in self._segments(first_frame, frames):
            target[at : at + len(segment)] = segment
            at += len(segment)

    def _segments(self, first_frame: int, frames: int) -> list[npt.NDArray[np.uint8]]:
        """Return the bytes of the frames as views of the map, one for each stretch of the file that holds some."""
        end = first_frame + frames
        if self._bytes is None:
            raise ShardError(f"{self.path}: the reader is closed")
        if first_frame < 0 or frames < 0 or end > self.offsets[-1]:
            raise _damaged(self.path, f"frames {first_frame} to {end} are asked for, it has {self.offsets[-1]}")
        if frames == 0:
            return []
        if self._is_hdf5:
            start = int(self._starts[0]) + first_frame * self._frame_bytes
            return [self._bytes[start : start + frames * self._frame_bytes]]
        segments = []
        i = int(np.searchsorted(self.offsets, first_frame, side="right")) - 1
        while first_frame < end:
            stop = min(end, int(self.offsets[i + 1]))
            if stop > first_frame:
                start = int(self._starts[i]) + (first_frame - int(self.offsets[i])) * self._frame_bytes
                segments.append(self._bytes[start : start + (stop - first_frame) * self._frame_bytes])
            first_frame, i = stop, i + 1
        return segments

    def verify(self) -> list[str]:
        """Return what is wrong with the shard, one line each; nothing if every utterance has its checksum."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = rows_path(self.path)
        try:
            table = pq.read_table(rows, memory_map=False)
            problem = _rows_problem(self.path.parent, table)
        except (pa.ArrowException, OSError, ValueError) as error:
            return [f"{rows}: cannot be read ({_one_line(error)})"]
        if problem is not None:
            return [f"{rows}: {problem}"]
        problems = []
        listed = table.select(["utterance_id", "first_frame", "frames", "dim", "checksum"]).to_pylist()
        try:
            if tuple(row["utterance_id"] for row in listed) != self.utterance_ids:
                problems.append(f"{self.path}: its utterances are not those of {rows.name}")
        except ShardError as error:
            problems.append(str(error))
        for row in listed:
            try:
                found = f"{zlib.crc32(self.frames_of(row['first_frame'], row['frames']).data):08x}"
            except ShardError as error:
                problems.append(str(error))
                continue
            if found != row["checksum"] or row["dim"] != self.dim:
                problems.append(f"{self.path}: the frames of {row['utterance_id']} are not those that were written")
        return problems


def _damaged(path: Path, reason: str) -> ShardError:
    way_out = "`tfser cache verify` lists damaged shards, delete this one and extract again"
    return ShardError(f"{path}: {reason}; {way_out}")


@contextlib.contextmanager
def _as_shard_errors(path: Path) -> Iterator[None]:
    """Turn the many ways in which HDF5 and Arrow say that a file is damaged into one."""
    try:
        yield
    except ShardError:
        raise
    except OSError as error:
        raise _damaged(path, error.strerror or _one_line(error)) from error
    except Exception as error:
        raise _damaged(path, _one_line(error)) from error


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where a file holds what: ``starts`` (n,) int64 is the byte at which each utterance's frames begin."""

    dim: int
    dtype: np.dtype[Any]
    offsets: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]


def _hdf5_layout(path: Path) -> _Layout:
    """Ask HDF5's low-level interface, which takes a quarter of the time: a shard is opened at each pass."""
    import h5py

    file = h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY)
    try:
        frames, counts = h5py.h5d.open(file, b"frames"), h5py.h5d.open(file, b"offsets")
        dtype, (total, dim) = _stored_dtype(frames.dtype.str), frames.shape
        begin = frames.get_offset()
        if frames.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS or (begin is None and total):
            raise ValueError("its frames are not contiguous")
        offsets = np.empty(counts.shape, np.int64)
        counts.read(h5py.h5s.ALL, h5py.h5s.ALL, offsets)
    finally:
        file.close()
    offsets = _offsets(np.diff(offsets), total)
    starts = (begin or 0) + offsets[:-1] * dim * dtype.itemsize
    return _Layout(dim=int(dim), dtype=dtype, offsets=offsets, starts=starts)


def _parquet_layout(path: Path) -> _Layout:
    """Ask pyarrow for the small columns, and find the blobs behind the header of each row group's only page.

    Plain, uncompressed values stand in the page as they are, each after its length in 4 bytes; those lengths are
    checked, so another layout is noticed.
    """
    import pyarrow.parquet as pq

    with path.open("rb") as raw, pq.ParquetFile(raw) as file:
        table = file.read(columns=["frames", "dim", "dtype"])
        (dim,), (word,) = set(table.column("dim").to_pylist()), set(table.column("dtype").to_pylist())
        dtype = _stored_dtype(np.dtype(word).newbyteorder("<").str)
        offsets = _offsets(table.column("frames").to_numpy(), None)
        sizes = np.diff(offsets) * dim * dtype.itemsize
        starts = np.empty(len(sizes), np.int64)
        data, row = file.schema_arrow.get_field_index("data"), 0
        for group in range(file.num_row_groups):
            column = file.metadata.row_group(group).column(data)
            rows = slice(row, row + column.num_values)
            from_end = np.cumsum((sizes[rows] + 4)[::-1])[::-1]
            starts[rows], row = column.data_page_offset + column.total_compressed_size - from_end + 4, rows.stop
        if row != len(starts) or starts.min(initial=4) < 4:
            raise ValueError("its row groups do not fit its frames")
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
            if os.pread(raw.fileno(), 4, start - 4) != size.to_bytes(4, "little"):
                raise ValueError("its frames are not uncompressed values of one page a row group")
    return _Layout(dim=int(dim), dtype=dtype, offsets=offsets, starts=starts)


def _utterance_ids(path: Path) -> tuple[str, ...]:
    if path.name.endswith(SUFFIXES["hdf5"]):
        import h5py

        with h5py.File(path, "r") as file:
            return tuple(file["utterance_id"].asstr()[()].tolist())
    import pyarrow.parquet as pq

    with path.open("rb") as raw:
        return tuple(pq.read_table(raw, columns=["utterance_id"]).column(0).to_pylist())


def _attributes(path: Path) -> dict[str, str]:
    if path.name.endswith(SUFFIXES["hdf5"]):
        import h5py

        with h5py.File(path, "r") as file:
            return {key: str(value) for key, value in file.attrs.items()}
    import pyarrow.parquet as pq

    with path.open("rb") as raw:
        return {key.decode(): value.decode() for key, value in (pq.read_schema(raw).metadata or {}).items()}


def _stored_dtype(text: str) -> np.dtype[Any]:
    if text not in ("<f2", "<f4"):
        raise ValueError(f"its frames are {text}")
    return np.dtype(text)


def _offsets(lengths: Array, total: int | None) -> npt.NDArray[np.int64]:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if (lengths < 0).any() or total not in (None, int(offsets[-1])):
        raise ValueError("its offsets do not fit its frames")
    return offsets
