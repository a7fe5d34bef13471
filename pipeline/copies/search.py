"""Near-duplicates: which utterances are copies of one another by their fingerprints.

An inverted index over the words of all fingerprints proposes pairs, each with an offset: two utterances that hold the same word.
Every proposal is checked by the share of equal bits where the two overlap at that offset. The index is worked through in
partitions of a bounded number of words, so memory grows with the fingerprints themselves (200 bytes a second of audio) and a
fixed amount for the index. What is found is stored as `near_duplicates.parquet` beside the corpus's rows, keyed by content.

benchmarks/near_duplicates.py measures recall and false alarms; docs/log.md has the figures.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.near_duplicates import PAIRS
from tfser.manifests.catalogue.stored import UTTERANCES
from tfser.manifests.errors import DamagedError, MissingFileError
from tfser.pipeline.copies.fingerprints import ALGORITHM, HOP_S, Words, stored
from tfser.pipeline.scanning.measure import disk_errors

Indices = npt.NDArray[np.int64]

SIMILARITY = 0.85
"""From this share of equal bits on, two sounds are taken for copies: chance is 0.5; two takes of a sentence by one speaker of
EmoDB reach 0.76, synthetic voices that follow one rule 0.84."""

MIN_WORDS = 25
"""Words (of 20 ms) of sound that have to overlap: less than half a second proves nothing."""

MIN_SHARE = 0.6
"""Share of the shorter one's sound that has to overlap."""

WHOLE_SHARE = 0.9
"""From this share of the longer one's sound on, one is a copy of the whole, not an excerpt."""

_PARTITION = 1 << 22  # words that are indexed at once
_LONG_RUN = 64  # utterances under one word; in longer runs only neighbours are compared
_NEIGHBOURS = 4
_CHECKED_AT_ONCE = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two fingerprints by number, a < b: how alike, over how many words, and how much later (in words) it starts in b."""

    a: int
    b: int
    similarity: float
    words: int
    offset: int
    is_whole: bool


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a search found: the corpus's fingerprints, those of the cache's other corpora, the too short among all of them, and
    pairs of different audio that are alike."""

    compared: int
    others: int
    too_short: int
    pairs: int
    was_current: bool


def limit(words: int) -> float:
    """Return the share of equal bits that a pair needs, stricter over short overlaps, where chance spreads wider.

    >>> limit(100), round(limit(40), 2), round(limit(25), 2)
    (0.85, 0.88, 0.92)
    """
    return max(SIMILARITY, 0.74 + 0.14 * math.sqrt(40 / max(words, 1)))


