"""The engine of encoders: nothing is lost, nothing is computed twice, and batches follow what memory holds."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.corpora.table import READER
from tfser.pipeline.extraction.extract import ExtractReport, extract_pass
from tfser.pipeline.extraction.new_shards import ShardWriting
from tfser.pipeline.features.encoder_engine import Batcher, blocks, out_of_memory
from tfser.pipeline.features.encoders.encoder import Launched
from tfser.pipeline.features.encoders.loading import load
from tfser.pipeline.features.encoders.spec import EncoderSpec, encoder_spec
from tfser.pipeline.features.engine import AudioRow, Compute
from tfser.pipeline.features.registry import FeatureRequest, FeatureSet, Pass, feature_pass
from tfser.pipeline.resources.devices import choose_devices
from tfser.pipeline.scanning.scan import scan
from tfser.pipeline.shards.packed import FeatureRow, load_packed

RATE = 16000
SECONDS = (0.3, 1.1, 0.7, 2.4, 0.3, 1.6, 0.9, 0.5)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small WavLM of random weights, with its feature extractor."""
    torch = pytest.importorskip("torch")
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    folder = tmp_path_factory.mktemp("weights") / "tiny-wavlm"
    config = WavLMConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        WavLMModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for i, seconds in enumerate(SECONDS):
        noise = 0.1 * np.random.default_rng(i).standard_normal(round(seconds * RATE))
        soundfile.write(folder / f"u{i}.wav", noise, RATE)
    (folder / "t.csv").write_text("path\n" + "".join(f"u{i}.wav\n" for i in range(len(SECONDS))))
    return folder


@pytest.fixture
def scanned(cache: Cache, root: Path) -> Cache:
    scan(cache, READER, corpus="c", root=root, options={"table": str(root / "t.csv")})
    return cache


def job(weights: Path, layer: str = "2", dtype: str = "float32", **settings: str) -> Pass:
    return feature_pass("wavlm-large", FeatureRequest(weights=str(weights), layer=layer, dtype=dtype, settings=settings))


def extract(cache: Cache, wanted: Pass, compute: Compute | None = None, **options: Any) -> list[ExtractReport]:
    return extract_pass(cache, "c", wanted, compute=compute or Compute(), how=ShardWriting(**options))


def stored(cache: Cache, features: FeatureSet) -> dict[str, np.ndarray]:
    """The frames of each utterance, as a reader of the catalogue finds them."""
    with open_catalogue(cache) as connection:
        found = rows(connection, "SELECT * FROM features WHERE feature_set = ?", [features.name])
    keys = ("utterance_id", "first_frame", "frames", "dim")
    where = [FeatureRow(path=cache.root / r["shard"], **{key: r[key] for key in keys}) for r in found]
    packed = load_packed(where)
    return {name: packed.of(i) for i, name in enumerate(packed.utterance_ids)}


def agree(a: dict[str, np.ndarray], b: dict[str, np.ndarray], tolerance: float = 1e-4) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=tolerance * float(np.abs(b[name]).max()))


# -- one pass, whatever the batches ------------------------------------------------------------------------------------------


def test_a_cached_feature_is_that_of_the_file_alone(scanned: Cache, weights: Path, root: Path) -> None:
    """In one batch, in blocks, on two devices, after a resume: the same frames, and as many as the spec promises."""
    wanted = job(weights)
    extract(scanned, wanted)
    alone = stored(scanned, wanted.sets[0])
    spec = encoder_spec("wavlm-large", weights=str(weights), layer="2")
    encoder = load(spec, "cpu")
    for i, seconds in enumerate(SECONDS):
        samples, _ = soundfile.read(root / f"u{i}.wav", dtype="float32")
        ((frames,),) = encoder.encode([spec.prepare(samples)])
        assert len(frames) == wanted.sets[0].frames(round(seconds * RATE))
        np.testing.assert_array_equal(alone[f"u{i}"], frames)
    for compute in (Compute(max_batch_seconds=100), Compute(max_batch_seconds=2.5), Compute(devices=("cpu", "cpu"))):
        cache = Cache(scanned.root.parent / f"other{compute.max_batch_seconds}")
        scan(cache, READER, corpus="c", root=root, options={"table": str(root / "t.csv")})
        (report,) = extract(cache, wanted, compute, shard_utterances=3)
        assert report.extracted == len(SECONDS) and not report.skipped
        agree(stored(cache, wanted.sets[0]), alone)


