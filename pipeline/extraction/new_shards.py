"""Writing what a feature set lacks: shards of a fixed size, rows last, so that a writer that was killed goes on where it was.

What comes in: a description, rows of utterances, and what gives the frames of each. What goes out: shards and their rows, named
by their members. Extraction closes its shards itself, since frames come as the audio is decoded; what is made of stored features
or of somebody's file (`collapse`, `join`, `import_features`) is written by `write_lacking`. Nothing here reads audio.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tfser.manifests.cache import Cache
from tfser.manifests.errors import TfserError
from tfser.manifests.files import sweep
from tfser.manifests.wording import count, size
from tfser.pipeline.features.feature_set import Described, write_description
from tfser.pipeline.scanning.measure import Advance, disk_errors
from tfser.pipeline.shards.reader import ShardReader, checksum_of, damaged_frames
from tfser.pipeline.shards.rows import write_rows
from tfser.pipeline.shards.stock import take_stock
from tfser.pipeline.shards.writer import SUFFIXES, Array, ShardFormat, ShardMember, write_shard

Row = Mapping[str, Any]

SHARD_BYTES = 128 * 2**20
"""A shard is closed once it holds this many bytes of frames ..."""

SHARD_UTTERANCES = 512
"""... or this many utterances: so much work at most is done again after a kill."""

Begin = Callable[[int, float], Advance]
"""Told the number of utterances and the seconds of audio to come; returns what to call as they are done."""


@dataclass(frozen=True, kw_only=True)
class ShardWriting:
    """How new shards are written, and who is told of it."""

    format: ShardFormat | None = None
    """Of new shards; None: that of the shards that their frames are from, or else HDF5."""
    begin: Begin | None = None
    """Told what is to come."""
    on_wait: Callable[[str], None] | None = None
    """Told when another writer of the same corpus and feature set has to be waited for."""
    shard_bytes: int = SHARD_BYTES
    """Closes a shard."""
    shard_utterances: int = SHARD_UTTERANCES
    """Closes a shard."""


AS_USUAL = ShardWriting()


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written of a feature set for one corpus: utterances that were there before, and that are new."""

    corpus: str
    before: int
    written: int
    bytes: int
    repaired: tuple[str, ...]
    """What was damaged and moved away, a line each."""

    def lines(self, target: Described) -> list[str]:
        """Return what people are told of it."""
        here = f"{self.corpus} / {target.name}"
        return [
            *(f"repaired: {line}" for line in self.repaired),
            f"{here}: {count(self.written, 'utterance')} written, {self.before:,} were there",
        ]


