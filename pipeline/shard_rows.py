"""The rows of a shard: which utterances its file holds, where, and their checksums.

`<name>.rows.parquet` stands beside `<name>.h5` or `<name>.frames.parquet` and is written last: a shard exists when its rows do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfser.manifests.files import aside
from tfser.pipeline.shards import SUFFIXES, VERSION, ShardError, ShardFile

ROWS_SUFFIX = ".rows.parquet"


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
    with aside(path) as temporary:
        pq.write_table(table, temporary)
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


def stem_of(shard: Path) -> str:
    """Return a shard's name without its suffix.

    Raises:
        ShardError: it is not the name of a shard.
    """
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
            problem = rows_problem(folder, table)
        except (pa.ArrowException, OSError, ValueError) as error:
            table, problem = None, f"cannot be read ({one_line(error)})"
        if problem is None:
            tables.append(table.select(rows_schema().names).replace_schema_metadata(None))
        elif report is not None:
            report(f"{path}: left out: {problem}; extract again")
    return pa.concat_tables(tables) if tables else rows_schema().empty_table()


def rows_problem(folder: Path, table: Any) -> str | None:
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


def one_line(error: BaseException) -> str:
    """Return what an error says, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
