"""One layer of a stored stack without shards of its own: its name and fingerprint, its numbers, and what is compared of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfser.heads.runs.experiment import Experiment, each_request, resolve
from tfser.heads.runs.loaded import load
from tfser.heads.runs.one_fold import audit_experiment, train_fold, who_takes_part
from tfser.heads.runs.plan import feature_bytes, plan_sweep
from tfser.heads.runs.request import HeadBlock, Request, SweepRequest
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh
from tfser.manifests.errors import DamagedError, UsageError
from tfser.manifests.utterances import Utterance
from tfser.pipeline.derived.collapse import collapse
from tfser.pipeline.features.layer_views import layer_views
from tfser.pipeline.features.stacks import layer_cut, layered
from tfser.pipeline.shards.packed import forget_compared
from tfser.pipeline.shards.rows import load_rows, metadata_of

M, D = 3, 4
NAMES = [f"{speaker}{i}" for speaker in "abc" for i in range(6)]


@pytest.fixture(params=["hdf5", pytest.param("parquet", marks=pytest.mark.slow)])
def stacked(request: pytest.FixtureRequest, cache: Cache, put_corpus: Any, put_stack: Any) -> dict[str, np.ndarray]:
    """Fill the cache with three speakers of two classes and three layers, and return the frames."""
    put_corpus(
        cache,
        [Utterance(utterance_id=n, path=f"{n}.wav", speaker=n[0], label=("anger", "fear")[int(n[1]) % 2]) for n in NAMES],
        default_protocol="loso-speaker",
    )
    rng = np.random.default_rng(0)
    frames = {n: rng.standard_normal((3 + i, M * D)).astype(np.float32) for i, n in enumerate(NAMES)}
    put_stack(cache, frames, M, format=request.param)
    return frames


def settled(cache: Cache, features: str, head: str = "logreg") -> Experiment:
    return resolve(cache, Request(head=head, features=features, epochs=1, device="cpu"))


def test_a_view_is_the_layer_that_a_collapse_would_write(cache: Cache, stacked: dict[str, np.ndarray]) -> None:
    view = settled(cache, "enc/1")
    assert view.view is not None and (view.stored, view.dim, view.layers) == ("enc/all", D, 1)
    with open_catalogue(cache) as connection:  # who takes part has the layer, wherever it lies
        assert who_takes_part(cache, connection, view).used == len(NAMES)
    packed = load(cache, view).features
    for i, name in enumerate(packed.utterance_ids):
        np.testing.assert_array_equal(packed.of(i), stacked[name][:, D : 2 * D])
    before = train_fold(cache, view, 1, lambda: load(cache, view), audit_experiment(cache, view)).about
    source = layered(cache, "enc/all")[0]
    collapse(cache, source, layer_cut(source, "1"))
    refresh(cache)
    stored = settled(cache, "enc/1")
    assert stored.view is None and stored.stored == "enc/1" and stored.fingerprint == view.fingerprint
    assert stored.run_id(1) == before["run_id"]  # one and the same experiment: its run is found
    assert not train_fold(cache, stored, 1, lambda: load(cache, stored), audit_experiment(cache, stored)).trained


@pytest.mark.few(1)
@pytest.mark.parametrize("asked", ["enc/last", "enc/2"])
def test_last_is_the_highest_layer(cache: Cache, stacked: dict[str, np.ndarray], asked: str) -> None:
    assert settled(cache, asked).feature_set == "enc/2"


@pytest.mark.slow
def test_each_names_every_layer_from_the_lowest_on(cache: Cache, stacked: dict[str, np.ndarray]) -> None:
    for name in ("enc/each", "enc/*"):
        found = [of.features for of in each_request(cache, Request(head="logreg", features=name))]
        assert found == ["enc/0", "enc/1", "enc/2"]
    sweep = SweepRequest(heads=(HeadBlock(name="logreg"),), features=("enc/each", "enc/all"), device="cpu", reference=False)
    plan = plan_sweep(cache, sweep)
    assert [entry.experiment.feature_set for entry in plan.entries] == ["enc/0", "enc/1", "enc/2", "enc/all"]
    assert len({id(findings) for findings in plan.findings.values()}) == 1  # the stack is audited once
    total = sum(len(of) for of in stacked.values()) * D * 4
    assert list(feature_bytes(cache, plan).values()) == [total] * M + [M * total]
    with pytest.raises(UsageError, match="this names every layer"):
        settled(cache, "enc/each")
    with pytest.raises(UsageError, match="no layer of other in the cache"):
        each_request(cache, Request(head="logreg", features="other/each"))


def test_layers_that_there_are_not_are_said(cache: Cache, stacked: dict[str, np.ndarray]) -> None:
    with pytest.raises(UsageError, match="--features enc/3: enc has the layers 0 to 2"):
        settled(cache, "enc/3")
    with pytest.raises(UsageError, match="unknown feature set of toy 'enc/mean'"):
        settled(cache, "enc/mean")


def _shards(cache: Cache) -> list[Path]:
    return sorted(p for p in cache.feature_root.glob("*/toy/*") if not p.name.endswith(".rows.parquet"))


def _spoil(path: Path, number: float) -> None:
    """Change one number where it stands in the file."""
    content, wanted = bytearray(path.read_bytes()), np.float32(number).tobytes()
    at = content.index(wanted)
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.few(1)
@pytest.mark.parametrize("spoilt", [1, 2])
def test_damage_is_noticed_in_the_layer_that_is_read(
    cache: Cache, stacked: dict[str, np.ndarray], put_stack: Callable[..., None], spoilt: int
) -> None:
    """Of layer 1 its own checksum is compared; frames of older caches, which have none for a layer, are compared whole."""
    shard = _shards(cache)[0]
    has_own = "layer_checksums" in metadata_of(load_rows(shard.with_name(shard.name.split(".")[0] + ".rows.parquet")))
    assert has_own  # as put_stack and an extraction write them
    _spoil(shard, stacked[NAMES[0]][1, spoilt * D])
    forget_compared()
    experiment = settled(cache, "enc/1")
    if spoilt == 2:
        load(cache, experiment)
        return
    with pytest.raises(DamagedError, match="the frames of a0 are not those that were written"):
        load(cache, experiment)


def test_stacks_of_older_caches_are_compared_whole(
    cache: Cache, stacked: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfser.pipeline.shards.packed.layer_checksums", lambda shard: {})
    forget_compared()
    load(cache, settled(cache, "enc/0"))
    forget_compared()
    _spoil(_shards(cache)[0], stacked[NAMES[0]][1, 2 * D])
    with pytest.raises(DamagedError, match="the frames of a0"):
        load(cache, settled(cache, "enc/0"))


def _row(name: str, fingerprint: str, weights: str = "w") -> dict[str, Any]:
    config = {"family": "whisper", "layer": "all", "layers": 2, "weights": weights}
    about = {"fingerprint": fingerprint, "kind": "whisper", "dim": 8, "dtype": "float32", "hop_s": 0.02, "source": None}
    return {"feature_set": name, "config": json.dumps(config), **about}


def test_two_encoders_of_one_name_and_replaced_stacks() -> None:
    both = layer_views([_row("w/all@00000001", "1" * 16, "a"), _row("w/all@00000002", "2" * 16, "b")])
    assert len(both) == 4 and all(name.startswith(("w/0@", "w/1@")) for name in both)
    assert [view.stack for view in both.values()] == ["w/all@00000001"] * 2 + ["w/all@00000002"] * 2
    newest = layer_views([_row("w/all", "2" * 16, "b"), _row("w/all@00000001", "1" * 16, "a")])
    assert {view.stack for view in newest.values()} == {"w/all"}
    taken = layer_views([_row("w/all", "2" * 16), {**_row("w/1", "3" * 16), "config": "{}"}])
    assert list(taken) == ["w/0"]  # somebody's own w/1 is not shadowed


def test_a_layer_is_read_by_its_name_out_of_a_stack_in_half_precision(cache: Cache, put_corpus: Any, put_stack: Any) -> None:
    emotions = ("anger", "fear")
    put_corpus(cache, [Utterance(utterance_id=n, path=f"{n}.wav", speaker=n[0], label=emotions[int(n[1]) % 2]) for n in NAMES])
    frames = {n: np.full((2, M * D), i, np.float32) for i, n in enumerate(NAMES)}
    put_stack(cache, frames, M, name="enc/all+float16", dtype="float16")
    found = resolve(cache, Request(head="logreg", features="enc/1", protocol="loso-speaker", device="cpu"))
    assert found.feature_set == "enc/1+float16" and found.stored == "enc/all+float16"
