"""Fixtures for tests of corpora: small videos, and the whole line from a folder to an audit."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from tfser.manifests.audits.run import Finding, run_audits
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, rows
from tfser.pipeline.corpora.base import CorpusReader
from tfser.pipeline.extraction.extract import extract
from tfser.pipeline.features.registry import feature_set
from tfser.pipeline.scanning.scan import ScanOptions, scan


class WriteVideo(Protocol):
    """Writes a video file with some pictures and the sound given, (channels, n) float, or none; returns its path."""

    def __call__(
        self, path: Path, sound: np.ndarray | None, *, rate: int = 16000, codec: str = "aac", streamable: bool = False
    ) -> Path: ...


@pytest.fixture(scope="session")
def write_video() -> WriteVideo:
    """Write a small video; `streamable` puts the index in front, so that a file that is cut can still be opened."""
    av = pytest.importorskip("av", reason="videos are written and read with PyAV, the extra [video]")

    def write(path: Path, sound: np.ndarray | None, *, rate: int = 16000, codec: str = "aac", streamable: bool = False) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w", options={"movflags": "faststart"} if streamable else {}) as container:
            pictures = container.add_stream("mpeg4", rate=25)
            pictures.width = pictures.height = 32
            pictures.pix_fmt = "yuv420p"
            if sound is not None:
                layout = "stereo" if len(sound) == 2 else "mono"
                stream = container.add_stream(codec, rate=rate, layout=layout)
            for i in range(3):
                picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * i, np.uint8), format="rgb24")
                container.mux(pictures.encode(picture))
            container.mux(pictures.encode(None))
            if sound is not None:
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound, np.float32), format="fltp", layout=layout)
                frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
                frames = av.AudioResampler(format=stream.format, layout=layout, rate=rate).resample(frame)
                for part in frames:
                    container.mux(stream.encode(part))
                container.mux(stream.encode(None))
        return path

    return write


class WholeLine(Protocol):
    """Scans a folder, extracts log-Mel frames and audits the corpus's own protocol; returns the findings."""

    def __call__(self, cache: Cache, reader: CorpusReader, root: Path) -> list[Finding]: ...


@pytest.fixture(scope="session")
def whole_line() -> WholeLine:
    """Run the whole line on a corpus of a few utterances."""

    def run(cache: Cache, reader: CorpusReader, root: Path) -> list[Finding]:
        report = scan(cache, reader, corpus=reader.name, root=root, how=ScanOptions(workers=1))
        again = scan(cache, reader, corpus=reader.name, root=root, how=ScanOptions(workers=1))
        assert (report.changed, again.changed, again.decoded) == (True, False, 0)
        done = extract(cache, reader.name, feature_set("logmel"), workers=1)
        readable = report.utterances - sum(s.stage == "scan" for s in report.skipped)
        assert (done.extracted, done.skipped) == (readable, [])
        assert reader.default_protocol is not None
        protocol = ensure_protocol(cache, reader.name, reader.default_protocol)
        with open_catalogue(cache) as connection:
            features = rows(connection, "SELECT count(*) AS n, min(frames) AS least FROM features")[0]
            assert features["n"] == readable and features["least"] > 0
            findings = run_audits(connection, protocol=protocol, corpus=reader.name)
        assert not [f for f in findings if f.audit == "features_missing" and f.level != "ok"]
        return findings

    return run


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper of random weights: two layers of 32, windows of 100 positions, that is, two seconds."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    sizes = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48}
    others = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "vocab_size": 60}
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1)
    folder = tmp_path_factory.mktemp("tiny") / "whisper"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = transformers.WhisperConfig(**sizes, **others, **tokens, max_source_positions=100)
        transformers.WhisperModel(config).save_pretrained(folder)
    return folder
