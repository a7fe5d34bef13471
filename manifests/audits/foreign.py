"""Foreign splits: files in which toolkits and papers publish who trains and who tests, read without knowing the corpus.

What comes in: csv, tsv, json, jsonl or plain lists, one or several, or a folder of them. What goes out: `SplitRow` rows, each
with what the file writes for an utterance, its fold and role where they are said, and what the file says of label and speaker.
`split_records` reads each file, `matching` finds the utterances. The shapes, as public repositories have them:

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

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tfser.manifests.audits.split_files import Place, place, role_of_name
from tfser.manifests.audits.split_records import NAME_COLUMNS, SplitRow, read_file
from tfser.manifests.errors import UsageError
from tfser.manifests.natural import natural_key

_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".lst", ".list", ".scp")


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
        entries += read_file(file, places[file])
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
            f"--split {nameless.file}: row {nameless.line} names no utterance (columns {', '.join(NAME_COLUMNS[:6])} ...)"
        )
