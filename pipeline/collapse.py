"""Collapsing the layers of an encoder: a feature set that holds all of them becomes an ordinary one of the width of one.

What comes in: a feature set of several layers, and what to make of it (`tfser.pipeline.features.stacks`). What goes out: shards
of the other feature set, written as an extraction writes its own: utterance by utterance in the order of the stored shards,
closed at a fixed size, rows last, so that a collapse that was killed goes on where it was. No audio is read.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.catalogue.stored import SKIPPED, read_skipped
from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.manifests.files import sweep
from tfser.pipeline.feature_writer import SHARD_BYTES, SHARD_UTTERANCES
from tfser.pipeline.features.feature_set import Described, write_description
from tfser.pipeline.features.stacks import Collapsed
from tfser.pipeline.measure import Advance, disk_errors
from tfser.pipeline.shards.reader import ShardReader, checksum_of, damaged_frames
from tfser.pipeline.shards.rows import write_rows
from tfser.pipeline.shards.writer import SUFFIXES, Array, ShardFormat, ShardMember, write_shard
from tfser.pipeline.stock import take_stock

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class CollapseReport:
    """What a collapse did for one corpus: utterances that were there before, and that were written now."""

    corpus: str
    before: int
    written: int
    bytes: int
    repaired: tuple[str, ...]


def collapse(
    cache: Cache,
    source: Row,
    target: Collapsed,
    corpora: Sequence[str] | None = None,
    *,
    begin: Callable[[int, float], Advance] | None = None,
    on_wait: Callable[[str], None] | None = None,
    shard_bytes: int = SHARD_BYTES,
    shard_utterances: int = SHARD_UTTERANCES,
) -> list[CollapseReport]:
    """Write what a feature set lacks of another one's utterances, collapsed; its shards have the format of the source's.

    Args:
        cache: the cache.
        source: the row of the table `feature_sets`, see `layered`.
        target: what to make.
        corpora: of which; None: all that the source has utterances of.
        begin: told the number of utterances and the seconds of audio to come; returns what to call as they are done.
        on_wait: told when another writer of the same feature set has to be waited for.
        shard_bytes: closes a shard.
        shard_utterances: closes a shard.

    Raises:
        UsageError: if the source has no utterances of a corpus, or another feature set has the target's name.
        TfserError: if a shard is damaged, the disk is or would be full, or values do not fit the dtype. What was finished stays.
    """
    with open_catalogue(cache) as connection:
        of = "SELECT f.*, u.content_hash FROM features f JOIN utterances u USING (corpus, utterance_id) WHERE f.feature_set = ?"
        stored = rows(connection, f"{of} ORDER BY f.corpus, f.shard, f.first_frame", [source["feature_set"]])
        named = {row["feature_set"]: row["fingerprint"] for row in rows(connection, "FROM feature_sets")}
    # A name stands for one fingerprint in a cache: the same name for other numbers would be found by every
    # command that asks by name.
    if named.get(target.name, target.fingerprint) != target.fingerprint:
        raise UsageError(f"{target.name} is another feature set in this cache; choose another --name, or remove that one first")
    have = sorted({row["corpus"] for row in stored})
    for corpus in corpora or ():
        if corpus not in have:
            raise unknown(f"corpus of {source['feature_set']}", corpus, have)
    return [
        _of_corpus(
            cache,
            source,
            target,
            corpus,
            [row for row in stored if row["corpus"] == corpus],
            begin=begin,
            on_wait=on_wait,
            shard_bytes=shard_bytes,
            shard_utterances=shard_utterances,
        )
        for corpus in corpora or have
    ]


def _of_corpus(
    cache: Cache,
    source: Row,
    target: Collapsed,
    corpus: str,
    stored: Sequence[Row],
    *,
    begin: Callable[[int, float], Advance] | None,
    on_wait: Callable[[str], None] | None,
    shard_bytes: int,
    shard_utterances: int,
) -> CollapseReport:
    folder = cache.feature_root / target.folder / corpus
    with cache.lock(f"features/{target.folder}/{corpus}", on_wait):
        sweep(folder)
        have, repaired = take_stock(cache, folder)
        todo = [row for row in stored if (row["utterance_id"], row["content_hash"]) not in have]
        item = target.dim * np.dtype(target.dtype).itemsize
        check_disk(cache, target, len(todo), sum(row["frames"] for row in todo) * item)
        written = size = 0
        with disk_errors(folder, "what was finished is safe; make room and run the same command again"):
            write_description(cache, target)
            _copy_skipped(cache, cache.root / source["folder"] / corpus, folder)
            seconds = sum(row["frames"] for row in todo) * target.hop_s
            advance = begin(len(todo), seconds) if begin is not None and todo else None
            for part in deal(todo, item, shard_bytes, shard_utterances):
                members = _members(cache, target, part, advance)
                size += write_members(cache, folder, target, corpus, members, format_of(part[0]["shard"]))
                written += len(part)
    return CollapseReport(corpus=corpus, before=len(stored) - len(todo), written=written, bytes=size, repaired=tuple(repaired))


def deal(todo: Sequence[Row], item: int, shard_bytes: int, shard_utterances: int) -> Iterator[Sequence[Row]]:
    """Deal rows into shards of a fixed size, as an extraction does."""
    start, held = 0, 0
    for i, row in enumerate(todo, start=1):
        held += row["frames"] * item
        if held >= shard_bytes or i - start >= shard_utterances:
            yield todo[start:i]
            start, held = i, 0
    if start < len(todo):
        yield todo[start:]


def _members(cache: Cache, target: Collapsed, part: Sequence[Row], advance: Advance | None) -> list[ShardMember]:
    """Read and combine the utterances of one shard to be."""
    members: list[ShardMember] = []
    readers: dict[str, ShardReader] = {}
    try:
        for row in part:
            frames = target.combine(read_frames(cache, readers, row))
            members.append(ShardMember(utterance_id=row["utterance_id"], content_hash=row["content_hash"], frames=frames))
            if advance is not None:
                advance(1, row["frames"] * target.hop_s)
    finally:
        for reader in readers.values():
            reader.close()
    return members


def read_frames(cache: Cache, readers: dict[str, ShardReader], row: Row) -> Array:
    """Return the stored frames of one utterance, (frames, dim).

    Args:
        cache: the cache.
        readers: open shards by their name, to which this one is added; the caller closes them.
        row: of the table `features`.

    Raises:
        ShardError: if they are not what was written.
    """
    if row["shard"] not in readers:
        readers[row["shard"]] = ShardReader(cache.root / row["shard"])
    stored = readers[row["shard"]].frames_of(row["first_frame"], row["frames"])
    if cache.verify == "once" and row["checksum"] is not None and checksum_of(stored) != row["checksum"]:
        raise damaged_frames(cache.root / row["shard"], [row["utterance_id"]])
    return stored


def write_members(
    cache: Cache, folder: Path, target: Described, corpus: str, members: Sequence[ShardMember], format: ShardFormat
) -> int:
    """Write a shard under the name that an extraction would give it, and return its size in bytes."""
    digest = hashlib.sha256(target.fingerprint.encode())
    for member in members:
        digest.update(f"\n{member.utterance_id}\t{member.content_hash}".encode())
    words = {"feature_set": target.name, "fingerprint": target.fingerprint, "corpus": corpus}
    shard = write_shard(folder, digest.hexdigest()[:16], members, dtype=target.dtype, format=format, attributes=words)
    write_rows(shard, cache)
    return shard.size_bytes


def format_of(shard: str) -> ShardFormat:
    """Return the format of a shard by its file's name."""
    return "hdf5" if shard.endswith(SUFFIXES["hdf5"]) else "parquet"


def check_disk(cache: Cache, target: Described, utterances: int, size: int) -> None:
    """Refuse what the disk has no room for, before anything is written.

    Raises:
        TfserError: if there is less room than the features need.
    """
    free = shutil.disk_usage(cache.root).free
    if size + 256 * utterances > free:
        raise TfserError(
            f"{target.name} of {utterances} utterances needs about {size / 1e9:.2f} GB, and {cache.root} has "
            f"{free / 1e9:.2f} GB free; make room, or half the size with --dtype float16"
        )


def _copy_skipped(cache: Cache, source: Path, folder: Path) -> None:
    """Excuse what the source's extraction excused: the catalogue calls the feature set of such a list by its folder."""
    if (source / SKIPPED).exists() and not (folder / SKIPPED).exists():
        cache.write_table(folder / SKIPPED, read_skipped(cache, source / SKIPPED))
