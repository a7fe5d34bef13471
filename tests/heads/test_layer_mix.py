"""A learned sum over layers before any head: the module, the training, the stored weights, and to which fold a mix belongs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tfser.heads import HEADS, head
from tfser.heads.models.layer_mix import STATE_KEY, LayerMix, build_module, layer_weights
from tfser.heads.runs.experiment import Experiment, resolve
from tfser.heads.runs.learned_mix import mix_of_run
from tfser.heads.runs.loaded import load
from tfser.heads.runs.one_fold import RunResult, audit_experiment, train_fold
from tfser.heads.runs.request import Request
from tfser.heads.runs.store import run_folder
from tfser.heads.spec.fold import EpochRecord, FitResult, FoldData
from tfser.heads.spec.head import HeadSpec, Network, count_parameters
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.settings import Settings
from tfser.heads.training.loop import Keeping, TrainedState, fit, predict
from tfser.heads.training.normalise import Normaliser
from tfser.heads.training.samples import FrameStore
from tfser.manifests.audits.run import run_audits
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, refresh, rows
from tfser.manifests.errors import DamagedError, TfserError, UsageError
from tfser.manifests.utterances import Utterance
from tfser.pipeline.derived.collapse import collapse
from tfser.pipeline.shards.packed import PackedFeatures

M, D, K = 3, 80, 4
CASES = [(name, preset) for name in HEADS if isinstance(head(name), Network) for preset in head(name).presets]
SMALL = {
    "mean_pool": {"hidden": (8,)},
    "tf_mamba": {"width": 16, "attention_heads": 2, "state": 4, "scan_heads": 2},
    "tf_transformer": {"segment_frames": 16, "channels": 16},
    "ca_mser": {"part_dims": (40, 20), "segment_frames": 12, "image": (63, 63), "lstm_units": 4},
}


STRETCH = {"speechformer": 10}
"""It merges frames into words: of a short utterance one is left, and attention over one token has nothing to learn."""


def settled(spec: HeadSpec, preset: str, **changes: object) -> Settings:
    return spec.settled(replace(spec.preset(preset), **changes), hop_s=0.02, longest=100, device="cpu")


def batch(spec: HeadSpec, config: Settings, n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    length = spec.segment_frames(config)
    lengths = torch.full((n,), length) if length is not None else (torch.arange(n) * 7 + 12) * STRETCH.get(spec.name, 1)
    frames = torch.randn(n, int(lengths.max()), M * D, generator=generator)
    return frames.masked_fill((torch.arange(frames.shape[1]) >= lengths[:, None])[:, :, None], 0.0), lengths


# The module, around every head.


OFTEN = ("mean_pool", "tf_mamba", "tf_transformer", "shift_lstm")
"""Heads whose mixes are among the fast tests: one that is fed in each way, and one with a state."""


@pytest.fixture(params=[pytest.param(one, marks=() if one[0] in OFTEN else pytest.mark.slow, id="-".join(one)) for one in CASES])
def case(request: pytest.FixtureRequest) -> tuple[HeadSpec, Settings, LayerMix]:
    spec = head(request.param[0])
    config = settled(spec, request.param[1], **(SMALL[spec.name] if spec.reads else {}))
    torch.manual_seed(0)
    module = build_module(spec, config, M * D, K, M)
    assert isinstance(module, LayerMix)
    return spec, config, module


@pytest.mark.few(6)
def test_it_is_the_head_on_the_weighted_sum(case: tuple[HeadSpec, Settings, LayerMix]) -> None:
    spec, config, module = case
    torch.manual_seed(0)
    plain = build_module(spec, config, D, K).eval()
    assert count_parameters(module) == count_parameters(plain) + M
    module.eval()
    frames, lengths = batch(spec, config)
    layers = frames.unflatten(2, (M, D))
    with torch.no_grad():
        torch.testing.assert_close(module(frames, lengths), plain(layers.mean(dim=2), lengths), atol=1e-4, rtol=1e-4)
        module.layer_scores.copy_(torch.tensor([0.3, -1.0, 2.0]))
        weights = module.layer_scores.softmax(0)
        mixed = (layers * weights[:, None]).sum(dim=2)
        torch.testing.assert_close(module.mix(frames), mixed, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(module(frames, lengths), plain(mixed, lengths), atol=1e-4, rtol=1e-4)
        assert torch.equal(module(module.mix(frames), lengths), module(frames, lengths))
        if isinstance(spec, Network) and spec.gives_frames:
            encoded = module.encode(frames, lengths)
            torch.testing.assert_close(encoded, plain.encode(mixed, lengths), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(module.classify(encoded, lengths), module(frames, lengths))


@pytest.mark.few(5)
def test_batch_mates_do_not_matter(case: tuple[HeadSpec, Settings, LayerMix]) -> None:
    spec, config, module = case
    module.eval()
    frames, lengths = batch(spec, config)
    with torch.no_grad():
        together = module(frames, lengths)
        alone = torch.cat([module(frames[i : i + 1, : lengths[i]], lengths[i : i + 1]) for i in range(len(frames))])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


@pytest.mark.few(5)
def test_every_parameter_gets_a_gradient(case: tuple[HeadSpec, Settings, LayerMix]) -> None:
    spec, config, module = case
    nn.functional.cross_entropy(module(*batch(spec, config)), torch.arange(4)).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-9, name


def test_thresholds_and_scores_have_a_rate_of_their_own() -> None:
    spec = head("tf_mamba")
    module = build_module(spec, settled(spec, "full", **SMALL["tf_mamba"]), M * D, K, M)
    own = module.own_rate_parameters()
    assert own[0] is module.layer_scores and len(own) == 1 + len(module.head.own_rate_parameters()) > 1


def test_widths_that_do_not_part_are_refused() -> None:
    spec = head("mean_pool")
    with pytest.raises(UsageError, match="a width of 80 do not part into 3 layers"):
        build_module(spec, spec.preset("mlp"), 80, K, 3)
    transformer = head("tf_transformer")
    with pytest.raises(UsageError):  # 3 * 81 would do, 81 does not: the check is of one layer's width
        build_module(transformer, transformer.preset("full"), 4 * 81, K, 4)


# Training.

RECIPE = Recipe(optimiser="adamw", lr=3e-3, weight_decay=0.01, epochs=20, batch_size=8)


def make_fold(layers: int, dim: int, telling: int, *, seed: int = 0, n: int = 90) -> FoldData:
    """Return two classes that show in one layer alone; the others hold an offset of each utterance's own."""
    rng = np.random.default_rng(seed)
    lengths = 4 + np.arange(n) % 5
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    labels = np.arange(n) % 2
    whole = rng.standard_normal((n, layers, dim))
    whole[:, telling] = 0.5 * whole[:, telling] + np.where(labels == 1, 0.6, -0.6)[:, None]
    frames = np.repeat(whole, lengths, axis=0) + 0.3 * rng.standard_normal((offsets[-1], layers, dim))
    features = PackedFeatures(
        frames=frames.reshape(-1, layers * dim).astype(np.float32),
        offsets=offsets,
        utterance_ids=tuple(f"u{i}" for i in range(n)),
    )
    return FoldData(
        features=features,
        labels=labels,
        classes=("a", "b"),
        train=np.arange(40),
        val=np.arange(40, 50),
        test=np.arange(50, n),
        layers=layers,
    )


