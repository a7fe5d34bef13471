"""What one feature set lacks of a corpus, and the shards that it is written to as an extraction yields frames.

What comes in: results, row after row, of those that `wants` asked for. What goes out: shards closed at a fixed size, with the
rows that make them count, and a report in which every utterance has its place. A shard's name is the hash of its members. Nothing
here reads audio or knows an encoder.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.stored import FEATURE_SET, SKIPPED, read_skipped, skipped_rows
from tfser.manifests.errors import DamagedError, UnreadableError
from tfser.manifests.files import sweep
from tfser.manifests.utterances import Skipped, skipped_table
from tfser.pipeline.extraction.audio_loading import CHANGED
from tfser.pipeline.extraction.extract_report import ExtractReport
from tfser.pipeline.extraction.new_shards import ShardWriting, store_members
from tfser.pipeline.features.engine import AudioRow
from tfser.pipeline.features.feature_set import write_description
from tfser.pipeline.features.registry import FeatureSet
from tfser.pipeline.resources.part import CorpusPart
from tfser.pipeline.shards.rows import ROWS_SUFFIX, load_rows
from tfser.pipeline.shards.stock import take_stock
from tfser.pipeline.shards.writer import ShardMember, StorageDtype

SHARD_SECONDS = 300.0
"""A shard of an encoder's frames is closed, too, once it holds what was computed in so many seconds."""

ENOUGH = 64
"""After so many utterances a feature set ends where most of them overflow; before, a few odd ones decide nothing."""


@dataclass(frozen=True)
class Share:
    """Whose utterances these are: all of a corpus, or those of one part of it beside other processes."""

    cache: Cache
    corpus: str
    part: CorpusPart | None
    on_wait: Callable[[str], None] | None

    def holds(self, row: AudioRow) -> bool:
        """Tell whether a row is to be extracted here, if it is anywhere."""
        return self.part is None or self.part.holds(row.content_hash)

    def alone(self, folder: str) -> contextlib.AbstractContextManager[None]:
        """Return what keeps the other writers of a feature set's folder away; an extraction of all keeps them away anyhow."""
        if self.part is None:
            return contextlib.nullcontext()
        return self.cache.lock(f"features/{folder}/{self.corpus}", self.on_wait)


