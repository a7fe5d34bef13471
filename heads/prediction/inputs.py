"""What is to be predicted: files, folders, globs, standard input, the utterances of a scanned corpus.

What comes in: words of a command line. What goes out: `Speech`, one for each piece of audio in a fixed order, measured
(length, hash of the samples), and a list of what cannot be used, each with its reason: their numbers add up to those that
were named. Nothing is written but the file that standard input is kept in meanwhile.
"""

from __future__ import annotations

import glob
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import CannotWriteError, TfserError, UsageError, unknown
from tfser.manifests.natural import natural_key
from tfser.pipeline.corpora.base import Passed, audio_files
from tfser.pipeline.scanning.measure import Advance, audio_path, in_order
from tfser.pipeline.sound.audio import KNOWN_SUFFIXES, MAX_DURATION_S, VIDEO_SUFFIXES, survey
from tfser.pipeline.sound.recording import TooLongError
from tfser.pipeline.sound.video import MissingExtraError

STDIN = "-"
"""How standard input is written."""


@dataclass(frozen=True, kw_only=True)
class Speech:
    """One piece of audio.

    Attributes:
        name: as it was given: a path, `-`, or corpus/utterance.
        path: the file.
        start_s, end_s: of a part of it; None: the file's own edges.
        corpus, utterance_id: of a scanned corpus's utterance.
        speaker: who speaks, where that is known.
        label: the true class as the corpus has it, where that is known.
        duration_s: length in seconds; 0 until it is measured.
        content_hash: of the samples; empty until it is measured.
        is_damaged: its file held more than can be decoded.
    """

    name: str
    path: Path
    start_s: float | None = None
    end_s: float | None = None
    corpus: str | None = None
    utterance_id: str | None = None
    speaker: str | None = None
    label: str | None = None
    duration_s: float = 0.0
    content_hash: str = ""
    is_damaged: bool = False


@dataclass(frozen=True, kw_only=True)
class Unusable:
    """What was named and cannot be predicted, and why."""

    name: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        """Return it as a row."""
        return {"input": self.name, "reason": self.reason}


def named_inputs(words: Sequence[str], *, speaker: str | None = None, stdin: Path | None = None) -> list[Speech]:
    """Return the files that words name: files, folders (all audio below them), globs, and `-`.

    What a shell has not expanded is expanded here; a file that is named twice is taken once.

    Raises:
        UsageError: if a word names nothing, or a folder or a glob holds no audio file.
    """
    found: dict[str, Speech] = {}
    for word in words:
        for name, path in _expanded(word, stdin):
            found.setdefault(name, Speech(name=name, path=path, speaker=speaker))
    return list(found.values())


def _expanded(word: str, stdin: Path | None) -> Iterator[tuple[str, Path]]:
    if word == STDIN:
        if stdin is None:
            raise UsageError("standard input can be named once, as -")
        yield STDIN, stdin
        return
    path = Path(word).expanduser()
    try:
        is_folder, is_there = path.is_dir(), os.path.lexists(path)
    except ValueError as error:  # a zero byte
        raise UsageError(f"{word!r}: no path ({error})") from error
    if is_folder:
        yield from ((str(file), file) for file in _audio_below(path))
    elif is_there or not glob.has_magic(word):
        if not is_there and path.suffix.lower() not in KNOWN_SUFFIXES | VIDEO_SUFFIXES:
            raise UsageError(f"{word}: no such file or folder")
        yield word, path  # one that is not there is listed with its reason, and the rest goes on
    else:
        found = glob.glob(str(path), recursive=True)  # noqa: PTH207 - relative and absolute patterns alike
        matches = sorted((Path(match) for match in found), key=lambda of: natural_key(str(of)))
        files = [file for match in matches for file in (_audio_below(match) if match.is_dir() else [match])]
        if not files:
            raise UsageError(f"{word}: no file is called like this")
        yield from ((str(file), file) for file in files)


def _audio_below(folder: Path) -> list[Path]:
    """Return the audio files below a folder, in natural order; links to folders are followed, as by a scan.

    Raises:
        UsageError: if there are none.
        TfserError: if the folder itself cannot be read.
    """
    passed: list[Passed] = []
    files = list(audio_files(folder, KNOWN_SUFFIXES | VIDEO_SUFFIXES, passed))
    # A folder that cannot be read, or a link in a circle, is an input like any other: it is listed with its reason.
    files = sorted([*files, *(folder / str(path) for _, path, _ in passed)], key=lambda of: natural_key(str(of)))
    if not files:
        others = sum(not name.startswith(".") for _, _, names in os.walk(folder) for name in names)
        raise UsageError(
            f"{folder}: the folder holds no audio file ({others:,} others); audio ends in {', '.join(sorted(KNOWN_SUFFIXES))}"
        )
    return files


