"""One file of a foreign split: its records, whatever their shape, and what they say of fold, role, label and speaker.

What comes in: a file, and its place among the others (`split_files`). What goes out: `SplitRow` rows; which columns are folds and
which are roles is judged over all records of the file. `foreign` puts the files together.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfser.manifests.audits.split_files import FOLD_WORD, Place, numbered_role, role_of
from tfser.manifests.errors import TfserError, UsageError

_ROLE_COLUMNS = ("split", "role", "set", "subset", "partition", "fold", "part", "phase", "usage", "split_set", "data_split")
_OWN_FOLD_COLUMNS = ("fold", "folds", "fold_id", "cv", "cv_fold", "test_fold", "session_fold")
"""Columns that say a fold, or a role, and nothing else."""
_FOLD_COLUMNS = (*_OWN_FOLD_COLUMNS[:5], "split", "partition", "set", *_OWN_FOLD_COLUMNS[5:])
_LABEL_COLUMNS = ("label", "emotion", "emo", "class", "category", "emotion_label", "target")
_SPEAKER_COLUMNS = ("speaker", "speaker_id", "spk", "spk_id", "spkid", "actor", "actor_id", "subject")
NAME_COLUMNS = (
    *("utterance_id", "utt_id", "uttid", "utterance", "utt", "id", "key", "name", "segment_id", "sample_id", "file_id"),
    *("path", "wav", "file", "filename", "file_name", "file_path", "filepath", "wav_path", "wav_file", "audio", "audio_path"),
    *("audio_file", "audio_filepath", "audio_filename", "fname", "clip"),
)
_KNOWN_COLUMNS = frozenset((*NAME_COLUMNS, *_ROLE_COLUMNS, *_FOLD_COLUMNS, *_LABEL_COLUMNS, *_SPEAKER_COLUMNS))
_WIDE = re.compile(r"(?:.*[\s_-])?(?:fold|split|cv)[\s_-]*(\d+)", re.I)


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitRow:
    """One row of a foreign split.

    `names` are the values that may be the utterance's id or path, the likeliest first. `fold` is the fold's name as the file has
    it. `role` is train, val or test; None: by fold.
    """

    file: str
    line: int
    names: tuple[str, ...]
    fold: str | None = None
    role: str | None = None
    label: str | None = None
    speaker: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    """One record of a file before its columns are judged: line, names, values by column, fold and role that its place says."""

    line: int
    names: tuple[str, ...]
    plain: Mapping[str, str]
    fold: str | None
    role: str | None


@dataclass(kw_only=True)
class _Context:
    """Where the reader is in a file, and what it has found there."""

    file: str
    place: Place
    line: int = 0
    records: list[_Record] = field(default_factory=list)

    @property
    def fold(self) -> str | None:
        """The fold of the file's rows, where it is one."""
        return self.place.folds[0] if len(self.place.folds) == 1 else None

    def fail(self, reason: str) -> UsageError:
        return UsageError(f"--split {self.file}: {reason}")


def read_file(path: Path, where: Place) -> list[SplitRow]:
    """Return the rows of one file."""
    context = _Context(file=str(path), place=where)
    text = _text(path)
    suffix = path.suffix.casefold()
    if suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):  # not splitlines: U+0085 and U+2028 may stand in a text
            if line.strip():
                context.line = number
                _walk(_loads(line, context), context, context.fold, where.role)
    elif suffix == ".json" or (suffix not in (".csv", ".tsv") and text.lstrip()[:1] in ("{", "[")):
        _walk(_loads(text, context), context, context.fold, where.role)
    else:
        _read_table(text, context)
    if not context.records:
        raise context.fail("no row in it")
    return _entries(context)


