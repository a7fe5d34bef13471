"""Features computed elsewhere: every format gives the same set, ids are counted, hostile files end in one clear line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tfser.cli import app
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.utterances import Utterance
from tfser.pipeline.feature_files import read_given
from tfser.pipeline.features.feature_set import is_per_utterance
from tfser.pipeline.import_features import import_features, imported, match
from tfser.pipeline.shards.packed import FeatureRow, load_packed
from tfser.pipeline.verify import verify


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


IDS = ("u0", "u1", "u2")
ROWS = np.array([[1.5, -2.0], [0.25, 3.0], [4.0, 5.5]])


@pytest.fixture
def corpus(cache: Cache, put_corpus: Any) -> Cache:
    people = [Utterance(utterance_id=i, path=f"wav/{i}_x.wav", speaker=f"s{n}", label="ab"[n % 2]) for n, i in enumerate(IDS)]
    put_corpus(cache, people)
    return cache


def as_npy(folder: Path) -> dict[str, Any]:
    np.save(folder / "f.npy", ROWS)
    (folder / "ids.txt").write_text("u0\nu1\nu2\n")
    return {"path": folder / "f.npy", "ids": folder / "ids.txt"}


def as_npz(folder: Path) -> dict[str, Any]:
    np.savez(folder / "f.npz", **dict(zip(IDS, ROWS, strict=True)))
    return {"path": folder / "f.npz"}


def as_npz_of_two(folder: Path) -> dict[str, Any]:
    np.savez(folder / "f.npz", utterance_id=np.array(IDS), features=ROWS)
    return {"path": folder / "f.npz"}


def as_csv(folder: Path) -> dict[str, Any]:
    (folder / "f.csv").write_text("note;id;a;b\nx;u2;4;5.5\nx;u0;1.5;-2\nx;u1;.25;3\n")
    return {"path": folder / "f.csv", "ignore": ("note",)}


def as_parquet(folder: Path) -> dict[str, Any]:
    pq.write_table(pa.table({"utterance_id": IDS, "v": [row.tolist() for row in ROWS]}), folder / "f.parquet")
    return {"path": folder / "f.parquet"}


def as_folder(folder: Path) -> dict[str, Any]:
    (folder / "all").mkdir()
    for name, row in zip(IDS, ROWS, strict=True):
        np.save(folder / "all" / f"{name}.npy", row)
    return {"path": folder / "all"}


@pytest.mark.parametrize("write", [as_npy, as_npz, as_npz_of_two, as_csv, as_parquet, as_folder])
def test_every_format_is_read_to_the_same_content(write: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    given = read_given(**write(tmp_path))
    assert given.per_utterance and given.dim == 2
    for name, row in zip(IDS, ROWS, strict=True):
        np.testing.assert_array_equal(given.frames[name], row[None].astype(np.float32))
    (tmp_path / "other").mkdir()
    assert given.digest() == read_given(**as_npz(tmp_path / "other")).digest()


def test_an_import_is_a_feature_set_like_any_other(corpus: Cache, tmp_path: Path) -> None:
    given = read_given(**as_csv(tmp_path))
    target = imported(given, tmp_path / "f.csv", name="mine", hop_s=None, dtype="float32", words="by hand")
    report = import_features(corpus, "toy", given, target)
    assert (report.rows, report.used, report.written, report.before) == (3, 3, 3, 0)
    assert not (report.strangers or report.lacking or report.unreadable)
    assert import_features(corpus, "toy", given, target).before == 3 and verify(corpus) == []
    refresh(corpus)
    with open_catalogue(corpus) as connection:
        (about,) = rows(connection, "FROM feature_sets")
        stored = rows(connection, "FROM features ORDER BY utterance_id")
    assert about["feature_set"] == "mine" and is_per_utterance(about) and "by hand" in about["source"]
    keys = ("utterance_id", "first_frame", "frames", "dim")
    packed = load_packed([FeatureRow(path=corpus.root / r["shard"], **{key: r[key] for key in keys}) for r in stored])
    np.testing.assert_array_equal(packed.frames, ROWS.astype(np.float32))


def test_frames_are_several_rows_of_an_id(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("id,a\nu0,1\nu1,5\nu0,2\nu0,3\n")
    given = read_given(tmp_path / "f.csv", as_frames=True)
    assert not given.per_utterance
    assert given.frames["u0"][:, 0].tolist() == [1, 2, 3] and given.frames["u1"][:, 0].tolist() == [5]
    with pytest.raises(UsageError, match=r"'u0' stands there twice; .* --hop SECONDS"):
        read_given(tmp_path / "f.csv")


def test_lists_of_other_data_frames_are_lists(tmp_path: Path) -> None:
    """Polars writes large lists."""
    lists = pa.array([[1.0, 2.0], [3.0, 4.0]], pa.large_list(pa.float64()))
    pq.write_table(pa.table({"id": pa.array(["u0", "u1"], pa.large_string()), "x": lists}), tmp_path / "f.parquet")
    assert {name: frames.tolist() for name, frames in read_given(tmp_path / "f.parquet").frames.items()} == {
        "u0": [[1.0, 2.0]],
        "u1": [[3.0, 4.0]],
    }


@given(order=st.permutations(range(3)), change=st.sampled_from([0, 1e-6, 1.0]))
def test_the_fingerprint_is_of_the_content(order: list[int], change: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("f")
    first = read_given(**as_npz(folder))
    values = ROWS.astype(np.float32).copy()
    values[1, 1] += change
    np.savez(folder / "g.npz", **{IDS[i]: values[i] for i in order})
    assert (read_given(folder / "g.npz").digest() == first.digest()) == (change == 0)


HOSTILE = {
    "nan": ("id,a,b\nu0,1,2\nu1,nan,2\n", "'u1', a: nan is no number"),
    "empty cell": ("id,a,b\nu0,1,2\nu1,1,\n", "'u1', b: nan is no number"),
    "too large": ("id,a\nu0,1e300\n", r"'u0', a: 1e\+300 is no number"),
    "no id": ("id,a\n,1\n", "row 1 has no utterance id"),
    "twice": ("id,a\nu0,1\nu0,2\n", "'u0' stands there twice"),
    "words": ("id,a,b\nu0,1,x\n", "the column b is no numbers"),
    "no ids": ("who,a\nu0,1\n", "which column holds the utterance ids"),
    "no features": ("id\nu0\n", "no features beside the column id"),
    "nothing": ("", "cannot be read as csv"),
    "header alone": ("id,a\n", "no features in it"),
    "ragged": ("id,a,b\nu0,1\n", "cannot be read as csv"),
    "one name twice": ("id,a,a\nu0,1,2\n", "two columns are called 'a'"),
    "row numbers": (",id,a\n0,u0,1\n", "the column '' looks like .* row numbers.*index=False"),
    "row numbers read and written": ("Unnamed: 0,id,a\n0,u0,1\n", "row numbers.*--ignore 'Unnamed: 0'"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_tables_end_in_one_line(kind: str, tmp_path: Path) -> None:
    text, wanted = HOSTILE[kind]
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(UsageError, match=wanted) as caught:
        read_given(tmp_path / "f.csv")
    assert "\n" not in str(caught.value)


def test_hostile_arrays_end_in_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", u0=np.ones(2), u1=np.ones(3))
    np.savez(tmp_path / "f.npz", u0=np.ones((4, 2)))
    np.save(tmp_path / "p.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "n.npy", np.ones((2, 2)))
    (tmp_path / "ids").write_text("u0\n")
    (tmp_path / "x.npz").write_bytes(b"PK no")
    whole = (tmp_path / "w.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    at = whole.index(np.ones(3).tobytes())
    (tmp_path / "flipped.npz").write_bytes(whole[: at + 6] + b"\x00" + whole[at + 7 :])
    pq.write_table(pa.table({"id": ["u0"], "x": [[[1.0, 2.0], [3.0]]]}), tmp_path / "unequal.parquet")
    pq.write_table(pa.table({"id": ["u0"], "x": [1.0], "__index_level_0__": [7]}), tmp_path / "index.parquet")
    for path, ids, wanted in (
        ("w.npz", None, "'u1' is 3 numbers wide, and 'u0' 2"),
        ("f.npz", None, r"'u0' has 4 frames; .*--hop"),
        ("n.npy", None, "names no utterances"),
        ("p.npy", "ids", "no array of numbers"),
        ("n.npy", "ids", r"shape \(2, 2\), and .* 1 line"),
        ("x.npz", None, "cannot be read as npz"),
        ("cut.npz", None, "cannot be read as npz"),
        ("flipped.npz", None, "cannot be read as npz"),
        ("unequal.parquet", None, "'u0' are frames of unequal widths"),
        ("index.parquet", None, "'__index_level_0__' looks like .* row numbers"),
        ("no.csv", None, "cannot be read as csv"),
        ("f.txt", None, "features are read from"),
    ):
        with pytest.raises(UsageError, match=wanted):
            read_given(tmp_path / path, ids=None if ids is None else tmp_path / ids)


def test_ids_may_be_files_and_every_one_is_accounted_for() -> None:
    stored = [{"utterance_id": f"u{i}", "path": f"wav/{i % 2}.wav"} for i in range(3)]
    stored.append({"utterance_id": "z", "path": "a/z9.wav"})
    assert match(["u0", "a/z9.wav", "0", "1", "q"], stored) == ({"u0": "u0", "z": "a/z9.wav", "u1": "1"}, ["0", "q"])
    with pytest.raises(UsageError, match="both mean the utterance z"):
        match(["z", "z9"], stored)


def test_values_that_the_dtype_cannot_hold_are_named(corpus: Cache, tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", u0=np.full(2, 1e6))
    given = read_given(tmp_path / "f.npz")
    target = imported(given, tmp_path / "f.npz", name=None, hop_s=None, dtype="float16")
    with pytest.raises(TfserError, match=r"u0: 1e\+06 is too large for float16"):
        import_features(corpus, "toy", given, target)


def test_names_and_hops_that_cannot_be_are_refused(tmp_path: Path) -> None:
    given = read_given(**as_npz(tmp_path))
    for name, hop, wanted in (("logmel", None, "made by `tfser extract`"), ("a b", None, "letters"), (None, 0.0, "--hop 0")):
        with pytest.raises(UsageError, match=wanted):
            imported(given, tmp_path / "f.npz", name=name, hop_s=hop, dtype="float32")


def test_the_command_counts_and_names_what_does_not_match(corpus: Cache, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("id,a\nu0,1\nu1_x,2\nstranger,3\n")
    words = ("import-features", tmp_path / "mine.csv", "--corpus", "toy", "--cache", corpus.root)
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert "3 ids in the file, 2 of them an utterance's: 2 written, 0 were there" in done.output
    assert "stranger" in done.output and "1 of the corpus and not in the file" in done.output and "u2" in done.output
    assert run(*words, "--strict").exit_code == 1
    assert run("import-features", tmp_path / "mine.csv", "--corpus", "other", "--cache", corpus.root).exit_code == 2


def test_whole_numbers_that_no_float_holds_exactly_are_rounded_like_others(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"id,a\nx,{2**63 - 1}\n")
    assert read_given(tmp_path / "t.csv").frames["x"].tolist() == [[2.0**63]]
