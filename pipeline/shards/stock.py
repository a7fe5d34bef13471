"""What a folder of shards holds, before something is added to it; what is broken in it is put away.

What comes in: a folder of a feature set and a corpus, whose writers' lock the caller holds. What goes out: which utterances it
has, and a line for each thing that had to go. Nothing that could not be read just now is touched.
"""

from __future__ import annotations

import os
from pathlib import Path

from tfser.manifests.cache import Cache
from tfser.manifests.errors import MissingFileError, UnreadableError
from tfser.pipeline.shards.rows import frames_of, read_stock
from tfser.pipeline.shards.writer import SUFFIXES


def take_stock(cache: Cache, folder: Path) -> tuple[set[tuple[str, str]], list[str]]:
    """Return which utterances a folder holds, each with its content hash, and what had to go, one line each.

    Damaged shards, and rows whose shard is gone, are moved to `removed/`, so that their utterances are extracted again; what a
    killed writer never finished is taken away. Call it while holding the lock of the folder's writers.

    Raises:
        UnreadableError: if rows or their shard could not be read just now, which is no reason to make them again.
    """
    if not folder.is_dir():
        return set(), []
    stock = read_stock(folder, cache)
    # First all that must stop this: rows that cannot be read just now may be whole, and nothing is moved while
    # that is open.
    for path, error in stock.broken.items():
        if isinstance(error, UnreadableError) and not (isinstance(error, MissingFileError) and path.exists()):
            raise error
    repaired: list[str] = []
    named = set(stock.rows["shard"].to_pylist())
    for path, error in stock.broken.items():
        shards = [p for p in frames_of(path) if os.path.lexists(p) and p.name not in named]
        gone = [cache.place(cache.put_away(p)) for p in (path, *shards)]  # rows first: without them the shard does not count
        repaired.append(f"{error}; moved to {Path(gone[0]).parent}, and made again")
    # A shard without rows was never finished; it counts for nobody, and its utterances are in `todo`.
    for suffix in SUFFIXES.values():
        for path in folder.glob(f"[!.]*{suffix}"):
            if path.name not in named:
                path.unlink()
    return set(zip(stock.rows["utterance_id"].to_pylist(), stock.rows["content_hash"].to_pylist(), strict=True)), repaired