def train(data: FoldData, recipe: Recipe = RECIPE, name: str = "mean_pool", **keeping: Any) -> FitResult:
    spec = head(name)
    config = settled(spec, spec.default_preset, **SMALL[name])
    return fit(data, spec=spec, config=config, recipe=recipe, seed=1, device="cpu", keeping=Keeping(**keeping))


def mean_of_layers(data: FoldData) -> FoldData:
    frames = data.features.frames.reshape(len(data.features.frames), data.layers, -1).mean(axis=1)
    return replace(data, features=replace(data.features, frames=np.ascontiguousarray(frames)), layers=1)


@pytest.mark.few(1)
@pytest.mark.parametrize("telling", [0, 4])
def test_the_layer_that_tells_the_classes_gets_the_weight_and_beats_the_mean(telling: int) -> None:
    data, recipe = make_fold(6, 4, telling), replace(RECIPE, epochs=40)
    mixed, mean = train(data, recipe), train(mean_of_layers(data), recipe)
    weights = layer_weights(mixed.states["last"])
    assert weights is not None and sum(weights) == pytest.approx(1)
    assert int(np.argmax(weights)) == telling and weights[telling] > 0.5
    assert mixed.history[-1].test_UA > mean.history[-1].test_UA + 0.1


@pytest.mark.slow
def test_without_a_rate_of_its_own_the_mix_would_hardly_leave_the_mean() -> None:
    """Why the scores are among the parameters with a rate of their own."""
    slow = layer_weights(train(make_fold(6, 4, 2), replace(RECIPE, own_rate=1e-5)).states["last"])
    assert slow is not None and max(slow) < 0.2


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["mean_pool", "tf_transformer", "tf_mamba"])
def test_a_mix_of_equal_layers_trains_as_the_layer_alone(name: str) -> None:
    """Augmentations fall on all layers alike, for whole utterances, segments and heads that give their frames to a loss."""
    data = make_fold(1, 8, 0, n=60)
    tiled = replace(data, features=replace(data.features, frames=np.tile(data.features.frames, (1, 4))), layers=4)
    recipe = Recipe(
        epochs=2,
        batch_size=8,
        time_masks=1,
        time_mask_frames=2,
        band_masks=2,
        band_mask_bands=3,
        mixup=0.3,
        tilt_db=3.0,
        warp=0.1,
        cmdt=0.1 if name == "tf_mamba" else 0.0,
    )
    alone, mixed = train(data, recipe, name), train(tiled, recipe, name)
    for selection in ("last", "val"):
        assert alone.selections[selection].epoch == mixed.selections[selection].epoch
        one, other = alone.selections[selection].test, mixed.selections[selection].test
        assert one is not None and other is not None
        np.testing.assert_array_equal(one.segment_utterance, other.segment_utterance)
        np.testing.assert_allclose(one.segment_probabilities, other.segment_probabilities, atol=2e-3)


