"""Stored layers become ordinary feature sets: which numbers, which name, and whatever a kill leaves is finished."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfser.manifests.audits.run import run_audits
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, rows
from tfser.manifests.catalogue.stored import read_skipped, skipped_rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.files import write_table
from tfser.manifests.utterances import Skipped, Utterance, skipped_table
from tfser.pipeline.derived.collapse import collapse, copy_excuses
from tfser.pipeline.extraction import new_shards as module
from tfser.pipeline.extraction.new_shards import ShardWriting
from tfser.pipeline.features.registry import FeatureRequest, feature_pass
from tfser.pipeline.features.stacks import Collapsed, layer_cut, layered, weighted_sum
from tfser.pipeline.shards.packed import FeatureRow, load_packed
from tfser.pipeline.verify import verify

M, D, N = 4, 3, 11
IDS = [f"u{i:02d}" for i in range(N)]


def stack(seed: int = 0) -> dict[str, np.ndarray]:
    """Frames (t, M*D) of each utterance, lengths 1 to 11."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((1 + i, M * D)).astype(np.float32) for i, name in enumerate(IDS)}


@pytest.fixture
def put(cache: Cache, put_corpus: Any, put_stack: Any) -> Callable[..., dict[str, np.ndarray]]:
    """Return a function that writes a corpus and its stack, and returns the frames."""

    def write(**named: Any) -> dict[str, np.ndarray]:
        put_corpus(cache, [Utterance(utterance_id=i, path=f"{i}.wav", speaker=i[:2], label="anger") for i in IDS])
        frames = stack()
        put_stack(cache, frames, M, **named)
        return frames

    return write


def read(cache: Cache, name: str, corpus: str = "toy") -> dict[str, np.ndarray]:
    """Read a feature set as training does."""
    with open_catalogue(cache) as connection:
        found = rows(connection, "FROM features WHERE feature_set = ? AND corpus = ?", [name, corpus])
    keys = ("utterance_id", "first_frame", "frames", "dim")
    places = [FeatureRow(path=cache.root / r["shard"], **{key: r[key] for key in keys}) for r in found]
    packed = load_packed(places)
    return {name: packed.of(i) for i, name in enumerate(packed.utterance_ids)}


def cut(cache: Cache, layer: str, of: str = "enc/all", **named: Any) -> Collapsed:
    return layer_cut(layered(cache, of)[0], layer, **named)


def run(cache: Cache, target: Collapsed, **named: Any) -> Any:
    return collapse(cache, layered(cache, "enc/all")[0], target, **named)


def test_a_layer_says_where_the_weights_of_its_stack_are_from() -> None:
    config = json.dumps({"family": "wavlm", "layer": "all", "layers": M})
    row = {"feature_set": "enc/all", "fingerprint": "f" * 16, "kind": "enc", "dim": M * D, "dtype": "float32", "hop_s": 0.02}
    source = {"weights": "somebody/enc", "commit": None}
    assert layer_cut({**row, "config": config, "source": json.dumps(source)}, "1").origin == source
    assert layer_cut({**row, "config": config, "source": None}, "1").origin == {}


@pytest.mark.few(1)
@pytest.mark.parametrize("format", ["hdf5", "parquet"])
@pytest.mark.parametrize(("layer", "called"), [("0", "enc/0"), ("2", "enc/2"), ("last", "enc/3"), ("mean", "enc/mean")])
def test_a_layer_is_its_columns_and_the_mean_leaves_the_input_out(
    cache: Cache, put: Callable[..., dict[str, np.ndarray]], format: str, layer: str, called: str
) -> None:
    frames = put(format=format)
    target = cut(cache, layer)
    (report,) = run(cache, target)
    assert (report.written, report.before, target.name) == (N, 0, called)
    found = read(cache, called)
    assert list(found) != [] and set(found) == set(IDS)
    for name, of in frames.items():
        layers = of.reshape(-1, M, D)
        expected = layers[:, 1:].mean(axis=1) if layer == "mean" else layers[:, M - 1 if layer == "last" else int(layer)]
        assert found[name].dtype == np.float32
        if layer == "mean":
            np.testing.assert_allclose(found[name], expected, atol=1e-6)
        else:
            np.testing.assert_array_equal(found[name], expected)
    assert verify(cache) == []
    suffix = "h5" if format == "hdf5" else "frames.parquet"
    assert len(list((cache.feature_root / target.folder / "toy").glob(f"*.{suffix}"))) == 1
    assert run(cache, target)[0].written == 0


