"""Importing features that were computed elsewhere: matched to utterances, and stored as an ordinary feature set.

What comes in: what a file holds (`tfser.pipeline.feature_files`), and a scanned corpus. What goes out: shards of a feature set of
the user's own name. Its fingerprint is made of the content, so a changed file is another set, which takes the name; the same
content is found again, from whatever format. The shards bear the content hashes of the audio as it is now: where an
utterance's audio changes later, its imported features are outdated like any others. Where they come from stands in the feature
set's `source`.

An id means the utterance of that name; else the one whose file has that path, name or stem, if there is just one. Ids that mean
nobody and utterances that nobody brought are counted and named; the audits miss the latter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.stored import read_corpus
from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.manifests.feature_name import checked_name
from tfser.pipeline.extraction.feature_writer import narrowed, why_not_stored
from tfser.pipeline.extraction.new_shards import AS_USUAL, ShardWriting, Written, write_lacking
from tfser.pipeline.feature_files import Given
from tfser.pipeline.features.feature_set import IMPORTED, PER_UTTERANCE, PER_UTTERANCE_HOP_S, Described
from tfser.pipeline.features.registry import UPSTREAMS
from tfser.pipeline.shards.writer import Array, storage_dtype

ALGORITHM = 1
"""Raised whenever the same file would give other numbers than before."""


@dataclass(frozen=True, kw_only=True)
class ImportReport(Written):
    """What an import did.

    `rows` ids were in the file: `used` of them mean an utterance, `strangers` none. `lacking` utterances have no features in the
    file, `unreadable` ones have no audio that could be read, so nothing can be tied to it.
    """

    feature_set: str
    rows: int
    used: int
    strangers: tuple[str, ...]
    lacking: tuple[str, ...]
    unreadable: tuple[str, ...]


def imported(
    given: Given, path: Path, *, name: str | None, hop_s: float | None, dtype: str, words: str | None = None
) -> Described:
    """Return the feature set that a file becomes.

    Args:
        given: what it holds.
        path: the file.
        name: of the feature set; None: the file's, without its ending.
        hop_s: from one frame to the next, in seconds; None: one vector an utterance.
        dtype: of storage.
        words: the user's own, on where the features come from.

    Raises:
        UsageError: the name may not be, or is that of features which `extract` makes, or the dtype is unknown.
    """
    called = checked_name(name or path.stem)
    if called.partition("/")[0].partition("+")[0] in UPSTREAMS:
        raise UsageError(f"--name {called}: features of this name are made by `tfser extract`; choose another")
    if hop_s is not None and not 0.0001 <= hop_s <= 60:
        raise UsageError(f"--hop {hop_s:g}: from 0.0001 to 60 seconds")
    config: dict[str, Any] = {"kind": IMPORTED, "algorithm": ALGORITHM, "content": given.digest()}
    config |= {"per": PER_UTTERANCE} if hop_s is None else {"hop_s": hop_s}
    origin = {"file": path.name, "sha256": _sha256(path), "columns": list(given.columns)}
    return Described(
        name=called,
        kind=IMPORTED,
        config=config,
        dim=given.dim,
        dtype=storage_dtype(dtype),
        hop_s=PER_UTTERANCE_HOP_S if hop_s is None else hop_s,
        origin=origin | ({"words": words} if words else {}),
    )


def import_features(cache: Cache, corpus: str, given: Given, target: Described, how: ShardWriting = AS_USUAL) -> ImportReport:
    """Write what a feature set lacks of what a file holds; an import that was killed goes on where it was.

    Args:
        cache: the cache.
        corpus: a corpus that was scanned.
        given: what the file holds.
        target: of `imported`.
        how: sizes and format of shards, and who is told.

    Raises:
        UsageError: the corpus is unknown, two ids mean one utterance, or no id means any.
        TfserError: a value does not fit the dtype, or the disk is full.
    """
    if corpus not in cache.corpora():
        raise unknown("corpus", corpus, cache.corpora())
    stored = read_corpus(cache, corpus).utterances.select(["utterance_id", "path", "content_hash"]).to_pylist()
    hashes = {row["utterance_id"]: row["content_hash"] for row in stored}
    matched, strangers = match(list(given.frames), stored)
    if not matched:
        like = f"{strangers[0]!r} is not like {next(iter(hashes))!r}" if hashes else "it has none"
        raise UsageError(f"none of the {len(strangers):,} ids means an utterance of {corpus}: {like}")
    # Narrowed before anything is written: a value that does not fit leaves no half of a feature set behind.
    heard = [(name, own_id) for name, own_id in sorted(matched.items()) if hashes[name] is not None]
    frames = {name: _fitting(target, name, given.frames[own_id]) for name, own_id in heard}
    rows = [{"utterance_id": name, "content_hash": hashes[name], "frames": len(frames[name])} for name in frames]
    written = write_lacking(cache, target, corpus, rows, lambda shards, row: frames[row["utterance_id"]], how)
    return ImportReport(
        **vars(written),
        feature_set=target.name,
        rows=len(given.frames),
        used=len(matched),
        strangers=tuple(strangers),
        lacking=tuple(sorted(set(hashes) - set(matched))),
        unreadable=tuple(sorted(name for name in matched if hashes[name] is None)),
    )


def match(ids: Sequence[str], utterances: Sequence[Mapping[str, Any]]) -> tuple[dict[str, str], list[str]]:
    """Return which id each utterance has, and the ids that mean nobody.

    >>> rows = [{"utterance_id": "a1", "path": "wav/x.wav"}, {"utterance_id": "a2", "path": "wav/y.wav"}]
    >>> match(["a1", "y", "z"], rows)
    ({'a1': 'a1', 'a2': 'y'}, ['z'])

    Raises:
        UsageError: two ids mean one utterance.
    """
    exact = {row["utterance_id"] for row in utterances}
    by_file: dict[str, set[str]] = {}
    for row in utterances:
        path = PurePosixPath(row["path"])
        for key in {str(path), path.name, path.stem}:
            by_file.setdefault(key, set()).add(row["utterance_id"])
    files: dict[str, str] = {}
    strangers: list[str] = []
    for name in ids:
        means = {name} if name in exact else by_file.get(name, set())
        if len(means) != 1:
            strangers.append(name)
            continue
        (utterance,) = means
        if utterance in files:
            raise UsageError(f"the ids {files[utterance]!r} and {name!r} both mean the utterance {utterance}; leave one out")
        files[utterance] = name
    return files, strangers


def _fitting(target: Described, name: str, frames: Array) -> Array:
    """Return an utterance's frames in the dtype of storage.

    Raises:
        TfserError: they do not fit.
    """
    narrow = narrowed(frames, target.dtype)
    if narrow is None:
        raise TfserError(f"{name}: {why_not_stored(frames, target.dtype, target.config)}")
    return narrow


def _sha256(path: Path) -> str:
    """Return the digest of a file, or over the digests of a folder's files with their names."""
    if not path.is_dir():
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    lines = "".join(f"{_sha256(file)}  {file.name}\n" for file in sorted(path.glob("*.npy")))
    return hashlib.sha256(lines.encode()).hexdigest()
