"""Whether anything of a large corpus has changed since its last scan, without reading it: one look at its folder.

What comes in: a corpus's folder and what a scan of it said. What goes out: that report again, where nothing of what the scan
read has changed; else nothing, and the corpus is scanned as ever. What a scan reads are the files below the root (their names,
sizes, times and inodes, through links as the scan follows them), the files that its options name (their content), the rows that
the last scan left in the cache (their bytes), and this program (its version and files). All of it is noted before a scan begins,
in `.seen.json` beside the corpus's rows, so that whatever changes meanwhile differs the next time.

Small corpora are scanned again each time: that takes a second or two. Readers of other packages may read what they like, and are
asked each time, too.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import tfser
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.stored import ANNOTATIONS, CORPUS, SKIPPED, UTTERANCES, read_skipped, skipped_rows
from tfser.manifests.errors import TfserError
from tfser.manifests.files import sha256_of
from tfser.pipeline.corpora.base import CorpusReader
from tfser.pipeline.corpora.label_tables import LABEL_TABLES
from tfser.pipeline.corpora.patterns import PATTERNS
from tfser.pipeline.scanning.last_scan import found_other
from tfser.pipeline.scanning.scan_report import ScanReport

SEEN = ".seen.json"

LEAST = 20_000
"""Utterances from which on it is worth it."""

MOST_FILES = 1_000_000
"""Files below a root beyond which they are not looked at: a table's root may be a whole disk."""

_OWN = "tfser.pipeline.corpora."
"""Where the readers are of whom it is known what they read."""


def state_of(cache: Cache, corpus: str, reader: CorpusReader, root: Path, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a scan of a corpus is about to read, in digests; None where that cannot be told at once.

    Args:
        cache: where its rows are.
        corpus: its name.
        reader: that reads it.
        root: its folder.
        options: of the reader; those that name files are taken by their content.
    """
    if reader.prepare is not None or not _is_own(reader):
        return None
    named = sorted(str(value) for value in options.values() if isinstance(value, (str, Path)) and Path(value).is_file())
    digest, count = hashlib.sha256(), 0
    try:
        contents = {name: sha256_of(Path(name)) for name in named}
        for line in _listing(str(root), ()):
            digest.update(line.encode("utf-8", "surrogateescape"))
            count += 1
            if count > MOST_FILES:
                return None
    except (OSError, TfserError):
        return None
    return {
        "program": [tfser.__version__, _program()],
        "root": str(root),
        "options": repr(sorted((str(key), repr(value)) for key, value in options.items())),
        "named": contents,
        "files": [count, digest.hexdigest()],
    }


def _is_own(reader: CorpusReader) -> bool:
    """Tell whether a reader, or the declaration that it reads by, is this program's, so that it is known what it reads."""
    if isinstance(reader.read, functools.partial):
        return any(reader.read.args[:1] == (declared,) for declared in (*PATTERNS.values(), *LABEL_TABLES.values()))
    return reader.read.__module__.startswith(_OWN)


def _listing(folder: str, above: Sequence[tuple[int, int]]) -> Iterator[str]:
    """Yield a line for each file and folder below one, in a fixed order; a link back to a folder above is not followed."""
    status = os.stat(folder)  # noqa: PTH116 - of so many files a path each is dear
    place = (status.st_dev, status.st_ino)
    if place in above:
        return
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        try:
            of = entry.stat()
            is_folder = entry.is_dir()
        except OSError as error:  # a link to nothing
            yield f"{entry.path}\0{error.errno}\n"
            continue
        if is_folder:
            yield f"{entry.path}\0{of.st_mode}\n"
            yield from _listing(entry.path, (*above, place))
        else:
            yield f"{entry.path}\0{of.st_size} {of.st_mtime_ns} {of.st_ctime_ns} {of.st_ino} {of.st_mode}\n"


@functools.cache
def _program() -> str:
    """Return what changes with the files of this program, also where its version does not."""
    top = Path(tfser.__file__).parent
    found = (path for room in ("manifests", "pipeline") for path in (top / room).rglob("*"))
    files = [path for path in found if path.suffix in (".py", ".toml")]  # corpora are declared in TOML
    stamps = [(path.relative_to(top).as_posix(), path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(sorted(stamps)).encode()).hexdigest()


def _rows_digests(cache: Cache, corpus: str) -> dict[str, str]:
    """Return the digests of what a scan leaves in the cache."""
    folder = cache.corpus(corpus)
    return {name: sha256_of(folder / name) for name in (CORPUS, UTTERANCES, SKIPPED, ANNOTATIONS) if (folder / name).exists()}


def keep_seen(
    cache: Cache, state: Mapping[str, Any] | None, report: ScanReport, survey_notes: Sequence[str], *, is_whole: bool
) -> None:
    """Note what a scan has read and said; the caller holds the corpus's lock, and the rows are written.

    Args:
        cache: the cache.
        state: as it was before the scan began.
        report: of the scan.
        survey_notes: those of its notes that are of what was decoded, which a scan that decodes nothing does not say.
        is_whole: whether each file had a stamp, and lies below the root: others are looked at each time.
    """
    path = cache.corpus(report.corpus) / SEEN
    if state is None or not is_whole or report.utterances < LEAST:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return
    notes = [note for note in report.notes if note not in survey_notes]
    values = {of.name: getattr(report, of.name) for of in fields(report) if of.name != "skipped"}
    values |= {"root": str(report.root), "classes": dict(report.classes), "columns": dict(report.columns), "notes": notes}
    values |= {"decoded": 0, "removed": 0, "changed": False}
    with contextlib.suppress(OSError):  # the rows are what counts
        cache.write_json(path, {"state": dict(state), "rows": _rows_digests(cache, report.corpus), "report": values})


def report_again(cache: Cache, corpus: str, state: Mapping[str, Any] | None) -> ScanReport | None:
    """Return what the last scan said, where a new one would read the very same; None: it has to be made."""
    if state is None:
        return None
    try:
        seen = cache.read_json(cache.corpus(corpus) / SEEN)
        if seen["state"] != state or seen["rows"] != _rows_digests(cache, corpus) or found_other(cache, corpus):
            return None
        values = {**seen["report"], "root": Path(seen["report"]["root"]), "notes": tuple(seen["report"]["notes"])}
        return ScanReport(**values, skipped=tuple(skipped_rows(read_skipped(cache, cache.corpus(corpus) / SKIPPED))))
    except (TfserError, OSError, LookupError, TypeError, ValueError):  # none, damaged, or another version's: it is a memo
        return None
