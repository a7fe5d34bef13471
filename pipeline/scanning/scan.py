"""Scanning: corpus folder -> utterance rows, with every file decoded once.

A scan asks the corpus's reader what there is, decodes each utterance for its length, level and content hash, and writes
`utterances.parquet`. Scanning again decodes only files whose stamp changed (see `measure`), and those that an extraction found
to hold other sound than their row says; where nothing changed, no file of the cache is touched. What cannot be decoded stays a
row, with no content hash, and is listed in `skipped`; what could not even be opened (it is missing, or may not be read) has no
stamp either, so the next scan tries again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tfser.manifests.annotations import annotation_table
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.stored import ANNOTATIONS, CORPUS, SKIPPED, UTTERANCES
from tfser.manifests.errors import TfserError
from tfser.manifests.files import now
from tfser.manifests.utterances import Measured, Skipped, Utterance, skipped_table, to_table
from tfser.manifests.wording import count
from tfser.pipeline.corpora.annotation_file import read_annotations
from tfser.pipeline.corpora.base import CorpusReader, Reading, absolute, is_same_folder
from tfser.pipeline.scanning import unchanged
from tfser.pipeline.scanning.last_scan import LastScan, found_other, is_same, kept_limit, last_scan, measured_before
from tfser.pipeline.scanning.measure import (
    Advance,
    DecodingOptions,
    Surveyed,
    disk_errors,
    flag_lengths,
    measure_all,
)
from tfser.pipeline.scanning.scan_report import ScanReport
from tfser.pipeline.scanning.unchanged import keep_seen, report_again, state_of
from tfser.pipeline.sound.audio import MAX_DURATION_S

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ScanListeners", "ScanOptions", "ScanReport", "now", "scan"]

T = TypeVar("T")

_WAY_OUT = "make room and run the same command again"


@dataclass(frozen=True, kw_only=True)
class ScanOptions:
    """How a scan looks at a corpus."""

    workers: int | None = None
    """Decoding threads; None takes one a core, at most eight."""
    rescan: bool = False
    """Decode every file, whatever is known of it, and note how many hold other sound than before."""
    max_duration_s: float | None = None
    """The longest utterance; longer ones are listed as unreadable. It is kept with the corpus; None takes what was kept, or half
    an hour."""
    allow_loss: bool = False
    """Replace the rows even if most of what the last scan could read is gone."""


@dataclass(frozen=True, kw_only=True)
class ScanListeners:
    """Who hears how a scan goes; nobody has to."""

    begin: Callable[[int], Advance] | None = None
    """Told how many utterances will be decoded; returns what to call as they are."""
    on_prepare: Callable[[int, int], None] | None = None
    """Told (done, of) while a generated corpus is made."""
    on_wait: Callable[[str], None] | None = None
    """Told when another scan of the same corpus has to be waited for."""


_ORDINARY, _NOBODY = ScanOptions(), ScanListeners()


def scan(
    cache: Cache,
    reader: CorpusReader,
    *,
    corpus: str,
    root: Path,
    options: Mapping[str, Any] | None = None,
    how: ScanOptions = _ORDINARY,
    listeners: ScanListeners = _NOBODY,
) -> ScanReport:
    """Index a corpus into the cache.

    Args:
        cache: where to.
        reader: what understands the layout.
        corpus: the name it gets; the reader's own but for `table`.
        root: its folder.
        options: of the reader.
        how: what is decoded, and what is accepted.
        listeners: who hears how it goes.

    Raises:
        TfserError: if the folder is not such a corpus, two utterances share an id, most of what the last scan could read is
            gone (a disk that is not mounted looks so), or the cache cannot be written. The rows stay as they were.
    """
    folder, root = cache.corpus(corpus), _storable(absolute(root))
    # One lock from the first look to the last file: two scans at once would each keep what only the other has measured.
    with cache.lock(f"corpora/{corpus}", listeners.on_wait):
        # What a killed scan left is swept away, and a corpus that is made rather than found is made.
        cache.sweep(folder, f"corpora/{corpus}")
        _make(reader, root, listeners)
        last = last_scan(cache, corpus)
        _check_adapter(last, corpus, reader)
        root = _name_kept(root, last)
        # Where a large corpus is just as it was, its report is given again; the state is taken before anything is read.
        state = state_of(cache, corpus, reader, root, options or {}) if _is_large(last) else None
        if replace(how, workers=None) == _ORDINARY and (again := report_again(cache, corpus, state)) is not None:
            return again
        reading = _read(reader, root, dict(options or {}))
        scanned = _look(cache, corpus, root, last, reading, how, listeners)
        # The check comes before anything is written: the rows stay as they are where most of the corpus is gone.
        _check_loss(corpus, root, None if how.allow_loss else last.table, scanned)
        reading.notes.extend(survey_notes := _notes(scanned.surveyed, scanned.measured, how.rescan))
        corpus_json = {**_about(corpus, reader, root, options, reading), **scanned.limit}
        contents = (corpus_json, *_tables(corpus, scanned))
        if changed := not is_same(last, *contents):
            _store(cache, folder, *contents)
        report = _report(corpus, root, last, scanned, contents, changed)
        keep_seen(cache, state, report, survey_notes, is_whole=_is_whole(scanned))
    return report


def _name_kept(root: Path, last: LastScan) -> Path:
    """Return a folder as the last scan named it: under another name it is the same, and nothing in it is decoded twice."""
    if last.about is None or not is_same_folder(root, Path(last.about["root"])):
        return root
    return Path(last.about["root"])


@dataclass(frozen=True, kw_only=True)
class _Scanned:
    """What the reader found and what was measured of it, in the order of the utterances."""

    reading: Reading
    surveyed: Surveyed
    measured: Sequence[Measured]
    """As surveyed, flagged by the lengths of the others."""
    limit: Mapping[str, float]
    """What `corpus.json` says of the longest utterance; nothing where it is the ordinary one and nobody ever asked."""


_Contents = tuple[Mapping[str, Any], "pa.Table", Sequence[Skipped], "pa.Table"]
"""What a corpus's files are to hold: `corpus.json`, the utterances, what was skipped, and single ratings."""