def find_pairs(prints: Sequence[Words], *, only: npt.NDArray[np.bool_] | None = None, partition: int = _PARTITION) -> list[Pair]:
    """Return the pairs that are alike.

    Args:
        prints: the fingerprints.
        only: pairs of which neither is marked are not looked at; None looks at all.
        partition: words of the index that are held at once.
    """
    if not prints:
        return []
    lengths = np.array([len(p) for p in prints], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    words = np.concatenate([np.asarray(p, np.uint32) for p in prints]) if starts[-1] else np.empty(0, np.uint32)
    active = np.add.reduceat(np.append(words != 0, False).astype(np.int64), np.minimum(starts[:-1], len(words)))
    active[lengths == 0] = 0
    usable = active >= MIN_WORDS
    # A pair is proposed once for each offset that shares a word; the best of them is the overlap that is meant.
    best: dict[tuple[int, int], Pair] = {}
    for a, b, offset in _proposed(words, starts, usable, only, partition):
        for pair in _checked(words, starts, active, a, b, offset):
            known = best.get((pair.a, pair.b))
            if known is None or (pair.similarity, pair.words) > (known.similarity, known.words):
                best[pair.a, pair.b] = pair
    return [best[key] for key in sorted(best)]


def _proposed(
    words: Words, starts: Indices, usable: npt.NDArray[np.bool_], only: npt.NDArray[np.bool_] | None, partition: int
) -> Iterator[tuple[Indices, Indices, Indices]]:
    """Yield (a, b, offset) of fingerprints that share a word, a < b, each once a partition."""
    total = int(np.count_nonzero(words))
    # Few words: shorter keys, which survive more noise. Many: all 32 bits, or chance alone would propose every pair.
    bits = int(np.clip(np.ceil(np.log2(max(total, 1))) + 7, 24, 32))
    mask = np.uint32((1 << bits) - 1)
    parts = max(1, -(-total // partition))
    for part in range(parts if len(words) else 0):
        chosen = []
        for first in range(0, len(words), 1 << 22):
            block = words[first : first + (1 << 22)]
            # The multiplication spreads neighbouring words over the parts.
            mine = (block != 0) & ((((block & mask) * np.uint32(2654435761)) >> np.uint32(7)) % np.uint32(parts) == part)
            chosen.append(np.flatnonzero(mine) + first)
        places = np.concatenate(chosen)
        owners = np.searchsorted(starts, places, side="right") - 1
        keep = usable[owners]
        places, owners = places[keep], owners[keep]
        keys = words[places] & mask
        order = np.argsort(keys, kind="stable")
        keys, places, owners = keys[order], places[order], owners[order]
        yield from _pairs_of_runs(keys, places - starts[owners], owners, only)


def _pairs_of_runs(
    keys: Words, places: Indices, owners: Indices, only: npt.NDArray[np.bool_] | None
) -> Iterator[tuple[Indices, Indices, Indices]]:
    """Yield the pairs of entries under one key; keys are sorted."""
    if not len(keys):
        return
    edges = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    sizes = np.diff(np.append(edges, len(keys)))
    run = np.repeat(sizes, sizes)
    pairs: list[Indices] = []
    count = 0
    # Runs of one key are walked by distance, all at once as arrays: pairs of a run of r entries are r squared,
    # so long runs (silence, hum) stop at their neighbours.
    for distance in range(1, _LONG_RUN):
        same = keys[distance:] == keys[:-distance]
        if distance > _NEIGHBOURS:
            same &= run[distance:] <= _LONG_RUN
        i = np.flatnonzero(same)
        if not len(i):
            break
        a, b, pa, pb = owners[i], owners[i + distance], places[i], places[i + distance]
        ok = a != b
        if only is not None:
            ok &= only[a] | only[b]
        pairs.append(np.stack([a[ok], b[ok], (pb - pa)[ok]], axis=1))
        count += int(ok.sum())
        if count >= _CHECKED_AT_ONCE:
            yield from _unique(pairs)
            pairs, count = [], 0
    yield from _unique(pairs)


def _unique(found: list[Indices]) -> Iterator[tuple[Indices, Indices, Indices]]:
    if found and sum(map(len, found)):
        rows = np.unique(np.concatenate(found), axis=0)
        for first in range(0, len(rows), _CHECKED_AT_ONCE):
            block = rows[first : first + _CHECKED_AT_ONCE]
            yield block[:, 0], block[:, 1], block[:, 2]


def _checked(words: Words, starts: Indices, active: Indices, a: Indices, b: Indices, offset: Indices) -> Iterator[Pair]:
    """Yield the proposals that hold; entries of one key are in the order of the fingerprints, so a < b."""
    for x, y, by in zip(a.tolist(), b.tolist(), offset.tolist(), strict=True):
        mine, other = words[starts[x] : starts[x + 1]], words[starts[y] : starts[y + 1]]
        mine, other = (mine[-by:], other) if by < 0 else (mine, other[by:])
        length = min(len(mine), len(other))
        mine, other = mine[:length], other[:length]
        both = (mine != 0) & (other != 0)
        common = int(np.count_nonzero(both))
        if common < max(MIN_WORDS, MIN_SHARE * min(active[x], active[y])):
            continue
        similarity = 1 - int(np.bitwise_count(mine ^ other)[both].sum()) / (32 * common)
        if similarity >= limit(common):
            whole = common >= WHOLE_SHARE * max(active[x], active[y])
            yield Pair(a=x, b=y, similarity=similarity, words=common, offset=by, is_whole=bool(whole))


def search(cache: Cache, corpus: str) -> Searched:
    """Compare a corpus's fingerprints with one another and with those of the cache's other corpora; store what is alike.

    Args:
        cache: where the fingerprints are; see `fingerprint.update_fingerprints`.
        corpus: whose.

    Raises:
        TfserError: if the cache cannot be written.
    """
    import pyarrow as pa

    folder = cache.corpus(corpus)
    with cache.lock(f"fingerprints/{corpus}"):
        # By content hash and not by utterance: the same audio under ten names is one fingerprint. A corpus's
        # own come first, so that its words stand where two corpora share audio.
        prints: dict[str, bytes] = {}
        own: set[str] = set()
        for name in [corpus, *(c for c in cache.corpora() if c != corpus)]:
            table = stored(cache, name)
            if table is not None:
                current = _current(cache, name)
                rows = zip(table["content_hash"].to_pylist(), table["words"].to_pylist(), strict=True)
                kept = {key: value for key, value in rows if key in current}
                own = set(kept) if name == corpus else own
                prints = kept | prints
        names = sorted(prints)
        # The state of a search is what was compared and how: with the same state there is nothing to find.
        whose = sorted(own) if len(own) < len(names) else []  # pairs of others alone are theirs to find
        state = hashlib.sha256("\n".join([str(ALGORITHM), str(SIMILARITY), *names, corpus, *whose]).encode()).hexdigest()[:16]
        arrays = [np.frombuffer(prints[name], "<u4").astype(np.uint32) for name in names]
        short = sum(int(np.count_nonzero(words)) < MIN_WORDS for words in arrays)
        path = folder / PAIRS
        before, count = _last_search(cache, path)
        if before == state.encode():
            return Searched(compared=len(own), others=len(names) - len(own), too_short=short, pairs=count, was_current=True)
        pairs = find_pairs(arrays, only=np.array([name in own for name in names], dtype=bool))
        columns = {
            "content_hash": pa.array([names[p.a] for p in pairs], pa.string()),
            "other_hash": pa.array([names[p.b] for p in pairs], pa.string()),
            "similarity": pa.array([p.similarity for p in pairs], pa.float64()),
            "evidence": pa.array(["copy" if p.is_whole else "excerpt" for p in pairs], pa.string()),
            "offset_s": pa.array([round(p.offset * HOP_S, 3) for p in pairs], pa.float64()),
            "overlap_s": pa.array([round(p.words * HOP_S, 3) for p in pairs], pa.float64()),
        }
        with disk_errors(folder, "make room and run the same command again"):
            cache.write_table(path, pa.table(columns).replace_schema_metadata({"state": state}))
    return Searched(compared=len(own), others=len(names) - len(own), too_short=short, pairs=len(pairs), was_current=False)


def _last_search(cache: Cache, path: Path) -> tuple[bytes | None, int]:
    """Return of what the last search was, and how many pairs it found; None where its result is missing or damaged."""
    try:
        table = cache.read_table(path)
    except (MissingFileError, DamagedError):
        return None, 0
    return (table.schema.metadata or {}).get(b"state"), table.num_rows


def _current(cache: Cache, corpus: str) -> set[str]:
    """Return the content hashes of a corpus's rows."""
    table = cache.read_table(cache.corpus(corpus) / UTTERANCES, ["content_hash"])
    return {name for name in table["content_hash"].to_pylist() if name}
