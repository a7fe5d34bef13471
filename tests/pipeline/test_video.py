"""The sound of videos: averaged channels, the same bits every time, and one line where PyAV is not there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfser.manifests.cache import Cache
from tfser.pipeline.corpora.table import READER as TABLE
from tfser.pipeline.extraction.extract import extract
from tfser.pipeline.features.registry import feature_set
from tfser.pipeline.scanning.scan import ScanOptions, scan
from tfser.pipeline.sound import video
from tfser.pipeline.sound.audio import VIDEO_SUFFIXES, content_hash, decode, describe
from tfser.pipeline.sound.recording import AudioError
from tfser.pipeline.sound.video import MissingExtraError

RATE = 16000


def tones(seconds: float = 1.0, *, rate: int = RATE) -> np.ndarray:
    """Two channels that differ in pitch and level."""
    t = np.arange(round(seconds * rate)) / rate
    return np.stack([0.6 * np.sin(2 * np.pi * 220 * t), 0.2 * np.sin(2 * np.pi * 330 * t)]).astype(np.float32)


def gain(heard: np.ndarray, meant: np.ndarray) -> float:
    n = min(len(heard), len(meant))
    return float(heard[:n] @ meant[:n] / (meant[:n] @ meant[:n]))


@pytest.fixture(scope="module")
def clip(tmp_path_factory, write_video) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", tones(), streamable=True)


def test_channels_are_averaged(clip):
    heard = decode(clip)
    assert heard.sample_rate == RATE and heard.samples.dtype == np.float32 and heard.samples.ndim == 1
    assert 1.0 <= heard.duration_s < 1.1 and not heard.damaged
    assert gain(heard.samples, tones().mean(0)) == pytest.approx(1, abs=0.03)  # sqrt(2) where FFmpeg mixes


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_s24le", "pcm_f32le", "pcm_u8", "flac"])
def test_lossless_sound_is_exact_in_every_sample_format(tmp_path, write_video, codec):
    heard = decode(write_video(tmp_path / "a.mkv", tones(0.2), codec=codec)).samples
    np.testing.assert_allclose(heard, tones(0.2).mean(0), atol=0.01 if codec == "pcm_u8" else 1e-4)


def test_a_wav_and_the_same_samples_in_a_video_have_one_hash(tmp_path, write_video):
    soundfile.write(tmp_path / "a.wav", tones(0.2).T, RATE, subtype="PCM_16")
    stored, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    inside = decode(write_video(tmp_path / "a.mkv", stored.T, codec="pcm_f32le"))
    assert content_hash(inside) == content_hash(decode(tmp_path / "a.wav"))


@pytest.mark.parametrize("suffix", ["mp4", "m4a", "mov", "mkv", "MP4"])
def test_kinds_of_files(tmp_path, write_video, suffix):
    heard = decode(write_video(tmp_path / f"a.{suffix}", tones(0.5)[:1]))
    assert abs(heard.duration_s - 0.5) < 0.1
    assert f".{suffix.lower()}" in VIDEO_SUFFIXES


def test_a_segment_is_the_same_as_the_slice(clip):
    whole = decode(clip).samples
    np.testing.assert_array_equal(decode(clip, 0.25, 0.5).samples, whole[4000:8000])
    np.testing.assert_array_equal(decode(clip, 0.25).samples, whole[4000:])
    np.testing.assert_array_equal(decode(clip, None, 0.5).samples, whole[:8000])
    for outside in ((2.0, None), (0.5, 3.0)):
        with pytest.raises(AudioError, match="outside the file"):
            decode(clip, *outside)


@pytest.mark.skipif(os.name == "nt", reason="names hold no colons there")
def test_a_name_that_looks_like_a_protocol(tmp_path, clip, monkeypatch):
    (tmp_path / "http:wide ü, 100 %.mp4").write_bytes(clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert content_hash(decode(Path("http:wide ü, 100 %.mp4"))) == content_hash(decode(clip))


def test_unusable_videos(tmp_path, write_video, clip):
    write_video(tmp_path / "mute.mp4", None)
    end = write_video(tmp_path / "end.mp4", tones())  # its index is at the end, so a cut loses it
    (tmp_path / "cut.mp4").write_bytes(end.read_bytes()[:-2000])
    (tmp_path / "text.mp4").write_text("not a video at all")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "pointer.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    for name, reason in {
        "mute.mp4": "no sound in it",
        "cut.mp4": "cannot be decoded",
        "text.mp4": "cannot be decoded",
        "empty.mp4": "empty",
        "missing.mp4": "No such file",
        "pointer.mp4": "git lfs pull",
    }.items():
        with pytest.raises(AudioError, match=reason) as caught:
            decode(tmp_path / name)
        assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_video_that_breaks_off_is_read_so_far_and_flagged(tmp_path, clip):
    data = clip.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 3 // 4])
    heard = decode(tmp_path / "cut.mp4")
    assert heard.damaged and "damaged" in describe(heard).flags
    assert 0.2 < heard.duration_s < 0.95
    n = len(heard.samples) // 2
    np.testing.assert_array_equal(heard.samples[:n], decode(clip).samples[:n])
    assert "damaged" not in describe(decode(clip)).flags


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 1), flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=8))
def test_damaged_files_never_crash_and_repeat_themselves(tmp_path, clip, cut, flips):
    data = bytearray(clip.read_bytes())
    for where, mask in flips:
        data[int(where * len(data))] ^= mask
    path = tmp_path / "bad.mp4"
    path.write_bytes(data[: int(cut * len(data))])
    try:
        heard = decode(path)
    except AudioError as error:
        assert "\n" not in str(error)
    else:
        assert len(heard.samples) and np.isfinite(heard.samples).all()
        assert content_hash(decode(path)) == content_hash(heard)


def table(root: Path, *names: str) -> dict[str, str]:
    (root / "t.csv").write_text("path,label\n" + "".join(f"{name},anger\n" for name in names))
    return {"table": str(root / "t.csv")}


def test_two_scans_in_two_caches_agree(tmp_path, write_video):
    root = tmp_path / "corpus"
    options = table(root, *(write_video(root / f"{i}.mp4", (0.5 + i / 8) * tones(0.3)).name for i in range(4)))
    hashes = []
    for name in ("a", "b"):
        cache = Cache(tmp_path / name)
        assert scan(cache, TABLE, corpus="c", root=root, options=options, how=ScanOptions(workers=2)).skipped == ()
        from pyarrow.parquet import read_table

        hashes.append(read_table(cache.corpus("c") / "utterances.parquet")["content_hash"].to_pylist())
    assert hashes[0] == hashes[1] and len(set(hashes[0])) == 4
    assert extract(cache, "c", feature_set("logmel"), workers=2).extracted == 4


@pytest.fixture
def without_av(monkeypatch) -> None:
    monkeypatch.setattr(video, "is_installed", lambda: False)


def test_without_the_extra_a_scan_says_so_once_and_keeps_nothing(tmp_path, cache, clip, write_wav, without_av):
    root = tmp_path / "corpus"
    write_wav(root / "w.wav", 0.1)
    for i in range(3):
        (root / f"{i}.mp4").write_bytes(clip.read_bytes())
    options = table(root, "w.wav", "0.mp4", "1.mp4", "2.mp4")
    with pytest.raises(MissingExtraError, match=r"holds 3 video files to read: .*pip install '\.\[video\]'") as caught:
        scan(cache, TABLE, corpus="c", root=root, options=options, how=ScanOptions(workers=1))
    assert "\n" not in str(caught.value)
    assert cache.corpora() == []


def test_without_the_extra_what_was_scanned_stays_and_an_extraction_stops(tmp_path, cache, clip, write_wav, monkeypatch):
    root = tmp_path / "corpus"
    root.mkdir()
    (root / "0.mp4").write_bytes(clip.read_bytes())
    options = table(root, "0.mp4")
    scan(cache, TABLE, corpus="c", root=root, options=options, how=ScanOptions(workers=1))
    monkeypatch.setattr(video, "is_installed", lambda: False)
    assert scan(cache, TABLE, corpus="c", root=root, options=options, how=ScanOptions(workers=1)).decoded == 0
    with pytest.raises(MissingExtraError, match="pip install"):
        extract(cache, "c", feature_set("logmel"), workers=1)
    monkeypatch.undo()
    assert extract(cache, "c", feature_set("logmel"), workers=1).extracted == 1


def test_the_library_is_looked_for_and_not_loaded():
    assert video.is_installed() == (importlib.util.find_spec("av") is not None)
    code = "import sys, tfser.pipeline.sound.video, tfser.pipeline.scanning.measure; print('av' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
