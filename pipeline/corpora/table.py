"""A corpus of your own: a table (csv, tsv or Parquet) with one row an utterance, and a root folder that its paths start from.

Columns are found by their usual names (case does not matter), or named with `--column path=wav_file --column label=emo`.
Only a path is needed. A path may be a file below the root, an absolute file, or a stem without extension: the file is then
looked for next to where the stem points, or, for a bare stem, anywhere below the root if there is just one of that name.
Blanks around values are dropped. A row without a usable path, and a row that repeats another, is listed with its number.
Columns that nothing here knows are kept, and can be queried like the others.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.labels import normalise
from tfser.manifests.utterances import Utterance
from tfser.pipeline.audio import KNOWN_SUFFIXES
from tfser.pipeline.corpora.base import CorpusReader, Reading, audio_files, read_text, relative

if TYPE_CHECKING:
    import pyarrow as pa

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "wav", "wav_path", "audio", "audio_path", "stem"),
    "label": ("label", "emotion", "emo", "class", "raw_label"),
    "speaker": ("speaker", "speaker_id", "spk", "spk_id", "actor", "subject"),
    "session": ("session", "session_id", "ses"),
    "split": ("split", "set", "subset", "partition"),
    "start_s": ("start", "start_s", "start_time", "begin", "onset"),
    "end_s": ("end", "end_s", "end_time", "stop"),
    "utterance_id": ("utterance_id", "utt_id", "utterance", "utt", "segment_id", "id", "key"),
    "gender": ("gender", "sex"),
    "dialogue": ("dialogue", "dialog", "dialogue_id", "dialog_id", "conversation"),
    "scenario": ("scenario",),
    "sentence": ("sentence", "sentence_id"),
    "transcript": ("transcript", "transcription", "text", "words"),
    "valence": ("valence", "val"),
    "arousal": ("arousal", "activation", "act"),
    "dominance": ("dominance", "dom"),
}
"""What a column may be called, the likeliest first."""

_ALIASES = {"start": "start_s", "end": "end_s", "id": "utterance_id"}
_SPLITS = {
    **dict.fromkeys(("train", "training", "tr", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "tst"), "test"),
}
_GENDERS = {**dict.fromkeys(("f", "female", "woman", "w"), "F"), **dict.fromkeys(("m", "male", "man"), "M")}
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")


def read(root: Path, options: Mapping[str, Any]) -> Reading:
    """Read the table named in `options["table"]`; see the module's text."""
    file = Path(options["table"])
    table = _load(file, options.get("delimiter"))
    names = _columns(file, table.column_names, options.get("columns") or {})
    if "path" not in names and "utterance_id" in names:
        names["path"] = names["utterance_id"]
    if "path" not in names:
        raise UsageError(
            f"{file}: no column looks like a path; name it with --column path=NAME. It has: {', '.join(table.column_names)}"
        )
    known = {name: [_clean(v) for v in table[column].to_pylist()] for name, column in names.items()}
    own = {column: table[column].to_pylist() for column in table.column_names if column not in names.values()}
    files = _Files(root)
    reading = Reading()
    seen: dict[str, tuple[int, tuple[Any, ...]]] = {}
    for i in range(table.num_rows):
        row = {name: values[i] for name, values in known.items() if values[i] is not None}
        try:
            utterance = _utterance(row, {k: v[i] for k, v in own.items()}, files)
        except ValueError as error:
            reading.skipped.append((row.get("utterance_id"), row.get("path"), f"row {i + 1}: {error}"))
            continue
        content = (utterance.path, utterance.start_s, utterance.end_s, utterance.raw_label)
        before, same = seen.setdefault(utterance.utterance_id, (i + 1, content))
        if before != i + 1:
            if same != content:
                raise TfserError(
                    f"{file}: rows {before} and {i + 1} share the utterance id {utterance.utterance_id!r} and are not the same; "
                    "make the ids unique, or name another column with --column utterance_id=NAME"
                )
            reading.skipped.append((utterance.utterance_id, utterance.path, f"row {i + 1} repeats row {before}"))
            continue
        reading.utterances.append(utterance)
    if not reading.utterances:
        raise TfserError(f"{file}: no row makes an utterance" + (f"; {reading.skipped[0][2]}" if reading.skipped else ""))
    return reading


def _utterance(row: Mapping[str, str], own: Mapping[str, Any], files: _Files) -> Utterance:
    if "path" not in row:
        raise ValueError("no path")
    path = files.find(row["path"])
    start, end = _seconds(row.get("start_s"), "start"), _seconds(row.get("end_s"), "end")
    if start is not None and end is not None and end <= start:
        raise ValueError(f"the segment ends at {end:g} s and starts at {start:g} s")
    segment = "" if start is None and end is None else f"_{start or 0:g}-{'end' if end is None else f'{end:g}'}"
    stem = path[: -len(PurePosixPath(path).suffix)] if PurePosixPath(path).suffix.lower() in KNOWN_SUFFIXES else path
    return Utterance(
        utterance_id=row.get("utterance_id") or stem.lstrip("/") + segment,
        path=path,
        start_s=start,
        end_s=end,
        label=normalise(row.get("label")),
        raw_label=row.get("label"),
        gender=_GENDERS.get(row["gender"].casefold(), row["gender"]) if "gender" in row else None,
        split=_SPLITS.get(row["split"].casefold(), row["split"]) if "split" in row else None,
        **{name: _number(row.get(name), name) for name in ("valence", "arousal", "dominance")},
        **{name: row.get(name) for name in ("speaker", "session", "dialogue", "scenario", "sentence", "transcript")},  # type: ignore[arg-type]
        extra=own,
    )


