"""What a header promises and a file does not hold: cut, placeholder and mutated headers, absurd samples, rates and lengths."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfser.pipeline.sound.audio import content_hash, decode, describe, survey
from tfser.pipeline.sound.containers import promise
from tfser.pipeline.sound.recording import AudioError, TooLongError

RATE = 16000
KINDS = ("wav", "flac", "mp3", "ogg", "aiff", "au", "w64", "caf")


def noise(seconds: float = 3.0, seed: int = 0) -> np.ndarray:
    return (0.2 * np.random.default_rng(seed).standard_normal(round(RATE * seconds))).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str | None = None) -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def half(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_file_is_read_as_far_as_it_goes_and_flagged(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"a.{kind}", noise())
    whole = decode(path)
    assert not whole.damaged and abs(whole.duration_s - 3.0) < 0.1
    cut = decode(half(path))
    assert cut.damaged and 0.5 < cut.duration_s < 2.0
    if kind not in ("mp3", "ogg"):  # lossy decoders need what comes after for the last samples
        np.testing.assert_array_equal(cut.samples, whole.samples[: len(cut.samples)])
    assert "damaged" in survey(path)[0].flags


@pytest.mark.parametrize("kind", ["wav", "aiff", "flac"])
def test_a_segment_that_is_whole_is_whole_in_a_file_that_is_not(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"a.{kind}", noise())
    inside = decode(path, 0.25, 0.75).samples
    half(path)
    assert not decode(path, 0.25, 0.75).damaged
    np.testing.assert_array_equal(decode(path, 0.25, 0.75).samples, inside)
    assert decode(path, 0.25).damaged


def test_a_segment_behind_the_cut_says_that_the_file_is_cut(tmp_path: Path) -> None:
    path = half(write(tmp_path / "a.wav", noise()))
    with pytest.raises(AudioError, match=r"outside the file of 1\.5 s, which is cut off|which is cut off"):
        decode(path, 2.0, 2.5)


@pytest.mark.parametrize("kind", ["wav", "aiff", "au", "w64", "caf"])
def test_a_header_that_says_nothing_is_there(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"a.{kind}", noise(), subtype="PCM_16")
    samples = decode(path).samples
    data = bytearray(path.read_bytes())
    at = {"aiff": data.find(b"SSND") + 4, "au": 8, "w64": data.find(b"data") + 16}.get(kind, data.find(b"data") + 4)
    size = 8 if kind in ("w64", "caf") else 4
    data[at : at + size] = bytes(size)
    path.write_bytes(data)
    heard = decode(path)
    assert heard.damaged
    np.testing.assert_array_equal(heard.samples, samples)


def test_a_wav_that_is_truly_empty_is_no_recording(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.zeros(0, np.float32))
    path.write_bytes(path.read_bytes() + b"LIST" + (4).to_bytes(4, "little") + b"INFO")
    with pytest.raises(AudioError, match="no samples"):
        decode(path)


@pytest.mark.parametrize("placeholder", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_the_length_of_a_stream_promises_nothing(tmp_path: Path, placeholder: int) -> None:
    path = write(tmp_path / "a.wav", noise(), subtype="PCM_16")
    whole = decode(path)
    data = bytearray(path.read_bytes())
    data[data.find(b"data") + 4 : data.find(b"data") + 8] = placeholder.to_bytes(4, "little")
    path.write_bytes(data)
    heard = decode(path)
    assert not heard.damaged and content_hash(heard) == content_hash(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_behind_the_sound_are_no_damage(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"a.{kind}", noise())
    if kind == "mp3":  # a tag of ID3v1
        path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))
    assert not promise(path).is_short and not decode(path).damaged


@pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="needs PyAV, the extra [video]")
def test_half_a_video_that_begins_with_its_index(tmp_path: Path) -> None:
    import av

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        for start in range(0, 3 * RATE, 1024):
            block = noise()[start : start + 1024]
            frame = av.AudioFrame.from_ndarray(np.pad(block, (0, 1024 - len(block)))[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert not decode(path).damaged
    cut = decode(half(path))
    assert cut.damaged and 0.5 < cut.duration_s < 2.5


def test_nothing_of_a_decoder_reaches_the_terminal_but_python_s_own(tmp_path: Path) -> None:
    path = half(write(tmp_path / "a.mp3", noise()))
    code = (
        "import sys, soundfile\nfrom pathlib import Path\nfrom tfser.pipeline.sound.audio import decode\n"
        "print(decode(Path(sys.argv[1])).damaged)\nprint('mine', file=sys.stderr)\n"
        "if len(sys.argv) > 2: soundfile.SoundFile(sys.argv[1]).read()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n" and done.stderr == "mine\n"
    loud = subprocess.run([sys.executable, "-c", code, str(path), "loud"], capture_output=True, text=True, check=True)
    assert "Xing" in loud.stderr  # the decoder would have said something, and may again for others


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(["wav", "aiff", "flac"]),
    changes=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.floats(0.1, 1.0),
)
def test_mutated_headers_end_in_samples_or_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, kind: str, changes: list[tuple[int, int]], cut: float
) -> None:
    path = write(tmp_path_factory.mktemp("mutated") / f"a.{kind}", noise(0.1), subtype="PCM_16")
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[place] = value
    path.write_bytes(data[: round(cut * len(data))])
    try:
        heard = decode(path, max_duration_s=60.0)
    except AudioError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        facts, digest = survey(path)
        assert digest == content_hash(heard) and facts == describe(heard)
        assert 1000 <= heard.sample_rate <= 192_000 and heard.duration_s <= 60.0


# -- what no recording is ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("top", "reason"), [(2e38, r"samples up to 2e\+38"), (1e24, "samples up to"), (np.inf, "NaN or inf")])
def test_absurd_samples_are_a_reason(tmp_path: Path, top: float, channels: int, reason: str) -> None:
    loud = np.repeat((np.sign(noise(0.5)) * np.float32(top)).astype(np.float32)[:, None], channels, axis=1)
    if channels == 2 and np.isinf(top):
        loud[:, 1] *= -1  # their mean is no number, and numpy would say so on the terminal
    path = write(tmp_path / "a.wav", loud, subtype="FLOAT")
    with pytest.raises(AudioError, match=reason):
        decode(path)


@pytest.mark.parametrize(
    ("scale", "flags"), [(1.0, ()), (10.0, ("clipped",)), (2.0**15, ("overscale",)), (2.0**30, ("overscale",))]
)
def test_integers_that_were_stored_as_floats_are_read_and_flagged(tmp_path: Path, scale: float, flags: tuple[str, ...]) -> None:
    path = write(tmp_path / "a.wav", np.clip(noise(0.5), -0.9, 0.9) * np.float32(scale), subtype="FLOAT")
    assert survey(path)[0].flags == flags


@pytest.mark.parametrize("rate", [1, 999, 192_001, 1_000_000])
def test_rates_that_no_recording_has(tmp_path: Path, rate: int) -> None:
    with pytest.raises(AudioError, match=f"the sample rate is {rate:,} Hz"):
        decode(write(tmp_path / "a.wav", noise(0.5), rate))


@pytest.mark.parametrize("rate", [1000, 8000, 192_000])
def test_rates_that_recordings_have(tmp_path: Path, rate: int) -> None:
    assert decode(write(tmp_path / "a.wav", noise(0.5), rate)).sample_rate == rate


@pytest.mark.parametrize("kind", KINDS)
def test_too_long_is_refused_before_it_is_decoded(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / f"a.{kind}", noise())
    assert decode(path, max_duration_s=3.1).duration_s == pytest.approx(3.0, abs=0.1)
    assert decode(path, 1.0, 2.0, max_duration_s=1.0).duration_s == 1.0
    monkeypatch.setattr(soundfile.SoundFile, "read", None)  # nothing is decoded
    with pytest.raises(TooLongError, match=r"3 s of sound for one utterance, and 2 s is the most.*--max-duration"):
        decode(path, max_duration_s=2.0)


def test_blocks_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stereo = np.stack([noise(), noise(seed=1)], axis=1)
    path = write(tmp_path / "a.flac", stereo)
    whole, facts = decode(path), survey(path)
    for module in ("audio", "facts"):
        monkeypatch.setattr(f"tfser.pipeline.sound.{module}.BLOCK", 5000)
    blocks = decode(path)
    np.testing.assert_array_equal(blocks.samples, whole.samples)
    assert survey(path)[1] == facts[1] == content_hash(blocks) == content_hash(whole)
    assert survey(path)[0].rms_db == pytest.approx(facts[0].rms_db, abs=1e-9)
    assert survey(path)[0].peak == facts[0].peak == float(np.abs(whole.samples).max())


@pytest.mark.slow
def test_nothing_of_a_long_file_is_held_by_a_survey(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 96_000, 8, format="FLAC") as file:
        for _ in range(60):
            file.write(np.zeros((96_000, 8), np.int16))
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom tfser.pipeline.sound.audio import survey\n"
        "survey(Path(sys.argv[1]), None, 0.1)\nbefore = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "survey(Path(sys.argv[1]))\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    assert resource is not None
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000  # KB; eight channels of a minute are 184 MB, and were held twice
