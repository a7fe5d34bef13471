"""The synthetic corpus: the same bytes each time, balanced, speech-like, and neither trivial nor hopeless."""

from __future__ import annotations

import csv
import doctest
import importlib
import json
import wave
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tfser.manifests.errors import UsageError
from tfser.pipeline.corpora import synthesis
from tfser.pipeline.corpora.synthesis import (
    FIELDS,
    SynthesisConfig,
    SyntheticUtterance,
    generate,
    render,
    utterances,
)
from tfser.pipeline.corpora.voices import LABELS

SMALL = SynthesisConfig(speakers=4, repetitions=1)
Audio = NDArray[np.float32]


@pytest.fixture(scope="module")
def corpus() -> list[tuple[SyntheticUtterance, Audio]]:
    config = SynthesisConfig(repetitions=3)
    return [(row, render(config, row)) for row in utterances(config)]


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def pitch_track(samples: Audio, rate_hz: int = 16000) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (centre in s, pitch in Hz) of voiced 50 ms windows: the autocorrelation's first high peak, 60–450 Hz."""
    windows = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), rate_hz // 20)[:: rate_hz // 100]
    centre_s = (np.arange(len(windows)) * (rate_hz // 100) + rate_hz // 40) / rate_hz
    loud = (windows**2).mean(1) > 0.05 * (samples**2).mean()
    windows, centre_s = windows[loud], centre_s[loud]
    windows = windows - windows.mean(1, keepdims=True)
    n = windows.shape[1]
    correlation = np.fft.irfft(np.abs(np.fft.rfft(windows, 2 * n)) ** 2)[:, :n] / (n - np.arange(n))
    correlation /= correlation[:, :1]
    low, high = rate_hz // 450, rate_hz // 60
    best = correlation[:, low:high]
    first = (best > 0.9 * best.max(1, keepdims=True)).argmax(1)  # not an octave below
    peak = first + np.array([row[i : i + 12].argmax() for row, i in zip(best, first, strict=True)])
    sure = best.max(1) > 0.5
    return centre_s[sure], rate_hz / (low + peak[sure])


def f0_hz(samples: Audio, rate_hz: int = 16000) -> NDArray[np.float64]:
    return pitch_track(samples, rate_hz)[1]


def test_the_list_is_balanced() -> None:
    rows = utterances(SynthesisConfig())
    assert len(rows) == 8 * 4 * 12
    assert len({row.utterance_id for row in rows}) == len(rows)
    assert len({row.relative_path for row in rows}) == len(rows)
    assert set(Counter((row.speaker, row.label) for row in rows).values()) == {12}
    assert {row.label for row in rows} == set(LABELS) == {"anger", "happiness", "sadness", "neutral"}
    speakers = {row.speaker: (row.session, row.gender) for row in rows}
    assert Counter(speakers.values()) == {(s, g): 2 for s in ("Ses01", "Ses02") for g in "FM"}
    assert len(set(Counter((row.sentence, row.label, row.speaker) for row in rows).values())) == 1
    assert all(row.speaker.endswith(row.gender) and row.utterance_id.startswith(row.speaker) for row in rows)
    assert any(row.utterance_id == "S01F_s03_ang_01" and row.take == 1 for row in rows)


def test_a_longer_corpus_keeps_the_shorter_ones_utterances() -> None:
    few, more = SMALL, SynthesisConfig(speakers=4, repetitions=9)
    assert set(utterances(few)) <= set(utterances(more))
    row = utterances(few)[5]
    assert np.array_equal(render(few, row), render(more, row))


@pytest.mark.slow
def test_rendering_depends_on_the_utterance_and_the_seed_alone() -> None:
    rows = utterances(SMALL)
    first = [render(SMALL, row) for row in rows]
    synthesis.voice_of.cache_clear()
    again = [render(SMALL, row) for row in reversed(rows)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    other = render(SynthesisConfig(speakers=4, repetitions=1, seed=1), rows[0])
    assert not np.array_equal(first[0][:8000], other[:8000])


def test_version_1_sounds_as_it_did() -> None:
    """Whoever changes a sample raises VERSION, and these figures with it. (Last bits may differ by machine.)"""
    assert synthesis.VERSION == 1
    rows = {row.utterance_id: row for row in utterances(SMALL)}
    measured = {name: render(SMALL, rows[name]) for name in ("S01F_s01_ang_01", "S04M_s01_sad_01")}
    assert [len(samples) for samples in measured.values()] == [15840, 23280]
    assert [float(np.sqrt((samples**2).mean())) for samples in measured.values()] == pytest.approx([0.04889, 0.046326], rel=1e-3)
    assert [float(np.abs(np.diff(samples)).mean()) for samples in measured.values()] == pytest.approx(
        [0.005653, 0.005831], rel=1e-3
    )


def test_generate_writes_what_render_gives(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    generate(tmp_path, SMALL, lambda done, total: told.append((done, total)))
    rows = utterances(SMALL)
    assert told == [(i + 1, len(rows)) for i in range(len(rows))]
    with (tmp_path / "synthetic.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == FIELDS
    assert [line["utterance_id"] for line in table] == [row.utterance_id for row in rows]
    for line, row in zip(table, rows, strict=True):
        with wave.open(str(tmp_path / line["path"])) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert np.array_equal(samples / np.float32(32768), render(SMALL, row))
    settings = json.loads((tmp_path / "synthetic.json").read_text())
    assert settings["version"] == synthesis.VERSION
    assert SynthesisConfig(**settings["config"]) == SMALL
    assert len(tree(tmp_path)) == len(rows) + 2


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(tmp_path / "whole", SMALL)
    rendered: list[str] = []

    def counting(limit: int) -> Any:
        def one(config: SynthesisConfig, row: SyntheticUtterance) -> Audio:
            if len(rendered) == limit:
                raise KeyboardInterrupt
            rendered.append(row.utterance_id)
            return render(config, row)

        return one

    monkeypatch.setattr(synthesis, "render", counting(5))
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "killed", SMALL)
    assert not (tmp_path / "killed" / "synthetic.csv").exists()
    assert len(list((tmp_path / "killed").rglob("*.wav"))) == 5
    monkeypatch.setattr(synthesis, "render", counting(-1))
    generate(tmp_path / "killed", SMALL)
    assert len(rendered) == len(set(rendered)) == 16
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")

    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("*")}
    monkeypatch.setattr(synthesis, "render", counting(16))  # a complete corpus renders nothing
    generate(tmp_path / "killed", SMALL)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("*")} == stamps


@pytest.mark.slow
def test_another_configurations_folder_is_refused_and_unclaimed_files_are_replaced(tmp_path: Path) -> None:
    generate(tmp_path, SMALL)
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=r"synthetic\.json: .*another"):
        generate(tmp_path, SynthesisConfig(speakers=4, repetitions=1, seed=1))
    assert tree(tmp_path) == before
    (tmp_path / "synthetic.json").unlink()
    next(tmp_path.rglob("*.wav")).write_bytes(b"of unknown origin")
    generate(tmp_path, SMALL)
    assert tree(tmp_path) == before
    with pytest.raises(UsageError, match="this is a file"):
        generate(tmp_path / "synthetic.csv", SMALL)


@pytest.mark.slow
def test_audio_is_neither_clipped_nor_silent_nor_all_of_a_length(
    corpus: list[tuple[SyntheticUtterance, Audio]],
) -> None:
    seconds = np.array([len(samples) / 16000 for _, samples in corpus])
    assert seconds.min() > 0.7 and seconds.max() < 4.5
    assert seconds.max() > 2 * seconds.min() and len(set(seconds)) > 50
    for row, samples in corpus:
        assert samples.dtype == np.float32 and samples.ndim == 1
        assert np.isfinite(samples).all()
        assert np.abs(samples).max() < 0.96, row.utterance_id
        assert np.array_equal(samples * 32768, np.rint(samples * 32768))
        level_db = 10 * np.log10((samples**2).mean())
        assert -45 < level_db < -12, row.utterance_id
        frames = samples[: len(samples) // 400 * 400].reshape(-1, 400)
        assert ((frames**2).mean(1) > 0).all()  # the noise floor never stops
        assert abs(samples.mean()) < 0.01


@pytest.mark.slow
def test_pitch_follows_gender_and_emotion(corpus: list[tuple[SyntheticUtterance, Audio]]) -> None:
    pitch = {row.utterance_id: f0_hz(samples) for row, samples in corpus}
    assert all(len(values) > 10 for values in pitch.values())
    by_speaker: dict[str, list[float]] = {}
    by_label: dict[str, list[float]] = {}
    for row, _ in corpus:
        value = float(np.log2(np.median(pitch[row.utterance_id])) * 12)
        by_speaker.setdefault(row.speaker, []).append(value)
        by_label.setdefault(row.label, []).append(value)
    voices = {speaker: np.mean(values) for speaker, values in by_speaker.items()}
    women, men = ([v for s, v in voices.items() if s.endswith(g)] for g in "FM")
    assert min(women) > max(men) + 2  # semitones
    means = {label: np.mean(values) for label, values in by_label.items()}
    assert means["anger"] > means["neutral"] + 0.3
    assert means["happiness"] > means["neutral"] + 0.3
    assert means["sadness"] < means["neutral"] - 0.3


@pytest.mark.slow
def test_the_pitch_that_is_heard_is_the_pitch_that_was_planned() -> None:
    config = SynthesisConfig()
    for row in utterances(config)[::37]:
        voice = synthesis.voice_of(config.seed, row.speaker)
        score = synthesis._score(config, row, voice, synthesis.generator(config.seed, row.utterance_id))
        at_s, heard_hz = pitch_track(render(config, row))
        off_st = 12 * np.log2(heard_hz / score.f0_hz[(at_s / synthesis.FRAME_S).astype(int)])
        assert np.median(np.abs(off_st)) < 0.7, row.utterance_id  # 50 ms blur what moves


@pytest.mark.slow
def test_mean_statistics_say_something_but_not_everything(corpus: list[tuple[SyntheticUtterance, Audio]]) -> None:
    """Leave one speaker out, logistic regression on mean and deviation of a coarse log spectrum; chance is 0.25."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    edges = np.unique(np.geomspace(2, 240, 25).astype(int))
    features = []
    for _, samples in corpus:
        windows = np.lib.stride_tricks.sliding_window_view(samples, 400)[::200] * np.hanning(400).astype(np.float32)
        power = np.abs(np.fft.rfft(windows, 512)) ** 2
        bands = np.log(np.add.reduceat(power, edges, axis=1) + 1e-7)
        features.append(np.concatenate([bands.mean(0), bands.std(0)]))
    X, y = np.array(features), np.array([row.label for row, _ in corpus])
    speaker = np.array([row.speaker for row, _ in corpus])
    right = 0
    for held_out in np.unique(speaker):
        test = speaker == held_out
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(X[~test], y[~test])
        right += int((model.predict(X[test]) == y[test]).sum())
    assert 0.35 < right / len(y) < 0.75


@pytest.mark.parametrize("rate_hz", [8000, 22050, 48000])
def test_other_sample_rates(rate_hz: int) -> None:
    config = SynthesisConfig(speakers=4, repetitions=1, sample_rate_hz=rate_hz)
    row = utterances(config)[0]
    samples = render(config, row)
    assert np.isfinite(samples).all() and 0.05 < np.abs(samples).max() < 0.96
    assert len(samples) / rate_hz == pytest.approx(len(render(SMALL, row)) / 16000, rel=0.01)
    assert np.median(f0_hz(samples, rate_hz)) == pytest.approx(np.median(f0_hz(render(SMALL, row))), rel=0.06)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speakers": 6}, "multiple of 4"),
        ({"speakers": 0}, "speakers must be a whole number from 4 to 96"),
        ({"speakers": 100}, "speakers"),
        ({"speakers": 8.0}, "speakers"),
        ({"speakers": True}, "speakers"),
        ({"repetitions": 0}, "repetitions"),
        ({"seed": -1}, "seed"),
        ({"sample_rate_hz": 4000}, "sample_rate_hz"),
        ({"mean_cue": -0.1}, "mean_cue must be a number from 0 to 3"),
        ({"contour_cue": float("nan")}, "contour_cue"),
        ({"contour_cue": "much"}, "contour_cue"),
    ],
)
def test_a_configuration_is_valid_once_made(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SynthesisConfig(**changes)


def test_docstring_examples_run() -> None:
    assert doctest.testmod(importlib.import_module("tfser.pipeline.corpora.synthesis")).failed == 0
