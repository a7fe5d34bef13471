"""What the last scan of a corpus left in the cache, and what of it a new one may believe.

What comes in: a corpus's folder. What goes out: its rows, and what was measured of files that nobody has touched since. Damaged
files are moved away here; nothing is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.stored import (
    ANNOTATIONS,
    CORPUS,
    SKIPPED,
    UTTERANCES,
    read_about,
    read_annotations,
    read_skipped,
    skipped_rows,
)
from tfser.manifests.errors import DamagedError, MissingFileError, UnknownContentError, UnreadableError
from tfser.manifests.notes import note
from tfser.manifests.utterances import MEASURED, Measured, Skipped
from tfser.pipeline.scanning.measure import SegmentKey, segment_key

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LastScan:
    """What an earlier scan said of the corpus, its rows and ratings, and what it passed over; None for each that there is not."""

    about: dict[str, Any] | None
    table: pa.Table | None
    skipped: list[Skipped] | None
    annotations: pa.Table | None = None


def last_scan(cache: Cache, corpus: str) -> LastScan:
    """Return what the last scan of a corpus left in the cache.

    What is damaged is moved to the cache's folder `removed`, and made again by this scan.

    Raises:
        UnreadableError: if a file could not be read just now: to write over it would lose what it says.
    """
    folder = cache.corpus(corpus)
    return LastScan(
        about=_whole(cache, folder / CORPUS, lambda path: read_about(cache, corpus)),
        table=_whole(cache, folder / UTTERANCES, lambda path: _with_ctime(cache.read_table(path))),
        skipped=_whole(cache, folder / SKIPPED, lambda path: skipped_rows(read_skipped(cache, path)) if path.exists() else None),
        annotations=_whole(cache, folder / ANNOTATIONS, lambda path: read_annotations(cache, corpus) if path.exists() else None),
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


def _with_ctime(table: pa.Table) -> pa.Table:
    """Return the rows of a scan with the column that those of the version before lack; nothing is known of it there."""
    import pyarrow as pa

    if "ctime_ns" in table.column_names or "mtime_ns" not in table.column_names:
        return table
    place = table.column_names.index("mtime_ns") + 1
    return table.add_column(place, "ctime_ns", pa.nulls(table.num_rows, pa.int64()))


def kept_limit(about: Mapping[str, Any] | None) -> float | None:
    """Return the longest utterance that an earlier scan was asked to let in; None if it was not asked."""
    value = (about or {}).get("max_duration_s")
    return float(value) if isinstance(value, int | float) and value > 0 else None


def found_other(cache: Cache, corpus: str) -> set[str]:
    """Return the utterances that an extraction found to hold other sound than their rows say, until one finds them right.

    Their files' stamps may well be the same: the row itself may be damaged, and no stamp would ever tell. Nor is it asked which
    is newer, the list or the rows: a clock may have been set back between the two.
    """
    names: set[str] = set()
    for path in cache.feature_root.glob(f"*/{corpus}/{SKIPPED}"):
        with contextlib.suppress(OSError, DamagedError, UnreadableError):  # a list that cannot be read asks for nothing
            rows = skipped_rows(read_skipped(cache, path))
            names |= {row.utterance_id for row in rows if row.utterance_id and row.stage.startswith("changed:")}
    return names


def is_same(
    last: LastScan, corpus_json: Mapping[str, Any], table: pa.Table, skipped: Sequence[Skipped], annotations: pa.Table
) -> bool:
    """Tell whether a scan came to what the last one had: then no file of the cache is touched."""
    if last.about is None or last.table is None or last.skipped != skipped:
        return False
    if annotations.num_rows if last.annotations is None else not _equal(last.annotations, annotations):
        return False
    return {key: last.about.get(key) for key in corpus_json} == corpus_json and _equal(last.table, table)


def _equal(old: pa.Table, new: pa.Table) -> bool:
    """Tell whether two tables hold the same, where not-a-number equals itself."""
    if old.schema != new.schema or old.num_rows != new.num_rows:
        return False
    pairs = zip(old.columns, new.columns, strict=True)
    return all(a.equals(b) or repr(a.to_pylist()) == repr(b.to_pylist()) for a, b in pairs)


def measured_before(last: LastScan, root: Path, same_limit: bool) -> dict[SegmentKey, tuple[Measured, str | None]]:
    """Return what an earlier scan of the same root measured, by path and segment, with the reason if it was unreadable.

    Another limit of the length may let in what was too long: then only what could be read counts as known.
    """
    table = last.table
    if last.about is None or last.about["root"] != str(root) or table is None:
        return {}
    if not {"path", "start_s", "end_s", "utterance_id", *MEASURED} <= set(table.column_names):
        return {}
    reasons = {row.utterance_id: row.reason for row in last.skipped or () if row.stage == "scan"}
    columns = [table[name].to_pylist() for name in ("path", "start_s", "end_s", "utterance_id", *MEASURED)]
    measurements: dict[SegmentKey, tuple[Measured, str | None]] = {}
    # Taken apart by place, in the order of `MEASURED`: a mapping for each of 100,000 rows takes a second.
    each = zip(*columns, strict=True)
    for path, start_s, end_s, name, size, mtime_ns, length_s, rate, content_hash, peak, rms_db, clipped, flags, ctime_ns in each:
        if size is None or (content_hash is None and (name not in reasons or not same_limit)):
            continue
        measured = Measured(
            size=size,
            mtime_ns=mtime_ns,
            duration_s=length_s,
            sample_rate=rate,
            content_hash=content_hash,
            peak=peak,
            rms_db=rms_db,
            clipped_share=clipped,
            flags=tuple(flag for flag in flags if flag not in ("long", "short")) if flags else (),
            ctime_ns=ctime_ns,
        )
        measurements[segment_key(path, start_s, end_s)] = (measured, reasons.get(name))
    return measurements
