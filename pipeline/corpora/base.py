"""What a corpus reader is, and what all readers share.

A reader turns a folder (and, for `table`, a table) into utterance rows. It opens no audio: names, label files and transcripts
are enough. Whatever it cannot make an utterance of, it lists with the reason.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfser.manifests.annotations import Annotation
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.utterances import Utterance
from tfser.pipeline.sound.audio import KNOWN_SUFFIXES, VIDEO_SUFFIXES

_SOUNDS = KNOWN_SUFFIXES | VIDEO_SUFFIXES

Passed = tuple[str | None, str | None, str]
"""What a reader passed over: the utterance's id and the path, where there is one, and the reason."""


@dataclass(kw_only=True)
class Reading:
    """What a reader found: utterances, and files or rows that are none as (utterance_id, path, reason).

    `notes` are sentences about what the reader took for what, where somebody may have meant it otherwise. `expected` stands in
    for the reader's own counts where a corpus comes in parts and only some of them are there. `columns` names, for each of ours,
    the column of a table that was taken for it. `annotations` are single ratings, where the
    corpus has them, and `unused_ratings` those that are of no utterance or cannot be read.
    """

    utterances: list[Utterance] = field(default_factory=list)
    skipped: list[Passed] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    expected: Expected | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    annotations: list[Annotation] = field(default_factory=list)
    unused_ratings: list[Passed] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a corpus's own documentation says that there is; None and empty where it says nothing."""

    utterances: int | None = None
    speakers: int | None = None
    labels: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as `corpus.json` stores them."""
        return {"utterances": self.utterances, "speakers": self.speakers, "labels": dict(self.labels)}

    def differences(self, utterances: list[Utterance]) -> str | None:
        """Say how the utterances that were found differ from what was published; None where they do not."""
        counted = Counter(u.label for u in utterances)
        speakers = len({u.speaker for u in utterances} - {None})
        parts = []
        if self.utterances not in (None, len(utterances)):
            parts.append(f"{len(utterances):,} of {self.utterances:,} utterances")
        if self.speakers not in (None, speakers):
            parts.append(f"{speakers} of {self.speakers} speakers")
        if not parts:
            parts = [f"{counted[label]:,} of {n:,} {label}" for label, n in self.labels.items() if counted[label] != n]
        return f"the counts differ from the published ones: {', '.join(parts)}" if parts else None


@dataclass(frozen=True, kw_only=True)
class CorpusReader:
    """One corpus that tfser knows.

    `source` cites it, `page` is where it is found or described, `licence` is what that page says of its use. `layout` shows the
    folder that is expected; an error prints it. `read` gets the root and the options of the scan and returns what it found;
    `options` names the options it takes. `prepare` makes a corpus that is generated. `expected` are its published counts.
    """

    name: str
    summary: str
    source: str
    layout: str
    read: Callable[[Path, Mapping[str, Any]], Reading]
    default_protocol: str | None
    page: str = ""
    licence: str = ""
    expected: Expected | None = None
    options: tuple[str, ...] = ()
    prepare: Callable[[Path, Callable[[int, int], None] | None], None] | None = None

    def fail(self, root: Path, reason: str) -> TfserError:
        """Return the error for a folder that does not look like this corpus."""
        return TfserError(f"{root} does not look like {self.name}: {reason}. Expected: {self.layout_line}")

    @property
    def layout_line(self) -> str:
        """Its layout on one line, as an error has room for: a line that is indented goes on with the one before."""
        parts: list[str] = []
        for line in self.layout.splitlines():
            words = " ".join(line.split())
            if parts and line.startswith(" " * 3):
                parts[-1] += f" {words}"
            else:
                parts.append(words)
        return ", ".join(parts)


def is_junk(name: str) -> bool:
    """Tell whether a file is one that systems scatter (`._x` of macOS, .DS_Store, Thumbs.db), not one of the corpus."""
    return name.startswith(".") or name in {"Thumbs.db", "desktop.ini"}


def audio_files(folder: Path, suffixes: Collection[str] = KNOWN_SUFFIXES, skipped: list[Passed] | None = None) -> Iterator[Path]:
    """Yield the audio files below a folder in a fixed order, junk left out; a link back to a folder above is not followed.

    A link that leads round in circles and a folder below that cannot be read stop nobody: they are listed. What has the name of
    a recording and is none (a pipe, a device, a link to nothing) is yielded, since a recording is meant, and the scan says what
    it is; a side file has to be a file, since whoever opened a pipe would wait for ever.

    Args:
        folder: to look through.
        suffixes: of the files that are wanted, in lower case; corpora of video, or with side files anywhere, name more.
        skipped: where to list them, as `Reading.skipped` has it; without it, a folder that cannot be read is an error.

    Raises:
        TfserError: if the folder itself cannot be read.
    """
    return map(Path, audio_paths(folder, suffixes, skipped))


def audio_paths(folder: Path, suffixes: Collection[str] = KNOWN_SUFFIXES, skipped: list[Passed] | None = None) -> Iterator[str]:
    """Yield what `audio_files` does, as text: of 100,000 files, to make paths of them takes longer than to find them."""
    return _walk(folder, suffixes, skipped, folder, ())


def suffix_of(name: str) -> str:
    """Return the suffix of a file's name in lower case, as `Path.suffix` has it.

    >>> suffix_of("a.b.WAV"), suffix_of(".wav"), suffix_of("a."), suffix_of("a")
    ('.wav', '', '', '')
    """
    dot = name.rfind(".")
    return name[dot:].lower() if 0 < dot < len(name) - 1 else ""


def _walk(
    folder: Path,
    suffixes: Collection[str],
    skipped: list[Passed] | None,
    inner: Path,
    above: tuple[tuple[int, int], ...],
) -> Iterator[str]:
    """Yield the files of a folder below the one that is looked through; `above` are the folders on the way to it."""
    try:
        status = inner.stat()
        entries = sorted(os.scandir(inner), key=lambda entry: entry.name)
    except OSError as error:
        if skipped is None or not above:
            raise TfserError(f"{inner}: cannot be read ({error.strerror})") from error
        skipped.append((None, relative(inner, folder), f"this folder cannot be read: {error.strerror}"))
        return
    # By device and inode and only against the folders above: a link to a folder elsewhere is followed, one
    # that leads back would never end.
    place = (status.st_dev, status.st_ino)
    if place in above:
        return
    for entry in entries:
        name = entry.name
        if is_junk(name):
            continue
        suffix = suffix_of(name)
        is_wanted = suffix in suffixes
        is_side = is_wanted and suffix not in _SOUNDS
        try:
            is_folder = entry.is_dir()
            is_other = is_side and not entry.is_file() and Path(entry.path).exists()
        except OSError as error:  # a link that leads to itself
            if is_wanted:
                yield entry.path
            elif skipped is not None:
                skipped.append((None, relative(Path(entry.path), folder), error.strerror or str(error)))
            continue
        if is_folder:
            yield from _walk(folder, suffixes, skipped, Path(entry.path), (*above, place))
        elif is_other:
            if skipped is not None:
                skipped.append((None, relative(Path(entry.path), folder), "not a file but a pipe, a socket or a device"))
        elif is_wanted:
            yield entry.path


def relative_texts(paths: Iterable[str], root: Path) -> Iterator[str]:
    """Yield what `relative` returns for each of many paths, which are written as `Path` writes them."""
    above = f"{root}{os.sep}"
    for path in paths:
        yield path[len(above) :] if os.sep == "/" and path.startswith(above) else relative(Path(path), root)


def relative(path: Path, root: Path) -> str:
    """Return a path below the root with forward slashes; one elsewhere as it is."""
    # Paths are written in one way only, so that most need not be taken apart: of 100,000 files that takes seconds.
    text, above = str(path), f"{root}{os.sep}"
    if os.sep == "/" and text.startswith(above):
        return text[len(above) :]
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return path.as_posix()


def read_text(path: Path, encoding: str = "cp1252") -> str:
    """Read a side file of a corpus: as its mark says, UTF-16 by its zero bytes where it has none, UTF-8 where that works, else
    `encoding` or Latin-1.

    Raises:
        TfserError: if it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TfserError(f"{path}: cannot be read ({error.strerror})") from error
    for name in (*_wide(data), "utf-8-sig", encoding):
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode(name)
    return data.decode("latin-1")


