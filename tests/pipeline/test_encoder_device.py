"""What an encoder does on a GPU, shown on a CPU: which precision computes what, how results come back, who prepares samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor

from tfser.manifests.errors import TfserError
from tfser.pipeline.features import encoder_engine
from tfser.pipeline.features.encoder_engine import Batcher
from tfser.pipeline.features.encoders.encoder import Encoder, Launched, to_host
from tfser.pipeline.features.encoders.whisper import WhisperEncoder
from tfser.pipeline.features.engine import AudioRow, Compute

CPU = torch.device("cpu")


def tf32() -> bool:
    return torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32


class Plain(Encoder):
    """Gives zeros, and notes how float32 is computed meanwhile."""

    seen: list[bool]

    def states(self, pieces: Sequence[Any], moments: Any = None) -> Iterator[Tensor]:
        self.seen.append(tf32())
        yield torch.zeros(len(pieces), 3, 2)


def test_float32_is_float32_while_an_encoder_computes_and_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    spec: Any = SimpleNamespace(
        precision="float32",
        frames=lambda n: 3,
        minimum_samples=1,
        framing=SimpleNamespace(computed=lambda n: 100),
        outputs=[SimpleNamespace(label="0", layers=(0,))],
    )
    encoder = Plain(spec, CPU)
    encoder.seen = []
    (found,) = encoder.encode([np.zeros(9, np.float32)])
    assert found[0].shape == (3, 2)
    assert encoder.seen == [False] and tf32()


def whisper() -> WhisperEncoder:
    """Return an encoder of which only what computes the log-Mel frames is there."""
    extractor = WhisperFeatureExtractor(feature_size=80)
    encoder = object.__new__(WhisperEncoder)
    encoder.device, encoder.is_filled = CPU, True
    encoder.filters = torch.from_numpy(extractor.mel_filters.astype(np.float32))
    encoder.analysis = torch.hann_window(400)
    encoder.spec = SimpleNamespace(mel={"hop_length": 160})  # type: ignore[assignment]
    return encoder


@pytest.mark.parametrize("gain", [1.0, 1e-4, 0.0])
def test_whisper_s_log_mel_is_that_of_transformers(gain: float) -> None:
    """To the bit on a CPU, and in a batch as alone: features that were extracted before are the same features."""
    random = np.random.default_rng(0)
    pieces = [(gain * random.standard_normal(n)).astype(np.float32) for n in (16000, 400, 7777)]
    found = whisper()._log_mel(pieces, 16000)
    extractor = WhisperFeatureExtractor(feature_size=80)
    expected = extractor(pieces, sampling_rate=16000, max_length=16000, return_tensors="pt")["input_features"]
    assert found.shape == (3, 80, 100) and torch.equal(found, expected)


def test_whisper_s_log_mel_is_float32_whatever_the_encoder_computes_in() -> None:
    """In float16 the floor below its logarithm is zero: quiet speech would lose half of what the encoder makes of it."""
    quiet = [1e-3 * np.random.default_rng(0).standard_normal(16000).astype(np.float32)]
    expected = whisper()._log_mel(quiet, 16000)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(whisper()._log_mel(quiet, 16000), expected)


def test_whisper_s_log_mel_stays_on_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the spectrogram would otherwise be waited for, copied to the CPU and back."""
    encoder = whisper()
    monkeypatch.setattr(Tensor, "cpu", lambda _: pytest.fail("brought to the CPU"))
    monkeypatch.setattr(Tensor, "numpy", lambda _: pytest.fail("brought to the CPU"))
    encoder._log_mel([np.ones(800, np.float32)], 1600)


def test_results_come_back_in_pinned_memory_and_are_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned, waits = [], []
    empty = torch.empty

    def page_locked(*sizes: Any, pin_memory: bool = False, **named: Any) -> Tensor:
        pinned.append(pin_memory)
        return empty(*sizes, **named)

    monkeypatch.setattr(torch, "empty", page_locked)
    event = SimpleNamespace(
        record=lambda stream: waits.append(f"recorded on {stream}"), synchronize=lambda: waits.append("waited")
    )
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the stream")
    kept = [[torch.arange(12.0).view(2, 3, 2)], [torch.ones(2, 3, 1), torch.zeros(2, 3, 1)]]
    copies, done = to_host(kept, SimpleNamespace(type="cuda"))  # type: ignore[arg-type]
    assert pinned == [True] * 3 and waits == ["recorded on the stream"]  # so far nothing is waited for
    first, second = Launched([3, 2], copies, done).frames()
    assert waits[1:] == ["waited"]
    assert first[0].tolist() == [[0, 1], [2, 3], [4, 5]] and second[0].tolist() == [[6, 7], [8, 9]]
    assert second[1].tolist() == [[1, 0], [1, 0]]
    assert first[0].base is None  # a copy of its own: the pinned memory is free for the next batch


