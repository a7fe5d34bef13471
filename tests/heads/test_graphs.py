"""Every head as ONNX: onnxruntime says of real utterances what PyTorch says, or the head tells why it has no graph."""

from __future__ import annotations

import json
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tfser.heads import DIMENSION_REFERENCES, HEADS, head
from tfser.heads.models import mstr, speechformer
from tfser.heads.models.blocks import BidirectionalLSTM, windowed_attention
from tfser.heads.models.dwformer import DWFormer, DWFormerConfig
from tfser.heads.models.layer_mix import build_module
from tfser.heads.models.speechformer_pp import SpeechFormerPP, SpeechFormerPPConfig
from tfser.heads.models.ssd import ssd
from tfser.heads.models.tf_mamba import FrequencyFilter
from tfser.heads.prediction.answers import samples_of
from tfser.heads.prediction.graph_parts import (
    DftFilter,
    FullLSTM,
    PooledMerge,
    in_graph_words,
    masked_attention,
    pooled,
    quadratic_scan,
    without_loops,
)
from tfser.heads.prediction.inputs import measured, named_inputs
from tfser.heads.prediction.onnx_graph import NoGraphError, _check_moving, graph_module, output_names, write_onnx
from tfser.heads.prediction.trained import TrainedHead
from tfser.heads.spec.fold import FoldData
from tfser.heads.spec.head import Baseline
from tfser.heads.training.normalise import Normaliser
from tfser.pipeline.features.logmel import LogMel, LogMelConfig
from tfser.pipeline.features.stored_set import StoredSet
from tfser.pipeline.shards.packed import PackedFeatures

CLASSES = ("anger", "joy", "sadness")
TARGETS = ("valence", "arousal")

# -- in PyTorch, layer by layer -----------------------------------------------------------------------------------------------


def drawn(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32))


