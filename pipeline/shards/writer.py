"""Shards: the frames of several utterances in one file, and the small file of rows that makes them count.

A shard `<name>` is two files of one folder:

    <name>.h5               HDF5: `frames` (sum of frames, dim) contiguous, `offsets` (n + 1,), `utterance_id` (n,)
    <name>.frames.parquet   or Parquet: one row an utterance, its frames one uncompressed binary value
    <name>.rows.parquet     one row an utterance: where its frames lie, and their CRC-32; its footer has the SHA-256 of the file

Files are written aside (`.<name>.<pid>-<random>.tmp`), synchronised and renamed, and the rows come last: a shard exists
when its rows do, so a killed or full-disk writer leaves nothing that counts. No file holds a time or a random name, so
the same members give the same bytes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from tfser.manifests.errors import DamagedError, TfserError, UsageError, unknown
from tfser.manifests.files import aside, sha256_of

Array = npt.NDArray[Any]
StorageDtype = Literal["float32", "float16"]
ShardFormat = Literal["hdf5", "parquet"]

SUFFIXES: dict[str, str] = {"hdf5": ".h5", "parquet": ".frames.parquet"}
"""What a shard's file name ends in, by format."""

VERSION = "1"
ROW_GROUP = 64
"""Utterances in a row group of Parquet, at most."""

_GROUP_BYTES = 1 << 28
_PAGE = 4096
_MAX_BUFFERS = 1024  # of one pwritev: Linux's IOV_MAX


class ShardError(DamagedError):
    """A shard's bytes were read, and they are not what its rows say, or are no shard at all; the message has the way out."""

    way_out = ""


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
        sha256: of the file's bytes, 64 hex digits.
        checksum: 8 hex digits, the CRC-32 of all frame bytes in order.
        utterance_ids, content_hashes, first_frames, frames, checksums: one for each member, in order.
        layer_checksums: of frames that hold several layers side by side: those of each layer, for each member; else empty.
    """

    path: Path
    dtype: StorageDtype
    dim: int
    size_bytes: int
    sha256: str
    checksum: str
    utterance_ids: tuple[str, ...]
    content_hashes: tuple[str, ...]
    first_frames: tuple[int, ...]
    frames: tuple[int, ...]
    checksums: tuple[str, ...]
    layer_checksums: tuple[tuple[str, ...], ...] = ()


def storage_dtype(text: str) -> StorageDtype:
    """Return a word as a storage dtype.

    Raises:
        UsageError: if it is none.
    """
    for known in get_args(StorageDtype):
        if text == known:
            return known  # type: ignore[no-any-return]
    raise unknown("dtype", text, get_args(StorageDtype))


def write_shard(
    folder: Path,
    name: str,
    members: Sequence[ShardMember],
    *,
    dtype: StorageDtype,
    format: ShardFormat,
    attributes: dict[str, str] | None = None,
    layers: int = 1,
) -> ShardFile:
    """Write the frames of ``members`` to ``<folder>/<name>.h5`` or ``.frames.parquet``; `write_rows` makes them count.

    Args:
        folder: made if it is missing.
        name: of the shard, without a suffix.
        members: at least one, their utterance ids distinct, all of one dim.
        dtype: what the frames are stored as, little-endian.
        format: 'hdf5' or 'parquet'.
        attributes: words stored in the file (feature set, corpus ...); they play no part in reading.
        layers: how many layers a frame holds side by side; above 1, each can be read, and compared with its checksum, alone.

    Raises:
        TfserError: no members, a repeated utterance, different widths, or a value that is NaN, infinite or too large
            for ``dtype``.
        OSError: the disk is full or cannot be written; nothing is left behind.
    """
    # Checked and converted before a file is begun: what does not fit leaves nothing behind.
    _check_words(name, dtype, format)
    stored = _storable(name, members, dtype)
    # CRC-32 of each utterance's frames, to compare when they are read, and SHA-256 of the file, to tell a whole
    # shard from an exchanged one: the first is fast enough to run before each training, the second holds
    # against intent.
    whole = functools.reduce(lambda crc, frames: zlib.crc32(frames.data, crc), stored, 0)
    words = {**(attributes or {}), "tfser_shard": VERSION, "checksum": f"{whole:08x}"}
    path = folder / f"{name}{SUFFIXES[format]}"
    write = _write_hdf5 if format == "hdf5" else _write_parquet
    with aside(path) as temporary:
        write(temporary, [member.utterance_id for member in members], stored, words)
        digest = sha256_of(temporary)  # of what lies on the disk; what is in memory is compared by the checksums
    return _described(path, dtype, digest, f"{whole:08x}", members, stored, layers)


def _described(
    path: Path,
    dtype: StorageDtype,
    digest: str,
    checksum: str,
    members: Sequence[ShardMember],
    stored: Sequence[Array],
    layers: int,
) -> ShardFile:
    """Return what the rows of a written shard need: where each member's frames begin, and their checksums."""
    lengths = [len(frames) for frames in stored]
    return ShardFile(
        path=path,
        dtype=dtype,
        dim=int(stored[0].shape[1]),
        size_bytes=path.stat().st_size,
        sha256=digest,
        checksum=checksum,
        utterance_ids=tuple(member.utterance_id for member in members),
        content_hashes=tuple(member.content_hash for member in members),
        first_frames=tuple(int(n) for n in np.cumsum([0, *lengths[:-1]])),
        frames=tuple(lengths),
        checksums=tuple(f"{zlib.crc32(frames.data):08x}" for frames in stored),
        layer_checksums=tuple(_layer_checksums(frames, layers) for frames in stored) if layers > 1 else (),
    )


def _layer_checksums(frames: Array, layers: int) -> tuple[str, ...]:
    """Return the CRC-32 of each layer of an utterance's frames, as if it had been stored by itself."""
    parts = np.split(frames, layers, axis=1)
    return tuple(f"{zlib.crc32(np.ascontiguousarray(part).data):08x}" for part in parts)


def _check_words(name: str, dtype: str, format: str) -> None:
    if format not in SUFFIXES:
        raise unknown("shard format", format, list(SUFFIXES))
    if dtype not in get_args(StorageDtype):
        raise unknown("storage dtype", dtype, list(get_args(StorageDtype)))
    if not name or name != Path(name).name or name.startswith("."):
        raise UsageError(f"{name!r} cannot be the name of a shard")


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
        # Contiguous, allocated at once and never filled: frames lie in one piece, so that readers may map them
        # and a row is an offset.
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_layout(h5py.h5d.CONTIGUOUS)
        how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        how.set_obj_track_times(False)
        kind, space = h5py.h5t.py_create(dtype, logical=True), h5py.h5s.create_simple(shape)
        position = h5py.h5d.create(file.id, b"frames", kind, space, dcpl=how).get_offset()
    with path.open("r+b", buffering=0) as raw:
        # Few large writes: the page cache then holds large folios, and maps of them are read at up to 9.6 GB/s instead of 5.5
        # (docs/log.md).
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
        # Uncompressed and without a dictionary: frames of float16 hardly compress, and bytes that lie as they
        # are can be mapped.
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


def _as_bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
