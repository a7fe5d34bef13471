"""The log-Mel front-end against two references: its definition, step by step, and transformers' own spectrogram."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfser.manifests.errors import UsageError
from tfser.pipeline.features.logmel import LogMel, LogMelConfig, mel_filters
from tfser.pipeline.sound.audio import decode, resample

SHARED = Path(__file__).parents[2].parent / "shared" / "corpora"
DEFAULT = LogMelConfig()


def by_definition(samples: np.ndarray, config: LogMelConfig) -> np.ndarray:
    """Return the frames with every sum written out: no FFT, no shared code but the configuration."""
    x = samples.astype(np.float64)
    y = np.array([x[i] if i == 0 else x[i] - config.preemphasis * x[i - 1] for i in range(len(x))])
    size, rate = config.n_fft, config.sample_rate_hz
    length, hop = round(config.window_s * rate), round(config.hop_s * rate)
    window = np.array([0.54 - 0.46 * np.cos(2 * np.pi * i / length) for i in range(length)])
    fourier = np.exp(-2j * np.pi * np.outer(np.arange(size // 2 + 1), np.arange(size)) / size)

    def mel(hz: float) -> float:
        return 2595 * np.log10(1 + hz / 700)

    def hertz(m: float) -> float:
        return 700 * (10 ** (m / 2595) - 1)

    low, high = mel(config.fmin_hz), mel(config.fmax_hz)
    edges = [hertz(low + (high - low) * k / (config.n_mels + 1)) for k in range(config.n_mels + 2)]
    out = np.empty((1 + len(x) // hop, config.n_mels))
    for t in range(len(out)):
        frame = np.zeros(size)
        for i in range(length):
            at = t * hop - size // 2 + (size - length) // 2 + i
            if 0 <= at < len(y):
                frame[(size - length) // 2 + i] = y[at] * window[i]
        power = np.abs(fourier @ frame) ** 2
        for band in range(config.n_mels):
            left, centre, right = edges[band : band + 3]
            total = 0.0
            for k in range(size // 2 + 1):
                f = k * rate / size
                total += power[k] * max(0.0, min((f - left) / (centre - left), (right - f) / (right - centre)))
            out[t, band] = np.log(max(total, config.floor))
    return out


def by_transformers(samples: np.ndarray) -> np.ndarray:
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    x = samples.astype(np.float64)
    y = np.concatenate([x[:1], x[1:] - 0.97 * x[:-1]])
    filters = mel_filter_bank(257, 80, 0.0, 8000.0, 16000, norm=None, mel_scale="htk")
    window = window_function(320, "hamming", periodic=True)
    return spectrogram(
        y,
        window,
        frame_length=320,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=True,
        pad_mode="constant",
        mel_filters=filters,
        mel_floor=1e-10,
        log_mel="log",
        dtype=np.float64,
    ).T


def noise(n: int, seed: int = 0, scale: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=scale, size=n).astype(np.float32)


@pytest.mark.parametrize("n", [320, 321, 479, 480, 700])
def test_equals_its_definition(n: int) -> None:
    samples = noise(n)
    np.testing.assert_allclose(LogMel().extract(samples), by_definition(samples, DEFAULT), atol=1e-9)


@pytest.mark.parametrize(
    "config",
    [
        LogMelConfig(sample_rate_hz=8000, fmax_hz=3800.0, fmin_hz=60.0, n_fft=256, n_mels=23, window_s=0.025),
        LogMelConfig(preemphasis=0.0, hop_s=0.0125, n_mels=40, floor=1e-6),
        LogMelConfig(n_fft=322, window_s=0.020, n_mels=10),
    ],
)
def test_equals_its_definition_for_other_configurations(config: LogMelConfig) -> None:
    samples = noise(config.minimum_samples + 333)
    got = LogMel(config).extract(samples)
    assert got.shape == (config.frames(len(samples)), config.dim)
    np.testing.assert_allclose(got, by_definition(samples, config), atol=1e-9)


def test_zeros_give_the_floor() -> None:
    got = LogMel().extract(np.zeros(1600, np.float32))
    assert got.shape == (11, 80) and (got == np.log(1e-10)).all()


@settings(max_examples=15)
@given(n=st.integers(320, 6000), seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-7, 1e-4, 0.1, 1.0]))
def test_equals_transformers(n: int, seed: int, scale: float) -> None:
    samples = noise(n, seed, scale)
    wanted = by_transformers(samples)
    got = LogMel().extract(samples)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() < 1e-4


def test_equals_transformers_on_real_speech() -> None:
    files = sorted((SHARED / "emodb" / "wav").glob("*.flac"))[::60]
    if not files:
        pytest.skip("needs the EmoDB recordings in ../shared/corpora")
    for file in files:
        heard = decode(file)
        samples = resample(heard.samples, heard.sample_rate)
        got = LogMel().extract(samples)
        assert np.abs(got - by_transformers(samples)).max() < 1e-4, file.name


@settings(max_examples=12)
@given(n=st.integers(320, 60000), more=st.integers(1, 60000), seed=st.integers(0, 99))
def test_neighbours_do_not_change_a_bit(n: int, more: int, seed: int) -> None:
    """Frames whose window ends before n are the same bits in a longer utterance: no batch, block or SIMD effect."""
    samples = noise(n + more, seed)
    short, long = LogMel().extract(samples[:n]), LogMel().extract(samples)
    whole = max(0, (n - 160) // 160 + 1)
    assert np.array_equal(short[:whole], long[:whole])


@pytest.mark.slow
def test_threads_do_not_change_a_bit() -> None:
    code = (
        "import hashlib, numpy as np; from tfser.pipeline.features.logmel import LogMel;"
        "x = np.random.default_rng(0).normal(size=50000).astype(np.float32);"
        "print(hashlib.sha256(LogMel().extract(x).tobytes()).hexdigest())"
    )
    digests = set()
    for threads in ("1", "2", "4"):
        env = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
        digests.add(done.stdout)
    assert len(digests) == 1


def test_bits_do_not_depend_on_where_the_samples_lie() -> None:
    samples = noise(5000)
    buffer = np.empty(5003, np.float32)
    buffer[3:] = samples
    assert np.array_equal(LogMel().extract(samples), LogMel().extract(buffer[3:]))
    assert np.array_equal(LogMel().extract(samples), LogMel().extract(np.repeat(samples, 2)[::2]))


def test_a_click_after_the_last_hop_is_heard() -> None:
    samples = np.zeros(1600 + 159, np.float32)
    samples[-1] = 0.5
    got = LogMel().extract(samples)
    assert len(got) == 11 and got[-1].max() > np.log(1e-10) + 1


def test_filters_are_triangles_that_add_up() -> None:
    filters = mel_filters(DEFAULT)
    assert filters.shape == (257, 80) and filters.min() == 0 and filters.max() <= 1
    inner = filters.sum(1)[2:-12]
    np.testing.assert_allclose(inner, 1.0, atol=1e-9)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sample_rate_hz", 0),
        ("sample_rate_hz", 16000.5),
        ("preemphasis", 1.0),
        ("preemphasis", float("nan")),
        ("window_s", 0.0),
        ("window_s", 1e-6),
        ("hop_s", -0.01),
        ("hop_s", float("inf")),
        ("n_fft", 256),
        ("n_fft", 0),
        ("n_fft", 401),
        ("n_mels", 0),
        ("n_mels", True),
        ("n_mels", 200),
        ("fmin_hz", 8000.0),
        ("fmax_hz", 9000.0),
        ("floor", 0.0),
    ],
)
def test_impossible_values_are_named(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=field) as caught:
        LogMelConfig(**{field: value})
    assert str(value) in str(caught.value) and "wanted" in str(caught.value)


def test_too_short_or_stereo_is_refused() -> None:
    assert len(LogMel().extract(noise(320))) == 3
    with pytest.raises(UsageError, match="320 samples"):
        LogMel().extract(noise(319))
    with pytest.raises(UsageError, match="mono"):
        LogMel().extract(noise(640).reshape(320, 2))


def test_the_description_names_every_field_and_choice() -> None:
    about = DEFAULT.describe()
    assert about["algorithm"] == 1 and about["window"].startswith("hamming, periodic")
    for other in (LogMelConfig(n_mels=40), LogMelConfig(floor=1e-9), LogMelConfig(hop_s=0.02)):
        assert other.describe() != about
    assert set(LogMelConfig.__dataclass_fields__) <= set(about)


def test_extraction_needs_no_torch() -> None:
    code = "import sys, tfser.pipeline.features.logmel; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