def _tables(corpus: str, scanned: _Scanned) -> tuple[pa.Table, list[Skipped], pa.Table]:
    """Return what the files of a corpus are to hold beside `corpus.json`."""
    reading = scanned.reading
    skipped = _skipped(corpus, reading, scanned.surveyed.reasons)
    return to_table(corpus, reading.utterances, scanned.measured), skipped, annotation_table(corpus, reading.annotations)


def _is_large(last: LastScan) -> bool:
    """Tell whether it is worth it to note what a scan reads: one of a corpus that was not scanned before may be large."""
    return last.table is None or last.table.num_rows >= unchanged.LEAST


def _is_whole(scanned: _Scanned) -> bool:
    """Tell whether each file of a scan had a stamp and lies below the root."""
    pairs = zip(scanned.reading.utterances, scanned.measured, strict=True)
    return all(m.size is not None and not u.path.startswith(("/", "..")) and u.path[1:2] != ":" for u, m in pairs)


def _make(reader: CorpusReader, root: Path, listeners: ScanListeners) -> None:
    """Make a corpus that is generated; most are simply there."""
    if reader.prepare is not None:
        with disk_errors(root, _WAY_OUT):
            reader.prepare(root, listeners.on_prepare)


def _read(reader: CorpusReader, root: Path, options: Mapping[str, Any]) -> Reading:
    """Return what a reader finds in a folder, with names that can be stored, ids that are unique, and ratings.

    Raises:
        TfserError: as the reader; if two utterances share an id, or a table of ratings cannot be read.
    """
    reading = _without_odd_names(reader.read(root, dict(options)))
    _check_ids(reading.utterances, root)
    _read_ratings(reading, options)
    return reading


def _look(
    cache: Cache,
    corpus: str,
    root: Path,
    last: LastScan,
    reading: Reading,
    how: ScanOptions,
    listeners: ScanListeners,
) -> _Scanned:
    """Measure what a reader found; what the last scan measured and nobody touched since is not decoded again."""
    kept = kept_limit(last.about)
    limit = how.max_duration_s or kept or MAX_DURATION_S
    surveyed = measure_all(
        root,
        reading.utterances,
        measured_before(last, root, limit == (kept or MAX_DURATION_S)),
        DecodingOptions(workers=how.workers, rescan=how.rescan, again=found_other(cache, corpus), max_duration_s=limit),
        listeners.begin,
    )
    return _Scanned(
        reading=reading,
        surveyed=surveyed,
        measured=flag_lengths(surveyed.measured),
        # Caches of before there was a limit stay as they are: a key that is new would make every scan of them a change.
        limit={} if limit == MAX_DURATION_S and kept is None else {"max_duration_s": limit},
    )


