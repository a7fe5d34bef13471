"""Fingerprints of utterances: what stays of the sound when it is re-encoded, trimmed, resampled or made louder.

What comes in: decoded samples. What goes out: one 32-bit word every 20 ms. The log-Mel energies (35 bands from 150 to 3600 Hz, so
that a copy at 8 kHz has them all) are smoothed over 150 ms; a bit says whether the difference between a band and the one three
above grew over 80 ms. A gain adds a constant to every band and drops out; so does a filter that changes slowly with frequency.
The idea of signs of such differences is Haitsma and Kalker's (A highly robust audio fingerprinting system, ISMIR 2002).
A word of 0 stands where nothing is heard: more than 40 dB below the loud parts.

They lie in `fingerprints.parquet` beside the corpus's rows, keyed by content hash, so an utterance whose audio is unchanged is
never computed twice. `near_duplicates` compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.near_duplicates import FINGERPRINTS
from tfser.manifests.catalogue.stored import read_corpus
from tfser.manifests.errors import DamagedError, MissingFileError
from tfser.manifests.notes import note
from tfser.pipeline.features.logmel import LogMel, LogMelConfig
from tfser.pipeline.scanning.measure import Advance, audio_path, disk_errors, in_order
from tfser.pipeline.sound.audio import content_hash, decode, resample
from tfser.pipeline.sound.recording import AudioError

if TYPE_CHECKING:
    import pyarrow as pa

ALGORITHM = 1
"""Raised whenever the same samples would give other words: what is stored is then computed again."""

Words = npt.NDArray[np.uint32]

HOP_S = 0.02
"""Seconds from one word to the next."""

_RATE = 16000
_CONFIG = LogMelConfig(sample_rate_hz=_RATE, window_s=0.032, hop_s=0.01, n_fft=1024, n_mels=35, fmin_hz=150.0, fmax_hz=3600.0)
_SMOOTH = 15  # frames of 10 ms
_LAG = 8  # frames between the two differences
_GAP = 3  # bands between the two energies of a difference
_STEP = 2  # frames a word
_RANGE_DB = 40.0
_STORE = 4096  # utterances between two writes: so much is computed again after a kill, at most


@dataclass(frozen=True, kw_only=True)
class Fingerprinted:
    """What became of a corpus: utterances with audio, computed now, and those that could not be (id, reason)."""

    corpus: str
    utterances: int
    computed: int
    failed: tuple[tuple[str, str], ...]


class Fingerprinter:
    """Computes fingerprints; its filters are made once."""

    def __init__(self) -> None:
        self._front = LogMel(_CONFIG)
        window = np.hanning(_SMOOTH + 2)[1:-1]
        self._window = window / window.sum()

    def words(self, samples: npt.NDArray[np.float32], rate: int) -> Words:
        """Return the (words,) of mono samples; none for sounds that are too short for a single one."""
        if rate != _RATE:
            samples = resample(samples, rate, _RATE)
        # After Haitsma and Kalker's scheme: a bit says whether the spectrum's slope rises from one time to the
        # next, which level, filters and codecs hardly change.
        if len(samples) < (_SMOOTH + _LAG) * _CONFIG.hop_samples:
            return np.empty(0, np.uint32)
        level = self._front.extract(samples) * (10 / np.log(10))  # (frames, 35) dB
        loudest = level.max(axis=1)
        top = float(np.percentile(loudest, 95))
        # Silence has slopes of noise: words there are zero, and zero matches nothing.
        heard = loudest > top - _RANGE_DB
        level = np.maximum(level, top - _RANGE_DB)
        padded = np.pad(level, ((_SMOOTH // 2, _SMOOTH // 2), (0, 0)), mode="edge")
        smooth = np.zeros_like(level)
        for i, weight in enumerate(self._window):
            smooth += weight * padded[i : i + len(level)]
        slope = smooth[:, _GAP:] - smooth[:, :-_GAP]  # (frames, 32)
        bits = (slope[_LAG:] - slope[:-_LAG] > 0)[::_STEP]
        packed = np.packbits(bits, axis=1, bitorder="little")
        words = np.ascontiguousarray(packed).view("<u4")[:, 0].astype(np.uint32)
        words[~(heard[_LAG:] & heard[:-_LAG])[::_STEP]] = 0
        return words


def update_fingerprints(
    cache: Cache,
    corpus: str,
    *,
    begin: Callable[[int], Advance] | None = None,
    on_wait: Callable[[str], None] | None = None,
    workers: int | None = None,
) -> Fingerprinted:
    """Compute the fingerprints that a scanned corpus lacks; a second run does nothing.

    Args:
        cache: where the rows are.
        corpus: a corpus that was scanned.
        begin: told how many utterances will be decoded; returns what to call as they are.
        on_wait: told when somebody else is at it.
        workers: threads; None takes one a core, at most eight.

    Raises:
        TfserError: if the rows cannot be read, or the cache cannot be written.
    """
    folder = cache.corpus(corpus)
    with cache.lock(f"fingerprints/{corpus}", on_wait):
        cache.sweep(folder, f"fingerprints/{corpus}")
        root, rows = _rows(cache, corpus)
        wanted = {row["content_hash"] for row in rows}
        before = stored(cache, corpus)
        # What is no longer wanted stays: a changed file may change back, and the rows are small.
        have = set(before["content_hash"].to_pylist()) if before is not None else set()
        todo = list({row["content_hash"]: row for row in rows if row["content_hash"] not in have}.values())
        advance = begin(len(todo)) if begin is not None and todo else None
        failed: list[tuple[str, str]] = []
        fresh: list[tuple[str, Words]] = []
        table = before
        for row, result in zip(todo, in_order(_compute(root), todo, workers, weight=_seconds), strict=True):
            if isinstance(result, str):
                failed.append((row["utterance_id"], result))
            else:
                fresh.append((row["content_hash"], result))
            if advance is not None:
                advance(1, row["duration_s"] or 0.0)
            if len(fresh) >= _STORE:
                table = _write(cache, folder, table, fresh)
                fresh = []
        if fresh or (table is None and not todo):
            table = _write(cache, folder, table, fresh)
    return Fingerprinted(corpus=corpus, utterances=len(wanted), computed=len(todo) - len(failed), failed=tuple(failed))


def stored(cache: Cache, corpus: str) -> pa.Table | None:
    """Return the fingerprints beside a corpus's rows (content_hash, frames, words as bytes); None if none are usable.

    Raises:
        UnreadableError: if they could not be read just now.
    """
    path = cache.corpus(corpus) / FINGERPRINTS
    try:
        table = cache.read_table(path)
    except MissingFileError:
        return None
    except DamagedError as error:
        note(f"{error}; it is made again")
        return None
    if (table.schema.metadata or {}).get(b"algorithm") != str(ALGORITHM).encode():
        return None
    return table if {"content_hash", "frames", "words"} <= set(table.column_names) else None


def _rows(cache: Cache, corpus: str) -> tuple[Path, list[dict[str, Any]]]:
    """Return the root of a corpus and its readable utterances."""
    columns = ["utterance_id", "path", "start_s", "end_s", "content_hash", "duration_s"]
    scanned = read_corpus(cache, corpus)
    rows = scanned.utterances.select(columns).to_pylist()
    return Path(scanned.about["root"]), [row for row in rows if row["content_hash"] is not None]


def _seconds(row: dict[str, Any]) -> float:
    return row["duration_s"] or 0.0


def _compute(root: Path) -> Callable[[dict[str, Any]], Words | str]:
    front = Fingerprinter()

    def compute(row: dict[str, Any]) -> Words | str:
        try:
            audio = decode(audio_path(root, row["path"]), row["start_s"], row["end_s"])
            if content_hash(audio) != row["content_hash"]:
                return "the file holds other sound than at the scan; scan the corpus again (--rescan)"
            return front.words(audio.samples, audio.sample_rate)
        except AudioError as error:
            return str(error)

    return compute


def _write(cache: Cache, folder: Path, before: pa.Table | None, fresh: list[tuple[str, Words]]) -> pa.Table:
    """Write the fingerprints that were there and the new ones; return the table."""
    import pyarrow as pa

    new = pa.table(
        {
            "content_hash": pa.array([name for name, _ in fresh], pa.string()),
            "frames": pa.array([int(np.count_nonzero(words)) for _, words in fresh], pa.int64()),
            "words": pa.array([words.astype("<u4").tobytes() for _, words in fresh], pa.large_binary()),
        }
    ).replace_schema_metadata({"algorithm": str(ALGORITHM)})
    table = pa.concat_tables([before, new]) if before is not None else new
    with disk_errors(folder, "make room and run the same command again"):
        cache.write_table(folder / FINGERPRINTS, table)
    return table