def test_a_layer_that_is_cut_out_is_the_one_that_is_extracted(tmp_path: Path) -> None:
    """Name and fingerprint are those of a direct extraction, so either finds the other's shards."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    with torch.random.fork_rng():
        sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 1, "intermediate_size": 8}
        config = transformers.Wav2Vec2Config(**sizes, conv_dim=(8,) * 7, num_conv_pos_embedding_groups=2)
        transformers.Wav2Vec2Model(config).save_pretrained(tmp_path / "weights")
    for options in ({}, {"dtype": "float16"}, {"settings": {"chunk_s": "20"}, "precision": "bfloat16"}):
        request = FeatureRequest(weights=str(tmp_path / "weights"), layer="all,2,last,mean", **options)  # type: ignore[arg-type]
        whole, *direct = feature_pass("wav2vec2-base", request).sets
        row = {"feature_set": whole.name, "fingerprint": whole.fingerprint, "kind": whole.kind, "dim": whole.dim}
        row |= {"dtype": whole.dtype, "hop_s": whole.hop_s, "config": json.dumps(whole.config)}
        for layer, of in zip(("2", "last", "mean"), direct, strict=True):
            found = layer_cut(row, layer)
            if layer == "mean" and whole.dtype == "float16":  # the mean of rounded numbers
                assert found.fingerprint != of.fingerprint and found.name == "wav2vec2-base/mean-of-all+float16"
            else:
                assert (found.name, found.fingerprint, found.folder) == (of.name, of.fingerprint, of.folder)


def test_rounded_numbers_do_not_pass_for_a_direct_extraction(cache: Cache, put: Callable[..., Any]) -> None:
    put(name="enc/all+float16", dtype="float16")
    stored = "enc/all+float16"
    named = {(layer, dtype): cut(cache, layer, stored, dtype=dtype) for layer in ("2", "mean") for dtype in (None, "float32")}
    assert named["2", None].name == "enc/2+float16" and "of" not in named["2", None].config
    assert named["2", "float32"].name == "enc/2-of-all" and named["mean", None].name == "enc/mean-of-all+float16"
    assert len({target.fingerprint for target in named.values()}) == 4
    assert all(target.config["of"]["dtype"] == "float16" for key, target in named.items() if key != ("2", None))


def test_a_layer_may_be_stored_in_half_and_what_does_not_fit_is_refused(cache: Cache, put_corpus: Any, put_stack: Any) -> None:
    put_corpus(cache, [Utterance(utterance_id="u00", path="u00.wav")])
    frames = np.full((3, M * D), 0.1, np.float32)
    frames[:, D:] = 70000.0
    put_stack(cache, {"u00": frames}, M)
    half = cut(cache, "0", dtype="float16")
    run(cache, half)
    assert half.name == "enc/0+float16" and read(cache, half.name)["u00"].dtype == np.float16
    with pytest.raises(TfserError, match="70000 is too large for float16"):
        run(cache, cut(cache, "1", dtype="float16"))


@pytest.mark.slow
def test_only_what_is_missing_is_written(cache: Cache, put: Callable[..., Any], put_corpus: Any, put_stack: Any) -> None:
    put()
    run(cache, cut(cache, "1"))
    before = {p.name: p.read_bytes() for p in (cache.feature_root / cut(cache, "1").folder / "toy").iterdir()}
    more = [*IDS, "v0", "v1"]
    put_corpus(cache, [Utterance(utterance_id=i, path=f"{i}.wav") for i in more])
    put_stack(cache, {i: np.ones((2, M * D), np.float32) for i in ("v0", "v1")}, M)
    (report,) = run(cache, cut(cache, "1"))
    assert (report.before, report.written) == (N, 2)
    after = {p.name: p.read_bytes() for p in (cache.feature_root / cut(cache, "1").folder / "toy").iterdir()}
    assert before.items() <= after.items() and set(read(cache, "enc/1")) == set(more)


@pytest.mark.slow
def test_what_the_extraction_skipped_is_excused(cache: Cache, put: Callable[..., Any], put_corpus: Any) -> None:
    put()
    utterances = [
        Utterance(utterance_id=name, path=f"{name}.wav", speaker=f"s{i % 3}", label=("anger", "fear")[i % 2])
        for i, name in enumerate([*IDS, "lost"])
    ]
    put_corpus(cache, utterances, default_protocol="loso-speaker")
    source = layered(cache, "enc/all")[0]
    skipped = Skipped(corpus="toy", utterance_id="lost", path=None, stage="extract:enc/all", reason="too short")
    write_table(cache.root / source["folder"] / "toy" / "skipped.parquet", skipped_table([skipped]))
    run(cache, cut(cache, "1"))
    protocol = ensure_protocol(cache, "toy", "loso-speaker")
    with open_catalogue(cache) as connection:
        assert rows(connection, "SELECT stage FROM skipped WHERE stage = 'extract:enc/1'") != []
        found = run_audits(connection, protocol=protocol, corpus="toy", feature_sets=["enc/1"])
    assert not [f for f in found if f.audit == "features_missing" and f.level == "error"]


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c: cut(c, "4"), r"--layer 4: a number from 0 to 3, last or mean"),
        (lambda c: cut(c, "-1"), r"--layer -1"),
        (lambda c: cut(c, "1", dtype="int8"), r"unknown dtype 'int8'"),
        (lambda c: cut(c, "1", name="a:b"), r"--name 'a:b'"),
        (lambda c: layered(c, "enc/al"), r"did you mean 'enc/all'"),
        (lambda c: layered(c, "plain"), r"plain holds one layer.*enc/all"),
        (lambda c: run(c, cut(c, "1", name="plain")), r"plain is another feature set"),
        (lambda c: run(c, cut(c, "1"), corpora=["tox"]), r"did you mean 'toy'"),
    ],
)
def test_requests_that_are_off(
    cache: Cache, put: Callable[..., Any], put_stack: Any, call: Callable[[Cache], Any], said: str
) -> None:
    put()
    put_stack(cache, {"u00": np.ones((2, D), np.float32)}, 1, name="plain")
    with pytest.raises(UsageError, match=said):
        call(cache)


def test_a_width_that_does_not_part_into_its_layers_is_said(cache: Cache, put: Callable[..., Any]) -> None:
    put()
    source = dict(layered(cache, "enc/all")[0])
    source["config"] = json.dumps({"family": "wavlm", "layers": 5})
    with pytest.raises(TfserError, match="12 columns do not part into 5 layers"):
        layer_cut(source, "1")


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_the_weighted_sum_is_the_formula(layers: int, dim: int, frames: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((frames, layers * dim)).astype(np.float32)
    weights = rng.dirichlet(np.ones(layers))
    shift, scale = (rng.uniform(0.5, 2, layers * dim).astype(np.float32) for _ in range(2))
    expected = np.einsum("tmd,m->td", ((x.astype(float) - shift) * scale).reshape(frames, layers, dim), weights)
    np.testing.assert_allclose(weighted_sum(x, weights.tolist(), shift, scale), expected, atol=1e-5)


# Killed at any moment.


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def _die(root: Path, step: int) -> None:
    """Collapse, and die before the file number `step` is written: shards and their rows in turn."""
    left = [step]

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return real(*args, **named)

        return call

    module.write_shard, module.write_rows = dying(module.write_shard), dying(module.write_rows)  # type: ignore[assignment]
    cache = Cache(root)
    run(cache, cut(cache, "2"), how=ShardWriting(shard_utterances=3))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="takes fork and signals")
def test_killed_at_every_step_it_goes_on_to_the_same_files(cache: Cache, put: Callable[..., Any]) -> None:
    put()
    folder = cache.feature_root / cut(cache, "2").folder / "toy"
    run(cache, cut(cache, "2"), how=ShardWriting(shard_utterances=3))
    whole = files(folder)
    assert len(whole) == 8  # four shards and their rows
    for step in range(8):
        for path in folder.iterdir():
            path.unlink()
        child = multiprocessing.get_context("fork").Process(target=_die, args=(cache.root, step))
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
        done = sum(pq.read_metadata(p).num_rows for p in folder.glob("*.rows.parquet"))
        assert done == min(N, 3 * (step // 2))
        (report,) = run(cache, cut(cache, "2"), how=ShardWriting(shard_utterances=3))
        assert (report.before, report.written) == (done, N - done)
        assert files(folder) == whole
    assert verify(cache) == []


def test_excuses_follow_the_source_and_a_file_that_changed_is_not_handed_on(cache: Cache) -> None:
    """Else who was skipped later would be missed for ever, and a scan would decode for ever what had changed once."""
    source, folder = cache.feature_root / "enc-all", cache.feature_root / "enc-1" / "toy"

    def listed(name: str, stage: str) -> Skipped:
        return Skipped(corpus="toy", utterance_id=name, path=None, stage=stage, reason="so")

    def copied(*rows: Skipped) -> list[str | None]:
        write_table(source / "toy" / "skipped.parquet", skipped_table(rows))
        copy_excuses(cache, SimpleNamespace(name="enc/1"), [source], folder)  # type: ignore[arg-type]
        return [row.utterance_id for row in skipped_rows(read_skipped(cache, folder / "skipped.parquet"))]

    assert copied() == [] and not folder.exists()
    one, two, changed = listed("u1", "extract:enc/all"), listed("u2", "extract:enc/all"), listed("u3", "changed:enc/all")
    assert copied(one, changed) == ["u1"] and copied(one, two) == ["u1", "u2"] and copied(two) == ["u2"]
    cache.write_table(folder / "skipped.parquet", skipped_table([listed("u4", "extract:enc/1"), one]))
    assert copied(two) == ["u4", "u2"]
