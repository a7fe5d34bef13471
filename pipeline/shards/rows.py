"""The rows of a shard: which utterances its file holds, where, and their checksums.

What comes in: a written shard, or a folder of shards. What goes out: the file of rows, or a table of those that count.
`<name>.rows.parquet` stands beside `<name>.h5` or `<name>.frames.parquet` and is written last: a shard exists when its rows do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfser.manifests.cache import Cache
from tfser.manifests.errors import DamagedError, TfserError, UnreadableError
from tfser.manifests.files import opened, read_table, write_table
from tfser.pipeline.shards.writer import SUFFIXES, VERSION, ShardError, ShardFile

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_SUFFIX = ".rows.parquet"
SIZE, SHA256 = "shard_size_bytes", "shard_sha256"
"""What the footer of rows says of the shard's file; those of the version before have no SHA-256."""

LAYERS = "layer_checksums"
"""What it says of frames that hold several layers: the checksums of each layer, utterance by utterance, as JSON; of older ones,
nothing."""


def write_rows(shard: ShardFile, cache: Cache | None = None) -> Path:
    """Write ``<name>.rows.parquet`` beside a shard's file, after which the shard counts; return its path.

    Args:
        shard: what was written.
        cache: the cache that it lies in: the rows are then sealed.

    Raises:
        OSError: the disk is full or cannot be written; nothing is left behind.
    """
    import pyarrow as pa

    # The rows are written after the shard, and a shard without rows does not exist for readers: a kill between
    # the two leaves nothing half.
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
            SIZE: str(shard.size_bytes),
            SHA256: shard.sha256,
            "shard_checksum": shard.checksum,
            "dtype": shard.dtype,
            **({LAYERS: json.dumps(shard.layer_checksums)} if shard.layer_checksums else {}),
        }
    )
    path = rows_path(shard.path)
    write_table(path, table, place=cache.place(path) if cache is not None else None)
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
    return shard.with_name(stem_of(shard) + ROWS_SUFFIX)


def frames_of(rows_file: Path) -> list[Path]:
    """Return the files that may hold the frames of a file of rows."""
    stem = rows_file.name.removesuffix(ROWS_SUFFIX)
    return [rows_file.with_name(stem + suffix) for suffix in SUFFIXES.values()]


def stem_of(shard: Path) -> str:
    """Return a shard's name without its suffix.

    Raises:
        ShardError: it is not the name of a shard.
    """
    for suffix in SUFFIXES.values():
        if shard.name.endswith(suffix):
            return shard.name.removesuffix(suffix)
    raise ShardError(f"not the name of a shard; it would end in {' or '.join(SUFFIXES.values())}", at=shard)


def load_rows(path: Path, cache: Cache | None = None) -> pa.Table:
    """Return the rows of one shard, whose file has the size that was written.

    Args:
        path: of the rows.
        cache: the cache that they lie in: their seal is looked at.

    Raises:
        DamagedError: if the rows are not what was written there, or the shard has another size.
        MissingFileError: if the rows or their shard are missing.
        UnreadableError: if the rows could not be read, or have the columns of another version.
    """
    table = read_table(path, place=cache.place(path) if cache is not None else None)
    metadata = metadata_of(table)
    if not table.schema.remove_metadata().equals(rows_schema()):
        raise UnreadableError("cannot be understood (its columns are not those of feature rows)", at=path)
    shards = set(table.column("shard").to_pylist())
    if not metadata.get(SIZE, "").isdigit() or len(shards) != 1 or Path(str(min(shards))).name != min(shards):
        raise UnreadableError("cannot be understood (it does not say whose rows it holds)", at=path)
    shard = path.with_name(str(shards.pop()))
    with opened(shard) as file:
        size = os.fstat(file.fileno()).st_size
    if size != int(metadata[SIZE]):
        raise ShardError(f"has {size} bytes, {metadata[SIZE]} were written", at=shard)
    return table


def layer_checksums(shard: Path) -> Mapping[int, Sequence[str]]:
    """Return the checksums of each layer of a shard's utterances, by their first frame; empty where its rows have none.

    Raises:
        DamagedError: if the rows are not what was written there.
        UnreadableError: if they could not be read.
    """
    table = read_table(rows_path(shard))
    text = metadata_of(table).get(LAYERS)
    if text is None:
        return {}
    found = json.loads(text)
    return dict(zip(table.column("first_frame").to_pylist(), found, strict=True))


def metadata_of(table: pa.Table) -> dict[str, str]:
    """Return what stands in the footer of rows: the size, SHA-256 and dtype of the shard."""
    return {key.decode(): value.decode("utf-8", "replace") for key, value in (table.schema.metadata or {}).items()}


@dataclass(frozen=True, kw_only=True)
class Stock:
    """The rows of a folder's shards, and the files of rows that do not count, each with the reason."""

    rows: pa.Table
    broken: Mapping[Path, TfserError]


def read_stock(folder: Path, cache: Cache | None = None) -> Stock:
    """Return the rows of all shards of a folder, in the order of the shards' names, and what does not count."""
    import pyarrow as pa

    tables: list[pa.Table] = []
    broken: dict[Path, TfserError] = {}
    for path in sorted(folder.glob(f"[!.]*{ROWS_SUFFIX}")):
        try:
            tables.append(load_rows(path, cache).replace_schema_metadata(None))
        except (DamagedError, UnreadableError) as error:
            broken[path] = error
    return Stock(rows=pa.concat_tables(tables) if tables else rows_schema().empty_table(), broken=broken)


def read_rows(folder: Path, cache: Cache | None = None) -> pa.Table:
    """Return the rows of all shards of a folder that count; see `read_stock`."""
    return read_stock(folder, cache).rows