def _text(path: Path) -> str:
    """Return a file's text: UTF-8 or UTF-16 as its mark says, else UTF-8, else Windows-1252."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TfserError(f"--split {path}: cannot be read ({error.strerror})") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _loads(text: str, context: _Context) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f"line {context.line}: " if context.line else ""
        raise context.fail(f"{where}this is no JSON ({error})") from error


def _walk(value: Any, context: _Context, fold: str | None, role: str | None, key: str | None = None) -> None:
    """Follow a JSON value down to its rows: records, or names in lists."""
    if isinstance(value, str):
        _add(context, [value], {}, fold, role_of(key) or role)
    elif isinstance(value, list):
        for number, item in enumerate(value, 1):
            context.line = number if not context.file.endswith(".jsonl") else context.line
            _walk(item, context, fold, role)
    elif isinstance(value, dict):
        _walk_map(value, context, fold, role, key)
    else:
        raise context.fail(f"{json.dumps(value)[:40]} stands where an utterance is expected")


def _walk_map(value: dict[str, Any], context: _Context, fold: str | None, role: str | None, key: str | None) -> None:
    # From the surest sign to the vaguest, since one object may look like several shapes: a record has columns
    # that name utterances, sides are words for roles, folds are numbers, and whatever else maps names to
    # objects is taken for utterances.
    if isinstance(value.get("meta_data"), list):
        _walk(value["meta_data"], context, fold, role)
    elif any(name.casefold() in NAME_COLUMNS for name in value) and not any(isinstance(v, dict) for v in value.values()):
        _record({str(k): v for k, v in value.items()}, context, fold, role, key)
    elif all(role_of(name) for name in value):
        numbered = _numbers_are_folds(value)
        for name, inner in value.items():
            said, behind = numbered_role(name)
            _walk(inner, context, behind if numbered else fold, said)
    elif all(isinstance(inner, str) and role_of(inner) for inner in value.values()):  # utterance: role
        for name, inner in value.items():
            _add(context, [name], {"split": inner}, fold, role)
    elif all(FOLD_WORD.fullmatch(name.strip()) or name.strip().isdigit() for name in value) and all(
        isinstance(inner, (dict, list)) for inner in value.values()
    ):
        for name, inner in value.items():
            match = FOLD_WORD.fullmatch(name.strip())
            _walk(inner, context, match[1] if match else name.strip(), role)
    elif value and all(isinstance(inner, dict) for inner in value.values()):  # utterance: record
        for number, (name, inner) in enumerate(value.items(), 1):
            context.line = number
            _record({str(k): v for k, v in inner.items()}, context, fold, role, name)
    elif len(lists := [inner for inner in value.values() if isinstance(inner, list)]) == 1:
        _walk(lists[0], context, fold, role)
    elif key is not None:
        _record({str(k): v for k, v in value.items()}, context, fold, role, key)
    else:
        shown = ", ".join(list(value)[:5])
        raise context.fail(f"no known shape: an object with the keys {shown}; see tfser.manifests.audits.foreign")


def _record(record: Mapping[str, Any], context: _Context, fold: str | None, role: str | None, key: str | None = None) -> None:
    said = {name.strip().casefold(): value for name, value in record.items() if isinstance(value, (str, int, float))}
    plain = {name: str(value).strip() for name, value in said.items() if value != ""}
    names = _names(plain)
    _add(context, [key, *names] if key is not None else names, plain, fold, role)


def _names(plain: Mapping[str, str]) -> list[str]:
    """Return the values of a record that may name its utterance; MELD's two numbers are one name."""
    if "dialogue_id" in plain and plain.get("utterance_id", "").isdigit():
        return [f"dia{plain['dialogue_id']}_utt{plain['utterance_id']}"]
    return [plain[name] for name in NAME_COLUMNS if name in plain]


def _add(context: _Context, names: list[str], plain: Mapping[str, str], fold: str | None, role: str | None) -> None:
    """Keep one record until the whole file is read: what a column is shows in all of its values."""
    told = tuple(dict.fromkeys(name for name in names if name))
    context.records.append(_Record(line=context.line, names=told, plain=plain, fold=fold, role=role))


