"""What an encoder does on a GPU, shown on a CPU: which precision computes what, how results come back, who prepares samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tfser.pipeline.features import encoder_engine
from tfser.pipeline.features.encoders.encoder import Encoder, to_host
from tfser.pipeline.features.encoders.whisper import WhisperEncoder
from tfser.pipeline.features.engine import AudioRow

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


def test_whisper_s_log_mel_is_float32_whatever_the_encoder_computes_in() -> None:
    """In float16 the floor below its logarithm is zero: quiet speech would lose half of what the encoder makes of it."""
    seen: list[bool] = []

    def mel(*_: Any, **__: Any) -> dict[str, Tensor]:
        seen.append(torch.is_autocast_enabled("cpu"))
        raise InterruptedError

    encoder = object.__new__(WhisperEncoder)
    encoder.device, encoder.is_filled, encoder.mel = CPU, True, mel
    framing = SimpleNamespace(computed=lambda _: 100)
    encoder.spec = SimpleNamespace(sample_rate_hz=16000, framing=framing)  # type: ignore[assignment]
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InterruptedError):
        next(encoder.states([np.zeros(9, np.float32)]))
    assert seen == [False]


def test_results_come_back_in_pinned_memory_and_are_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned, waits = [], []
    empty = torch.empty

    def page_locked(*sizes: Any, pin_memory: bool = False, **named: Any) -> Tensor:
        pinned.append(pin_memory)
        return empty(*sizes, **named)

    monkeypatch.setattr(torch, "empty", page_locked)
    stream = SimpleNamespace(synchronize=lambda: waits.append(True))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    kept = [[torch.arange(6.0).view(2, 3)], [torch.ones(2, 2), torch.zeros(1)]]
    found = to_host(kept, SimpleNamespace(type="cuda"))  # type: ignore[arg-type]
    assert pinned == [True] * 3 and waits == [True]
    for held, copies in zip(kept, found, strict=True):
        assert all((tensor.numpy() == copy).all() for tensor, copy in zip(held, copies, strict=True))


def test_samples_are_prepared_where_they_are_decoded() -> None:
    spec: Any = SimpleNamespace(prepare=lambda samples: samples * 2, minimum_samples=3)
    row = AudioRow(utterance_id="u", path="u", start_s=None, end_s=None, content_hash="", duration_s=1)
    for n, factor in ((3, 2), (2, 1)):  # what is too short for a frame is not looked at
        _, samples = encoder_engine._decode(row, lambda _, n=n: np.ones(n, np.float32), spec)  # type: ignore[misc]
        assert isinstance(samples, np.ndarray) and (samples == factor).all()