@settings(max_examples=10)
@given(tokens=st.integers(1, 40), window=st.integers(1, 30))
def test_attention_under_a_mask_is_that_within_windows(tokens: int, window: int) -> None:
    q, k, v = (drawn(2, 2, tokens, 4 + i)[..., :4] for i in range(3))
    valid = torch.arange(tokens) < torch.tensor([[tokens], [max(1, tokens // 2)]])
    found, wanted = (attend(q, k, v, valid, window) for attend in (masked_attention, windowed_attention))
    # What is not there may be anything; what is there sees itself at least.
    there = valid[:, None, :, None].expand_as(wanted)
    torch.testing.assert_close(found[there], wanted[there], atol=1e-5, rtol=1e-5)


@settings(max_examples=10)
@given(frames=st.integers(1, 40), together=st.integers(1, 20))
def test_pooled_frames_are_means_of_those_that_there_are(frames: int, together: int) -> None:
    x, valid = drawn(2, frames, 3), torch.arange(frames) < torch.tensor([[frames], [max(1, frames // 3)]])
    merge = speechformer.Merge(3, together)
    for found, wanted in (
        (pooled(x, valid, together), mstr.pool_frames(x, valid, together)),
        (PooledMerge(merge)(x, valid), merge(x, valid)),
    ):
        assert torch.equal(found[1], wanted[1])
        torch.testing.assert_close(found[0][found[1]], wanted[0][wanted[1]], atol=1e-5, rtol=1e-5)


@settings(max_examples=10)
@given(frames=st.integers(1, 30))
def test_scan_transforms_and_lstm_are_the_same_without_loops(frames: int) -> None:
    x, dt = drawn(1, frames, 4, 3), drawn(1, frames, 4).exp()
    A, B, C, D = -drawn(4).exp(), drawn(1, frames, 2, 5), drawn(1, frames, 2, 6)[..., :5], drawn(4)
    torch.testing.assert_close(quadratic_scan(x, dt, A, B, C, D), ssd(x, dt, A, B, C, D), atol=1e-4, rtol=1e-4)
    y, valid = drawn(1, frames, 3), torch.ones(1, frames, dtype=torch.bool)
    lstm = BidirectionalLSTM(3, 4)
    torch.testing.assert_close(FullLSTM(lstm)(y, torch.tensor([frames])), lstm(y, torch.tensor([frames])))
    for kind in ("power", "cutoff"):
        of_frequencies = FrequencyFilter(3, 30, kind, 0.4).eval()
        torch.testing.assert_close(DftFilter(of_frequencies)(y, valid), of_frequencies(y, valid), atol=1e-5, rtol=1e-5)


def test_words_beyond_an_utterance_s_end_change_nothing() -> None:
    """SpeechFormer++ has a word a begun second, and in a graph always as many."""
    config = replace(SpeechFormerPPConfig(), width=8, heads=2, feed_forward=8, hidden=(4,), layers=(1, 1, 1, 1), hop_ms=20.0)
    network = SpeechFormerPP(config, 5, 3).eval()
    with torch.no_grad(), without_loops():
        wanted = [network(drawn(1, frames, 5), torch.tensor([frames])) for frames in (2, 49, 130)]
        assert in_graph_words(network, 130) == 60 * 50 and in_graph_words(network, 4000) == 4000
        found = [network(drawn(1, frames, 5), torch.tensor([frames])) for frames in (2, 49, 130)]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_windows_without_a_frame_change_nothing() -> None:
    """DWFormer has as many windows as importance makes, and in a graph as many as frames."""
    config = replace(DWFormerConfig(), width=8, heads=2, feed_forward=8, hidden=(4,), blocks=2)
    network, lengths = DWFormer(config, 5, 3).eval(), torch.tensor([40, 7])
    with torch.no_grad():
        wanted = network(drawn(2, 40, 5), lengths)
        with without_loops():
            found = network(drawn(2, 40, 5), lengths)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_heads_have_their_own_layers_again_afterwards() -> None:
    before = speechformer.windowed_attention
    with pytest.raises(RuntimeError), without_loops():
        assert speechformer.windowed_attention is masked_attention
        raise RuntimeError
    assert speechformer.windowed_attention is before


def test_a_graph_of_one_length_alone_is_none() -> None:
    onnx = pytest.importorskip("onnx", reason="graphs are written with onnx, the extra [onnx]")
    shapes = ([1, "frames", 80], [1, 201, 80])
    inputs = [[onnx.helper.make_tensor_value_info("frames", onnx.TensorProto.FLOAT, shape)] for shape in shapes]
    free, fixed = (onnx.helper.make_model(onnx.helper.make_graph([], "graph", given, [])) for given in inputs)
    _check_moving(free, {1: None})
    _check_moving(fixed, {})
    with pytest.raises(ValueError, match="fixed the length of its input to that of the example, 201"):
        _check_moving(fixed, {1: None})


# -- whole heads --------------------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    **{"width": 16, "heads": 2, "feed_forward": 16, "hidden": (8,), "layers": 1, "blocks": 2},
    **{"segment_frames": 16, "channels": 4, "image": (63, 63), "lstm_units": 4},
}
"""What heads have of these settings is small: what a graph is made of does not depend on it."""
OWN: dict[str, dict[str, Any]] = {
    "speechformer": {"layers": (1, 1, 1, 1)},
    "speechformer_pp": {"layers": (1, 1, 1, 1)},
    "tf_mamba": {"hidden": (16, 8)},
    "ca_mser": {"hidden": 8},
}


@pytest.fixture(scope="module")
def real(shared: Path) -> PackedFeatures:
    """The log-Mel frames of six real utterances, each without some more of its end: some corpora's clips are all as long."""
    files = sorted(named_inputs([str(shared / "corpora" / "emodb")]), key=lambda piece: piece.path.stat().st_size)
    usable, _ = measured([files[round(i * (len(files) - 1) / 5)] for i in range(6)])
    config = LogMelConfig()
    frames = [LogMel(config).extract(samples_of(piece, config.sample_rate_hz)) for piece in usable]
    frames = [each[: max(30, len(each) - 17 * i)] for i, each in enumerate(frames)]
    offsets = np.cumsum([0, *map(len, frames)])
    return PackedFeatures(frames=np.concatenate(frames), offsets=offsets, utterance_ids=tuple(of.name for of in usable))


def of_width(real: PackedFeatures, dim: int) -> PackedFeatures:
    """Return the same frames, their columns again and again up to a width."""
    times = -(-dim // real.dim)
    return replace(real, frames=np.ascontiguousarray(np.tile(real.frames, times)[:, :dim]))


def some_head(
    name: str, features: PackedFeatures, *, targets: tuple[str, ...] = (), layers: int = 1, classes: tuple[str, ...] = CLASSES
) -> TrainedHead:
    """Return a head with weights as they are drawn, or fitted at once to labels that are drawn."""
    spec = head(name)
    recipe = spec.recipe("paper" if name == "tf_transformer" else None)  # whose hops fit so short segments
    config = spec.preset()
    small = {key: value for key, value in SMALL.items() if key in config.to_dict()} | OWN.get(name, {})
    longest = int(features.lengths.max())
    config = spec.settled(replace(config, **small), hop_s=0.01, longest=longest, device="cpu")
    everyone, rng = np.arange(len(features)), np.random.default_rng(0)
    if isinstance(spec, Baseline):
        data = FoldData(
            features=features,
            labels=everyone % len(CLASSES),
            classes=classes,
            train=everyone,
            val=everyone[:0],
            test=everyone[:0],
            speakers=tuple("aabbcc"),
            layers=layers,
            targets=targets,
            ratings=rng.random((len(features), len(targets))).astype(np.float32) if targets else None,
        )
        state = dict(spec.fit(data, config, recipe).states["last"])
    else:
        torch.manual_seed(0)
        network = build_module(spec, config, features.dim, len(classes) + len(targets), layers)
        found = Normaliser.fit(recipe.normalise, features.frames, features.offsets, everyone)
        state = {f"model.{key}": value for key, value in network.state_dict().items()}
        state |= {"normaliser.mean": torch.from_numpy(found.mean), "normaliser.deviation": torch.from_numpy(found.deviation)}
    stored = StoredSet(
        **{"name": "logmel", "fingerprint": "0" * 16, "kind": "logmel", "config": {"layers": layers}, "dim": features.dim},
        **{"dtype": "float32", "hop_s": 0.01, "source": {}},
    )
    scales = {"targets": list(targets), "scales": [["emodb", 1, 5]]} if targets else {}
    return TrainedHead(
        about={"run_id": name, "config": scales},
        spec=spec,
        config=config,
        recipe=recipe,
        classes=classes,
        selection="last",
        state=state,
        features=stored,
    )


def written(real: PackedFeatures, path: Path, name: str, says: str, layers: int) -> dict[str, Any]:
    """Return what `write_onnx` says of a head that is made here."""
    features = of_width(real, 144 if name == "ca_mser" else real.dim * layers)
    return write_onnx(some_head(name, features, **SAYS[says], layers=layers), path, features)


SAYS: dict[str, dict[str, Any]] = {"classes": {}, "ratings": {"targets": TARGETS, "classes": ()}, "both": {"targets": TARGETS}}
CASES = [
    *((name, "ratings" if name in DIMENSION_REFERENCES else "classes", 1) for name in HEADS),
    *(("mean_pool", "ratings", 1), ("tf_transformer", "ratings", 1), ("mean_pool", "classes", 2), ("probe", "classes", 2)),
    *((name, "both", 1) for name in ("mean_pool", "tf_transformer", "logreg", "svm")),
]


@pytest.mark.parametrize("name", ["logreg", "svm", "mean_pool"])
def test_a_module_of_both_gives_probabilities_and_ratings_on_the_scale(name: str) -> None:
    """What is written as a graph says what the head predicts, before any graph."""
    rng = np.random.default_rng(1)
    frames, offsets = rng.standard_normal((48, 4)).astype(np.float32), np.arange(0, 49, 8)
    features = PackedFeatures(frames=frames, offsets=offsets, utterance_ids=tuple("abcdef"))
    trained = some_head(name, features, targets=TARGETS)
    module, _ = graph_module(trained, 8)
    with torch.no_grad():
        shares, ratings = module(torch.from_numpy(frames).reshape(6, 8, 4))
    wanted = trained.predict(features).utterance_probabilities
    np.testing.assert_allclose(shares, wanted[:, :3], atol=1e-5)
    np.testing.assert_allclose(ratings, 1 + 4 * wanted[:, 3:], atol=1e-5)
    assert output_names(trained) == ["probabilities", "ratings"] and np.ptp(wanted[:, 3:]) > 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "says", "layers"), CASES, ids=["-".join(map(str, case)) for case in CASES])
def test_every_head_has_a_graph_that_says_the_same(
    real: PackedFeatures, tmp_path: Path, name: str, says: str, layers: int
) -> None:
    pytest.importorskip("onnxscript", reason="graphs are written with onnxscript, the extra [onnx]")
    onnxruntime = pytest.importorskip("onnxruntime", reason="graphs are run with onnxruntime, the extra [onnx]")
    features = of_width(real, 144 if name == "ca_mser" else real.dim * layers)  # which takes three sets apart
    trained = some_head(name, features, **SAYS[says], layers=layers)
    path = tmp_path / "model.onnx"
    if trained.spec.no_graph is not None:
        with pytest.raises(NoGraphError, match=re.escape(trained.spec.no_graph)):
            write_onnx(trained, path, features)
        assert not path.exists()
        return
    # In a process of its own, as a command is: the exporter fixes the length for the second LSTM of the same sizes in one.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        compared = alone.submit(written, real, path, name, says, layers).result()
    assert compared["utterances"] == 6 and compared["largest_difference"] <= 1e-4
    session = onnxruntime.InferenceSession(str(path))
    segment = None if trained.is_fitted_at_once else trained.spec.sample_frames(trained.config, trained.recipe)
    found = session.run(compared["outputs"], {"frames": np.zeros((1, segment or 37, features.dim), np.float32)})
    told, by_name = session.get_modelmeta().custom_metadata_map, dict(zip(compared["outputs"], found, strict=True))
    assert set(by_name) == {"classes": {"probabilities"}, "ratings": {"ratings"}, "both": {"probabilities", "ratings"}}[says]
    if "ratings" in by_name:  # on the corpus's own scale
        ratings = by_name["ratings"]
        assert ratings.shape == (1, 2) and ratings.min() >= 1 and ratings.max() <= 5 and json.loads(told["tfser.scale"]) == [1, 5]
    if "probabilities" in by_name:
        shares = by_name["probabilities"]
        assert shares.shape == (1, 3) and abs(float(shares.sum()) - 1) < 1e-5
        assert json.loads(told["tfser.classes"]) == list(CLASSES)
