"""Every head as ONNX: onnxruntime says of real utterances what PyTorch says, or the head tells why it has no graph."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tfser.heads import HEADS
from tfser.heads.prediction.answers import samples_of
from tfser.heads.prediction.export import some_utterances
from tfser.heads.prediction.inputs import measured, named_inputs
from tfser.heads.prediction.onnx_graph import NoGraphError, write_onnx
from tfser.heads.prediction.trained import TrainedHead, trained_head
from tfser.pipeline.features.logmel import LogMel, LogMelConfig
from tfser.pipeline.shards.packed import PackedFeatures

from ..trained_heads import JOINED, LAYERS, Trained

CASES = [*((head, JOINED if head == "ca_mser" else "logmel") for head in HEADS), ("mean_pool", LAYERS), ("probe", LAYERS)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Heads that were trained on tones."""
    return Trained(tmp_path_factory.mktemp("trained"))


def real_utterances(folder: Path) -> PackedFeatures:
    """Return the log-Mel frames of utterances of all lengths of a real corpus."""
    files = sorted(named_inputs([str(folder)]), key=lambda piece: piece.path.stat().st_size)
    usable, _ = measured(files[:: len(files) // 15][:16])
    config = LogMelConfig()
    frames = [LogMel(config).extract(samples_of(piece, config.sample_rate_hz)) for piece in usable]
    offsets = np.cumsum([0, *map(len, frames)])
    return PackedFeatures(frames=np.concatenate(frames), offsets=offsets, utterance_ids=tuple(of.name for of in usable))


def heard_by(head: TrainedHead, trained: Trained) -> PackedFeatures:
    """Return frames to compare a graph on: real ones where they are here, else those that the head was trained on."""
    emodb = Path(__file__).resolve().parents[3] / "shared" / "corpora" / "emodb"
    if head.features.name == "logmel" and emodb.is_dir():
        return real_utterances(emodb)
    return some_utterances(trained.cache, head)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "features"), CASES)
def test_every_head_has_a_graph_that_says_the_same(trained: Trained, tmp_path: Path, name: str, features: str) -> None:
    pytest.importorskip("onnxscript", reason="graphs are written with onnxscript, the extra [onnx]")
    onnxruntime = pytest.importorskip("onnxruntime", reason="graphs are run with onnxruntime, the extra [onnx]")
    (run_id,) = trained.need((name, features))
    head = trained_head(trained.cache, run_id)
    path = tmp_path / "model.onnx"
    if head.spec.no_graph is not None:
        with pytest.raises(NoGraphError, match=re.escape(head.spec.no_graph)):
            write_onnx(head, path, heard_by(head, trained))
        assert not path.exists()
        return
    compared = write_onnx(head, path, heard_by(head, trained))
    assert compared["utterances"] == 16 and compared["largest_difference"] <= 1e-4
    session = onnxruntime.InferenceSession(str(path))
    segment = None if head.is_fitted_at_once else head.spec.sample_frames(head.config, head.recipe)
    shape = (1, segment or 37, head.features.dim)
    (found,) = session.run(["probabilities"], {"frames": np.zeros(shape, np.float32)})
    assert found.shape == (1, 2) and abs(float(found.sum()) - 1) < 1e-5