def test_states_predict_and_stopped_trainings_go_on_to_the_same_numbers(tmp_path: Any) -> None:
    data = make_fold(3, 8, 1)
    recipe = replace(RECIPE, epochs=3, averaging=0.9)
    whole = train(data, recipe)

    def stop(record: EpochRecord) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(data, recipe, checkpoint_dir=tmp_path, checkpoint_every_s=0.0, on_epoch=stop)
    resumed = train(data, recipe, checkpoint_dir=tmp_path)
    assert all(torch.equal(resumed.states["last"][key], value) for key, value in whole.states["last"].items())
    spec = head("mean_pool")
    config = settled(spec, "mlp", **SMALL["mean_pool"])
    trained = TrainedState(state=whole.states["last"], spec=spec, config=config, recipe=recipe, n_classes=2, layers=data.layers)
    again = predict(trained, data.features, utterances=data.test)
    np.testing.assert_array_equal(again.utterance_probabilities, whole.selections["last"].test.utterance_probabilities)  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="not a state of mean_pool"):
        predict(replace(trained, layers=1), data.features, utterances=data.test)


# From a cache to runs, and back into the cache.


def test_names_of_experiments_on_one_layer_are_what_they_were() -> None:
    """Pinned: runs that are in people's caches must be found again."""
    spec = head("mean_pool")
    experiment = Experiment(
        spec=spec,
        preset="mlp",
        config=spec.preset("mlp"),
        recipe_name="default",
        recipe=Recipe(),
        corpus="emodb",
        feature_set="logmel",
        fingerprint="0123456789abcdef",
        dim=80,
        protocol="loso-speaker",
        protocol_hash="fedcba9876543210",
        validation="none",
        classes=("anger", "neutral"),
        folds=(1,),
        of_folds=10,
        seed=0,
        device="cpu",
        data_hash="00112233",
        allow_leaks=False,
        again=False,
        chosen=(),
    )
    assert experiment.run_id(1) == "mean_pool-mlp-default-emodb-4c7178fbc6-f1-s0"
    assert replace(experiment, layers=25).run_id(1) != experiment.run_id(1)


