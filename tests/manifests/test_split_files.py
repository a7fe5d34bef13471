"""Foreign splits of several files: which file is which side of which fold, and what is said where that cannot be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tfser.manifests.audits.foreign import ForeignSplit, read_split
from tfser.manifests.errors import UsageError

FOLDS = {str(k): {"train": [f"u{i}" for i in range(3) if i != k], "test": [f"u{k}"]} for k in range(3)}
"""Three folds of three utterances, each tested once."""


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8", newline="")
    return path


def listing(ids: list[str]) -> str:
    return "id,label\n" + "".join(f"{i},a\n" for i in ids)


def sides(split: ForeignSplit) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = {}
    for entry in split.entries:
        found.setdefault(entry.fold or "-", {}).setdefault(entry.role or "-", []).append(entry.names[0])
    return found


@pytest.mark.parametrize(
    "name",
    [
        "{role}{k}.csv",
        "{role}_{k}.csv",
        "{k}.{role}.csv",
        "{k}/{role}.csv",
        "{role}_s{k}.csv",
        "without_s{k}_{role}.csv",
        "fold_{k}/emodb_{role}_fold_{k}.csv",
        "{role}/{k}.csv",
        "emodb2_{role}_{k}.csv",
        "Session{k}/{role}_meta_data.csv",
    ],
)
def test_files_that_differ_in_a_number_are_folds(tmp_path, name):
    for k, of in FOLDS.items():
        for role, ids in of.items():
            write(tmp_path / "split" / name.format(role=role, k=k), listing(ids))
    split = read_split([tmp_path / "split"])
    assert sides(split) == FOLDS
    assert split.numbers == {"0": 0, "1": 1, "2": 2}
    files = sorted((tmp_path / "split").rglob("*.csv"))
    if name != "{role}/{k}.csv":  # a role that the folder says is read of a folder only
        assert sides(read_split(files)) == FOLDS


def test_files_that_differ_in_a_word_are_folds(tmp_path):
    for who, (k, of) in zip(("anna", "bert", "carl"), FOLDS.items(), strict=True):
        for role, ids in of.items():
            write(tmp_path / f"{role}_{who}.txt", "\n".join(ids))
        assert k
    split = read_split([tmp_path])
    assert split.folds == ("anna", "bert", "carl") and split.numbers["carl"] == 3
    assert split.notes == ("folds by number: 1 is anna, 2 is bert, 3 is carl",)
    assert list(sides(split).values()) == list(FOLDS.values())


def test_a_side_of_one_file_belongs_to_every_fold(tmp_path):
    for k in (1, 2):
        write(tmp_path / f"train{k}.csv", listing([f"t{k}"]))
        write(tmp_path / f"test{k}.csv", listing([f"e{k}"]))
    write(tmp_path / "dev.csv", listing(["d"]))
    assert sides(read_split([tmp_path])) == {str(k): {"train": [f"t{k}"], "test": [f"e{k}"], "val": ["d"]} for k in (1, 2)}
    for k in (1, 2):
        (tmp_path / f"test{k}.csv").rename(tmp_path / f"val{k}.csv")
    (tmp_path / "dev.csv").rename(tmp_path / "test.csv")
    assert sides(read_split([tmp_path])) == {str(k): {"train": [f"t{k}"], "val": [f"e{k}"], "test": ["d"]} for k in (1, 2)}


def test_several_test_sets_beside_one_training_side_are_one_fold(tmp_path):
    write(tmp_path / "train.csv", listing(["a"]))
    write(tmp_path / "test1.csv", listing(["b"]))
    write(tmp_path / "test2.csv", listing(["c"]))
    split = read_split([tmp_path])
    assert sides(split) == {"-": {"train": ["a"], "test": ["b", "c"]}}
    assert any("test1.csv" in note and "test side of one fold" in note for note in split.notes)


def test_numbers_that_differ_by_side_are_no_folds(tmp_path):
    """Counts and columns of codes beside files that name their sides: one fold, nobody unnamed."""
    for code, (name, ids) in enumerate((("x_train_4290.csv", ["a", "b"]), ("x_dev_2.csv", ["d"]), ("x_test_1241.csv", ["c"]))):
        write(tmp_path / name, "id,split\n" + "".join(f"{i},{code}\n" for i in ids))
    split = read_split([tmp_path])
    assert sides(split) == {"-": {"train": ["a", "b"], "val": ["d"], "test": ["c"]}}
    write(tmp_path / "x_train_4290.csv", "id,fold\na,0\nb,1\n")  # folds of the training side alone
    write(tmp_path / "x_test_1241.csv", "id,fold\nc,9\n")
    (tmp_path / "x_dev_2.csv").unlink()
    split = read_split([tmp_path])
    assert sides(split) == {"1": {"train": ["a", "b"], "test": ["c"]}}
    assert "the column of folds was not used" in " ".join(split.notes)
    write(tmp_path / "x_train_4290.csv", "id,fold\na,1\nb,2\n")  # both sides have the same folds
    write(tmp_path / "x_test_1241.csv", "id,fold\nb,1\na,2\n")
    assert sides(read_split([tmp_path])) == {"1": {"train": ["a"], "test": ["b"]}, "2": {"train": ["b"], "test": ["a"]}}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("train_1.csv", "train_2.csv", "test.csv"), r"train_1\.csv, .*train_2\.csv all say train"),
        (("train_a1.csv", "train_b2.csv", "test_c3.csv", "test_d4.csv"), "all say train"),
        (("train1.csv", "train2.csv", "test1.csv"), "all say train"),
        (("train1.csv", "train2.csv", "train3.csv", "test1.csv", "test2.csv"), r"train3\.csv: its fold has no test side"),
        (("test1.csv", "test2.csv"), "all say test"),
        (("train.csv", "train-.csv", "test.csv"), r"all say train"),
        (("val.csv", "test.csv"), "there is no train side"),
    ],
)
def test_what_cannot_be_told_is_said_with_its_files(tmp_path, files, message):
    for name in files:
        write(tmp_path / name, listing([name]))
    with pytest.raises(UsageError, match=message):
        read_split([tmp_path])


def test_a_fold_without_a_side_is_said(tmp_path):
    rows = "a,1,train\nb,1,test\nc,2,train\n"
    with pytest.raises(UsageError, match="fold 2 has no test side"):
        read_split([write(tmp_path / "a.csv", "id,fold,role\n" + rows)])


def test_two_sides_are_enough(tmp_path):
    split = read_split([write(tmp_path / "train.csv", listing(["a"])), write(tmp_path / "valid.csv", listing(["b"]))])
    assert sides(split) == {"-": {"train": ["a"], "test": ["b"]}}
    assert "the validation side is judged as what is tested" in " ".join(split.notes)


@pytest.mark.parametrize(
    ("header", "roles", "expected"),
    [
        ("id,state", ["train", "Testing"], {"-": {"train": ["a"], "test": ["b"]}}),
        ("id,split", ["Train", "Test1"], {"-": {"train": ["a"], "test": ["b"]}}),
        ("id,Usage", ["Training", "PrivateTest"], None),
    ],
)
def test_columns_of_roles_in_other_words(tmp_path, header, roles, expected):
    path = write(tmp_path / "a.csv", header + "\n" + "".join(f"{i},{role}\n" for i, role in zip("ab", roles, strict=True)))
    if expected is None:
        with pytest.raises(UsageError, match="row 3 says no role"):
            read_split([path])
    else:
        assert sides(read_split([path])) == expected


def test_numbers_behind_roles(tmp_path):
    """Of one column or one map: folds where training and testing have the same, else names of several test sets."""
    rows = "a,train1\nb,test1\nb,train2\na,test2\n"
    both = {"1": {"train": ["a"], "test": ["b"]}, "2": {"train": ["b"], "test": ["a"]}}
    assert sides(read_split([write(tmp_path / "a.csv", "id,split\n" + rows)])) == both
    told = {"train1": ["a"], "test1": ["b"], "train2": ["b"], "test2": ["a"]}
    assert sides(read_split([write(tmp_path / "a.json", told)])) == both
    wide = "wav,role_fold_1,role_fold_2\na,Train,Test\nb,Test,Train\n"  # as EMO-SUPERB's partitions
    assert sides(read_split([write(tmp_path / "w.csv", wide)])) == both


@pytest.mark.parametrize("mark", ["\x85", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c"])
def test_rows_end_where_lines_end(tmp_path, mark):
    """What Python's splitlines() also takes for an end of line may stand in the words of an utterance."""
    table = write(tmp_path / "a.csv", f'id,text,split\r\na,"so{mark}well",train\r\nb,x{mark}y,test\r\n')
    assert sides(read_split([table])) == {"-": {"train": ["a"], "test": ["b"]}}
    lines = [{"id": "a", "text": f"so{mark}well", "split": "train"}, {"id": "b", "text": "", "split": "test"}]
    text = "\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    if mark >= "\x80":  # JSON escapes the others
        assert mark in text
    assert sides(read_split([write(tmp_path / "a.jsonl", text)])) == {"-": {"train": ["a"], "test": ["b"]}}


def test_names(tmp_path, monkeypatch):
    write(tmp_path / "theirs" / "train.csv", listing(["a"]))
    write(tmp_path / "theirs" / "test.csv", listing(["b"]))
    monkeypatch.chdir(tmp_path / "theirs")
    assert read_split([Path()]).name == "split:theirs"
    one = [write(tmp_path / "fold_2" / f"{role}.csv", listing([role])) for role in ("train", "test")]
    split = read_split(one)
    assert (split.folds, split.numbers) == (("2",), {"2": 2})  # fold 2 is called fold 2