def _wide(data: bytes) -> list[str]:
    """Return the encodings of more than one byte a letter that a text's mark, or the places of its zero bytes, speak for."""
    if data.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return ["utf-32"]
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return ["utf-16"]
    # Side files hold names, digits and line ends, whose upper bytes are zero in UTF-16; a stray zero byte does not make one.
    zeros = [data[start : 1 << 16 : 2].count(0) for start in (0, 1)]
    if len(data) % 2 or max(zeros) * 10 < min(len(data), 1 << 16) or min(zeros) * 4 > max(zeros):
        return []
    return ["utf-16-be"] if zeros[0] > zeros[1] else ["utf-16-le"]


def read_lines(path: Path, encoding: str = "cp1252") -> list[str]:
    """Return the lines of a side file, whatever system wrote it. Only line ends part lines: a stray byte 0x85 does not.

    Raises:
        TfserError: if it cannot be read.
    """
    if path.exists() and not path.is_file():  # a pipe would keep everybody waiting for ever
        raise TfserError(f"{path}: cannot be read (not a file)")
    return re.split(r"\r\n|\r|\n", read_text(path, encoding))


def number_in(text: str | None) -> float | None:
    """Return the number that a cell of a corpus's own table holds; None where it is empty, a word, several numbers or infinite.

    >>> number_in("3.5"), number_in("nan"), number_in("2:3"), number_in(None)
    (3.5, None, None, None)
    """
    with contextlib.suppress(ValueError):
        return number if math.isfinite(number := float(text or "")) else None
    return None