LAYERS, WIDTH = 4, 6


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, put_corpus: Any, put_stack: Any) -> Cache:
    """Three speakers of two classes that show in layer 2 alone, under different scales of the layers; tests add runs."""
    return fill(Cache(tmp_path_factory.mktemp("filled")), put_corpus, put_stack)


def fill(cache: Cache, put_corpus: Any, put_stack: Any) -> Cache:
    rng = np.random.default_rng(3)
    utterances, frames = [], {}
    for s in "abc":
        for i in range(8):
            name, label = f"{s}{i}", ("anger", "sadness")[i % 2]
            utterances.append(Utterance(utterance_id=name, path=f"{name}.wav", speaker=s, label=label))
            of = rng.standard_normal((1, LAYERS, WIDTH)) + 0.2 * rng.standard_normal((5 + i, LAYERS, WIDTH))
            of[:, 2] = 0.3 * of[:, 2] + (1.0 if i % 2 else -1.0)
            frames[name] = (of * np.array([1, 10, 3, 0.1])[:, None] + 2).reshape(-1, LAYERS * WIDTH).astype(np.float32)
    put_corpus(cache, utterances, default_protocol="loso-speaker")
    put_stack(cache, frames, LAYERS)
    refresh(cache)
    return cache


def run(cache: Cache, fold: int = 1, **request: Any) -> tuple[Experiment, RunResult]:
    asked = {"features": "enc/all", "epochs": 12, "settings": {"lr": "0.003"}, **request}
    experiment = resolve(cache, Request(head="mean_pool", device="cpu", **asked))
    findings = audit_experiment(cache, experiment)
    result = train_fold(cache, experiment, fold, lambda: load(cache, experiment), findings)
    refresh(cache)
    return experiment, result


@pytest.fixture(scope="module")
def first(filled: Cache) -> tuple[Experiment, RunResult, str]:
    """A run of fold 1, and the name of its mix."""
    experiment, result = run(filled, epochs=1)
    return experiment, result, collapsed(filled, result.about["run_id"])


First = tuple[Experiment, RunResult, str]


def collapsed(cache: Cache, run_id: str, **named: Any) -> str:
    source, target, corpora = mix_of_run(cache, run_id, **named)
    collapse(cache, source, target, corpora)
    refresh(cache)
    return target.name


@pytest.mark.slow
def test_the_run_stores_its_weights_for_sql(filled: Cache) -> None:
    experiment, result = run(filled, validation="next-group")
    assert (experiment.layers, experiment.dim) == (LAYERS, LAYERS * WIDTH)
    assert experiment.configuration()["layers"] == LAYERS
    weights = result.about["layer_weights"]
    assert set(weights) == {"last", "val"} and int(np.argmax(weights["last"])) == 2
    with open_catalogue(filled) as connection:
        found = rows(
            connection,
            "SELECT fold, l.k - 1 AS layer, (layer_weights->'$.last'->>(l.k - 1))::DOUBLE AS weight "
            "FROM runs, unnest(range(1, json_array_length(layer_weights, '$.last')::BIGINT + 1)) AS l(k) "
            "WHERE layer_weights IS NOT NULL AND run_id = ? ORDER BY fold, layer",
            [experiment.run_id(1)],
        )
    assert [row["layer"] for row in found] == [0, 1, 2, 3]
    assert [row["weight"] for row in found] == pytest.approx(weights["last"])
    state_weights = layer_weights(_state(filled, experiment.run_id(1), "val"))
    assert state_weights == pytest.approx(weights["val"])