class FeatureWriter:
    """What one feature set of a pass lacks of a corpus, and the shards that it is written to."""

    def __init__(self, share: Share, features: FeatureSet, readable: int, unreadable: int, how: ShardWriting) -> None:
        self.share, self.cache, self.corpus, self.features = share, share.cache, share.corpus, features
        self.how = how
        self.folder = self.cache.feature_root / features.folder / self.corpus
        with share.alone(features.folder):
            sweep(self.folder)
            self._have, repaired = take_stock(self.cache, self.folder)
            self._seen = self._row_files()
        self._wanted, self._others = set[str](), set[str]()
        self._members: list[ShardMember] = []
        self._size, self._opened = 0, 0.0
        self._most_s = SHARD_SECONDS if features.origin else math.inf
        self._described = False
        self._taken, self._overflown = 0, list[tuple[AudioRow, str]]()
        self.report = ExtractReport(
            corpus=self.corpus,
            feature_set=features.name,
            utterances=readable + unreadable,
            before=0,
            unreadable=unreadable,
            repaired=repaired,
            part=share.part,
        )

    def wants(self, row: AudioRow) -> bool:
        """Tell whether a row is to be extracted, and count or list it if not."""
        if (row.utterance_id, row.content_hash) in self._have:
            self.report.before += 1
            return False
        if not self.share.holds(row):
            self.report.elsewhere += 1
            self._others.add(row.utterance_id)
            return False
        if row.duration_s < self.features.minimum_s:
            least = f"{self.features.minimum_s * 1000:g} ms"
            self.skip(row, f"{row.duration_s * 1000:.4g} ms of audio, shorter than one window of {least}")
            return False
        self._wanted.add(row.utterance_id)
        return True

    def need(self, rows: Sequence[AudioRow]) -> int:
        """Return about how many bytes the wanted ones of some rows will take."""
        mine = [row for row in rows if row.utterance_id in self._wanted]
        return sum(self.features.bytes_for(row.duration_s) + 256 for row in mine)

    def describe(self) -> None:
        """Write down what the feature set is, if there is anything of it; not before, lest an encoder that does not load leave
        an empty feature set behind."""
        if not self._described and (self._wanted or self._have or self.report.skipped):
            write_description(self.cache, self.features)
            self._described = True

    def skip(self, row: AudioRow, reason: str) -> None:
        """List a row that has no frames."""
        self.report.skipped.append(_skip(self.corpus, self.features, row, reason))

    def take(self, row: AudioRow, frames: npt.NDArray[Any] | None, reason: str | None) -> None:
        """Collect the frames of a row if they are wanted, or list why it has none; close a full shard.

        Values that cannot be stored are that row's own affair, unless most rows have them: then the feature set ends, what it
        has is kept, and nothing more is taken.
        """
        report = self.report
        if row.utterance_id not in self._wanted or report.refused is not None:
            return
        if frames is None:
            self.skip(row, reason or "unreadable")
            return
        if (narrow := narrowed(frames, self.features.dtype)) is None:
            self._overflown.append((row, why_not_stored(frames, self.features.dtype, self.features.config)))
            if report.before + self._taken + len(self._overflown) >= ENOUGH:
                self._refuse_if_most()
            return
        self._taken += 1
        if not self._members:
            self._opened = time.monotonic()
        self._members.append(ShardMember(utterance_id=row.utterance_id, content_hash=row.content_hash, frames=narrow))
        self._size += narrow.nbytes
        report.audio_s += row.duration_s
        # A shard closes by size, by number and, for encoders, by age: a kill costs what is in memory, and
        # minutes of a GPU are worth more than a full shard.
        is_old = time.monotonic() - self._opened >= self._most_s
        if self._size >= self.how.shard_bytes or len(self._members) >= self.how.shard_utterances or is_old:
            self.close()

    def finish(self) -> None:
        """Write what is left; settle whether what overflowed is a few utterances or the feature set."""
        self.close()
        self._refuse_if_most()
        if self.report.refused is None:
            for row, reason in self._overflown:
                self.skip(row, reason)

    def _refuse_if_most(self) -> None:
        """End the feature set where more utterances overflow than are stored."""
        lost, stored = len(self._overflown), self.report.before + self._taken
        if lost > stored:
            name, (row, reason) = self.features.name, self._overflown[0]
            self.report.refused = (
                f"{name} ends: the features of {lost:,} of {lost + stored:,} utterances cannot be stored, first of "
                f"{row.utterance_id}: {reason}; `tfser cache rm --features {name}` removes what it has"
            )

    def leave(self) -> None:
        """Write down what the feature set is, and who was left out."""
        with self.share.alone(self.features.folder):
            self.describe()
            _write_skipped(self.cache, self.folder / SKIPPED, self.report.skipped, self._others)

    def close(self) -> None:
        """Write what is collected as a shard; what another process has stored meanwhile, not again."""
        members, self._members, self._size = self._members, [], 0
        if not members:
            return
        with self.share.alone(self.features.folder):
            lacking = members if self.share.part is None else self._still_lacking(members)
            if lacking:
                self._write(lacking)
            self.report.before += len(members) - len(lacking)

    def _row_files(self) -> set[Path]:
        return set(self.folder.glob(f"[!.]*{ROWS_SUFFIX}"))

    def _still_lacking(self, members: Sequence[ShardMember]) -> list[ShardMember]:
        """Return those of some members that shards which came since do not hold."""
        for path in sorted(self._row_files() - self._seen):
            self._seen.add(path)
            with contextlib.suppress(DamagedError, UnreadableError):  # then they are stored here, and `verify` names the file
                rows = load_rows(path, self.cache)
                self._have |= set(zip(*(rows[key].to_pylist() for key in ("utterance_id", "content_hash")), strict=True))
        return [member for member in members if (member.utterance_id, member.content_hash) not in self._have]

    def _write(self, members: Sequence[ShardMember]) -> None:
        # A feature set that was removed while its parts were computing is described anew with the first shard.
        self._described = self._described and (self.folder.parent / FEATURE_SET).exists()
        self.describe()
        layers = int(self.features.config.get("layers", 1))
        row_file, size = store_members(self.cache, self.folder, self.features, members, self.how.format or "hdf5", layers)
        self._seen.add(row_file)
        self.report.extracted += len(members)
        self.report.bytes += size


def _skip(corpus: str, features: FeatureSet, row: AudioRow, reason: str) -> Skipped:
    """Return what to list. A file that changed is there to be extracted: its stage excuses nothing before the audits."""
    return Skipped(
        corpus=corpus,
        utterance_id=row.utterance_id,
        path=row.path,
        stage=f"{'changed' if reason == CHANGED else 'extract'}:{features.name}",
        reason=reason,
    )


def _write_skipped(cache: Cache, path: Path, skipped: list[Skipped], others: Set[str]) -> None:
    """Write the list where it changed; an empty list where there was none is no file. What it says of `others` stays."""
    try:
        before = read_skipped(cache, path)
        kept = [row for row in skipped_rows(before) if row.utterance_id in others]
        # With rows of several processes, the order of their ends would show in the file.
        wanted = skipped_table(sorted([*kept, *skipped], key=lambda row: row.utterance_id or "") if kept else skipped)
        if before.equals(wanted):
            return
    except DamagedError:
        cache.put_away(path)
        wanted = skipped_table(skipped)
    cache.write_table(path, wanted)


def narrowed(frames: npt.NDArray[Any], dtype: StorageDtype) -> npt.NDArray[Any] | None:
    """Return the frames in their storage dtype; None where they do not fit."""
    with np.errstate(over="ignore"):
        narrow = frames.astype(dtype, copy=False)
    return narrow if np.isfinite(narrow).all() else None


def why_not_stored(frames: npt.NDArray[Any], dtype: str, config: Mapping[str, Any]) -> str:
    """Say why frames of a feature set's configuration cannot be stored, and the way out."""
    if np.isfinite(frames).all():
        return f"{float(np.abs(frames).max()):g} is too large for {dtype}; store float32 instead (--dtype float32)"
    why = "its features hold NaN or infinite values; they are not stored"
    if config.get("precision") == "float16":
        why += ": half precision overflowed, so compute in bfloat16 or float32 (--precision)"
    return why