def _report(
    corpus: str,
    root: Path,
    last: LastScan,
    scanned: _Scanned,
    contents: _Contents,
    changed: bool,
) -> ScanReport:
    """Return what a scan says of itself; `removed` are the rows of the last one whose ids are in the corpus no more."""
    (corpus_json, _, skipped, _), reading, surveyed = contents, scanned.reading, scanned.surveyed
    ids = {u.utterance_id for u in reading.utterances}
    removed = len(set(last.table["utterance_id"].to_pylist()) - ids) if last.table is not None else 0
    return ScanReport(
        corpus=corpus,
        root=root,
        utterances=len(reading.utterances),
        decoded=surveyed.decoded,
        removed=removed,
        changed=changed,
        skipped=tuple(skipped),
        default_protocol=corpus_json["default_protocol"],
        notes=tuple(reading.notes),
        **_counts(reading, scanned.measured, surveyed.reasons),
    )


def _check_adapter(last: LastScan, corpus: str, reader: CorpusReader) -> None:
    """Refuse a corpus that another reader has scanned under this name.

    Raises:
        TfserError: one has.
    """
    if last.about is not None and last.about["adapter"] != reader.name:
        raise TfserError(
            f"this cache has a corpus {corpus} read as {last.about['adapter']}; give this one another name with --name, "
            f"or remove that one with `tfser cache rm --corpus {corpus}`"
        )


def _about(corpus: str, reader: CorpusReader, root: Path, options: Mapping[str, Any] | None, reading: Reading) -> dict[str, Any]:
    """Return what `corpus.json` says of a scan; a corpus that its documentation counts otherwise gets a note."""
    expected = reading.expected or reader.expected
    if expected is not None and (differences := expected.differences(reading.utterances)) is not None:
        reading.notes.append(differences)
    return {
        "corpus": corpus,
        "adapter": reader.name,
        "root": str(root),
        "options": dict(options or {}),
        "default_protocol": reader.default_protocol or _default_protocol(reading.utterances),
        "expected": expected.to_json() if expected is not None else None,
        # Caches of before there were ratings stay as they are: a key that is new would make every scan of them a change.
        **({"annotations": len(reading.annotations)} if reading.annotations else {}),
    }


def _store(
    cache: Cache, folder: Path, corpus_json: Mapping[str, Any], table: pa.Table, skipped: Sequence[Skipped], ratings: pa.Table
) -> None:
    """Write what a scan found; `corpus.json` comes last, since a corpus is there when it is."""
    with disk_errors(folder, _WAY_OUT):
        cache.write_table(folder / SKIPPED, skipped_table(skipped))
        cache.write_table(folder / UTTERANCES, table)
        if ratings.num_rows or (folder / ANNOTATIONS).exists():
            cache.write_table(folder / ANNOTATIONS, ratings)
        cache.write_json(folder / CORPUS, {**corpus_json, "scanned_at": now()})


def _counts(reading: Reading, measured: Sequence[Measured], reasons: Mapping[str, str]) -> dict[str, Any]:
    """Return what `ScanReport` says of what was read and measured."""
    readable = [m.content_hash is not None for m in measured]
    labels = [u.label for u in reading.utterances]
    return {
        "readable": sum(readable),
        "usable": sum(heard and label is not None for heard, label in zip(readable, labels, strict=True)),
        "unlabelled": labels.count(None),
        "speakers": len({u.speaker for u in reading.utterances} - {None}),
        "classes": Counter(label for label in labels if label is not None),
        "audio_s": sum(m.duration_s or 0.0 for m in measured if m.content_hash is not None),
        "columns": dict(reading.columns),
        "reason": next(iter(reasons.values()), None),
    }


def _check_loss(corpus: str, root: Path, old: pa.Table | None, scanned: _Scanned) -> None:
    """Keep a scan from replacing rows by next to nothing: a folder that is not mounted is no corpus that was emptied.

    What the last scan could read counts as still there if its id can be read now, or its audio under another id.

    Raises:
        TfserError: if more than half of it is lost.
    """
    if old is None:
        return
    pairs = zip(scanned.reading.utterances, scanned.measured, strict=True)
    ids = {utterance.utterance_id for utterance, measured in pairs if measured.content_hash is not None}
    hashes = {measured.content_hash for measured in scanned.measured}
    before = zip(old["utterance_id"].to_pylist(), old["content_hash"].to_pylist(), strict=True)
    had = [(name, content) for name, content in before if content is not None]
    lost = [name for name, content in had if name not in ids and content not in hashes]
    if 2 * len(lost) > len(had):
        why = f" ({lost[0]}: {scanned.surveyed.reasons.get(lost[0], 'not in the corpus any more')})"
        raise TfserError(
            f"{corpus}: {len(lost):,} of the {len(had):,} utterances that the last scan could read are gone from {root}{why}; "
            "what the cache holds of it stays as it was. Is the folder mounted, and the right one? If they are gone for good, "
            "say --allow-loss"
        )


