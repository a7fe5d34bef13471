"""Feature sets side by side: which numbers, by which rule, under which name, and what is left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfser.manifests.audits.run import run_audits
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.feature_name import joined_names, meant
from tfser.manifests.files import write_json, write_table
from tfser.manifests.utterances import Skipped, Utterance, skipped_table
from tfser.pipeline.derived.join import at_pace, join, joined
from tfser.pipeline.extraction import new_shards as module
from tfser.pipeline.features.stacks import layer_cut
from tfser.pipeline.shards.packed import FeatureRow, load_packed
from tfser.pipeline.verify import verify

IDS = [f"u{i}" for i in range(7)]


def frames(dim: int, seed: int, ids: list[str] = IDS) -> dict[str, np.ndarray]:
    """Frames of the utterances: 3 to 9, so that lengths agree from set to set."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((3 + IDS.index(name), dim)).astype(np.float32) for name in ids}


@pytest.fixture
def two(cache: Cache, put_corpus: Any, put_stack: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Write a corpus with the feature sets a (all utterances, 2 wide) and b/3+float16 (all but the last, 4 wide)."""
    put_corpus(
        cache, [Utterance(utterance_id=i, path=f"{i}.wav", speaker=f"s{n % 3}", label="ab"[n % 2]) for n, i in enumerate(IDS)]
    )
    a, b = frames(2, 0), frames(4, 1, IDS[:-1])
    put_stack(cache, a, 1, name="a")
    put_stack(cache, b, 1, name="b/3+float16", dtype="float16")
    return a, b


def read(cache: Cache, name: str) -> dict[str, np.ndarray]:
    with open_catalogue(cache) as connection:
        found = rows(connection, "FROM features WHERE feature_set = ?", [name])
    keys = ("utterance_id", "first_frame", "frames", "dim")
    packed = load_packed([FeatureRow(path=cache.root / r["shard"], **{key: r[key] for key in keys}) for r in found])
    return {name: packed.of(i) for i, name in enumerate(packed.utterance_ids)}


def test_the_frames_stand_side_by_side(cache: Cache, two: Any) -> None:
    a, b = two
    target = joined(cache, "a+b/3")
    (report,) = join(cache, target)
    assert (target.name, target.dim, target.dtype) == ("a+b/3+float16", 6, "float32")
    assert (report.written, report.before, dict(report.lacking)) == (6, 0, {"b/3+float16": 1})
    found = read(cache, target.name)
    assert set(found) == set(IDS[:-1])
    for name, of in found.items():
        np.testing.assert_array_equal(of, np.concatenate([a[name], b[name].astype(np.float16).astype(np.float32)], axis=1))
    assert verify(cache) == [] and join(cache, target)[0].written == 0


@pytest.mark.slow
def test_an_utterance_that_a_part_lacks_is_missed_by_the_audit_unless_a_part_excused_it(cache: Cache, two: Any) -> None:
    target = joined(cache, "a+b/3")
    join(cache, target)

    protocol = ensure_protocol(cache, "toy", "loso-speaker")

    def missing() -> list[Any]:
        with open_catalogue(cache) as connection:
            found = run_audits(connection, protocol=protocol, corpus="toy", feature_sets=[target.name])
        return [of for of in found if of.audit == "features_missing" and of.level != "ok"]

    assert sum(finding.rows for finding in missing()) == 1
    (folder,) = cache.feature_root.glob("b-3*")
    excused = Skipped(corpus="toy", utterance_id=IDS[-1], path=None, stage="extract:b/3+float16", reason="too short")
    write_table(folder / "toy" / "skipped.parquet", skipped_table([excused]))
    join(cache, target)
    assert missing() == []


@pytest.mark.slow
def test_the_fingerprint_is_of_the_parts_in_their_order(cache: Cache, two: Any) -> None:
    one, other = joined(cache, "a+b/3"), joined(cache, "b/3+a")
    assert one.fingerprint != other.fingerprint and other.name == "b/3+float16+a"
    slow, vector = {"hop_s": 0.02, "feature_set": "slow", "config": "{}"}, {"hop_s": 1.0, "config": '{"per": "utterance"}'}
    fast = slow | {"hop_s": 0.01, "feature_set": "fast"}
    (line,) = replace(one, parts=(fast, slow, fast, vector | {"feature_set": "v"})).paces()
    assert line.startswith("slow (20 ms) at the pace of fast (10 ms): ") and replace(one, parts=(fast, fast)).paces() == []
    assert [part["feature_set"] for part in one.config["parts"]] == ["a", "b/3+float16"]
    (folder,) = cache.feature_root.glob("a-*")
    about = json.loads((folder / "feature_set.json").read_text())
    moved = folder.rename(folder.with_name("a-" + about["fingerprint"][::-1]))
    write_json(moved / "feature_set.json", about | {"fingerprint": about["fingerprint"][::-1]})
    assert joined(cache, "a+b/3").fingerprint != one.fingerprint  # made anew with other numbers: another feature set


@given(
    count=st.integers(1, 40),
    length=st.integers(1, 60),
    hops=st.tuples(st.sampled_from([0.005, 0.01, 0.0125, 0.02, 0.04]), st.sampled_from([0.005, 0.01, 0.0125, 0.02, 0.04])),
)
def test_each_frame_is_the_mean_of_those_that_belong_to_it(count: int, length: int, hops: tuple[float, float]) -> None:
    """Against the rule in words, frame by frame, in whole numbers of 0.1 ms."""
    pace, hop = (round(10_000 * h) for h in hops)
    x = np.random.default_rng(length).standard_normal((length, 2))
    found = at_pace(x, count, *hops)
    for i in range(count):
        nearest = [j for j in range(length) if (2 * j * hop + pace) // (2 * pace) == i]
        if len(nearest) == 0:
            nearest = [min((2 * i * pace + hop) // (2 * hop), length - 1)]
        np.testing.assert_allclose(found[i], x[nearest].mean(axis=0), atol=1e-12)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a", "one feature set"),
        ("a+a", "twice"),
        ("a+c", "unknown feature set"),
        ("a+enc/all", "several layers; name one of them: enc/2"),
    ],
)
def test_what_cannot_be_joined_is_refused(cache: Cache, two: Any, put_stack: Any, name: str, said: str) -> None:
    put_stack(cache, frames(6, 2), 3)
    with pytest.raises(UsageError, match=said):
        joined(cache, name)


def test_parts_of_unequal_lengths_are_refused_by_name(cache: Cache, two: Any, put_stack: Any) -> None:
    longer = {name: np.concatenate([of, np.zeros((30, 2), np.float32)]) for name, of in frames(2, 3).items()}
    put_stack(cache, longer, 1, name="c", dtype="float16")
    (folder,) = cache.feature_root.glob("c-*")
    about = json.loads((folder / "feature_set.json").read_text())
    about |= {"fingerprint": "c" * 16}
    moved = folder.rename(folder.with_name("c-" + about["fingerprint"]))
    write_json(moved / "feature_set.json", about)
    with pytest.raises(TfserError, match=r"u0: its features are of unequal lengths \(a 0.06 s, c 0.66 s\)"):
        join(cache, joined(cache, "a+c"))


def test_a_set_that_belongs_to_a_fold_makes_one_that_does(cache: Cache, two: Any) -> None:
    owner = {"run_id": "r", "protocol": "loso-speaker", "fold": 1}
    for name, fold in (("a", 1), ("b-3", 1)):
        (folder,) = cache.feature_root.glob(f"{name}-*" if name == "a" else "b-3*")
        about = json.loads((folder / "feature_set.json").read_text())
        write_json(folder / "feature_set.json", about | {"config": about["config"] | {"belongs_to": owner | {"fold": fold}}})
    assert joined(cache, "a+b/3").config["belongs_to"] == owner
    write_json(folder / "feature_set.json", about | {"config": about["config"] | {"belongs_to": owner | {"fold": 2}}})
    with pytest.raises(TfserError, match="different folds"):
        joined(cache, "a+b/3")


@pytest.mark.slow
def test_a_killed_join_goes_on(cache: Cache, two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    target = joined(cache, "a+b/3")
    write, calls = module.store_members, []

    def dying(*arguments: Any) -> int:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(module, "store_members", dying)
    with pytest.raises(KeyboardInterrupt):
        join(cache, target, how=module.ShardWriting(shard_utterances=2))
    (report,) = join(cache, target)
    assert report.before > 0 and report.before + report.written == 6 and set(read(cache, target.name)) == set(IDS[:-1])


def test_a_joined_name_is_meant_by_those_who_name_all_of_it() -> None:
    have = ["logmel+mfcc", "logmel+n_mels=40"]
    assert meant("logmel", have) == ["logmel+n_mels=40"] and meant("logmel+mfcc", have) == ["logmel+mfcc"]
    assert joined_names("logmel") == ["logmel"]
    assert joined_names("a/3+x=1+float16+b+c/all+float32") == ["a/3+x=1+float16", "b", "c/all+float32"]


def test_no_part_s_file_is_touched(cache: Cache, two: Any) -> None:
    def stamps() -> dict[Path, bytes]:
        return {path: path.read_bytes() for name in ("a-[0-9a-f]*", "b-3*") for path in cache.feature_root.glob(f"{name}/*/*.h5")}

    before = stamps()
    join(cache, joined(cache, "a+b/3"))
    assert {path: content for path, content in stamps().items() if path in before} == before


def test_a_layer_is_read_out_of_its_stack_as_if_it_had_been_stored_by_itself(cache: Cache, two: Any, put_stack: Any) -> None:
    """The same name, fingerprint and numbers as of a layer that is a feature set of its own."""
    stack = frames(6, 9)  # three layers of two numbers
    put_stack(cache, stack, 3, name="enc/all")
    target = joined(cache, "a+enc/1")
    assert (target.name, target.dim) == ("a+enc/1", two[0][IDS[0]].shape[1] + 2)
    join(cache, target)
    found = read(cache, "a+enc/1")
    for name in IDS:
        np.testing.assert_array_equal(found[name][:, -2:], stack[name][: len(found[name]), 2:4])
    with open_catalogue(cache) as connection:
        (row,) = rows(connection, "FROM feature_sets WHERE feature_set = 'enc/all'")
    assert target.config["parts"][1]["fingerprint"] == layer_cut(row, "1").fingerprint
    with pytest.raises(UsageError, match=r"unknown feature set.*enc/3"):
        joined(cache, "a+enc/3")