class Tracing:
    """An encoder that notes when batches are launched and when they are waited for."""

    def __init__(self, kind: str) -> None:
        self.device, self.batch_seconds_default, self.events = SimpleNamespace(type=kind), 1.0, list[str]()

    def moments(self, samples: Any) -> None:
        return None

    def launch(self, pieces: Sequence[Any], moments: Any) -> Any:
        number = int(pieces[0][0])
        if number == 2 and len(pieces) > 1:
            self.events.append("no room for 2")
            raise RuntimeError("CUDA out of memory")
        if number == 4:
            raise ZeroDivisionError
        self.events.append(f"launch {number}")

        def frames() -> list[tuple[np.ndarray]]:
            self.events.append(f"wait {number}")
            return [(np.full((1, 1), piece[0], np.float32),) for piece in pieces]

        return SimpleNamespace(frames=frames)


def tracing(kind: str) -> tuple[Batcher, Callable[[str, int], Any]]:
    """Return a batcher on such a device, and what makes a decoded utterance of half a second."""
    spec: Any = SimpleNamespace(
        minimum_samples=1,
        name="tracing",
        windows=lambda n: [(0, n)],
        computed_s=lambda n: n / 10,
        stitch=lambda parts, n: parts[0],
    )
    batcher = Batcher(spec, Tracing(kind), Compute(max_batch_seconds=1.0, tell=lambda text: None))  # type: ignore[arg-type]

    def decoded(name: str, number: int) -> Any:
        row = AudioRow(utterance_id=name, path="", start_s=None, end_s=None, content_hash="", duration_s=0.5)
        return row, np.full(5, number, np.float32)

    return batcher, decoded


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cuda", ["launch 1", "no room for 2", "launch 2", "launch 2", "wait 1", "launch 3", "wait 2", "wait 2", "wait 3"]),
        ("cpu", ["launch 1", "wait 1", "no room for 2", "launch 2", "launch 2", "wait 2", "wait 2", "launch 3", "wait 3"]),
    ],
)
def test_a_gpu_is_given_the_next_batch_before_the_last_is_waited_for(
    kind: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory with a batch in flight: halved, and nobody is lost or taken for another."""
    monkeypatch.setattr(encoder_engine, "_free", lambda encoder: None)
    batcher, decoded = tracing(kind)
    broken = (decoded("x", 9)[0], TfserError("no such file"))
    blocks = [[decoded("a", 1), decoded("b", 1)], [decoded("c", 2), broken, decoded("d", 2)], [decoded("e", 3)]]
    found = list(encoder_engine._finish(batcher, blocks))
    assert batcher.encoder.events == expected  # type: ignore[attr-defined]
    values = {result.row.utterance_id: None if result.frames is None else float(result.frames[0][0, 0]) for result in found}
    assert values == {"a": 1, "b": 1, "c": 2, "d": 2, "e": 3, "x": None} and len(found) == 6


def test_what_is_in_flight_when_the_next_batch_fails_is_kept() -> None:
    batcher, decoded = tracing("cuda")
    blocks = [[decoded("a", 1)], [decoded("b", 4)]]
    found = []
    with pytest.raises(ZeroDivisionError):
        for result in encoder_engine._finish(batcher, blocks):
            found.append(result.row.utterance_id)  # noqa: PERF401
    assert found == ["a"] and batcher.encoder.events == ["launch 1", "wait 1"]  # type: ignore[attr-defined]


def test_samples_are_prepared_where_they_are_decoded() -> None:
    spec: Any = SimpleNamespace(prepare=lambda samples: samples * 2, minimum_samples=3)
    row = AudioRow(utterance_id="u", path="u", start_s=None, end_s=None, content_hash="", duration_s=1)
    for n, factor in ((3, 2), (2, 1)):  # what is too short for a frame is not looked at
        _, samples = encoder_engine._decode(row, lambda _, n=n: np.ones(n, np.float32), spec)  # type: ignore[misc]
        assert isinstance(samples, np.ndarray) and (samples == factor).all()
