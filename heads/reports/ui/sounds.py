"""The sound of one utterance, for a player: which file, whether it may be played, and its samples as FLAC.

In goes an utterance by corpus and id, never a path; out comes FLAC at 16 kHz at most. A file is played only if it lies, once all
links and `..` are followed, below the folder of its corpus (or one of those that the user added): a table that names other files
of this machine gives nobody their content. What cannot be played is one clear line.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tfser.heads.reports.recordings import as_flac
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.sound.audio import content_hash, decode

_KEPT = 16
"""Sounds that are kept: a player asks for a part of one after the other."""


class ByteRange(NamedTuple):
    """A part of a content, from the byte `first` up to but not with `end`."""

    first: int
    end: int


def find_utterance(connection: Connection, corpus: str, utterance: str) -> dict[str, Any]:
    """Return an utterance's row with the folder of its corpus, `root`; of an id alone, where one corpus has it.

    Raises:
        UsageError: There is none, or several corpora have one of that id.
    """
    candidates = rows(
        connection,
        "SELECT u.*, c.root FROM utterances u JOIN corpora c USING (corpus) "
        "WHERE u.utterance_id = ? AND (? = '' OR u.corpus = ?) ORDER BY u.corpus",
        [utterance, corpus, corpus],
    )
    if not candidates:
        raise UsageError(f"there is no utterance {utterance!r}" + (f" in {corpus}" if corpus else " in this cache"))
    if len(candidates) > 1:
        corpora = ", ".join(row["corpus"] for row in candidates)
        raise UsageError(f"{utterance!r} is in {corpora}: choose one in the list of utterances")
    return candidates[0]


def audio_file(row: Mapping[str, Any], folders: Iterable[Path] = ()) -> Path:
    """Return the file of an utterance's sound, all links followed.

    Args:
        row: of `find_utterance`.
        folders: beside the corpus's own, where sound may lie.

    Raises:
        UsageError: It lies elsewhere, or is no file.
    """
    root = Path(row["root"])
    try:
        file = (root / row["path"]).resolve()
        allowed = any(file.is_relative_to(folder.resolve()) for folder in (root, *folders))
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name with a null byte
        raise UsageError(f"{row['path']!r} is no file that can be played ({error})") from error
    if not allowed:
        raise UsageError(
            f"{row['path']!r} lies outside of the folder of {row['corpus']}, and is not played; "
            "`tfser ui --allow-audio FOLDER` allows a folder"
        )
    if not file.is_file():
        raise UsageError(f"{row['path']!r} is not in the folder of {row['corpus']} any more ({root})")
    return Path(file)


def has_changed(row: Mapping[str, Any], file: Path) -> bool:
    """Tell whether a file sounds other than when it was scanned, so that it may not be what its row says.

    Raises:
        TfserError: if it cannot be decoded.
    """
    status = file.stat()
    if (status.st_size, status.st_mtime_ns) == (row["size"], row["mtime_ns"]):
        return False
    # A copy has another time and the same samples.
    return bool(content_hash(decode(file, row["start_s"], row["end_s"])) != row["content_hash"])


def flac_of(row: Mapping[str, Any], folders: Iterable[Path] = ()) -> bytes:
    """Return the sound of an utterance.

    Raises:
        UsageError: as `audio_file`.
        TfserError: if it cannot be decoded.
    """
    file = audio_file(row, folders)
    try:
        return _decoded(file, row["start_s"], row["end_s"], file.stat().st_mtime_ns)
    except OSError as error:
        raise TfserError(f"{row['path']}: cannot be read ({(error.strerror or str(error)).lower()})") from error


@functools.lru_cache(maxsize=_KEPT)
def _decoded(file: Path, start_s: float | None, end_s: float | None, changed_ns: int) -> bytes:
    """Return the sound of a file as it was at a time."""
    return as_flac(file, start_s, end_s)


def part_of(header: str | None, size: int) -> ByteRange | None:
    """Return the part that a player asks for by its Range header; None: all of it, as for a header that is none.

    >>> part_of("bytes=2-5", 10), part_of("bytes=7-", 10), part_of("bytes=-3", 10), part_of(None, 10)
    (ByteRange(first=2, end=6), ByteRange(first=7, end=10), ByteRange(first=7, end=10), None)

    Raises:
        ValueError: There is no such part.
    """
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", (header or "").replace(" ", ""))
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    end = min(size, int(last) + 1) if last and first else size
    part = ByteRange(int(first) if first else max(0, size - int(last)), end)
    if part.first >= part.end:
        raise ValueError(f"no bytes {header} of {size}")
    return part
