"""A corpus of your own: a table (csv, tsv or Parquet) with one row an utterance, and a root folder that its paths start from.

Columns are found by their usual names (case does not matter), or named with `--column path=wav_file --column label=emo`.
Only a path is needed. A path may be a file below the root, an absolute file, or a stem without extension: the file is then
looked for next to where the stem points, or, for a bare stem, anywhere below the root if there is just one of that name.
A column that looks like the ids but repeats itself is none: the paths, with their segments, are then the ids.
Blanks around values are dropped. Only an empty cell is nothing: none, N/A and nan are words like any other, but where a number
belongs. A row without a usable path, and a row that repeats another, is listed with its number.
Columns that nothing here knows are kept, and can be queried like the others.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.labels import normalise
from tfser.manifests.utterances import Utterance
from tfser.pipeline.corpora.base import CorpusReader, Passed, Reading, audio_files, relative
from tfser.pipeline.corpora.delimited import load
from tfser.pipeline.corpora.hints import NOTHING, column_notes, level_that_fits, unnamed_note, word_notes
from tfser.pipeline.sound.audio import KNOWN_SUFFIXES

if TYPE_CHECKING:
    import pyarrow as pa

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "path": (
        *("path", "file", "filename", "file_name", "filepath", "file_path"),
        *("wav", "wav_path", "audio", "audio_path", "stem"),
    ),
    "label": ("label", "emotion", "emo", "class", "raw_label"),
    "speaker": ("speaker", "speaker_id", "spk", "spk_id", "actor", "subject"),
    "session": ("session", "session_id", "ses"),
    "split": ("split", "set", "subset", "partition"),
    "start_s": ("start", "start_s", "start_time", "begin", "onset"),
    "end_s": ("end", "end_s", "end_time", "stop"),
    "utterance_id": ("utterance_id", "utt_id", "segment_id", "id", "key", "utt", "utterance"),
    "gender": ("gender", "sex"),
    "dialogue": ("dialogue", "dialog", "dialogue_id", "dialog_id", "conversation"),
    "scenario": ("scenario",),
    "sentence": ("sentence", "sentence_id"),
    "transcript": ("transcript", "transcription", "text", "words", "utterance"),
    "valence": ("valence", "val"),
    "arousal": ("arousal", "activation", "act"),
    "dominance": ("dominance", "dom"),
}
"""What a column may be called, the likeliest first."""

COLUMN_ALIASES = {"start": "start_s", "end": "end_s", "id": "utterance_id"}
_SPLITS = {
    **dict.fromkeys(("train", "training", "tr", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "tst"), "test"),
}
_GENDERS = {**dict.fromkeys(("f", "female", "woman", "w"), "F"), **dict.fromkeys(("m", "male", "man"), "M")}
_CLOCK = re.compile(r"(?:(?P<days>\d+) days? \+?)?(?:(?P<hours>\d+):)?(?P<minutes>\d{1,2}):(?P<seconds>\d{1,2}(?:[.,]\d+)?)")
"""A clock time, also as pandas writes lengths of time: 0 days 00:00:01.898250."""


def read(root: Path, options: Mapping[str, Any]) -> Reading:
    """Read the table named in `options["table"]`; see the module's text.

    Raises:
        UsageError: if there is no such file, or no column for the paths, or a column that is named is not there.
        TfserError: if it cannot be read as a table, two different rows share an id, or no row makes an utterance.
    """
    file = Path(options["table"])
    chosen: Mapping[str, str] = options.get("columns") or {}
    usual = {alias for aliases in USUAL_NAMES.values() for alias in aliases}
    table = load(file, options.get("delimiter"), usual | {theirs.strip().casefold() for theirs in chosen.values()})
    names = _columns(file, table.column_names, chosen)
    # A column that only looks like ids may repeat (MELD's count from 0 in each dialogue): where they clash, the path
    # makes the id. One that was named is taken at its word.
    guessed = "utterance_id" in names and not any(COLUMN_ALIASES.get(ours, ours) == "utterance_id" for ours in chosen)
    if "path" not in names and "utterance_id" in names:
        names["path"] = names["utterance_id"]
    if "path" not in names:
        raise UsageError(
            f"{file}: no column looks like a path; name it with --column path=NAME. It has: {', '.join(table.column_names)}"
        )
    # Rows are read before the folder is walked: most tables name files that are there as written.
    files = Files(root)
    reading, clash = _rows(table, names, files)
    if clash and guessed:
        others = {"path": names["path"], **_columns(file, table.column_names, chosen, without="utterance_id")}
        reading, names = _by_path(file, table, names, others, files, clash)
    elif clash:
        raise TfserError(f"{file}: {clash}")
    files.check_level(str(file))
    reading.skipped.extend(files.unread)
    if files.moved:
        reading.notes.append(
            f"{file}: {files.moved:,} full paths are not there as written, and were found below {root} by their last parts"
        )
    if not reading.utterances:
        raise TfserError(f"{file}: no row makes an utterance" + (f"; {reading.skipped[0][2]}" if reading.skipped else ""))
    # What was taken for what is said, since somebody may have meant it otherwise.
    reading.columns = names
    reading.notes += [*column_notes(file, table, names), *word_notes(file.name, reading.utterances)]
    if (note := unnamed_note(file, root, (u.path for u in reading.utterances))) is not None:
        reading.notes.append(note)
    return reading


def _by_path(
    file: Path, table: pa.Table, names: Mapping[str, str], others: dict[str, str], files: Files, clash: str
) -> tuple[Reading, dict[str, str]]:
    """Read a table whose guessed column of ids repeats itself by its paths; return that, and its column for each of ours.

    It was a wrong guess (a clip's name without its folder, say), which is said. Of a column that the user named it is an error.

    Raises:
        UsageError: if the column was taken for the paths, too.
        TfserError: if the paths repeat themselves as well.
    """
    reading, still = _rows(table, others, files)
    if not still:
        reading.notes.append(
            f"{file}: the column {names['utterance_id']} repeats itself, so the paths are the utterances' ids; "
            "for others, name a column with --column utterance_id=NAME"
        )
        return reading, others
    if names["path"] == names["utterance_id"]:
        raise UsageError(
            f"{file}: no column looks like a path, and {names['path']} does not tell the rows apart; name the path with --column "
            f"path=NAME. It has: {', '.join(table.column_names)}"
        )
    raise TfserError(f"{file}: {clash}")


def _rows(table: pa.Table, names: Mapping[str, str], files: Files) -> tuple[Reading, str | None]:
    """Return what the rows of a table make, given its column for each of ours, and what is wrong where ids clash."""
    known = {name: [clean(v) for v in table[column].to_pylist()] for name, column in names.items()}
    own = {column: table[column].to_pylist() for column in table.column_names if column not in names.values()}
    reading = Reading()
    seen: dict[str, tuple[int, Utterance]] = {}
    for i in range(table.num_rows):
        row = {name: value for name, values in known.items() if (value := values[i]) is not None}
        try:
            utterance = utterance_of(row, {k: v[i] for k, v in own.items()}, files)
        except ValueError as error:
            reading.skipped.append((row.get("utterance_id"), row.get("path"), f"row {i + 1}: {error}"))
            continue
        before, first = seen.setdefault(utterance.utterance_id, (i + 1, utterance))
        if before != i + 1:
            if repr(first) != repr(utterance):  # as text, where nan is nan
                return reading, (
                    f"rows {before} and {i + 1} share the utterance id {utterance.utterance_id!r} and are not the same; make "
                    "the ids unique, or name another column with --column utterance_id=NAME"
                )
            reading.skipped.append((utterance.utterance_id, utterance.path, f"row {i + 1} repeats row {before}"))
            continue
        reading.utterances.append(utterance)
    return reading, None


def utterance_of(row: Mapping[str, str], own: Mapping[str, Any], files: Files) -> Utterance:
    """Return what a row makes, given its text for each of our columns (none for an empty cell) and the corpus's own values.

    Raises:
        ValueError: if it makes no utterance; the message says why.
    """
    if "path" not in row:
        raise ValueError("no path")
    # The path first: a row without one makes nothing, whatever else it says.
    path = files.find(row["path"])
    start, end = _seconds(row.get("start_s"), "start"), _seconds(row.get("end_s"), "end")
    if start is not None and end is not None and end <= start:
        raise ValueError(f"the segment ends at {_digits(end)} s and starts at {_digits(start)} s")
    return Utterance(
        utterance_id=row.get("utterance_id") or _id_of(path, start, end),
        path=path,
        start_s=start,
        end_s=end,
        label=normalise(row.get("label")),
        raw_label=row.get("label"),
        gender=_GENDERS.get(row["gender"].casefold(), row["gender"]) if "gender" in row else None,
        split=_SPLITS.get(row["split"].casefold(), row["split"]) if "split" in row else None,
        valence=number(row.get("valence"), "valence"),
        arousal=number(row.get("arousal"), "arousal"),
        dominance=number(row.get("dominance"), "dominance"),
        speaker=row.get("speaker"),
        session=row.get("session"),
        dialogue=row.get("dialogue"),
        scenario=row.get("scenario"),
        sentence=row.get("sentence"),
        transcript=row.get("transcript"),
        extra=own,
    )


def _id_of(path: str, start: float | None, end: float | None) -> str:
    """Return the id of a row without one: its path without the suffix of a recording; the segment tells rows of a file apart."""
    segment = "" if start is None and end is None else f"_{_digits(start or 0)}-{'end' if end is None else _digits(end)}"
    stem, _, ending = path.rpartition(".")
    stem = stem if f".{ending.lower()}" in KNOWN_SUFFIXES else path
    return stem.lstrip("/") + segment


class Files:
    """The audio files below a root, found by path, by path without extension, and by stem; walked once, when first needed.

    A full path of another machine (with a drive letter, or simply not there) is looked for below the root by its last parts,
    as many of them as fit; `moved` counts such paths. `missing` are those that were found nowhere.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.moved = 0
        self.missing: list[str] = []
        self.unread: list[Passed] = []
        # Most tables name files as they lie below the root: of 100,000 of these, to take paths apart would take seconds.
        self._plain = f"{root}{os.sep}" if os.sep == "/" and root.is_absolute() else ""
        self._walked = False
        self._found: dict[str, str] = {}
        self._beside: dict[str, list[str]] = {}
        self._stems: dict[str, list[str]] = {}

    def _walk(self) -> None:
        if not self._walked:
            self._walked = True
            for path in audio_files(self.root, skipped=self.unread):
                name = relative(path, self.root)
                self._beside.setdefault(name.rpartition(".")[0], []).append(name)
                self._stems.setdefault(path.stem, []).append(name)

    def find(self, text: str) -> str:
        """Return the path of a value; one that is not there is returned as it was meant, and the scan reports it.

        Raises:
            ValueError: if it may be several files.
        """
        found = self._found.get(text)
        if found is None:  # many rows may be segments of one file
            found = self._found[text] = self._find(text)
        return found

    def _find(self, text: str) -> str:
        if self._plain and _is_plain(text) and _is_file(f"{self._plain}{text}"):
            return text
        # A backslash parts folders as Windows writes them, unless a file is called like this.
        is_as_written = Path(text).is_absolute() or ("\\" in text and (self.root / text).is_file())
        meant = Path(text) if is_as_written else Path(PurePosixPath(text.replace("\\", "/")))
        value = relative(meant, self.root)
        place = self.root / value
        if place.is_file() or (place.exists() and not place.is_dir()):  # a device is what was named, and no file of its name
            return value
        self._walk()
        matches = self._beside.get(value) or self._stems.get(value) or []
        if not matches and (value.startswith("/") or re.match(r"[A-Za-z]:/", value)):
            parts = value.lstrip("/").split("/")
            tails = ("/".join(parts[i:]) for i in range(1, len(parts)))
            matches = next((found for tail in tails if (found := self._there(tail))), [])
            self.moved += bool(matches)
        if len(matches) > 1:
            raise ValueError(f"{text!r} may be {' or '.join(matches[:3])}; write the path with its folder and extension")
        if not matches:
            self.missing.append(value)
        return matches[0] if matches else value

    def check_level(self, source: str) -> None:
        """Refuse a root that is a level off: most of the paths are not below it, and are below a folder around it.

        Args:
            source: where the paths are from, for the message.

        Raises:
            UsageError: with the folder to name instead.
        """
        if 2 * len(self.missing) <= len(self._found) or (fit := level_that_fits(self.root, self.missing)) is None:
            return
        folder, there = fit
        raise UsageError(
            f"--root {self.root}: {len(self.missing):,} of the {len(self._found):,} files that {source} names are not there; "
            f"{there:,} of them are below {folder}: --root {folder}"
        )

    def _there(self, tail: str) -> list[str]:
        """Return the files below the root that the last parts of a path may be: that path, or one without its extension."""
        if (self.root / tail).is_file():
            return [tail]
        return self._beside.get(tail, [])


def _is_plain(text: str) -> bool:
    """Tell whether a text is surely a relative path as `Path` would write it: no empty parts, no `.` and `..`, no other marks.

    >>> [_is_plain(text) for text in ("a/b.wav", "a//b.wav", "./a.wav", "a/../b.wav", "/a.wav", "a/", "a/..", "")]
    [True, False, False, False, False, False, False, False]
    """
    return "./" not in text and "//" not in text and "\\" not in text and text[:1] not in ("/", "") and text[-1] not in "/."


def _is_file(path: str) -> bool:
    """Tell whether a file is there, of whatever kind a folder is not; no error is raised."""
    try:
        return not stat.S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116 - of so many files a path each is dear
    except (OSError, ValueError):
        return False


def _digits(seconds: float) -> str:
    """Write seconds with all digits that they have, down to nanoseconds."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".")


def _columns(file: Path, present: Sequence[str], chosen: Mapping[str, str], without: str | None = None) -> dict[str, str]:
    """Return the table's column for each of ours (`without`: but for this one): as chosen, else by its usual names."""
    folded = {name.strip().casefold(): name for name in reversed(present)}
    result: dict[str, str] = {}
    for ours, theirs in chosen.items():
        name = COLUMN_ALIASES.get(ours, ours)
        if name not in USUAL_NAMES:
            raise UsageError(f"--column {ours}={theirs}: {ours!r} is none of {', '.join(USUAL_NAMES)}")
        if theirs.casefold() not in folded:
            raise UsageError(f"--column {ours}={theirs}: {file} has no such column; it has {', '.join(present)}")
        result[name] = folded[theirs.casefold()]
    for name, aliases in USUAL_NAMES.items():
        if name not in result and name != without:
            free = (folded[a] for a in aliases if a in folded and folded[a] not in result.values())
            if (column := next(free, None)) is not None:
                result[name] = column
    return result


def clean(value: Any) -> str | None:
    """Return a value as text without blanks around it; nothing for an empty one."""
    if type(value) is str:  # most are
        return value.strip() or None
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


def _seconds(text: str | None, column: str) -> float | None:
    """Read seconds, or a clock time like 00:01:02.5 or 0 days 00:01:02.5."""
    if text is None:
        return None
    if clock := _CLOCK.fullmatch(text):
        hours = int(clock["days"] or 0) * 24 + int(clock["hours"] or 0)
        return hours * 3600 + int(clock["minutes"]) * 60 + float(clock["seconds"].replace(",", "."))
    value = number(text, column)
    if value is not None and value < 0:
        raise ValueError(f"{column} {text!r} is before the beginning")
    return value


def number(text: str | None, column: str) -> float | None:
    """Read a number, with a decimal point or comma; nothing where the table says that there is none."""
    if text is None or text.casefold() in NOTHING:
        return None
    try:
        value = float(text.replace(",", ".") if text.count(",") == 1 and "." not in text else text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{column} {text!r} is no number")
    return value


READER = CorpusReader(
    name="table",
    summary=("a corpus of your own: a csv, tsv or Parquet table and a root folder (--table FILE [--name NAME] [--column ...])"),
    source="your own",
    layout=(
        "  FILE.csv with at least a column path (and label, speaker, session, split, start, end where you have them)\n"
        "  ROOT/<path>   (ROOT is the table's folder unless --root names another)"
    ),
    read=read,
    default_protocol=None,
    page="your own",
    licence="its owner's",
    options=("table", "columns", "delimiter"),
)
