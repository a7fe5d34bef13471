"""Foreign splits: files in which toolkits and papers publish who trains and who tests, read without knowing the corpus.

What comes in: csv, tsv, json, jsonl or plain lists, one or several, or a folder of them. What goes out: `Entry` rows, each with
what the file writes for an utterance, its fold and role where they are said, and what the file says of label and speaker.
`matching` finds the utterances. The shapes, as public repositories have them:

* one file a side: the role is a word of the file's name (train.csv, emodb_test_fold_1.jsonl), the fold a number in it or in its
  folder's (fold_1/, Session3/);
* one file with columns: split, set, subset, partition, role ... hold the role, fold the fold; or a column a fold (fold_1 ...);
* a fold column and no role: each fold tests its utterances and trains on the others;
* s3prl's IEMOCAP json: Session1/train_meta_data.json with {"labels": {...}, "meta_data": [{"path", "label", "speaker"}]};
* EmoBox's jsonl (key, dataset, wav, emo ... a line), and json keyed by utterance, as SpeechBrain writes it, too;
* json of lists or maps by role, by fold, or both.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.natural import natural_key

ROLES = {
    "train": "train training trn tr",
    "val": "val valid validation dev devel development",
    "test": "test testing tst eval evaluation",
}
"""The words for each role, in file names, columns and keys."""

_ROLE_OF = {word: role for role, words in ROLES.items() for word in words.split()}
_ROLE_COLUMNS = ("split", "role", "set", "subset", "partition", "fold", "part", "phase", "usage", "split_set", "data_split")
_FOLD_COLUMNS = ("fold", "folds", "fold_id", "cv", "cv_fold", "split", "partition", "set", "test_fold", "session_fold")
_LABEL_COLUMNS = ("label", "emotion", "emo", "class", "category", "emotion_label", "target")
_SPEAKER_COLUMNS = ("speaker", "speaker_id", "spk", "spk_id", "spkid", "actor", "actor_id", "subject")
_NAME_COLUMNS = (
    *("utterance_id", "utt_id", "uttid", "utterance", "utt", "id", "key", "name", "segment_id", "sample_id", "file_id"),
    *("path", "wav", "file", "filename", "file_name", "file_path", "filepath", "wav_path", "wav_file", "audio", "audio_path"),
    *("audio_file", "audio_filepath", "audio_filename", "fname", "clip"),
)
_KNOWN_COLUMNS = frozenset((*_NAME_COLUMNS, *_ROLE_COLUMNS, *_FOLD_COLUMNS, *_LABEL_COLUMNS, *_SPEAKER_COLUMNS))
_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".lst", ".list", ".scp")
_FOLD_WORD = re.compile(r"(?<![a-z])(?:fold|session|sess|ses|split|cv)[\s_-]*(\d+)", re.I)
_WIDE = re.compile(r"(?:fold|split|cv)[\s_-]*\d+", re.I)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
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
class Split:
    """What was read: the rows, the folds' names in order (fold k is the k-th), what it is called, and notes for people."""

    name: str
    entries: tuple[Entry, ...]
    folds: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(kw_only=True)
class _Context:
    """Where the reader is in a file."""

    file: str
    fold: str | None
    role: str | None
    line: int = 0
    entries: list[Entry] = field(default_factory=list)

    def fail(self, reason: str) -> UsageError:
        return UsageError(f"--split {self.file}: {reason}")


def read_split(paths: Sequence[Path]) -> Split:
    """Read a foreign split.

    Raises:
        UsageError: if a file is not there or of no known shape, a side cannot be told, or there is no test side.
        TfserError: if a file cannot be read.
    """
    files: list[Path] = []
    notes: list[str] = []
    for path in paths:
        if path.is_dir():
            files += _files(path, notes)
        elif path.is_file():
            files.append(path)
        else:
            raise UsageError(f"--split {path}: no such file or folder")
    entries: list[Entry] = []
    for file in files:
        entries += _read_file(file)
    _check(entries, files)
    by_fold = all(entry.role is None for entry in entries)
    if not by_fold and any(entry.role is None for entry in entries):
        odd = next(entry for entry in entries if entry.role is None)
        raise UsageError(f"--split {odd.file}: row {odd.line} says no role, though others do; give each row train, val or test")
    folds = sorted({entry.fold or "1" for entry in entries}, key=natural_key)
    stem = paths[0].name if len(paths) == 1 else " + ".join(path.name for path in paths[:3]) + (" ..." if len(paths) > 3 else "")
    return Split(name=f"split:{stem}", entries=tuple(entries), folds=tuple(folds), notes=tuple(notes))


def role_of(word: str | None) -> str | None:
    """Return the role that a word names.

    >>> role_of("Training"), role_of("dev"), role_of("eval"), role_of("angry")
    ('train', 'val', 'test', None)
    """
    return _ROLE_OF.get(word.strip().casefold()) if word else None


def role_of_name(name: str) -> str | None:
    """Return the role that a file's name holds as a word of its own; the last one counts.

    >>> role_of_name("emodb_train_fold_1.jsonl"), role_of_name("test_meta_data.json"), role_of_name("latest.csv")
    ('train', 'test', None)
    """
    words = re.findall(r"[a-z]+", re.sub(r"\.\w+$", "", name).casefold())
    found = [_ROLE_OF[word] for word in words if word in _ROLE_OF]
    return found[-1] if found else None


