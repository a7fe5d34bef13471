"""Scanning: corpus folder -> utterance rows, with every file decoded once.

A scan asks the corpus's reader what there is, decodes each utterance for its length, level and content hash, and writes
`utterances.parquet`. Scanning again decodes only files whose size or modification time changed; where nothing changed, no
file of the cache is touched. What cannot be decoded stays a row, with no content hash, and is listed in `skipped`.
"""

from __future__ import annotations

import datetime
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tfser.manifests.cache import Cache
from tfser.manifests.errors import TfserError
from tfser.manifests.files import read_json, sweep, write_json, write_table
from tfser.manifests.utterances import MEASURED, Measured, Skipped, Utterance, skipped_table, to_table
from tfser.pipeline.audio import AudioError, content_hash, decode, describe
from tfser.pipeline.corpora.base import CorpusReader, Reading

if TYPE_CHECKING:
    import pyarrow as pa

Advance = Callable[[int, float], None]
"""Called with the number of utterances and the seconds of audio that were finished since the last call."""

ODD_LENGTH = 8.0
"""An utterance this many times longer or shorter than the corpus's median is flagged `long` or `short`."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class ScanReport:
    """What a scan did: how many utterances there are, how many were decoded now, and what was skipped."""

    corpus: str
    root: Path
    utterances: int
    decoded: int
    removed: int
    changed: bool
    skipped: tuple[Skipped, ...]
    default_protocol: str | None


def scan(
    cache: Cache,
    reader: CorpusReader,
    *,
    corpus: str,
    root: Path,
    options: Mapping[str, Any] | None = None,
    begin: Callable[[int], Advance] | None = None,
    on_prepare: Callable[[int, int], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
    workers: int | None = None,
) -> ScanReport:
    """Index a corpus into the cache.

    Args:
        cache: where to.
        reader: what understands the layout.
        corpus: the name it gets; the reader's own but for `table`.
        root: its folder.
        options: of the reader.
        begin: told how many utterances will be decoded; returns what to call as they are.
        on_prepare: told (done, of) while a generated corpus is made.
        on_wait: told when another scan of the same corpus has to be waited for.
        workers: decoding threads; None takes one a core, at most eight.

    Raises:
        TfserError: if the folder is not such a corpus, or two utterances share an id.
    """
    options = dict(options or {})
    folder = cache.corpus(corpus)
    with cache.lock(f"corpora/{corpus}", on_wait):
        sweep(folder)
        if reader.prepare is not None:
            reader.prepare(root, on_prepare)
        before = read_json(folder / "corpus.json") if (folder / "corpus.json").exists() else None
        if before is not None and before["adapter"] != reader.name:
            raise TfserError(
                f"this cache has a corpus {corpus} read as {before['adapter']}; give this one another name with --name, "
                f"or remove that one with `tfser cache rm --corpus {corpus}`"
            )
        reading = reader.read(root, options)
        _check_ids(reading.utterances, root)
        known = _known(folder, before, root)
        measured, reasons, decoded = _measure_all(root, reading.utterances, known, begin, workers)
        measured = _flag_lengths(measured)
        table = to_table(corpus, reading.utterances, measured)
        skipped = _skipped(corpus, reading, reasons)
        about = {
            "corpus": corpus,
            "adapter": reader.name,
            "root": str(root),
            "options": options,
            "default_protocol": reader.default_protocol or _default_protocol(reading.utterances),
        }
        old = _old_table(folder)
        same = before is not None and {k: before.get(k) for k in about} == about
        same = same and old is not None and old.equals(table) and _old_skipped(folder) == skipped
        if not same:
            write_table(folder / "skipped.parquet", skipped_table(skipped))
            write_table(folder / "utterances.parquet", table)
            write_json(folder / "corpus.json", {**about, "scanned_at": now()})
    ids = {u.utterance_id for u in reading.utterances}
    removed = len(set(old["utterance_id"].to_pylist()) - ids) if old is not None else 0
    return ScanReport(
        corpus=corpus,
        root=root,
        utterances=len(reading.utterances),
        decoded=decoded,
        removed=removed,
        changed=not same,
        skipped=tuple(skipped),
        default_protocol=about["default_protocol"],
    )


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def audio_path(root: str | Path, path: str) -> Path:
    """Return where the file of an utterance row lies."""
    return Path(root, path)  # an absolute path stands for itself


def in_order(function: Callable[[T], R], items: Iterable[T], workers: int | None = None) -> Iterator[R]:
    """Yield `function(item)` in the order of the items, a bounded number of them worked on at once by threads."""
    count = workers or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(count) as pool:
        pending: list[Future[R]] = []
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= 4 * count:
                    yield pending.pop(0).result()
            while pending:
                yield pending.pop(0).result()
        finally:
            for future in pending:
                future.cancel()
            wait(pending, return_when=FIRST_COMPLETED)


def _check_ids(utterances: Sequence[Utterance], root: Path) -> None:
    twice = [name for name, count in Counter(u.utterance_id for u in utterances).items() if count > 1]
    if twice:
        paths = [u.path for u in utterances if u.utterance_id == twice[0]]
        raise TfserError(f"{root}: the utterance id {twice[0]!r} stands for {' and '.join(paths[:2])}; ids must be unique")


def _old_table(folder: Path) -> pa.Table | None:
    import pyarrow.parquet as pq

    path = folder / "utterances.parquet"
    return pq.read_table(path) if path.exists() else None


def _old_skipped(folder: Path) -> list[Skipped]:
    import pyarrow.parquet as pq

    path = folder / "skipped.parquet"
    return [Skipped(**row) for row in pq.read_table(path).to_pylist()] if path.exists() else []


_Key = tuple[str, float | None, float | None]


def _known(folder: Path, before: Mapping[str, Any] | None, root: Path) -> dict[_Key, tuple[Measured, str | None]]:
    """Return what an earlier scan of the same root measured, by path and segment, with the reason if it was unreadable."""
    table = _old_table(folder)
    if table is None or before is None or before["root"] != str(root):
        return {}
    reasons = {row.utterance_id: row.reason for row in _old_skipped(folder) if row.stage == "scan"}
    columns = {name: table[name].to_pylist() for name in ("path", "start_s", "end_s", "utterance_id", *MEASURED)}
    known = {}
    for i in range(table.num_rows):
        values = {name: columns[name][i] for name in MEASURED}
        values["flags"] = tuple(flag for flag in values["flags"] or () if flag not in ("long", "short"))
        key = (columns["path"][i], columns["start_s"][i], columns["end_s"][i])
        known[key] = (Measured(**values), reasons.get(columns["utterance_id"][i]))
    return known


def _measure_all(
    root: Path,
    utterances: Sequence[Utterance],
    known: Mapping[_Key, tuple[Measured, str | None]],
    begin: Callable[[int], Advance] | None,
    workers: int | None,
) -> tuple[list[Measured], dict[str, str], int]:
    """Return what is known or now measured of each utterance, the reasons of the unreadable ones, and the number decoded."""
    stamps: dict[str, tuple[int, int] | None] = {}
    measured: list[Measured | None] = []
    reasons: dict[str, str] = {}
    for u in utterances:
        if u.path not in stamps:
            stamps[u.path] = _stamp(audio_path(root, u.path))
        before, reason = known.get((u.path, u.start_s, u.end_s), (None, None))
        if before is not None and stamps[u.path] is not None and (before.size, before.mtime_ns) == stamps[u.path]:
            measured.append(before)
            if before.content_hash is None:
                reasons[u.utterance_id] = reason or "unreadable"
        else:
            measured.append(None)
    todo = [i for i, m in enumerate(measured) if m is None]
    advance = begin(len(todo)) if begin is not None and todo else None
    jobs = ((root, utterances[i], stamps[utterances[i].path]) for i in todo)
    for i, (result, reason) in zip(todo, in_order(lambda job: _measure(*job), jobs, workers), strict=True):
        measured[i] = result
        if reason is not None:
            reasons[utterances[i].utterance_id] = reason
        if advance is not None:
            advance(1, result.duration_s or 0.0)
    return [m for m in measured if m is not None], reasons, len(todo)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _measure(root: Path, utterance: Utterance, stamp: tuple[int, int] | None) -> tuple[Measured, str | None]:
    size, mtime_ns = stamp if stamp is not None else (None, None)
    path = audio_path(root, utterance.path)
    try:
        audio = decode(path, utterance.start_s, utterance.end_s)
    except AudioError as error:
        return Measured(size=size, mtime_ns=mtime_ns), str(error).removeprefix(f"{path}: ")
    facts = describe(audio)
    return (
        Measured(
            size=size,
            mtime_ns=mtime_ns,
            duration_s=facts.duration_s,
            sample_rate=facts.sample_rate,
            content_hash=content_hash(audio),
            peak=facts.peak,
            rms_db=facts.rms_db,
            clipped_share=facts.clipped_share,
            flags=facts.flags,
        ),
        None,
    )


def _flag_lengths(measured: list[Measured]) -> list[Measured]:
    lengths = [m.duration_s for m in measured if m.duration_s]
    if not lengths:
        return measured
    median = statistics.median(lengths)
    result = []
    for m in measured:
        length = m.duration_s or median
        odd = ("long",) if length > ODD_LENGTH * median else ("short",) if length * ODD_LENGTH < median else ()
        result.append(replace(m, flags=m.flags + odd) if odd else m)
    return result


def _skipped(corpus: str, reading: Reading, reasons: Mapping[str, str]) -> list[Skipped]:
    paths = {u.utterance_id: u.path for u in reading.utterances}
    unread = [
        Skipped(corpus=corpus, utterance_id=name, path=paths[name], stage="scan", reason=reason)
        for name, reason in reasons.items()
    ]
    ignored = [
        Skipped(corpus=corpus, utterance_id=name, path=path, stage="read", reason=reason)
        for name, path, reason in reading.skipped
    ]
    return unread + ignored


def _default_protocol(utterances: Sequence[Utterance]) -> str | None:
    """Choose a protocol for a corpus that names none: its own split, else speakers, else sessions, else none."""
    splits = {u.split for u in utterances}
    speakers = {u.speaker for u in utterances} - {None}
    sessions = {u.session for u in utterances} - {None}
    if {"train", "test"} <= splits:
        return "official-split"
    if len(speakers) > 10:
        return "group-kfold:5"
    if len(speakers) > 1:
        return "loso-speaker"
    return "loso-session" if len(sessions) > 1 else None