class OpenShards:
    """Stored shards, each opened when it is asked for first; a context manager that closes them."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._readers: dict[str, ShardReader] = {}

    def frames_of(self, row: Row) -> Array:
        """Return the stored frames (frames, dim) of one utterance: a row of the table `features`.

        Raises:
            ShardError: if they are not what was written.
        """
        path = self._cache.root / row["shard"]
        if row["shard"] not in self._readers:
            self._readers[row["shard"]] = ShardReader(path)
        stored = self._readers[row["shard"]].frames_of(row["first_frame"], row["frames"])
        if self._cache.verify == "once" and row["checksum"] is not None and checksum_of(stored) != row["checksum"]:
            raise damaged_frames(path, [row["utterance_id"]])
        return stored

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for reader in self._readers.values():
            reader.close()


def write_lacking(
    cache: Cache,
    target: Described,
    corpus: str,
    rows: Sequence[Row],
    frames_of: Callable[[OpenShards, Row], Array],
    how: ShardWriting,
    excuse: Callable[[Path], None] = lambda folder: None,
) -> Written:
    """Write what a feature set lacks of some utterances.

    Args:
        cache: the cache.
        target: the feature set.
        corpus: of the utterances.
        rows: what it is to hold: `utterance_id`, `content_hash`, `frames` (how many), and `shard` where they are from one.
        frames_of: gives the frames of a row.
        how: sizes and format of shards, and who is told.
        excuse: lists in the folder whom the feature set need not have.

    Raises:
        TfserError: the disk is or would be full, or whatever ``frames_of`` raises. What was finished stays.
    """
    folder = cache.feature_root / target.folder / corpus
    # Stock is taken under the lock, as an extraction does: the same rules of what is damaged, unfinished or there already.
    with cache.lock(f"features/{target.folder}/{corpus}", how.on_wait):
        sweep(folder)
        have, repaired = take_stock(cache, folder)
        todo = [row for row in rows if (row["utterance_id"], row["content_hash"]) not in have]
        frames, item = sum(row["frames"] for row in todo), target.dim * np.dtype(target.dtype).itemsize
        check_room(cache, target.name, len(todo), frames * item + 256 * len(todo))
        stored = 0
        with disk_errors(folder, "what was finished is safe; make room and run the same command again"):
            # Also where nothing is to do: what a feature set is, and who is excused, stands beside its shards.
            write_description(cache, target)
            excuse(folder)
            advance = how.begin(len(todo), frames * target.hop_s) if how.begin is not None and todo else None
            for part in _dealt(todo, item, how):
                members = _members(cache, target, part, frames_of, advance)
                stored += store_members(cache, folder, target, members, how.format or _format_of(part[0]))[1]
    return Written(corpus=corpus, before=len(rows) - len(todo), written=len(todo), bytes=stored, repaired=tuple(repaired))


def _dealt(todo: Sequence[Row], item: int, how: ShardWriting) -> Iterator[Sequence[Row]]:
    """Deal rows into shards of a fixed size, as an extraction does; a frame takes ``item`` bytes."""
    start, held = 0, 0
    for i, row in enumerate(todo, start=1):
        held += row["frames"] * item
        if held >= how.shard_bytes or i - start >= how.shard_utterances:
            yield todo[start:i]
            start, held = i, 0
    if start < len(todo):
        yield todo[start:]


def _members(
    cache: Cache,
    target: Described,
    part: Sequence[Row],
    frames_of: Callable[[OpenShards, Row], Array],
    advance: Advance | None,
) -> list[ShardMember]:
    """Return the utterances of one shard to be."""
    members: list[ShardMember] = []
    with OpenShards(cache) as shards:
        for row in part:
            frames = frames_of(shards, row)
            members.append(ShardMember(utterance_id=row["utterance_id"], content_hash=row["content_hash"], frames=frames))
            if advance is not None:
                advance(1, row["frames"] * target.hop_s)
    return members


def _format_of(row: Row) -> ShardFormat:
    """Return the format of the shard that a row's frames are from, HDF5 where they are from none."""
    return "parquet" if str(row.get("shard", "")).endswith(SUFFIXES["parquet"]) else "hdf5"


def store_members(
    cache: Cache, folder: Path, target: Described, members: Sequence[ShardMember], format: ShardFormat, layers: int = 1
) -> tuple[Path, int]:
    """Write one shard of a corpus's folder, then the rows that make it count; return the file of these, and the shard's bytes.

    Its name is the hash of its members, so that a writer which was interrupted and gone on with ends in files of the same names
    where shards hold the same.
    """
    digest = hashlib.sha256(target.fingerprint.encode())
    for member in members:
        digest.update(f"\n{member.utterance_id}\t{member.content_hash}".encode())
    words = {"feature_set": target.name, "fingerprint": target.fingerprint, "corpus": folder.name}
    name = digest.hexdigest()[:16]
    shard = write_shard(folder, name, members, dtype=target.dtype, format=format, attributes=words, layers=layers)
    return write_rows(shard, cache), shard.size_bytes


def check_room(cache: Cache, name: str, utterances: int, need: int) -> int:
    """Refuse what the disk has no room for, before anything is written; return the bytes that are free.

    Raises:
        TfserError: if there is less room than the features need.
    """
    free = shutil.disk_usage(cache.root).free
    if need > free:
        raise TfserError(
            f"{name} of {count(utterances, 'utterance')} needs about {size(need)}, and {cache.root} has {size(free)} free; make "
            "room, or choose another folder with --cache, or half the size with --dtype float16"
        )
    return free