def _is_text(name: str | None) -> bool:
    """Tell whether a name can be stored as UTF-8; file names of old systems need not be."""
    try:
        return name is None or name.isascii() or bool(name.encode())
    except UnicodeEncodeError:
        return False


def _storable(root: Path) -> Path:
    """Return a folder whose name can be stored.

    Raises:
        TfserError: if it cannot.
    """
    if not _is_text(str(root)):
        raise TfserError(f"{_as_text(str(root))}: the folder's name is not UTF-8; rename it")
    return root


def _as_text(name: str | None) -> str | None:
    return name.encode("utf-8", "backslashreplace").decode() if name is not None else None


def _without_odd_names(reading: Reading) -> Reading:
    """Return a reading whose names can all be stored; utterances whose names cannot are listed instead."""
    odd = [u for u in reading.utterances if not (_is_text(u.utterance_id) and _is_text(u.path))]
    listed = [(_as_text(i), _as_text(p), str(_as_text(reason))) for i, p, reason in reading.skipped]  # a reason may name a file
    listed += [(_as_text(u.utterance_id), _as_text(u.path), "the file's name is not UTF-8; rename it") for u in odd]
    names = {u.utterance_id for u in odd}
    utterances = [u for u in reading.utterances if u.utterance_id not in names]
    return replace(reading, utterances=utterances, skipped=listed)


def _read_ratings(reading: Reading, options: Mapping[str, Any]) -> None:
    """Add the ratings of a table that the user named, and part those of the corpus that are of no utterance of it.

    Raises:
        UsageError: if the table is not there, or has not the columns.
        TfserError: if it cannot be read, or rates no utterance.
    """
    ids = {u.utterance_id for u in reading.utterances}
    strange = Counter(row.utterance_id for row in reading.annotations if row.utterance_id not in ids)
    reading.annotations = [row for row in reading.annotations if row.utterance_id in ids]
    reading.unused_ratings += [
        (name, None, f"{count(n, 'rating')} of an utterance that the corpus has not") for name, n in sorted(strange.items())
    ]
    if "annotations" in options:
        columns = options.get("annotation_columns", {})
        own, passed = read_annotations(Path(options["annotations"]), columns, reading.utterances)
        if reading.annotations:
            reading.notes.append(f"{count(len(reading.annotations), 'rating')} of the corpus's own give way to those of the file")
        reading.annotations, reading.unused_ratings = own, [*reading.unused_ratings, *passed]
    if reading.annotations:
        rated = len({row.utterance_id for row in reading.annotations})
        who = len({row.rater for row in reading.annotations} - {None})
        named = f"{count(who, 'rater')} who are named" if who else "raters who are not named"
        reading.notes.append(
            f"{count(len(reading.annotations), 'rating')} of {count(rated, 'utterance')} by {named}; their agreement: "
            'tfser sql "FROM rater_agreement"'
        )


def _check_ids(utterances: Sequence[Utterance], root: Path) -> None:
    twice = [name for name, count in Counter(u.utterance_id for u in utterances).items() if count > 1]
    if twice:
        paths = [u.path for u in utterances if u.utterance_id == twice[0]]
        raise TfserError(f"{root}: the utterance id {twice[0]!r} stands for {' and '.join(paths[:2])}; ids must be unique")


def _notes(surveyed: Surveyed, measured: Sequence[Measured], rescan: bool) -> list[str]:
    """Return what people should hear of the sound itself: what a second look found, and what is cut off or out of scale."""
    notes = []
    if rescan:
        notes.append(
            f"all files were decoded again; of {surveyed.compared:,} utterances that were known, "
            f"{surveyed.different:,} hold other sound than at the last scan"
        )
    elif surveyed.compared and surveyed.different < surveyed.compared:
        same = surveyed.compared - surveyed.different
        notes.append(f"{same:,} of {surveyed.compared:,} utterances whose files were touched hold the same sound as before")
    if surveyed.decoded:
        for flag, what in (
            ("damaged", "hold less sound than their headers say, or break off, and are read as far as they go"),
            ("overscale", "have samples far beyond full scale: most likely integers that were stored as floats"),
        ):
            if number := sum(flag in m.flags for m in measured):
                notes.append(f"{number:,} utterances {what}; they are flagged '{flag}'")
    return notes


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
    ratings = [
        Skipped(corpus=corpus, utterance_id=name, path=path, stage="rating", reason=reason)
        for name, path, reason in reading.unused_ratings
    ]
    return unread + ignored + ratings


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