def _entries(context: _Context) -> list[SplitRow]:
    """Return the rows of a file's records: one each, or one a fold where there is a column a fold, or the file is of several."""
    # What a column means shows in all of its values: numbers behind roles are folds only if training and
    # testing have the same ones, and a column of another name is a role only if every value is.
    sides_by_file = context.place.role is not None
    numbered = _numbers_are_folds(r.plain[name] for r in context.records for name in _ROLE_COLUMNS if name in r.plain)
    columns = _ROLE_COLUMNS if any(_said(r.plain, _ROLE_COLUMNS) or r.role for r in context.records) else _hidden_role(context)
    entries: list[SplitRow] = []
    for record in context.records:
        plain = record.plain
        # A column a fold makes one row of the file several rows of the split.
        wide = [(match[1], role_of(v)) for name, v in plain.items() if (match := _WIDE.fullmatch(name)) and role_of(v)]
        written = _said(plain, columns)
        of_fold = _OWN_FOLD_COLUMNS if sides_by_file else _FOLD_COLUMNS
        own_fold = next((plain[name] for name in of_fold if name in plain and not role_of(plain[name])), None)
        if own_fold is not None and (match := FOLD_WORD.fullmatch(own_fold)):
            own_fold = match[1]
        elif own_fold is not None and re.fullmatch(r"\d+\.0", own_fold):  # a table program took it for a number
            own_fold = own_fold[:-2]
        elif own_fold is None and written is not None and numbered:
            own_fold = written[1]
        role = written[0] if written else record.role
        if len(context.place.folds) > 1:  # a side that all folds share
            pairs: list[tuple[str | None, str | None]] = [(fold, role) for fold in context.place.folds]
        elif wide:
            pairs = list(wide)
        else:
            pairs = [(own_fold or record.fold, role)]
        label = next((plain[name] for name in _LABEL_COLUMNS if name in plain), None)
        speaker = next((plain[name] for name in _SPEAKER_COLUMNS if name in plain), None)
        entries += [
            SplitRow(
                file=context.file,
                line=record.line,
                names=record.names,
                fold=number,
                role=found,
                label=label,
                speaker=speaker,
            )
            for number, found in pairs
        ]
    return entries


def _said(plain: Mapping[str, str], columns: Sequence[str]) -> tuple[str, str | None] | None:
    """Return the role that a record's columns say, with the number behind it (Test2)."""
    for name in columns:
        role, number = numbered_role(plain.get(name, ""))
        if role is not None:
            return role, number
    return None


def _numbers_are_folds(words: Iterable[str]) -> bool:
    """Tell whether numbers behind roles (train1, test1, train2 ...) are folds: training and testing have the same, several."""
    numbers: dict[str, set[str | None]] = {}
    for word in set(words):
        role, number = numbered_role(word)
        if role is not None:
            numbers.setdefault(role, set()).add(number)
    trained, tested = numbers.get("train", set()), numbers.get("test", numbers.get("val", set()))
    return trained == tested and None not in trained and len(trained) > 1


def _hidden_role(context: _Context) -> Sequence[str]:
    """Return the column of a name of its own (state, ...) whose every value is a role; nothing if there is none."""
    values: dict[str, list[str | None]] = {}
    for record in context.records:
        for name, value in record.plain.items():
            if name not in _KNOWN_COLUMNS:
                values.setdefault(name, []).append(role_of(value))
    full = [name for name, roles in values.items() if len(roles) == len(context.records) and None not in roles]
    return [name for name in full if len(set(values[name])) > 1][:1]


def _read_table(text: str, context: _Context) -> None:
    """Read csv, tsv, or a plain list of ids or paths; a first line without a known column's name is a row."""
    # Delimiters are counted in the first line alone: texts further down hold commas of their own.
    first = next((line for line in text.split("\n") if line.strip()), "")
    delimiter = max(",;\t|", key=first.count) if any(mark in first for mark in ",;\t|") else ","
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    header: list[str] | None = None
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            context.line = rows.line_num
            # The first line that holds anything is a header if it names a known column, else the first row.
            if header is None:
                folded = [cell.casefold() for cell in cells]
                if any(name in _KNOWN_COLUMNS or _WIDE.fullmatch(name) for name in folded):
                    header = folded
                    continue
                header = []
            if header:
                plain = {name: cell for name, cell in zip(header, cells, strict=False) if cell}
                names = _names(plain)
                others = [cell for name, cell in plain.items() if name not in _KNOWN_COLUMNS]
                _add(context, names or others[:1], plain, context.fold, context.place.role)
            else:
                roles = [cell for cell in cells[1:] if role_of(cell)]
                _add(context, cells[:1], {"split": roles[0]} if roles else {}, context.fold, context.place.role)
    except csv.Error as error:
        raise context.fail(f"line {rows.line_num}: this is no table ({error})") from error