def corpus_inputs(cache: Cache, corpus: str) -> tuple[list[Speech], list[Unusable]]:
    """Return the utterances of a scanned corpus in the order of their ids, and those whose audio the scan could not read.

    Raises:
        UsageError: if the corpus is not in the cache.
    """
    # What the scan could not read comes along with its reason: counts in are answers plus reasons.
    with open_catalogue(cache) as connection:
        scanned = rows(connection, "SELECT root FROM corpora WHERE corpus = ?", [corpus])
        if not scanned:
            raise unknown("corpus", corpus, cache.corpora())
        stored = rows(
            connection,
            "SELECT u.*, s.reason FROM utterances u LEFT JOIN skipped s "
            "ON s.corpus = u.corpus AND s.utterance_id = u.utterance_id AND s.stage = 'scan' WHERE u.corpus = ? "
            "ORDER BY u.utterance_id",
            [corpus],
        )
    # Nothing is decoded here: what the scan read once is believed until its audio is asked for.
    speech, unusable = [], []
    for row in stored:
        name = f"{corpus}/{row['utterance_id']}"
        if row["content_hash"] is None:
            unusable.append(Unusable(name=name, reason=row["reason"] or "unreadable when it was scanned"))
            continue
        speech.append(
            Speech(
                name=name,
                path=audio_path(scanned[0]["root"], row["path"]),
                start_s=row["start_s"],
                end_s=row["end_s"],
                corpus=corpus,
                utterance_id=row["utterance_id"],
                speaker=row["speaker"],
                label=row["label"],
            )
        )
    return speech, unusable


def measured(
    speech: Iterable[Speech],
    *,
    minimum_s: float = 0.0,
    max_duration_s: float = MAX_DURATION_S,
    begin: Callable[[int], Advance] | None = None,
    workers: int | None = None,
) -> tuple[list[Speech], list[Unusable]]:
    """Return the pieces with their lengths and hashes, and those that cannot be used, each in the order given.

    Args:
        speech: what to measure.
        minimum_s: of audio; less makes no frame.
        max_duration_s: of one piece.
        begin: told how many there are; returns what to call as they are done.
        workers: threads that decode.

    Raises:
        MissingExtraError: a video is among them, and PyAV is not installed.
    """
    pieces = list(speech)
    advance = begin(len(pieces)) if begin is not None else None
    usable: list[Speech] = []
    unusable: list[Unusable] = []

    def look(piece: Speech) -> Speech | str:
        try:
            facts, content = survey(piece.path, piece.start_s, piece.end_s, max_duration_s=max_duration_s)
        except MissingExtraError:
            raise
        except TooLongError:
            return f"longer than {max_duration_s:,.0f} s; --timeline takes any length, --max-duration allows more"
        except TfserError as error:
            reason = str(error).removeprefix(f"{piece.path}: ")
            is_raw = piece.name == STDIN and reason.startswith("cannot be decoded")
            return f"{reason}; raw samples need --raw-rate" if is_raw else reason
        # Too short for a frame is a reason of its own, else the head would be given nothing.
        if facts.duration_s < minimum_s:
            return f"{facts.duration_s * 1000:.4g} ms of audio, shorter than one window of {minimum_s * 1000:g} ms"
        is_damaged = "damaged" in facts.flags
        return replace(piece, duration_s=facts.duration_s, content_hash=content, is_damaged=is_damaged)

    for piece, found in zip(pieces, in_order(look, pieces, workers), strict=True):
        if isinstance(found, str):
            unusable.append(Unusable(name=piece.name, reason=found))
        else:
            usable.append(found)
        if advance is not None:
            advance(1, 0.0)
    return usable, unusable


@contextmanager
def standard_input(words: Sequence[str], raw_rate: int | None, source: BinaryIO | None = None) -> Iterator[Path | None]:
    """Yield a file with the audio of standard input if `-` is among the words, else None; it is gone afterwards.

    Args:
        words: of the command line.
        raw_rate: of raw 16-bit mono samples, little-endian; None: standard input holds a file as libsndfile reads them.
        source: in place of standard input.

    Raises:
        UsageError: if it is a terminal, holds nothing, or half a sample.
        CannotWriteError: if there is no room to keep it.
    """
    if STDIN not in words:
        if raw_rate is not None:
            raise UsageError("--raw-rate is of raw samples on standard input: name -")
        yield None
        return
    stream = source if source is not None else sys.stdin.buffer
    if source is None and sys.stdin.isatty():
        raise UsageError("-: standard input is a terminal; send a recording to it")
    with TemporaryDirectory(prefix="tfser-") as folder:
        path = Path(folder, "stdin.wav")
        try:
            size = _keep_file(stream, path) if raw_rate is None else _keep_samples(stream, path, raw_rate)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise CannotWriteError(f"-: could not be kept in {folder} ({reason}); let TMPDIR name another folder") from error
        if not size:
            raise UsageError("-: standard input is empty")
        yield path


def _keep_file(stream: BinaryIO, path: Path) -> int:
    """Write what comes to a file, block by block; return how many bytes came."""
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file, _BLOCK)
        return file.tell()


def _keep_samples(stream: BinaryIO, path: Path, rate: int) -> int:
    """Write raw 16-bit mono samples to a wav file, block by block; return how many bytes came.

    Raises:
        UsageError: half a sample is left over, or more came than a wav file holds.
    """
    import numpy as np
    import soundfile

    size, rest = 0, b""
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        while block := stream.read(_BLOCK):
            size += len(block)
            if size > _MOST_RAW:
                raise UsageError(f"-: more than {_MOST_RAW / 1e9:g} GB of raw samples; write them to files, and name those")
            block = rest + block  # a pipe may part a sample
            whole = len(block) // 2 * 2
            rest = block[whole:]
            file.write(np.frombuffer(block[:whole], "<i2"))
    if rest:
        raise UsageError(f"-: {size:,} bytes are no whole number of 16-bit samples")
    return size


_BLOCK = 2**20
_MOST_RAW = 4 * 10**9
"""Bytes: a wav file counts its own in 32 bits."""
