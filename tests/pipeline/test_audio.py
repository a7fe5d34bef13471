"""Decoding: every way in which a file can be off ends in one line of reason, and the rest is exact."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from tfser.pipeline.sound import audio
from tfser.pipeline.sound.audio import Audio, content_hash, decode, describe, resample
from tfser.pipeline.sound.recording import AudioError

SHARED = Path(__file__).parents[2].parent / "shared" / "corpora"
RATE = 16000


def tone(seconds: float = 1.0, rate: int = RATE, channels: int = 1) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    waves = [0.5 * np.sin(2 * np.pi * 220 * (k + 1) * t) for k in range(channels)]
    return np.stack(waves, axis=1).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str | None = "PCM_16") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def test_channels_are_averaged_at_the_files_own_rate(tmp_path: Path) -> None:
    stereo = tone(0.5, 22050, channels=2)
    heard = decode(write(tmp_path / "a.wav", stereo, 22050, "FLOAT"))
    assert heard.sample_rate == 22050
    assert heard.samples.dtype == np.float32 and heard.samples.ndim == 1
    np.testing.assert_allclose(heard.samples, stereo.mean(1), atol=1e-7)
    assert heard.duration_s == pytest.approx(0.5)


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3", "aiff"])
def test_other_kinds_are_read(tmp_path: Path, suffix: str) -> None:
    heard = decode(write(tmp_path / f"a.{suffix}", tone(1.0), subtype=None))
    assert heard.sample_rate == RATE
    assert abs(heard.duration_s - 1.0) < 0.1
    assert f".{suffix}" in audio.KNOWN_SUFFIXES


def test_a_segment_is_the_same_as_the_slice(tmp_path: Path) -> None:
    for suffix in ("wav", "flac"):
        path = write(tmp_path / f"a.{suffix}", tone(1.0))
        whole = decode(path).samples
        np.testing.assert_array_equal(decode(path, 0.25, 0.5).samples, whole[4000:8000])
        np.testing.assert_array_equal(decode(path, 0.25).samples, whole[4000:])
        np.testing.assert_array_equal(decode(path, None, 0.5).samples, whole[:8000])
        np.testing.assert_array_equal(decode(path, math.nan, math.nan).samples, whole)
        np.testing.assert_array_equal(decode(path, 0.5, 1.004).samples, whole[8000:])  # tables round


@pytest.mark.parametrize(
    ("segment", "reason"),
    [
        ((0.5, 0.5), "not after its start"),
        ((0.5, 0.2), "not after its start"),
        ((1.5, 2.0), "outside the file"),
        ((0.5, 2.0), "outside the file"),
        ((1.0, None), "outside the file"),
        ((-0.5, 0.2), "start is at -0.5"),
        ((0.0, math.inf), "end is at inf"),
        ((0.5, 0.50001), "no samples"),
    ],
)
def test_impossible_segments(tmp_path: Path, segment: tuple[float, float | None], reason: str) -> None:
    with pytest.raises(AudioError, match=reason) as caught:
        decode(write(tmp_path / "a.wav", tone(1.0)), *segment)
    assert "\n" not in str(caught.value) and "a.wav" in str(caught.value)


def test_unusable_files(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("not audio at all, though it ends in .wav")
    (tmp_path / "noise.mp3").write_bytes(b"\x00" * 50)
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "clip.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42")
    (tmp_path / "pointer.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    write(tmp_path / "none.wav", tone(0.0))
    bad = tone(0.1)
    bad[3] = np.nan
    write(tmp_path / "nan.wav", bad, subtype="FLOAT")
    bad[3] = np.inf
    write(tmp_path / "inf.wav", bad, subtype="FLOAT")
    for name, reason in {
        "missing.wav": "No such file",
        "empty.wav": "empty",
        "text.wav": "cannot be decoded",
        "noise.mp3": "cannot be decoded",
        "folder.wav": "not a file",
        "clip.mp4": "cannot be decoded",
        "pointer.wav": "git lfs pull",
        "none.wav": "no samples",
        "nan.wav": "NaN",
        "inf.wav": "infinite",
    }.items():
        with pytest.raises(AudioError, match=reason) as caught:
            decode(tmp_path / name)
        assert "\n" not in str(caught.value) and name in str(caught.value)


@settings(max_examples=20)
@given(
    kind=st.sampled_from(["wav", "flac", "ogg", "aiff"]),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=8),
)
def test_damaged_files_never_crash(
    tmp_path_factory: pytest.TempPathFactory, kind: str, cut: float, flips: list[tuple[float, int]]
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    good = bytearray(write(folder / f"good.{kind}", tone(0.2), subtype=None).read_bytes())
    for where, mask in flips:
        good[int(where * len(good))] ^= mask
    path = folder / f"bad.{kind}"
    path.write_bytes(good[: int(cut * len(good))])
    try:
        heard = decode(path)
    except AudioError as error:
        assert "\n" not in str(error)
    else:
        assert len(heard.samples) and np.isfinite(heard.samples).all()


def test_a_flac_that_states_no_length(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", tone(1.0))
    header = bytearray(path.read_bytes())
    count = int.from_bytes(header[18:26], "big")
    for claimed in (0, 2**36 - 1):
        header[18:26] = (count >> 36 << 36 | claimed).to_bytes(8, "big")
        path.write_bytes(header)
        with pytest.raises(AudioError, match="no length"):
            decode(path)


@settings(max_examples=12)
@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=300), st.sampled_from([8000, 16000, 44100]))
def test_a_wav_and_its_lossless_flac_have_one_hash(
    tmp_path_factory: pytest.TempPathFactory, values: list[int], rate: int
) -> None:
    folder = tmp_path_factory.mktemp("hash")
    samples = np.array(values, np.int16)
    hashes = {content_hash(decode(write(folder / f"a.{suffix}", samples, rate))) for suffix in ("wav", "flac", "aiff")}
    assert len(hashes) == 1 and len(hashes.pop()) == 32


def test_the_hash_hears_the_rate_every_sample_and_the_segment(tmp_path: Path) -> None:
    samples = tone(0.1)[:, 0]
    one = content_hash(Audio(samples=samples, sample_rate=16000))
    assert one == content_hash(Audio(samples=samples.copy(), sample_rate=16000))
    assert one == content_hash(Audio(samples=np.repeat(samples, 2)[::2], sample_rate=16000))
    assert one != content_hash(Audio(samples=samples, sample_rate=8000))
    assert one != content_hash(Audio(samples=samples[:-1], sample_rate=16000))
    changed = samples.copy()
    changed[7] += 1e-6
    assert one != content_hash(Audio(samples=changed, sample_rate=16000))
    zeros = np.zeros(4, np.float32)
    assert content_hash(Audio(samples=zeros, sample_rate=1)) == content_hash(Audio(samples=-zeros, sample_rate=1))


def test_resampling_keeps_a_tone_and_skips_equal_rates() -> None:
    t = np.arange(44100) / 44100
    wave = np.sin(2 * np.pi * 440 * t).astype(np.float32)
    got = resample(wave, 44100)
    assert got.dtype == np.float32 and abs(len(got) - 16000) <= 1
    wanted = np.sin(2 * np.pi * 440 * np.arange(len(got)) / 16000)
    assert np.abs(got - wanted)[500:-500].max() < 1e-3
    assert resample(wave, 16000) is wave
    with pytest.raises(AudioError, match="resample from 0"):
        resample(wave, 0)
    with pytest.raises(AudioError, match="leave none"):
        resample(wave[:1], 48000, 8)


def test_facts_and_flags() -> None:
    speech = describe(Audio(samples=tone(1.0)[:, 0], sample_rate=RATE))
    assert speech.flags == () and speech.duration_s == 1.0
    assert speech.peak == pytest.approx(0.5, abs=1e-3)
    assert speech.rms_db == pytest.approx(20 * math.log10(0.5 / math.sqrt(2)), abs=0.01)
    silent = describe(Audio(samples=np.zeros(100, np.float32), sample_rate=RATE))
    assert silent.flags == ("silent",) and silent.rms_db == -math.inf
    assert describe(Audio(samples=tone(1.0)[:, 0] * 1e-3, sample_rate=RATE)).flags == ("silent",)
    clipped = describe(Audio(samples=np.clip(tone(1.0)[:, 0] * 4, -1, 1), sample_rate=RATE))
    assert clipped.flags == ("clipped",) and 0.5 < clipped.clipped_share < 1
    single = tone(1.0)[:, 0]
    single[5] = 1.0
    assert describe(Audio(samples=single, sample_rate=RATE)).flags == ()


def test_importing_brings_no_codec() -> None:
    code = "import sys, tfser.pipeline.sound.audio; print([m for m in ('soundfile', 'soxr', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_real_recordings_have_one_hash_in_both_containers(tmp_path: Path) -> None:
    originals = sorted((SHARED / "emodb-original" / "wav").glob("*.wav"))[:10]
    if not originals:
        pytest.skip("needs the EmoDB recordings in ../shared/corpora")
    hashes = set()
    for original in originals:
        heard = decode(original)
        assert describe(heard).flags == () and 0.5 < heard.duration_s < 15
        samples, rate = soundfile.read(original, dtype="int16")
        soundfile.write(tmp_path / f"{original.stem}.flac", samples, rate, subtype="PCM_16")
        assert content_hash(decode(tmp_path / f"{original.stem}.flac")) == content_hash(heard)
        hashes.add(content_hash(heard))
    assert len(hashes) == len(originals)
