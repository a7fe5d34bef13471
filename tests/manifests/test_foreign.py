"""Foreign splits: every shape in which they are published is read to the same rows, and rows find their utterances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfser.manifests.audits.foreign import ForeignSplit, read_split, role_of_name
from tfser.manifests.audits.matching import Finder
from tfser.manifests.errors import UsageError

TWO = {"train": ["a1", "a2"], "test": ["b1"]}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def sides(split: ForeignSplit) -> dict[str, dict[str, list[str]]]:
    """The rows as {fold: {role: [first name]}}."""
    result: dict[str, dict[str, list[str]]] = {}
    for entry in split.entries:
        result.setdefault(entry.fold or "1", {}).setdefault(entry.role or "-", []).append(entry.names[0])
    return result


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("all.csv", "utterance_id,split\na1,train\na2,Training\nb1,TEST\n"),
        ("all.csv", "id;set;emotion\r\na1;train;x\r\na2;train;y\r\nb1;eval;x\r\n"),
        ("all.tsv", "\ufefffile\tpartition\na1\ttrain\na2\ttrain\nb1\ttest\n"),
        ("all.csv", "file,fold\na1,train\na2,train\nb1,test\n"),
        ("all.txt", "a1 , train\na2, train\n\nb1, test\n"),
        ("all.csv", "speaker,wav,subset\ns,a1,train\ns,a2,train\nt,b1,test\n".encode("utf-16")),
        ("all.json", TWO),
        ("all.json", {"train": {"a1": {"emo": "x"}, "a2": {"emo": "y"}}, "test": {"b1": {"emo": "x"}}}),
        ("all.json", [{"id": i, "role": role} for role, of in TWO.items() for i in of]),
        ("all.json", {i: role for role, of in TWO.items() for i in of}),
        ("all.json", {i: {"wav": f"x/{i}.wav", "split": role} for role, of in TWO.items() for i in of}),
        ("all.json", {"version": 1, "utterances": [{"name": i, "set": role} for role, of in TWO.items() for i in of]}),
        ("all.jsonl", "".join(json.dumps({"key": i, "split": role}) + "\n" for role, of in TWO.items() for i in of)),
    ],
)
def test_one_file(tmp_path, name, content):
    assert sides(read_split([write(tmp_path / name, content)])) == {"1": TWO}


def test_one_file_a_side(tmp_path):
    train = write(tmp_path / "my_train.csv", "path\na1\na2\n")
    dev = write(tmp_path / "dev.txt", "c1\n")
    test = write(tmp_path / "test.json", ["b1"])
    assert sides(read_split([train, test])) == {"1": TWO}
    assert sides(read_split([train, dev, test])) == {"1": {**TWO, "val": ["c1"]}}
    (tmp_path / "labels.json").write_text("{}")
    folder = read_split([tmp_path])
    assert sides(folder) == {"1": {**TWO, "val": ["c1"]}}
    assert folder.name == f"split:{tmp_path.name}"
    assert folder.notes == (f"1 of 4 files in {tmp_path} are no side of their own and were left out",)


def test_folds(tmp_path):
    fold = {"1": {"train": ["a"], "test": ["b"]}, "2": {"train": ["b"], "test": ["a"]}}
    for k, of in fold.items():
        for role, ids in of.items():
            write(tmp_path / "tree" / f"fold_{k}" / f"{role}.csv", "id\n" + "\n".join(ids))
            write(tmp_path / "flat" / f"emodb_{role}_fold{k}.lst", "\n".join(ids))
    assert sides(read_split([tmp_path / "tree"])) == sides(read_split([tmp_path / "flat"])) == fold
    assert sides(read_split([write(tmp_path / "a.json", {f"fold_{k}": of for k, of in fold.items()})])) == fold
    rows = "".join(f"{i},{k},{role}\n" for k, of in fold.items() for role, ids in of.items() for i in ids)
    assert sides(read_split([write(tmp_path / "a.csv", "id,fold,role\n" + rows)])) == fold
    assert sides(read_split([write(tmp_path / "w.csv", "id,fold_1,fold_2\na,train,test\nb,test,train\n")])) == fold
    by_fold = read_split([write(tmp_path / "f.csv", "id,fold\na,10.0\nb,9.0\n")])
    assert (sides(by_fold), by_fold.folds) == ({"10": {"-": ["a"]}, "9": {"-": ["b"]}}, ("9", "10"))


def test_s3prl_and_emobox(tmp_path):
    for role, letter in (("train", "F"), ("test", "M")):
        path = f"Session2/sentences/wav/Ses02{letter}_impro01/Ses02{letter}_impro01_F000.wav"
        row = {"path": path, "label": "neu", "speaker": "x"}
        write(tmp_path / "s3prl/Session2" / f"{role}_meta_data.json", {"labels": {"neu": 0}, "meta_data": [row]})
        line = {"key": f"emodb-0{letter}", "dataset": "emodb", "wav": "downloads/emodb/wav/1.wav", "emo": "anger", "length": 1.5}
        write(tmp_path / "emodb/fold_1" / f"emodb_{role}_fold_1.jsonl", json.dumps(line) + "\n")
        write(tmp_path / "emodb/fold_1" / f"emodb_{role}_fold_1.json", {line["key"]: line})
    write(tmp_path / "emodb/emodb.jsonl", "")
    write(tmp_path / "emodb/label_map.json", {"anger": "Angry"})
    s3prl = read_split([tmp_path / "s3prl"])
    assert [(e.fold, e.role, e.label, e.speaker) for e in s3prl.entries] == [("2", r, "neu", "x") for r in ("test", "train")]
    emobox = read_split([tmp_path / "emodb"])
    assert sides(emobox) == {"1": {"train": ["emodb-0F"], "test": ["emodb-0M"]}}
    assert {(e.label, e.names[1]) for e in emobox.entries} == {("anger", "downloads/emodb/wav/1.wav")}
    assert [e.file.rpartition(".")[2] for e in emobox.entries] == ["jsonl", "jsonl"]  # not each side twice


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id,label\nx,1\n", "neither a column .* nor the file's name says who trains"),
        ("train.csv", "id\nx\n", "there is no test side"),
        ("test.csv", "id\nx\n", "there is no train side"),
        ("a.csv", "id,split\nx,train\ny,test\nz,maybe\n", "row 4 says no role"),
        ("a.csv", "split\ntrain\ntest\n", "row 2 names no utterance"),
        ("a.json", "{", "this is no JSON"),
        ("a.jsonl", '{"id": "a"}\nx\n', "line 2: this is no JSON"),
        ("a.json", {"x": 1, "y": 2}, "no known shape: an object with the keys x, y"),
        ("a.json", [3], "3 stands where an utterance is expected"),
        ("train.csv", "", "no row in it"),
    ],
)
def test_what_cannot_be_told(tmp_path, name, content, message):
    with pytest.raises(UsageError, match=message):
        read_split([write(tmp_path / name, content)])


def test_nothing_there(tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        read_split([tmp_path / "no.csv"])
    with pytest.raises(UsageError, match="no file in it names a side"):
        read_split([tmp_path])


@given(st.sampled_from(["train", "dev", "valid", "test", "eval"]), st.sampled_from("_-. "), st.sampled_from([".csv", ".jsonl"]))
def test_roles_of_names(word, mark, suffix):
    expected = {"train": "train", "dev": "val", "valid": "val", "test": "test", "eval": "test"}[word]
    assert role_of_name(f"my{mark}{word.upper()}{mark}fold1{suffix}") == expected
    assert role_of_name(f"my{word}s{suffix}") is None  # a word of its own only


ROWS = [("03a01Fa", "wav/03a01Fa.wav", None), ("03a01Nc", "wav/03a01Nc.wav", None), ("08a01Fa", "wav/08a01Fa.wav", None)]


@pytest.mark.parametrize(
    "written",
    [
        "03a01Fa",
        "wav/03a01Fa.wav",
        "/data/EmoDB/wav/03a01Fa.wav",
        "C:\\corpora\\emodb\\wav\\03a01Fa.WAV",
        "./03a01Fa.flac",
        "03A01FA.npy",
        "emodb-03a01Fa",
        "EmoDB_03a01fa",
        " features/03a01Fa.pt ",
    ],
)
def test_an_utterance_is_found_however_it_is_written(written):
    assert Finder("emodb", ROWS).find([written], None) == [0]
    assert Finder("emodb", ROWS).find(["nothing", written], "test") == [0]


def test_what_fits_none_or_several():
    emodb = Finder("emodb", ROWS)
    assert emodb.find(["03a01Fb"], None) == emodb.find([""], None) == emodb.find([], None) == []
    casia = [(f"{s}-{e}-201", f"{s}/{e}/201.wav", None) for s in ("liu", "wang") for e in ("angry", "sad")]
    finder = Finder("casia", casia)
    assert finder.find(["201.wav"], None) == [0, 1, 2, 3]
    assert finder.find(["angry/201.wav"], None) == [0, 2]
    assert finder.find(["D:\\casia\\wang\\angry\\201.wav"], None) == [2]
    meld = Finder("meld", [(f"{s}_dia0_utt0", f"{s}/dia0_utt0.mp4", s) for s in ("train", "val", "test")])
    assert meld.find(["dia0_utt0"], None) == [0, 1, 2]
    assert meld.find(["dia0_utt0"], "val") == [1]  # the side tells which
    cased = Finder("toy", [("a", "x/a.wav", None), ("A", "y/A.wav", None)])
    assert (cased.find(["a"], None), cased.find(["A"], None), cased.find(["z/a.flac"], None)) == ([0], [1], [0, 1])


@given(st.lists(st.text("abAB01_-", min_size=1, max_size=6), min_size=1, max_size=8, unique=True), st.data())
def test_ids_find_themselves(names, data):
    rows = [(name, f"deep/{i}/{name}.wav", None) for i, name in enumerate(names)]
    finder = Finder("toy", rows)
    i = data.draw(st.integers(0, len(names) - 1))
    assert finder.find([names[i]], None) == [i]
    assert finder.find([f"/elsewhere/deep/{i}/{names[i]}.flac"], None) == [i]
