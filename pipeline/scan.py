"""Scanning: corpus folder -> utterance rows, with every file decoded once.

A scan asks the corpus's reader what there is, decodes each utterance for its length, level and content hash, and writes
`utterances.parquet`. Scanning again decodes only files whose size or modification time changed; where nothing changed, no
file of the cache is touched. What cannot be decoded stays a row, with no content hash, and is listed in `skipped`; what
could not even be opened (it is missing, or may not be read) has no stamp either, so the next scan tries again.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tfser.manifests.cache import Cache
from tfser.manifests.errors import DamagedError, MissingFileError, TfserError, UnknownContentError
from tfser.manifests.files import sweep
from tfser.manifests.notes import note
from tfser.manifests.stored import CORPUS, SKIPPED, UTTERANCES, read_about, read_skipped, skipped_rows
from tfser.manifests.utterances import MEASURED, Measured, Skipped, Utterance, skipped_table, to_table
from tfser.pipeline.corpora.base import CorpusReader, Reading
from tfser.pipeline.measure import Advance, SegmentKey, disk_errors, flag_lengths, measure_all, segment_key

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

_WAY_OUT = "make room and run the same command again"


@dataclass(frozen=True, kw_only=True)
class ScanReport:
    """What a scan did: how many utterances there are, how many were decoded now, what was skipped, what the reader noted."""

    corpus: str
    root: Path
    utterances: int
    decoded: int
    removed: int
    changed: bool
    skipped: tuple[Skipped, ...]
    default_protocol: str | None
    notes: tuple[str, ...] = ()


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
        TfserError: if the folder is not such a corpus, two utterances share an id, or the cache cannot be written.
    """
    options = dict(options or {})
    folder = cache.corpus(corpus)
    if not _is_text(str(root)):
        raise TfserError(f"{_as_text(str(root))}: the folder's name is not UTF-8; rename it")
    with cache.lock(f"corpora/{corpus}", on_wait):
        sweep(folder)
        if reader.prepare is not None:
            with disk_errors(root, _WAY_OUT):
                reader.prepare(root, on_prepare)
        before, old, old_skipped = _last_scan(cache, corpus)
        if before is not None and before["adapter"] != reader.name:
            raise TfserError(
                f"this cache has a corpus {corpus} read as {before['adapter']}; give this one another name with --name, "
                f"or remove that one with `tfser cache rm --corpus {corpus}`"
            )
        reading = _without_odd_names(reader.read(root, options))
        _check_ids(reading.utterances, root)
        expected = reading.expected or reader.expected
        known = _known(old, old_skipped) if before is not None and before["root"] == str(root) else {}
        measured, reasons, decoded = measure_all(root, reading.utterances, known, begin, workers)
        measured = flag_lengths(measured)
        table = to_table(corpus, reading.utterances, measured)
        skipped = _skipped(corpus, reading, reasons)
        about: dict[str, Any] = {
            "corpus": corpus,
            "adapter": reader.name,
            "root": str(root),
            "options": options,
            "default_protocol": reader.default_protocol or _default_protocol(reading.utterances),
            "expected": expected.to_json() if expected is not None else None,
        }
        if expected is not None and (differences := expected.differences(reading.utterances)) is not None:
            reading.notes.append(differences)
        same = before is not None and {k: before.get(k) for k in about} == about
        same = same and old is not None and _equal(old, table) and old_skipped == skipped
        if not same:
            with disk_errors(folder, _WAY_OUT):
                cache.write_table(folder / SKIPPED, skipped_table(skipped))
                cache.write_table(folder / UTTERANCES, table)
                cache.write_json(folder / CORPUS, {**about, "scanned_at": now()})
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
        notes=tuple(reading.notes),
    )


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _is_text(name: str | None) -> bool:
    """Tell whether a name can be stored as UTF-8; file names of old systems need not be."""
    try:
        (name or "").encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_text(name: str | None) -> str | None:
    return name.encode("utf-8", "backslashreplace").decode() if name is not None else None


