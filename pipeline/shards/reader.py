"""Reading shards: both formats through one memory map.

What comes in: the file of a shard. What goes out: views or copies of frames by frame number; who reads frames compares them with
the checksums that the shard's rows have (`checksum_of`).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.manifests.errors import DamagedError, TfserError, UnreadableError
from tfser.manifests.files import could_not_read, opened
from tfser.manifests.wording import listed
from tfser.pipeline.shards.rows import stem_of
from tfser.pipeline.shards.writer import SUFFIXES, Array, ShardError

Stamp = tuple[str, int, int, int]


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
        stamp: path, inode, size and time of the file that was opened.

    Raises:
        ShardError: the file is truncated or not a shard.
        UnreadableError: it is missing, or could not be opened or understood just now.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_hdf5 = path.name.endswith(SUFFIXES["hdf5"])
        stem_of(path)
        with _as_shard_errors(path):
            with opened(path) as file:  # says what lies there before a library does
                status = os.fstat(file.fileno())
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            layout = _hdf5_layout(path) if self._is_hdf5 else _parquet_layout(path)
            self.dim, self.dtype, self.offsets = layout.dim, layout.dtype, layout.offsets
            self._starts, self._frame_bytes = layout.starts, self.dim * self.dtype.itemsize
            end = int((self._starts + np.diff(self.offsets) * self._frame_bytes).max(initial=0))
            if end > len(mapped) or int(self._starts.min(initial=0)) < 0:
                raise _damaged(path, f"its frames end at byte {end}, the file at {len(mapped)}")
        self.stamp = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
        self._mapped: mmap.mmap | None = mapped
        self._bytes: npt.NDArray[np.uint8] | None = np.frombuffer(mapped, np.uint8)
        self._address = self._bytes.ctypes.data

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; arrays that were handed out stay valid."""
        self._bytes, self._mapped = None, None

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

    def will_need(self, first_frame: int, frames: int) -> None:
        """Let the system fetch a stretch at once that is read next: a page at a time, each would be waited for.

        Raises:
            ShardError: the shard ends before, or the reader is closed.
        """
        for segment in self._segments(first_frame, frames):
            if self._mapped is None or not hasattr(mmap, "MADV_WILLNEED"):
                return
            start = segment.ctypes.data - self._address
            first = start - start % mmap.PAGESIZE
            self._mapped.madvise(mmap.MADV_WILLNEED, first, start + len(segment) - first)

    def read_columns_into(self, dest: Array, first_frame: int, first_column: int) -> None:
        """Read some columns of consecutive frames into ``dest``, (frames, columns) of the shard's dtype: one layer of a stack.

        Only the pages of the file that hold these columns are touched.

        Raises:
            ShardError: the shard ends before, or the reader is closed.
            TfserError: ``dest`` has another dtype, or the frames are too narrow.
        """
        frames, columns = dest.shape
        if dest.dtype != self.dtype or not 0 <= first_column <= self.dim - columns:
            raise TfserError(
                f"columns {first_column} to {first_column + columns} as {dest.dtype} cannot be read from {self.path.name}, "
                f"whose frames are {self.dim} {self.dtype}"
            )
        at = 0
        for segment in self._segments(first_frame, frames):
            there = segment.view(self.dtype).reshape(-1, self.dim)
            dest[at : at + len(there)] = there[:, first_column : first_column + columns]
            at += len(there)

    def _segments(self, first_frame: int, frames: int) -> list[npt.NDArray[np.uint8]]:
        """Return the bytes of the frames as views of the map, one for each stretch of the file that holds some."""
        end = first_frame + frames
        if self._bytes is None:
            raise ShardError("the reader is closed", at=self.path)
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

    def damaged(self, rows: Iterable[Mapping[str, Any]]) -> list[str]:
        """Return the utterances whose frames are not those that were written, by rows with utterance_id, first_frame, frames, dim
        and checksum; nothing if each has its checksum."""
        names = []
        for row in rows:
            try:
                checksum = checksum_of(self.frames_of(row["first_frame"], row["frames"]))
            except ShardError:
                checksum = ""
            if checksum != row["checksum"] or row["dim"] != self.dim:
                names.append(str(row["utterance_id"]))
        return names


def checksum_of(frames: Array) -> str:
    """Return the CRC-32 of frames, C order, as the rows of a shard have it."""
    return f"{zlib.crc32(frames.reshape(-1).view(np.uint8).data):08x}"


def damaged_frames(path: Path, utterances: Sequence[str]) -> ShardError:
    """Return the error for frames that are not those that were written."""
    return _damaged(path, f"the frames of {listed(utterances, 1)} are not those that were written")


def _damaged(path: Path, reason: str) -> ShardError:
    return ShardError(f"{reason}; {_WAY_OUT}", at=path)


_WAY_OUT = "move damaged shards away with `tfser cache verify --repair`, then extract again"


@contextlib.contextmanager
def _as_shard_errors(path: Path) -> Iterator[None]:
    """Turn the many ways in which HDF5 and Arrow fail into two: the file is damaged, or it could not be read just now.

    A library's refusal says nothing about the file (memory, a lock, a module that is not there); its first and last bytes do.
    """
    try:
        yield
    except (DamagedError, UnreadableError):
        raise
    except Exception as error:
        try:
            problem = no_shard(path)
        except DamagedError as damage:
            raise _damaged(path, damage.reason) from error
        if problem is not None:
            raise _damaged(path, problem) from error
        reason = could_not_read(path, error).reason
        raise UnreadableError(f"{reason}; `tfser cache verify` says whether it is damaged", at=path) from error


def no_shard(path: Path) -> str | None:
    """Return what the first and last bytes of a shard show of damage; None if they show none.

    Raises:
        DamagedError: if what lies there is no file.
        UnreadableError: if it could not be read.
    """
    with opened(path) as file:
        head = file.read(64)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 4))
        tail = file.read(4)
    if not size:
        return "it is empty"
    if not path.name.endswith(SUFFIXES["hdf5"]):
        return None if head[:4] == tail == b"PAR1" else "it is no Parquet file, or not all of one"
    if head[:8] != _HDF5:
        return "it is no HDF5 file"
    # Superblocks of version 2 and 3 say at byte 28, behind two addresses of eight bytes, where the file ends.
    end = int.from_bytes(head[28:36], "little") if head[8] in (2, 3) and head[9] == 8 else 0
    return f"it has {size} bytes, and {end} by its own account" if size < end or size < 48 else None


_HDF5 = b"\x89HDF\r\n\x1a\n"


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

    # A finished shard is never changed in place, so readers need no lock, and disks that know none can be read.
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_file_locking(False, True)
    file = h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, fapl=access)
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

    # pyarrow would copy every blob to give one; the layout says where they lie, and the lengths before them say
    # whether it is right.
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