def _state(cache: Cache, run_id: str, selection: str = "last") -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    name = "model.safetensors" if selection == "last" else f"model-{selection}.safetensors"
    return load_file(run_folder(cache, run_id) / name)


def of_all(cache: Cache, name: str) -> PackedFeatures:
    experiment = resolve(cache, Request(head="mean_pool", device="cpu", features=name))
    return load(cache, experiment).features


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("normalise", "dtype", "tolerance"),
    [
        ("train", None, 1e-5),
        pytest.param("train", "float16", 2e-3, marks=pytest.mark.slow),
        pytest.param("none", None, 1e-4, marks=pytest.mark.slow),
        pytest.param("utterance-mean", None, 1e-5, marks=pytest.mark.slow),
        ("utterance", None, 1e-4),
    ],
)
def test_a_collapsed_mix_is_what_the_run_s_head_saw(filled: Cache, normalise: str, dtype: str | None, tolerance: float) -> None:
    experiment, result = run(filled, settings={"normalise": normalise}, epochs=3)
    name = collapsed(filled, result.about["run_id"], dtype=dtype)
    assert name.startswith("enc/mix-") and len(name) == len("enc/mix-") + 8
    mine, stacked = of_all(filled, name), of_all(filled, "enc/all")
    assert mine.frames.dtype == np.dtype(dtype or "float32") and mine.utterance_ids == stacked.utterance_ids
    state = _state(filled, result.about["run_id"])
    normaliser = Normaliser(
        mode=normalise,  # type: ignore[arg-type]
        mean=state["normaliser.mean"].numpy(),
        deviation=state["normaliser.deviation"].numpy(),
    )
    store = FrameStore(
        stacked.frames, stacked.offsets, *normaliser.tables(stacked.frames, stacked.offsets), torch.device("cpu"), None
    )
    module = build_module(experiment.spec, experiment.config, stacked.dim, 2, LAYERS)
    module.layer_scores.data.copy_(state[STATE_KEY])  # type: ignore[operator, union-attr]
    for i in range(len(stacked)):
        seen, _ = store.gather(torch.tensor([i]), torch.tensor([0]), None)
        with torch.no_grad():
            expected = module.mix(seen)[0].numpy()  # type: ignore[operator]
        np.testing.assert_allclose(mine.of(i), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.slow
def test_a_mix_says_where_it_is_from_and_is_made_once(filled: Cache, first: First) -> None:
    experiment, about, name = first[0], first[1].about, first[2]
    with open_catalogue(filled) as connection:
        row = rows(connection, "FROM feature_sets WHERE feature_set = ?", [name])[0]
    config = json.loads(row["config"])
    assert (row["dim"], row["dtype"], row["hop_s"], row["kind"]) == (WIDTH, "float32", 0.02, "enc")
    assert config["weights"] == about["layer_weights"]["last"] and config["normalise"] == "train"
    assert config["of"] == {"feature_set": "enc/all", "fingerprint": experiment.fingerprint}
    assert config["belongs_to"] == {
        "run_id": about["run_id"],
        "experiment": experiment.name,
        "corpora": "toy",
        "protocol": experiment.protocol,
        "protocol_hash": experiment.protocol_hash,
        "fold": 1,
        "seed": 0,
    }
    source, target, corpora = mix_of_run(filled, about["run_id"])
    assert [r.written for r in collapse(filled, source, target, corpora)] == [0]
    assert collapsed(filled, run(filled, 2, epochs=1)[1].about["run_id"]) != name


@pytest.mark.slow
def test_a_mix_is_refused_everywhere_but_in_its_own_fold(filled: Cache, first: First) -> None:
    """Decision 23: its weights have seen the labels of the fold's training side, which other folds test on."""
    name = first[2]
    _, own = run(filled, 1, features=name, epochs=1)
    assert own.trained and own.about["audit"] == "passed"
    for fold, request in (
        (2, {}),
        (1, {"protocol": "group-kfold:2"}),
        (1, {"validation": "next-group"}),
    ):
        with pytest.raises(TfserError, match=rf"layer mix learned in another fold.*{name}.*--allow-leaks"):
            run(filled, fold, features=name, epochs=1, **request)
    _, leaky = run(filled, 2, features=name, epochs=1, allow_leaks=True)
    assert leaky.about["audit"] == "overridden"
    assert [f["audit"] for f in leaky.about["findings"] if f["level"] == "error"] == ["mix_of_other_fold"]
    with open_catalogue(filled) as connection:
        found = [
            (f.fold, f.level, f.examples[0]["because"])
            for f in run_audits(connection, protocol="loso-speaker", corpus="toy", feature_sets=[name])
            if f.audit == "mix_of_other_fold"
        ]
    assert found == [(2, "error", "another fold"), (3, "error", "another fold")]


@pytest.mark.slow
def test_a_mix_of_a_protocol_that_changed_is_refused(cache: Cache, put_corpus: Any, put_stack: Any) -> None:
    filled = fill(cache, put_corpus, put_stack)
    _, result = run(filled, epochs=1)
    name = collapsed(filled, result.about["run_id"])
    with open_catalogue(filled) as connection:
        utterances = rows(connection, "SELECT utterance_id, path, speaker, label FROM utterances ORDER BY utterance_id")
    utterances[0]["label"] = "sadness"
    put_corpus(filled, [Utterance(**row) for row in utterances], default_protocol="loso-speaker")
    refresh(filled)
    with pytest.raises(TfserError, match="the protocol has other rows now"):
        run(filled, 1, features=name, epochs=1)


@pytest.mark.slow
def test_a_mix_is_audited_and_chosen_only_when_it_is_named(filled: Cache, first: First) -> None:
    name = first[2]
    assert resolve(filled, Request(head="mean_pool", device="cpu")).feature_set == "enc/all"
    protocol = ensure_protocol(filled, "toy", "loso-speaker")
    with open_catalogue(filled) as connection:
        found = run_audits(connection, protocol=protocol, corpus="toy")
        assert {f.level for f in found if f.audit == "mix_of_other_fold"} == {"ok"}
        named = run_audits(connection, protocol=protocol, corpus="toy", feature_sets=["enc/all", name])
        assert {f.level for f in named if f.audit == "mix_of_other_fold"} == {"error"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c, r: mix_of_run(c, "mean_pool-no-such-run"), "unknown run with a learned layer mix"),
        (lambda c, r: mix_of_run(c, r, selection="test-oracle"), "unknown selection 'test-oracle'"),
        (lambda c, r: mix_of_run(c, r, selection="val"), "no epoch was selected by validation"),
        (lambda c, r: mix_of_run(c, r, dtype="int8"), "unknown dtype"),
        (
            lambda c, r: mix_of_run(c, run(c, settings={"normalise": "speaker"}, epochs=1)[1].about["run_id"]),
            "normalise=speaker takes statistics over all utterances",
        ),
        (
            lambda c, r: mix_of_run(c, run(c, features=collapsed(c, r), epochs=1)[1].about["run_id"]),
            "mixed no layers; there is nothing to write",
        ),
    ],
)
def test_runs_that_cannot_be_collapsed(filled: Cache, first: First, call: Callable[[Cache, str], Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        call(filled, first[1].about["run_id"])


@pytest.mark.slow
def test_a_run_whose_features_are_gone_or_whose_weights_are_damaged(cache: Cache, put_corpus: Any, put_stack: Any) -> None:
    filled = fill(cache, put_corpus, put_stack)
    run_id = run(filled, epochs=1)[1].about["run_id"]
    (run_folder(filled, run_id) / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DamagedError, match="is not what was written"):
        mix_of_run(filled, run_id)
    run(filled, epochs=1, again=True)
    for path in filled.feature_root.glob("*/feature_set.json"):
        path.unlink()
    refresh(filled)
    with pytest.raises(TfserError, match="no longer in the cache"):
        mix_of_run(filled, run_id)