class _Files:
    """The audio files below a root, found by path, by path without extension, and by stem; walked once, when first needed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stems: dict[str, list[str]] | None = None
        self._paths: set[str] = set()

    def _walk(self) -> dict[str, list[str]]:
        if self._stems is None:
            self._stems = {}
            for path in audio_files(self.root):
                name = relative(path, self.root)
                self._paths.add(name)
                keys = {name.rpartition(".")[0], path.stem}
                for key in keys:
                    self._stems.setdefault(key, []).append(name)
        return self._stems

    def find(self, text: str) -> str:
        """Return the path of a value; one that is not there is returned as it was meant, and the scan reports it."""
        value = text.replace("\\", "/")
        if Path(value).is_absolute():
            return relative(Path(value), self.root)
        value = str(PurePosixPath(value))
        stems = self._walk()
        if value in self._paths:
            return value
        matches = stems.get(value, [])
        if len(matches) > 1:
            raise ValueError(f"{text!r} may be {' or '.join(matches[:3])}; write the path with its folder and extension")
        return matches[0] if matches else value


def _load(file: Path, delimiter: str | None) -> pa.Table:
    if not file.is_file():
        raise UsageError(f"--table {file}: no such file")
    import pyarrow as pa

    try:
        if file.suffix.lower() in {".parquet", ".pq"}:
            import pyarrow.parquet as pq

            return pq.read_table(file)
        return _read_csv(file, delimiter)
    except (pa.ArrowInvalid, OSError, csv.Error) as error:
        raise TfserError(f"{file}: cannot be read as a table ({str(error).splitlines()[0]})") from error


def _read_csv(file: Path, delimiter: str | None) -> pa.Table:
    """Read delimited text: known columns as text (speaker 03 stays 03), the rest typed by their values."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    data = read_text(file).encode("utf-8")
    if not data.strip():
        raise TfserError(f"{file}: the table is empty")
    header = data.split(b"\n", 1)[0].decode("utf-8").rstrip("\r")
    mark = delimiter or max(",;\t|", key=header.count)
    names = next(csv.reader([header], delimiter=mark))
    usual = {alias for aliases in USUAL_NAMES.values() for alias in aliases}
    text = {name: pa.string() for name in names if name.strip().casefold() in usual or re.search(r"id$|^id|name", name, re.I)}
    table = arrow_csv.read_csv(
        pa.BufferReader(data),
        parse_options=arrow_csv.ParseOptions(delimiter=mark, newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(column_types=text, strings_can_be_null=True, null_values=[""]),
    )
    return table.rename_columns([name.strip() for name in table.column_names])


def _columns(file: Path, present: Sequence[str], chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the table's column for each of ours: as chosen, else by its usual names."""
    folded = {name.strip().casefold(): name for name in reversed(present)}
    result: dict[str, str] = {}
    for ours, theirs in chosen.items():
        name = _ALIASES.get(ours, ours)
        if name not in USUAL_NAMES:
            raise UsageError(f"--column {ours}={theirs}: {ours!r} is none of {', '.join(USUAL_NAMES)}")
        if theirs.casefold() not in folded:
            raise UsageError(f"--column {ours}={theirs}: {file} has no such column; it has {', '.join(present)}")
        result[name] = folded[theirs.casefold()]
    for name, aliases in USUAL_NAMES.items():
        if name not in result:
            free = (folded[a] for a in aliases if a in folded and folded[a] not in result.values())
            if (column := next(free, None)) is not None:
                result[name] = column
    return result


def _clean(value: Any) -> str | None:
    """Return a value as text without blanks around it; nothing for an empty one."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


def _seconds(text: str | None, which: str) -> float | None:
    """Read seconds, or a clock time like 00:01:02.5."""
    if text is None:
        return None
    if clock := _CLOCK.fullmatch(text):
        return int(clock[1] or 0) * 3600 + int(clock[2]) * 60 + float(clock[3].replace(",", "."))
    value = _number(text, which)
    if value is not None and value < 0:
        raise ValueError(f"{which} {text!r} is before the beginning")
    return value


def _number(text: str | None, which: str) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{which} {text!r} is no number") from None


READER = CorpusReader(
    name="table",
    summary="a corpus of your own: a csv, tsv or Parquet table and a root folder (--table FILE [--name NAME] [--column ...])",
    source="your own",
    layout="  FILE.csv with at least a column path (and label, speaker, session, split, start, end where you have them)\n"
    "  ROOT/<path>   (ROOT is the table's folder unless --root names another)",
    read=read,
    default_protocol=None,
    options=("table", "columns", "delimiter"),
)