def test_several_layers_cost_one_pass_and_get_only_what_they_lack(
    scanned: Cache, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    begin = Batcher.begin
    monkeypatch.setattr(Batcher, "begin", lambda self, samples: heard.append(len(samples)) or begin(self, samples))  # type: ignore[func-returns-value]
    (first,) = extract(scanned, job(weights, "1"))
    assert (first.extracted, sum(heard)) == (8, 8)
    reports = extract(scanned, job(weights, "1,3,mean,all"))
    assert [r.feature_set for r in reports] == ["wavlm-large/1", "wavlm-large/3", "wavlm-large/mean", "wavlm-large/all"]
    assert [(r.before, r.extracted) for r in reports] == [(8, 0), (0, 8), (0, 8), (0, 8)]
    assert sum(heard) == 16
    extract(scanned, job(weights, "1,3,mean,all"))
    assert sum(heard) == 16
    sets = {of.name: stored(scanned, of) for of in job(weights, "1,3,mean,all").sets}
    for name, of_all in sets["wavlm-large/all"].items():
        layers = of_all.reshape(len(of_all), 4, 16)
        np.testing.assert_array_equal(layers[:, 1], sets["wavlm-large/1"][name])
        np.testing.assert_array_equal(layers[:, 3], sets["wavlm-large/3"][name])
        np.testing.assert_allclose(layers[:, 1:].mean(axis=1), sets["wavlm-large/mean"][name], atol=1e-5)


def test_a_long_file_is_cut_and_stitched(scanned: Cache, weights: Path) -> None:
    short = job(weights, "2", chunk_s="1", overlap_s="0.4")
    assert short.sets[0].name == "wavlm-large/2+chunk_s=1+overlap_s=0.4"
    assert short.sets[0].fingerprint != job(weights).sets[0].fingerprint
    extract(scanned, job(weights))
    (report,) = extract(scanned, short)
    assert report.extracted == 8
    whole, cut = stored(scanned, job(weights).sets[0]), stored(scanned, short.sets[0])
    assert {name: len(of) for name, of in whole.items()} == {name: len(of) for name, of in cut.items()}
    np.testing.assert_array_equal(whole["u0"], cut["u0"])  # short enough to be left whole
    assert not np.array_equal(whole["u3"], cut["u3"])


def test_a_default_that_is_written_out_changes_nothing(weights: Path) -> None:
    plain = job(weights).sets[0]
    for settings_ in ({"chunk_s": "40"}, {"chunk_s": "40.0", "overlap_s": "4"}, {"do_normalize": "true"}):
        same = job(weights, **settings_).sets[0]
        assert (same.name, same.fingerprint) == (plain.name, plain.fingerprint)
    assert job(weights, do_normalize="False").sets[0].name == "wavlm-large/2+do_normalize=false"
    half = feature_pass("wavlm-large", FeatureRequest(weights=str(weights), layer="2", precision="bfloat16", dtype="float16"))
    assert half.sets[0].name == "wavlm-large/2+precision=bfloat16+float16"
    assert half.sets[0].fingerprint not in (plain.fingerprint, job(weights, dtype="float16").sets[0].fingerprint)


def test_a_feature_set_is_asked_for_as_it_is_called(weights: Path) -> None:
    given = FeatureRequest(weights=str(weights))
    assert feature_pass("wavlm-large/3", given).sets[0].fingerprint == job(weights, "3").sets[0].fingerprint
    with pytest.raises(UsageError, match="two layers"):
        feature_pass("wavlm-large/3", dataclasses.replace(given, layer="2"))


def test_other_weights_are_another_fingerprint_under_the_same_name(weights: Path, tmp_path: Path) -> None:
    import safetensors.torch

    other = tmp_path / "other"
    other.mkdir()
    for file in weights.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    tensors = safetensors.torch.load_file(other / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + 1e-3
    safetensors.torch.save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    a, b = job(weights).sets[0], job(other).sets[0]
    assert a.name == b.name and a.fingerprint != b.fingerprint


def test_where_the_weights_came_from_is_in_the_catalogue(scanned: Cache, weights: Path) -> None:
    extract(scanned, job(weights))
    with open_catalogue(scanned) as connection:
        (row,) = rows(connection, "SELECT source, kind, dim FROM feature_sets")
    assert str(weights) in row["source"] and (row["kind"], row["dim"]) == ("wavlm", 16)


# -- what is refused and what is listed --------------------------------------------------------------------------------------


def test_what_overflows_half_precision_ends_that_set_alone(
    scanned: Cache, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Batcher.begin

    def loud(self: Batcher, samples: Any) -> Any:
        return lambda: [(one, two * np.float32(1e6)) for one, two in begin(self, samples)()]

    monkeypatch.setattr(Batcher, "begin", loud)
    one, two = extract(scanned, job(weights, "1,2", dtype="float16"))
    assert one.extracted == 8 and one.refused is None
    assert two.extracted == 0 and two.refused is not None
    assert "too large for float16; store float32 instead" in two.refused
    assert "wavlm-large/2+float16 ends: the features of 8 of 8" in two.refused
    monkeypatch.setattr(
        Batcher, "begin", lambda self, samples: lambda: [(frames[0] + np.inf,) for frames in begin(self, samples)()]
    )
    (never,) = extract(scanned, job(weights, "3"))
    assert never.refused is not None and "NaN or infinite" in never.refused and never.extracted == 0
    assert not list((scanned.feature_root / job(weights, "3").sets[0].folder / "c").glob("*.h5"))


def test_what_cannot_be_heard_is_listed_and_the_rest_goes_on(cache: Cache, root: Path, weights: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for i in range(4):
        (mine / f"u{i}.wav").write_bytes((root / f"u{i}.wav").read_bytes())
    soundfile.write(mine / "tiny.wav", np.full(330, 0.1), RATE)  # 20.6 ms: less than a frame of 25 ms
    (mine / "t.csv").write_text("path\nu0.wav\nu1.wav\nu2.wav\nu3.wav\ntiny.wav\n")
    scan(cache, READER, corpus="c", root=mine, options={"table": str(mine / "t.csv")})
    (mine / "u2.wav").write_bytes((root / "u7.wav").read_bytes())
    (report,) = extract(cache, job(weights), Compute(max_batch_seconds=10))
    reasons = {s.utterance_id: s.reason for s in report.skipped}
    assert report.extracted == 3 and set(reasons) == {"tiny", "u2"}
    assert "shorter than one window of 25 ms" in reasons["tiny"] and "changed between scan and extraction" in reasons["u2"]
    assert report.extracted + report.before + len(report.skipped) == report.utterances


def test_an_error_of_the_encoder_stops_and_keeps_what_is_done(
    scanned: Cache, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, calls = Batcher.begin, [0]

    def fails(self: Batcher, samples: Any) -> Any:
        calls[0] += 1
        if calls[0] == 4:
            raise TfserError("the device fell off the bus")
        return begin(self, samples)

    monkeypatch.setattr(Batcher, "begin", fails)
    with pytest.raises(TfserError, match="fell off the bus"):
        extract(scanned, job(weights))
    monkeypatch.setattr(Batcher, "begin", begin)
    (report,) = extract(scanned, job(weights))
    assert (report.before, report.extracted) == (3, 5)


@pytest.mark.slow
def test_an_encoder_that_does_not_load_leaves_no_feature_set(scanned: Cache, weights: Path, tmp_path: Path) -> None:
    """Else the catalogue would keep an empty one, and the whole weights' set of the same name would be told from it by an @."""
    cut = tmp_path / "cut"
    cut.mkdir()
    for path in weights.iterdir():
        whole = path.read_bytes()
        (cut / path.name).write_bytes(whole[: len(whole) // 2] if path.name == "model.safetensors" else whole)
    with pytest.raises(TfserError, match="cannot be loaded"):
        extract(scanned, job(cut))
    with open_catalogue(scanned) as connection:
        assert rows(connection, "FROM feature_sets") == []
    extract(scanned, job(weights))
    with open_catalogue(scanned) as connection:
        assert [row["feature_set"] for row in rows(connection, "FROM feature_sets")] == ["wavlm-large/2"]


def test_the_best_device_is_looked_up_only_when_there_is_work(
    scanned: Cache, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("tfser.pipeline.features.encoder_engine.choose_device", lambda name: asked.append(name) or "cpu")
    for _ in range(2):
        extract(scanned, job(weights), Compute(devices=("auto",)))
    assert asked == ["auto"]


# -- batches -----------------------------------------------------------------------------------------------------------------


class FakeEncoder:
    """Counts what it is given; a batch of more than `room` seconds, padding included, does not fit."""

    batch_seconds_default = None

    class Device:
        type = "cpu"

        def __str__(self) -> str:
            return "cuda:7"

    device = Device()

    def __init__(self, room: float) -> None:
        self.room, self.batches = room, list[list[int]]()

    def moments(self, samples: np.ndarray) -> None:
        return None

    def launch(self, pieces: Sequence[np.ndarray], moments: Sequence[None]) -> Launched:
        lengths = [len(piece) for piece in pieces]
        if max(lengths) * len(lengths) / RATE > self.room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 PiB")
        self.batches.append(lengths)
        import torch

        counts = [frames_of(n) for n in lengths]
        filled = torch.full((len(pieces), max(counts), 1), torch.nan)  # beyond a piece's own frames: of the padding
        for row, count, piece in zip(filled, counts, pieces, strict=True):
            row[:count] = float(piece[0])
        return Launched(counts, [[filled]], None)


def frames_of(n: int) -> int:
    return (n - 400) // 320 + 1


def batcher(spec: EncoderSpec, room: float, budget: float | None) -> tuple[Batcher, FakeEncoder, list[str]]:
    said: list[str] = []
    encoder = FakeEncoder(room)
    return Batcher(spec, encoder, Compute(max_batch_seconds=budget, tell=said.append)), encoder, said  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def raw(weights: Path) -> EncoderSpec:
    return encoder_spec("wavlm-large", weights=str(weights), layer="2", settings={"do_normalize": "false"})


@settings(max_examples=15)
@given(
    seconds=st.lists(st.floats(0.1, 100), min_size=1, max_size=12), budget=st.floats(1, 200) | st.none(), room=st.floats(41, 300)
)
def test_every_utterance_gets_its_own_frames(raw: EncoderSpec, seconds: list[float], budget: float | None, room: float) -> None:
    of, encoder, said = batcher(raw, room, budget)
    samples = [np.full(round(s * RATE), i, np.float32) for i, s in enumerate(seconds)]
    found = of.run(samples)
    for i, (frames,) in enumerate(found):
        assert len(frames) == raw.frames(len(samples[i])) and (frames == i).all()
    for batch in encoder.batches:
        if len(batch) > 1:
            assert budget is not None and max(batch) * len(batch) / RATE <= min(budget, room)
    assert bool(said) == any("out of memory" in text for text in said)


def test_running_out_of_memory_halves_the_budget_and_goes_on(raw: EncoderSpec) -> None:
    of, encoder, said = batcher(raw, room=9, budget=32)
    of.run([np.ones(4 * RATE, np.float32)] * 8)
    assert [len(batch) for batch in encoder.batches] == [2, 2, 2, 2] and of.budget_s == 8
    assert said == [
        "cuda:7: out of memory at 32 s a batch; going on with 16 s",
        "cuda:7: out of memory at 16 s a batch; going on with 8 s",
    ]
    with pytest.raises(TfserError, match=r"cuda:7: 10 s of audio do not fit into its memory .* shorter chunks"):
        of.run([np.ones(10 * RATE, np.float32)])


def test_other_errors_are_not_taken_for_a_lack_of_memory(raw: EncoderSpec) -> None:
    assert out_of_memory(MemoryError())
    assert out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    of, encoder, _ = batcher(raw, 100, 10)
    encoder.launch = lambda pieces, moments: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        of.run([np.ones(RATE, np.float32)])


def row(name: str, seconds: float) -> AudioRow:
    return AudioRow(utterance_id=name, path=name, start_s=None, end_s=None, content_hash="", duration_s=seconds)


@settings(max_examples=15)
@given(seconds=st.lists(st.floats(0.03, 400), max_size=30), budget=st.floats(1, 300))
@example(seconds=[1.0, 1.0, 41.0], budget=90.0)  # 41 s are two windows of 22.5 s
@example(seconds=[41.0, 40.0], budget=100.0)  # which are shorter than what follows
def test_blocks_hold_everybody_once_within_the_budget(raw: EncoderSpec, seconds: list[float], budget: float) -> None:
    rows_ = [row(f"u{i}", s) for i, s in enumerate(seconds)]
    dealt = blocks(raw, rows_, budget)
    assert sorted(r.utterance_id for block in dealt for r in block) == sorted(r.utterance_id for r in rows_)
    lengths = [r.duration_s for block in dealt for r in block]
    assert lengths == sorted(lengths, reverse=True)
    for block in dealt:
        pieces = [stop - start for r in block for start, stop in raw.windows(round(r.duration_s * RATE))]
        if len(block) > 1:
            assert max(pieces) * len(pieces) / RATE <= budget * 1.001


def test_sorted_blocks_waste_little_on_padding(raw: EncoderSpec) -> None:
    rng = np.random.default_rng(0)
    rows_ = [row(f"u{i}", float(s)) for i, s in enumerate(rng.gamma(2.5, 1.8, 2000) + 0.5)]
    computed = sum(len(block) * max(r.duration_s for r in block) for block in blocks(raw, rows_, 160))
    assert computed / sum(r.duration_s for r in rows_) < 1.03


@pytest.mark.parametrize(
    ("compute", "message"),
    [({"devices": ()}, "needs a device"), ({"max_batch_seconds": 0.0}, "above 0"), ({"max_batch_seconds": -1.0}, "above 0")],
)
def test_where_to_compute_is_checked(compute: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Compute(**compute)


# -- killed ------------------------------------------------------------------------------------------------------------------

DRIVER = """
import sys, time
from tfser.pipeline.extraction import extract
from tfser.pipeline.features import encoder_engine as encode
from tfser.pipeline.extraction import new_shards
new_shards.ShardWriting.__init__.__kwdefaults__["shard_utterances"] = 1
real = encode.Batcher.begin
def slowly(self, samples):
    time.sleep(0.25)
    return real(self, samples)
encode.Batcher.begin = slowly
from tfser import cli
cli.main()
"""


def _hear_ctrl_c() -> None:
    """Let a child react to SIGINT as in a terminal: what a shell starts in the background ignores it, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="takes fork and signals")
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_extraction_goes_on_with_what_is_missing(scanned: Cache, root: Path, weights: Path, sign: int) -> None:
    words = ["extract", "--corpus", "table", "--name", "c", "--table", str(root / "t.csv"), "--root", str(root)]
    words += ["--cache", str(scanned.root), "--features", "wavlm-large", "--weights", str(weights), "--layer", "1,2"]
    folders = [scanned.feature_root / of.folder / "c" for of in job(weights, "1,2").sets]
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, *words], stderr=subprocess.PIPE, text=True, preexec_fn=_hear_ctrl_c
    ) as process:
        for _ in range(6000):  # a busy machine takes minutes to get there
            if all(len(list(folder.glob("*.rows.parquet"))) >= 2 for folder in folders) or process.poll() is not None:
                break
            time.sleep(0.05)
        process.send_signal(sign)
        _, said = process.communicate(timeout=120)
    assert process.returncode == (130 if sign == signal.SIGINT else -9), said
    assert "Traceback" not in said
    reports = extract(scanned, job(weights, "1,2"))
    for report in reports:
        assert 2 <= report.before < 8 and report.before + report.extracted == 8
    fresh = Cache(scanned.root.parent / "fresh")
    scan(fresh, READER, corpus="c", root=root, options={"table": str(root / "t.csv")})
    extract(fresh, job(weights, "1,2"))
    for of in job(weights, "1,2").sets:
        agree(stored(scanned, of), stored(fresh, of))


def test_requests_that_make_no_sense_are_one_line(weights: Path) -> None:
    with pytest.raises(UsageError, match="--layer is for encoders"):
        feature_pass("logmel", FeatureRequest(layer="3"))
    with pytest.raises(UsageError, match="--precision is for encoders"):
        feature_pass("logmel", FeatureRequest(precision="bfloat16"))
    with pytest.raises(UsageError, match="unknown precision"):
        feature_pass("wavlm-large", FeatureRequest(weights=str(weights), precision="int8"))
    with pytest.raises(UsageError, match="unknown option of wavlm-large"):
        feature_pass("wavlm-large", FeatureRequest(weights=str(weights), settings={"n_mels": "80"}))
    with pytest.raises(UsageError, match="--layer 9: wavlm-large has the layers 0 to 3"):
        job(weights, "9")
    with pytest.raises(UsageError, match="--layer '1,,2': wavlm-large has the layers 0 to 3"):
        job(weights, "1,,2")
    with pytest.raises(UsageError, match="--weights is empty"):  # not the hub's instead
        feature_pass("wavlm-large", FeatureRequest(weights=""))
    with pytest.raises(UsageError, match="--features is empty"):  # not the current folder
        feature_pass("")
    with pytest.raises(UsageError, match="these name two encoders"):  # one would be stored under the other's name
        feature_pass(str(weights), FeatureRequest(weights=str(weights.parent)))


@pytest.mark.parametrize("device", ["meta", "gpu", "cuda:99"])
def test_a_device_that_cannot_be_used_is_one_short_line(device: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(UsageError, match="not usable here") as caught:
        choose_devices(f"cpu,{device}")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_list_of_no_devices_says_so() -> None:
    pytest.importorskip("torch")
    with pytest.raises(UsageError, match="--devices ',': names no device"):
        choose_devices(",")
