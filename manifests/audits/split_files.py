"""Which side of which fold each file of a foreign split is, told from the files' names alone.

Comes in: the files. Goes out: a `Place` for each. A name holds its role as a word (train.csv, emodb_test_fold_1.jsonl); what is
left of the names of one role, where it differs, tells the folds apart: numbers (train1, train2; 1.train, 2.train) or
words (anna/train, bert/train). Files are folds where train and test differ in the same way. A side that has one file belongs
to all folds; several test files beside one file to train on are one test side. Whatever else would have to be guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfser.manifests.errors import UsageError
from tfser.manifests.natural import natural_key
from tfser.manifests.wording import listed

ROLES = {
    "train": "train training trn tr",
    "val": "val valid validation dev devel development",
    "test": "test testing tst eval evaluation",
}
"""The words for each role, in file names, columns and keys."""

_ROLE_OF = {word: role for role, words in ROLES.items() for word in words.split()}
FOLD_WORD = re.compile(r"(?<![a-z])(?:fold|session|sess|ses|split|cv)[\s_-]*(\d+)", re.I)

_Key = tuple[str, ...]
_ByRole = dict[str, dict[_Key, Path]]
"""The files of each role, by what tells them from one another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """The role that a file's name gives its rows, and the folds in which they have it; no fold: nothing says one."""

    role: str | None
    folds: tuple[str, ...] = ()


def role_of(word: str | None) -> str | None:
    """Return the role that a word names, whatever number it bears.

    >>> role_of("Training"), role_of("dev"), role_of("Test 2"), role_of("angry")
    ('train', 'val', 'test', None)
    """
    return numbered_role(word)[0] if word else None


def numbered_role(word: str) -> tuple[str | None, str | None]:
    """Return the role that a word names, and the number behind it.

    >>> numbered_role("Test1"), numbered_role("train_02"), numbered_role("dev"), numbered_role("s1")
    (('test', '1'), ('train', '2'), ('val', None), (None, None))
    """
    match = re.fullmatch(r"([a-z]+)(?:[\s_-]*(\d+))?", word.strip().casefold())
    if match is None or match[1] not in _ROLE_OF:
        return None, None
    return _ROLE_OF[match[1]], str(int(match[2])) if match[2] else None


def role_of_name(name: str) -> str | None:
    """Return the role that a file's name holds as a word of its own; the last one counts.

    >>> role_of_name("emodb_train_fold_1.jsonl"), role_of_name("1.test.json"), role_of_name("latest.csv")
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
        if match := FOLD_WORD.search(name):
            return str(int(match[1]))
    return None


def place(files: Sequence[Path], roles: Mapping[Path, str | None], notes: list[str]) -> dict[Path, Place]:
    """Return the place of each file.

    Args:
        files: those of the split.
        roles: what their names say.
        notes: gets a line where several files are taken for one side.

    Raises:
        UsageError: if files say the same role and nothing tells how they belong together, or a fold lacks a side.
    """
    places = {file: Place(role=None, folds=_one(fold_of_path(file))) for file in files}
    by_role: _ByRole = {}
    for role in ROLES:
        of_role = [file for file in files if roles[file] == role]
        for file, key in _keys(of_role, role).items():
            if (other := by_role.setdefault(role, {}).setdefault(key, file)) is not file:
                raise _cannot_tell(role, [other, file])
    by_role = {role: of_keys for role, of_keys in by_role.items() if of_keys}
    if len(by_role.get("train", ())) > 1:
        return places | _of_several_folds(by_role)
    return places | _of_one_fold(by_role, notes)


def _of_one_fold(by_role: _ByRole, notes: list[str]) -> dict[Path, Place]:
    """Return the places of one file a side, or of one to train on and several to validate or test on."""
    numbers = {number for of_keys in by_role.values() for file in of_keys.values() if (number := fold_of_path(file))}
    folds = tuple(numbers) if len(numbers) == 1 else ()  # numbers that differ by side are no folds
    places: dict[Path, Place] = {}
    for role, of_keys in by_role.items():
        places |= {file: Place(role=role, folds=folds) for file in of_keys.values()}
        if len(of_keys) > 1 and "train" not in by_role:
            raise _cannot_tell(role, list(of_keys.values()))
        if len(of_keys) > 1:
            notes.append(f"{_named(of_keys.values())}: taken together as the {role} side of one fold")
    return places


def _of_several_folds(by_role: _ByRole) -> dict[Path, Place]:
    """Return the places of files of several folds.

    What is trained on and what is tested (or validated, where nothing is tested) differ in the same way: a file of the one
    belongs to the file of the other that differs from its fellows in the same words.
    """
    several = {role: of_keys for role, of_keys in by_role.items() if len(of_keys) > 1}
    side = "test" if "test" in several else "val"
    if side not in several:
        raise _cannot_tell("train", list(several["train"].values()))
    if not set(several["train"]) & set(several[side]):
        raise _cannot_tell("train", list(several["train"].values()))
    for one, opposite in (("train", side), (side, "train")):
        if alone := [file for key, file in several[one].items() if key not in several[opposite]]:
            raise UsageError(f"--split {alone[0]}: its fold has no {opposite} side; name the {opposite} file of that fold, too")
    names = {key: "-".join(key) for key in several["train"]}
    places: dict[Path, Place] = {}
    for role, of_keys in by_role.items():
        if role in several and not set(of_keys) <= set(names):
            raise _cannot_tell(role, list(of_keys.values()))
        for key, file in of_keys.items():
            every = tuple(sorted(names.values(), key=natural_key))
            places[file] = Place(role=role, folds=(names[key],) if role in several else every)
    return places


def _keys(files: Sequence[Path], role: str) -> dict[Path, _Key]:
    """Return in what the names of one role differ: the words and numbers of each path that are not the same in all."""
    parts = {file: _tokens(file, role) for file in files}
    if len({len(of) for of in parts.values()}) > 1:
        return {file: tuple(of) for file, of in parts.items()}
    columns: list[tuple[str, ...]] = []
    for column in zip(*parts.values(), strict=True):
        if len(set(column)) > 1 and column not in columns:  # fold_1/train_fold_1 says its number twice
            columns.append(column)
    return {file: tuple(column[i] for column in columns) for i, file in enumerate(parts)}


def _tokens(file: Path, role: str) -> list[str]:
    """Return the words and numbers of a path without the word that says its role, from the left."""
    found = re.findall(r"\d+|[^\W\d_]+", file.with_suffix("").as_posix().casefold())
    words = [str(int(token)) if token.isdecimal() else token for token in found]
    for i in reversed(range(len(words))):
        if _ROLE_OF.get(words[i]) == role:
            del words[i]
            break
    return words


def _one(fold: str | None) -> tuple[str, ...]:
    return (fold,) if fold is not None else ()


def _named(files: object) -> str:
    return listed([f"{file.parent.name}/{file.name}" for file in files], 4)  # type: ignore[attr-defined]


def _cannot_tell(role: str, files: list[Path]) -> UsageError:
    return UsageError(
        f"--split: {_named(files)} all say {role}, and their names do not tell how they belong together; name the files of one "
        "fold only, or join those of one side in one file"
    )
