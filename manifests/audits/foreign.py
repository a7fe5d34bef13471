"""Foreign splits: files in which toolkits and papers publish who trains and who tests, read without knowing the corpus.

What comes in: csv, tsv, json, jsonl or plain lists, one or several, or a folder of them. What goes out: `SplitRow` rows, each
with what the file writes for an utterance, its fold and role where they are said, and what the file says of label and speaker.
`matching` finds the utterances. The shapes, as public repositories have them:

* one file a side: the role is a word of the file's name, and what else differs in the names is the fold (`split_files`);
* one file with columns: split, set, subset, partition, role ... hold the role, fold the fold; or a column a fold (fold_1 ...); a
  column of another name whose every value is a role does as well;
* a fold column and no role: each fold tests its utterances and trains on the others;
* s3prl's IEMOCAP json: Session1/train_meta_data.json with {"labels": {...}, "meta_data": [{"path", "label", "speaker"}]};
* EmoBox's jsonl (key, dataset, wav, emo ... a line), and json keyed by utterance, as SpeechBrain writes it, too;
* json of lists or maps by role, by fold, or both.

Where files name the sides, a column split is a role or nothing, and a column fold counts only if all sides have the same folds.
Without a test side, the validation side is judged as what is tested: two sides are enough to look for shared speakers.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tfser.manifests.audits.split_files import FOLD_WORD, Place, numbered_role, place, role_of, role_of_name
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.natural import natural_key

_ROLE_COLUMNS = ("split", "role", "set", "subset", "partition", "fold", "part", "phase", "usage", "split_set", "data_split")
_OWN_FOLD_COLUMNS = ("fold", "folds", "fold_id", "cv", "cv_fold", "test_fold", "session_fold")
"""Columns that say a fold, or a role, and nothing else."""
_FOLD_COLUMNS = (*_OWN_FOLD_COLUMNS[:5], "split", "partition", "set", *_OWN_FOLD_COLUMNS[5:])
_LABEL_COLUMNS = ("label", "emotion", "emo", "class", "category", "emotion_label", "target")
_SPEAKER_COLUMNS = ("speaker", "speaker_id", "spk", "spk_id", "spkid", "actor", "actor_id", "subject")
_NAME_COLUMNS = (
    *("utterance_id", "utt_id", "uttid", "utterance", "utt", "id", "key", "name", "segment_id", "sample_id", "file_id"),
    *("path", "wav", "file", "filename", "file_name", "file_path", "filepath", "wav_path", "wav_file", "audio", "audio_path"),
    *("audio_file", "audio_filepath", "audio_filename", "fname", "clip"),
)
_KNOWN_COLUMNS = frozenset((*_NAME_COLUMNS, *_ROLE_COLUMNS, *_FOLD_COLUMNS, *_LABEL_COLUMNS, *_SPEAKER_COLUMNS))
_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".lst", ".list", ".scp")
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


@dataclass(frozen=True, kw_only=True)
class ForeignSplit:
    """What was read: the rows, the folds' names in order, what it is called, and notes for people."""

    name: str
    entries: tuple[SplitRow, ...]
    folds: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def numbers(self) -> dict[str, int]:
        """The number of each fold: its own where all of them are called by numbers, else its place among them."""
        if all(re.fullmatch(r"\d{1,9}", name) for name in self.folds):
            return {name: int(name) for name in self.folds}
        return {name: i for i, name in enumerate(self.folds, 1)}


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


def read_split(paths: Sequence[Path]) -> ForeignSplit:
    """Read a foreign split.

    Raises:
        UsageError: if a file is not there or of no known shape, a side or a fold cannot be told, or a fold lacks a side.
        TfserError: if a file cannot be read.
    """
    roles: dict[Path, str | None] = {}
    notes: list[str] = []
    for path in paths:
        if path.is_dir():
            roles |= _files(path, notes)
        elif path.is_file():
            roles[path] = role_of_name(path.name)
        else:
            raise UsageError(f"--split {path}: no such file or folder")
    places = place(list(roles), roles, notes)
    entries: list[SplitRow] = []
    for file in roles:
        entries += _read_file(file, places[file])
    entries = _settle(entries, places, notes)
    _check(entries)
    folds = sorted({entry.fold or "1" for entry in entries}, key=natural_key)
    split = ForeignSplit(name=f"split:{_called(paths)}", entries=tuple(entries), folds=tuple(folds))
    if renamed := [f"{number} is {name}" for name, number in split.numbers.items() if not name.isdecimal()]:
        notes.append(f"folds by number: {', '.join(renamed[:10])}{' ...' if len(renamed) > 10 else ''}")
    return replace(split, notes=tuple(notes))