def _without_odd_names(reading: Reading) -> Reading:
    """Return a reading whose names can all be stored; utterances whose names cannot are listed instead."""
    odd = [u for u in reading.utterances if not (_is_text(u.utterance_id) and _is_text(u.path))]
    listed = [(_as_text(i), _as_text(p), reason) for i, p, reason in reading.skipped]
    listed += [(_as_text(u.utterance_id), _as_text(u.path), "the file's name is not UTF-8; rename it") for u in odd]
    names = {u.utterance_id for u in odd}
    utterances = [u for u in reading.utterances if u.utterance_id not in names]
    return replace(reading, utterances=utterances, skipped=listed)


def _check_ids(utterances: Sequence[Utterance], root: Path) -> None:
    twice = [name for name, count in Counter(u.utterance_id for u in utterances).items() if count > 1]
    if twice:
        paths = [u.path for u in utterances if u.utterance_id == twice[0]]
        raise TfserError(f"{root}: the utterance id {twice[0]!r} stands for {' and '.join(paths[:2])}; ids must be unique")


def _last_scan(cache: Cache, corpus: str) -> tuple[dict[str, Any] | None, pa.Table | None, list[Skipped] | None]:
    """Return what the last scan said of the corpus, its rows, and what it skipped; None for each that there is not.

    What is damaged is moved to the cache's folder `removed`, and made again by this scan.

    Raises:
        UnreadableError: if a file could not be read just now: to write over it would lose what it says.
    """
    folder = cache.corpus(corpus)
    return (
        _whole(cache, folder / CORPUS, lambda path: read_about(cache, corpus)),
        _whole(cache, folder / UTTERANCES, cache.read_table),
        _whole(cache, folder / SKIPPED, lambda path: skipped_rows(read_skipped(cache, path)) if path.exists() else None),
    )


def _whole(cache: Cache, path: Path, read: Callable[[Path], T]) -> T | None:
    """Return what a file of the last scan holds; None where it is missing or damaged."""
    try:
        return read(path)
    except MissingFileError:
        return None
    except (DamagedError, UnknownContentError) as error:
        note(f"{error}; moved to {cache.place(cache.put_away(path).parent)}, and made again")
        return None


def _equal(old: pa.Table, new: pa.Table) -> bool:
    """Tell whether two tables hold the same, where not-a-number equals itself."""
    if old.schema != new.schema or old.num_rows != new.num_rows:
        return False
    pairs = zip(old.columns, new.columns, strict=True)
    return all(a.equals(b) or repr(a.to_pylist()) == repr(b.to_pylist()) for a, b in pairs)


def _known(table: pa.Table | None, skipped: Sequence[Skipped] | None) -> dict[SegmentKey, tuple[Measured, str | None]]:
    """Return what an earlier scan of the same root measured, by path and segment, with the reason if it was unreadable."""
    if table is None or not {"path", "start_s", "end_s", "utterance_id", *MEASURED} <= set(table.column_names):
        return {}
    reasons = {row.utterance_id: row.reason for row in skipped or () if row.stage == "scan"}
    columns = [table[name].to_pylist() for name in ("path", "start_s", "end_s", "utterance_id", *MEASURED)]
    known = {}
    for path, start_s, end_s, name, *values in zip(*columns, strict=True):
        measured = dict(zip(MEASURED, values, strict=True))
        if measured["size"] is None or (measured["content_hash"] is None and name not in reasons):
            continue
        measured["flags"] = tuple(flag for flag in measured["flags"] or () if flag not in ("long", "short"))
        known[segment_key(path, start_s, end_s)] = (Measured(**measured), reasons.get(name))
    return known


def _skipped(corpus: str, reading: Reading, reasons: Mapping[str, str]) -> list[Skipped]:
    unread = [
        Skipped(corpus=corpus, utterance_id=u.utterance_id, path=u.path, stage="scan", reason=reasons[u.utterance_id])
        for u in reading.utterances
        if u.utterance_id in reasons
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