def absolute(given: Path) -> Path:
    """Return a path that means the same wherever it is said: from the system's root, without `~` and `..`.

    Links stay as they are named, but for a path with `..`: what that means beyond a link only the file system knows.
    """
    path = given.expanduser().absolute()
    return path.resolve() if ".." in path.parts else path


def is_same_folder(a: Path, b: Path) -> bool:
    """Tell whether two paths name one folder, by the file system where both are there, else by their letters."""
    a, b = absolute(a), absolute(b)
    with contextlib.suppress(OSError):
        return a == b or a.samefile(b)
    return False


def find_root(reader: CorpusReader, given: Path | None, recorded: str | None, corpus: str) -> Path:
    """Return the folder of a corpus: the one given, else `$TFSER_CORPORA/<corpus>`, else the one of the last scan.

    A table's corpus, and a copy that bears another name than its reader, stays where it was scanned.

    Args:
        reader: what understands its layout.
        given: the folder that was asked for.
        recorded: the folder of the last scan.
        corpus: its name in the cache.

    Raises:
        UsageError: if none is there; the message shows the layout that is expected.
    """
    if given is not None:
        root = absolute(given)
        if not root.is_dir():
            raise UsageError(f"--root {given}: no such folder. {reader.name} is expected like this: {reader.layout_line}")
        return root
    looked = []
    if reader.name not in ("table", "audformat") and (corpus == reader.name or recorded is None):
        home = os.environ.get("TFSER_CORPORA")
        if home and (root := absolute(Path(home)) / reader.name).is_dir():
            return root
        unset = "$TFSER_CORPORA is not set"
        looked = [f"$TFSER_CORPORA/{reader.name} ({Path(home) / reader.name}) is not there" if home else unset]
    if recorded:
        if Path(recorded).is_dir():
            return Path(recorded)
        looked.append(f"{recorded}, where it was at the last scan, is not there any more")
    raise UsageError(
        f"where is {corpus}? {' and '.join(['--root was not given', *looked])}. Name the folder with --root; it is expected "
        f"like this:\n{reader.layout}"
    )