def _called(paths: Sequence[Path]) -> str:
    """Return the split's name: its first files' names, also where a path is written `.` or `..`."""
    names = [path.name if path.name not in ("", "..") else path.resolve().name or str(path) for path in paths[:3]]
    return " + ".join(names) + (" ..." if len(paths) > 3 else "")


def _files(folder: Path, notes: list[str]) -> dict[Path, str | None]:
    """Return the files of a folder that are sides of a split, with their roles; of one side in two formats, the first suffix.

    Where no file's name says a role, that of the folder it lies in counts (train/1.csv, test/1.csv).
    """
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix.casefold() in _SUFFIXES and p.name[0] not in "._"]
    roles = {p: role_of_name(p.name) for p in files}
    if not any(roles.values()):
        for p in files:
            below = reversed(p.relative_to(folder).parts[:-1])
            roles[p] = next((role for part in below if (role := role_of_name(f"{part}.csv"))), None)
    if not any(roles.values()):
        raise UsageError(f"--split {folder}: no file in it names a side (train.csv, test.json, ...); name the files one by one")
    chosen: dict[tuple[Path, str], Path] = {}
    for path in sorted((p for p in files if roles[p]), key=lambda p: _SUFFIXES.index(p.suffix.casefold())):
        chosen.setdefault((path.parent, path.stem), path)
    if left := len(files) - len(chosen):
        notes.append(f"{left} of {len(files)} files in {folder} are no side of their own and were left out")
    return {path: roles[path] for path in sorted(chosen.values(), key=lambda p: natural_key(p.as_posix()))}


def _read_file(path: Path, where: Place) -> list[SplitRow]:
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
    elif any(name.casefold() in _NAME_COLUMNS for name in value) and not any(isinstance(v, dict) for v in value.values()):
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
    return [plain[name] for name in _NAME_COLUMNS if name in plain]


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


def _settle(entries: Sequence[SplitRow], places: Mapping[Path, Place], notes: list[str]) -> list[SplitRow]:
    """Return the rows with folds that are folds, and with a side that is tested.

    A column fold of files that name their sides is dropped where the sides do not have the same folds: it numbers something else.
    """
    settled = list(entries)
    by_file = {str(file): where for file, where in places.items() if where.role is not None}
    if by_file and len({fold for where in by_file.values() for fold in where.folds}) < 2:
        folds: dict[str | None, set[str | None]] = {}
        for entry in entries:
            if entry.file in by_file:
                folds.setdefault(entry.role, set()).add(entry.fold)
        tested = folds.get("test", folds.get("val", set()))
        if folds.get("train", tested) != tested:
            fold_of = {file: (where.folds or ("1",))[0] for file, where in by_file.items()}
            settled = [replace(e, fold=fold_of[e.file]) if e.file in by_file else e for e in entries]
            notes.append("the column of folds was not used: the files name the sides, and these have not the same folds")
    roles = {entry.role for entry in settled}
    if roles == {"train", "val"}:
        notes.append("there is no test side: the validation side is judged as what is tested")
        settled = [replace(e, role="test") if e.role == "val" else e for e in settled]
    return settled


def _check(entries: Sequence[SplitRow]) -> None:
    """Refuse rows of which nobody can say who trains and who tests.

    Raises:
        UsageError: with the file, and the way out.
    """
    # Rows without roles are folds that test their own, several of them. Rows of which some have roles are a file that
    # was read wrongly, and with roles every fold needs both sides.
    roles = {entry.role for entry in entries}
    if roles == {None}:
        folds = {entry.fold for entry in entries}
        if None in folds or len(folds) < 2:
            raise UsageError(
                f"--split {entries[0].file}: neither a column (split, set, partition, fold, ...) nor the file's name says who "
                "trains and who tests; name the files train.csv and test.csv, or add a column split"
            )
    elif None in roles:
        odd = next(entry for entry in entries if entry.role is None)
        raise UsageError(f"--split {odd.file}: row {odd.line} says no role, though others do; give each row train, val or test")
    else:
        sides: dict[str, set[str | None]] = {}
        for entry in entries:
            sides.setdefault(entry.fold or "1", set()).add(entry.role)
        for fold, of_fold in sorted(sides.items(), key=lambda item: natural_key(item[0])):
            for side in ("test", "train"):
                if side not in of_fold:
                    which = f"fold {fold} has no {side} side" if len(sides) > 1 else f"there is no {side} side"
                    example = next(entry for entry in entries if (entry.fold or "1") == fold)
                    raise UsageError(f"--split {example.file}: {which}; name its file, too, with another --split")
    if nameless := next((entry for entry in entries if not entry.names), None):
        raise UsageError(
            f"--split {nameless.file}: row {nameless.line} names no utterance (columns {', '.join(_NAME_COLUMNS[:6])} ...)"
        )