def fold_of_path(path: Path) -> str | None:
    """Return the number of the fold that a file's name, or its folder's, holds.

    >>> fold_of_path(Path("fold_1/emodb_test.jsonl")), fold_of_path(Path("Session3/test.json")), fold_of_path(Path("a.csv"))
    ('1', '3', None)
    """
    for name in (path.stem, path.parent.name):
        if match := _FOLD_WORD.search(name):
            return str(int(match[1]))
    return None


def _files(folder: Path, notes: list[str]) -> list[Path]:
    """Return the files of a folder that are sides of a split; of one side in two formats, the first of `_SUFFIXES`."""
    found = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix.casefold() in _SUFFIXES and p.name[0] not in "._"]
    sides = [p for p in found if role_of_name(p.name)]
    if not sides:
        raise UsageError(f"--split {folder}: no file in it names a side (train.csv, test.json, ...); name the files one by one")
    chosen: dict[tuple[Path, str], Path] = {}
    for path in sorted(sides, key=lambda p: _SUFFIXES.index(p.suffix.casefold())):
        chosen.setdefault((path.parent, path.stem), path)
    if left := len(found) - len(chosen):
        notes.append(f"{left} of {len(found)} files in {folder} are no side of their own and were left out")
    return sorted(chosen.values(), key=lambda p: natural_key(p.as_posix()))


def _read_file(path: Path) -> list[Entry]:
    """Return the rows of one file."""
    context = _Context(file=str(path), fold=fold_of_path(path), role=role_of_name(path.name))
    text = _text(path)
    suffix = path.suffix.casefold()
    if suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                context.line = number
                _walk(_loads(line, context), context, context.fold, context.role)
    elif suffix == ".json" or (suffix not in (".csv", ".tsv") and text.lstrip()[:1] in ("{", "[")):
        _walk(_loads(text, context), context, context.fold, context.role)
    else:
        _read_table(text, context)
    if not context.entries:
        raise context.fail("no row in it")
    return context.entries


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
    if isinstance(value.get("meta_data"), list):
        _walk(value["meta_data"], context, fold, role)
    elif any(name.casefold() in _NAME_COLUMNS for name in value) and not any(isinstance(v, dict) for v in value.values()):
        _record({str(k): v for k, v in value.items()}, context, fold, role, key)
    elif all(role_of(name) for name in value):
        for name, inner in value.items():
            _walk(inner, context, fold, role_of(name))
    elif all(isinstance(inner, str) and role_of(inner) for inner in value.values()):  # utterance: role
        for name, inner in value.items():
            _add(context, [name], {}, fold, role_of(inner))
    elif all(_FOLD_WORD.fullmatch(name.strip()) or name.strip().isdigit() for name in value) and all(
        isinstance(inner, (dict, list)) for inner in value.values()
    ):
        for name, inner in value.items():
            match = _FOLD_WORD.fullmatch(name.strip())
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
        raise context.fail(f"no known shape: an object with the keys {shown}; see the docstring of tfser.manifests.foreign")


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
    """Add the rows of one record: one, or one a fold where it has a column a fold."""
    wide = {name: role_of(value) for name, value in plain.items() if _WIDE.fullmatch(name) and role_of(value)}
    said = next((found for name in _ROLE_COLUMNS if (found := role_of(plain.get(name)))), None)
    own_fold = next((plain[name] for name in _FOLD_COLUMNS if name in plain and not role_of(plain[name])), None)
    if own_fold is not None and (match := _FOLD_WORD.fullmatch(own_fold)):
        own_fold = match[1]
    elif own_fold is not None and re.fullmatch(r"\d+\.0", own_fold):  # a table program took it for a number
        own_fold = own_fold[:-2]
    label = next((plain[name] for name in _LABEL_COLUMNS if name in plain), None)
    speaker = next((plain[name] for name in _SPEAKER_COLUMNS if name in plain), None)
    pairs: list[tuple[str | None, str | None]] = [(re.sub(r"\D+", "", name), found) for name, found in wide.items()]
    pairs = pairs or [(own_fold or fold, said or role)]
    for number, found in pairs:
        context.entries.append(
            Entry(
                file=context.file,
                line=context.line,
                names=tuple(dict.fromkeys(name for name in names if name)),
                fold=number,
                role=found,
                label=label,
                speaker=speaker,
            )
        )


def _read_table(text: str, context: _Context) -> None:
    """Read csv, tsv, or a plain list of ids or paths; a first line without a known column's name is a row."""
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t|", key=first.count) if any(mark in first for mark in ",;\t|") else ","
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    header: list[str] | None = None
    for row in rows:
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        context.line = rows.line_num
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
            _add(context, names or others[:1], plain, context.fold, context.role)
        else:
            roles = [cell for cell in cells[1:] if role_of(cell)]
            _add(context, cells[:1], {"split": roles[0]} if roles else {}, context.fold, context.role)


def _check(entries: Sequence[Entry], files: Sequence[Path]) -> None:
    roles = {entry.role for entry in entries}
    if roles == {None}:
        folds = {entry.fold for entry in entries}
        if None in folds or len(folds) < 2:
            raise UsageError(
                f"--split {files[0]}: neither a column (split, set, partition, fold, ...) nor the file's name says who trains "
                "and who tests; name the files train.csv and test.csv, or add a column split"
            )
    elif "test" not in roles or "train" not in roles:
        lacking = "test" if "test" not in roles else "train"
        raise UsageError(f"--split {files[0]}: there is no {lacking} side; name its file, too, with another --split")
    if nameless := next((entry for entry in entries if not entry.names), None):
        raise UsageError(
            f"--split {nameless.file}: row {nameless.line} names no utterance (columns {', '.join(_NAME_COLUMNS[:6])} ...)"
        )
