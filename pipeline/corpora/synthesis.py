"""A synthetic corpus of speech-like emotional utterances, made on the spot: no download, no licence, no recording.

In: a `SynthesisConfig`. Out: a folder of 16-bit wav files with `synthetic.csv` (one row an utterance) and
`synthetic.json` (version and configuration). The same configuration gives the same samples whatever the order of
rendering: every utterance draws from a generator of its own, seeded by (version, seed, utterance id). On another
machine or numpy release the last bit of a few samples may differ, and content hashes then say so.

The voice is a source-filter model (Fant, Acoustic Theory of Speech Production, 1960). Source: the KLGLOTT88 glottal
flow derivative with jitter, shimmer, spectral tilt and aspiration noise (Klatt and Klatt, JASA 87, 1990). Filter: a
cascade of second-order resonators (Klatt, JASA 67, 1980) that moves every 5 ms between vowel targets (Peterson and
Barney, JASA 24, 1952) and consonant loci (Delattre, Liberman and Cooper, JASA 27, 1955), scaled by the speaker's vocal
tract length; frication and bursts pass a resonance of their own. Pitch is stylised into declination, accent movements
and a boundary tone ('t Hart, Collier and Cohen, A Perceptual Study of Intonation, 1990).

Emotion moves the means in the directions of Murray and Arnott (JASA 93, 1993), but by less than speakers and takes
differ. More of it is in the shape of pitch, loudness and rate over time: anger attacks early and lets go slowly,
happiness swells into late peaks and ends high, sadness sinks, slows down and trembles, and neutral speech does none of
it. Nothing here claims that people sound like this: the corpus tests a pipeline and ranks no method.
"""

from __future__ import annotations

import csv
import io
import json
import math
import wave
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfser.manifests.errors import UsageError
from tfser.manifests.files import write_bytes
from tfser.pipeline.corpora.tracks import FRAME_S, bump, linear, smooth, wander
from tfser.pipeline.corpora.voices import (
    EMOTIONS,
    OFF,
    PHONES,
    SENTENCES,
    VERSION,
    Array,
    Course,
    Phone,
    Speaker,
    generator,
    voice_of,
)

FIELDS = ("utterance_id", "path", "speaker", "gender", "session", "sentence", "label")
SESSIONS = ("Ses01", "Ses02")


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """What the corpus holds: `speakers` × four labels × `repetitions` utterances, about two seconds each.

    `mean_cue` and `contour_cue` scale how far the emotions differ in their means and in their course over time.

    Raises:
        UsageError: a value is out of its range.
    """

    speakers: int = 8  # a multiple of 4: as many women as men in each of the two sessions
    repetitions: int = 12  # per speaker and label; they go round the sentences
    seed: int = 0
    sample_rate_hz: int = 16000
    mean_cue: float = 1.0
    contour_cue: float = 1.0

    def __post_init__(self) -> None:
        ranges = {"speakers": (4, 96), "repetitions": (1, 594), "seed": (0, 2**63 - 1), "sample_rate_hz": (8000, 48000)}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise UsageError(f"synthetic corpus: {name} must be a whole number from {low} to {high}, not {value!r}")
        if self.speakers % 4:
            why = "two sessions, each with as many women as men"
            raise UsageError(f"synthetic corpus: speakers must be a multiple of 4 ({why}), not {self.speakers}")
        for name in ("mean_cue", "contour_cue"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 3:
                raise UsageError(f"synthetic corpus: {name} must be a number from 0 to 3, not {value!r}")
            object.__setattr__(self, name, float(value))


@dataclass(frozen=True, kw_only=True)
class SyntheticUtterance:
    """One utterance to be; the label is the emotion's full name, `relative_path` is below the corpus's root."""

    utterance_id: str  # S01F_s03_ang_01: speaker, sentence, emotion, take
    relative_path: str
    speaker: str
    gender: str  # "F" or "M"
    session: str
    sentence: str
    label: str
    take: int


def utterances(config: SynthesisConfig) -> list[SyntheticUtterance]:
    """Return the corpus's utterances, in order of speaker, sentence, take and label; no audio is made.

    >>> [one.utterance_id for one in utterances(SynthesisConfig(speakers=4, repetitions=1))][:3]
    ['S01F_s01_ang_01', 'S01F_s01_hap_01', 'S01F_s01_sad_01']
    """
    names = list(SENTENCES)
    slots = sorted((names[i % len(names)], i // len(names) + 1) for i in range(config.repetitions))
    rows = []
    for index in range(config.speakers):
        gender = "FM"[index % 2]
        speaker = f"S{index + 1:02d}{gender}"
        session = SESSIONS[index * len(SESSIONS) // config.speakers]
        for sentence, take in slots:
            for label, emotion in EMOTIONS.items():
                name = f"{speaker}_{sentence}_{emotion.code}_{take:02d}"
                rows.append(
                    SyntheticUtterance(
                        utterance_id=name, relative_path=f"{session}/{name}.wav", speaker=speaker, gender=gender,
                        session=session, sentence=sentence, label=label, take=take,
                    )
                )  # fmt: skip
    return rows


def ratings(config: SynthesisConfig, utterance: SyntheticUtterance) -> tuple[float, float, float]:
    """Return made-up valence, arousal and dominance on 1 to 5, which follow the voice: no audio is made.

    Arousal follows how aroused the take is (the first draw of `_score`, which moves pitch, level, rate and effort) and its
    emotion; valence its emotion; dominance both, half each. A draw of its own for each, as raters would differ, is no part
    of the sound.
    """
    take = generator(config.seed, utterance.utterance_id).normal(0, 1.0)
    valence, arousal = _CENTRES[utterance.label]
    noise = generator(config.seed, f"{utterance.utterance_id}:ratings").normal(0, (0.35, 0.25, 0.35))
    means = np.array((valence, arousal + 0.45 * take, 3 + 0.5 * (arousal - 3) + 0.25 * take))
    first, second, third = (round(float(value), 2) for value in np.clip(means + noise, 1.0, 5.0))
    return first, second, third


_CENTRES = {"anger": (1.8, 4.0), "happiness": (4.2, 3.7), "neutral": (3.0, 2.6), "sadness": (2.0, 2.0)}
"""Valence and arousal of each emotion's mean take."""


def render(config: SynthesisConfig, utterance: SyntheticUtterance) -> NDArray[np.float32]:
    """Return one utterance's samples (N,), mono, within ±0.95, in steps of 1 / 32768 as in 16-bit audio."""
    rng = generator(config.seed, utterance.utterance_id)
    voice = voice_of(config.seed, utterance.speaker)
    score = _score(config, utterance, voice, rng)
    samples = _sound(score, voice, config.sample_rate_hz, rng)  # (N,)
    return _record(samples, score.level_db + voice.level_db, utterance.session, rng)


class _Score(NamedTuple):
    """The control tracks of one utterance, T steps of 5 ms."""

    f0_hz: Array  # (T,)
    formants_hz: Array  # (T, 4)
    voiced: Array  # (T,), linear amplitude
    noise: Array  # (T,), linear amplitude
    noise_hz: Array  # (T,)
    noise_width_hz: Array  # (T,)
    loudness: Array  # (T,), linear: accents, fading, tremor
    effort: float
    breath: float
    level_db: float


def _score(config: SynthesisConfig, utterance: SyntheticUtterance, voice: Speaker, rng: np.random.Generator) -> _Score:
    """Plan one utterance: durations, then pitch, loudness and formants on the 5 ms grid.

    The order of the draws from ``rng`` is part of the corpus: another one makes other sounds, and a new `VERSION`.
    """
    emotion = EMOTIONS[utterance.label]
    # A take is more or less aroused whatever its emotion, and that moves the same means the way that anger does: so means say
    # something of the class, and not everything.
    arousal = rng.normal(0, 1.0)
    pitch_st, level_db, rate, effort, breath = (
        config.mean_cue * np.array(emotion.means)
        + voice.habits[utterance.label]
        + arousal * np.array((0.8, 1.3, 0.03, 0.25, -0.1))
        + rng.normal(0, (0.6, 1.0, 0.05, 0.15, 0.15))
    )
    share = config.contour_cue  # 0: as neutral speech; 1: the emotion's own course; 2: overdone
    shape = Course(*(base + share * (own - base) for own, base in zip(emotion.course, Course(), strict=True)))

    timing = _timing(utterance.sentence, shape.slowing * voice.expressive, voice.rate * math.exp(rate), rng)
    phones, T = timing.phones, len(timing.times_s)

    def track(values: list[float], width_s: float) -> Array:
        return smooth(np.array(values)[timing.phone_at], width_s)

    # The fourth formant hardly moves in speech: it is the speaker's, and stays put.
    formants = [track([phone.formants_hz[i] for phone in phones], width) for i, width in enumerate((0.05, 0.07, 0.07))]
    formants = [f * voice.tract * (1 + 0.03 * wander(rng, T, 0.12)) for f in formants]
    formants.append(np.full(T, 3500.0 * voice.tract))

    st, db = _melody(timing, shape, voice, rng)
    voiced = track([linear(phone.voice_db) for phone in phones], 0.025)
    # The mean over what is voiced is taken out and set once, so that a contour's shape says nothing about its height.
    st += pitch_st - (st * voiced).sum() / voiced.sum()
    return _Score(
        f0_hz=np.clip(voice.f0_hz * 2 ** (st / 12), 55, 600),
        formants_hz=np.stack(formants, axis=1),
        voiced=voiced,
        noise=track([linear(phone.noise_db) for phone in phones], 0.015),
        noise_hz=track([phone.noise_hz for phone in phones], 0.02) * voice.tract**0.5,
        noise_width_hz=track([phone.noise_width_hz for phone in phones], 0.02),
        loudness=10 ** (db / 20),
        effort=float(effort),
        breath=voice.breath * math.exp(float(breath)),
        level_db=float(level_db),
    )


class _Timing(NamedTuple):
    """When each of the S phones of an utterance sounds, and on which of them each of the T steps of 5 ms falls."""

    phones: list[Phone]
    stressed: list[bool]
    seconds: Array  # (S,)
    ends_s: Array  # (S,)
    times_s: Array  # (T,)
    phone_at: NDArray[np.intp]  # (T,)


def _timing(sentence: str, slowing: float, rate: float, rng: np.random.Generator) -> _Timing:
    """Draw the durations: stretched where stressed and at the end, slowed down or hurried along the way, same total either way.

    The total is the rate's alone: otherwise a contour that slows down would also be told by its length.
    """
    pause = PHONES[","]
    segments: list[tuple[Phone, bool]] = [(pause, False)]
    for name in SENTENCES[sentence].split():
        phone = PHONES[name.rstrip("1")]
        if phone.closure_s:
            hold = -22.0 if phone.voice_db > OFF else OFF  # a voiced stop's closure hums
            segments.append((phone._replace(seconds=phone.closure_s, voice_db=hold, noise_db=OFF), False))
        segments.append((phone, name.endswith("1")))
    segments.append((pause, False))
    seconds = np.array([phone.seconds for phone, _ in segments])
    seconds *= np.exp(rng.normal(0, 0.12, len(seconds)))
    seconds *= np.where([stressed for _, stressed in segments], 1.45, 1.0)
    place = np.linspace(-1, 1, len(seconds))
    warp = np.exp((slowing + rng.normal(0, 0.06)) * place)
    seconds *= warp * seconds.sum() / (seconds * warp).sum() / rate
    # After the total is set: the silence around speech, and the lengthening before it, belong to no emotion.
    seconds[[0, -1]] = rng.uniform(0.06, 0.16, 2)
    seconds[-3:-1] *= 1.25
    ends = np.cumsum(seconds)
    times = (np.arange(round(float(ends[-1]) / FRAME_S), dtype=np.float64) + 0.5) * FRAME_S
    return _Timing(
        phones=[phone for phone, _ in segments],
        stressed=[stressed for _, stressed in segments],
        seconds=seconds,
        ends_s=ends,
        times_s=times,
        phone_at=np.minimum(np.searchsorted(ends, times), len(segments) - 1),
    )


def _melody(timing: _Timing, shape: Course, voice: Speaker, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return pitch in semitones and loudness in dB, (T,) each: declination, accents, boundary tone, tremor."""
    t, seconds, ends = timing.times_s, timing.seconds, timing.ends_s
    u = np.clip((t - seconds[0]) / (ends[-2] - seconds[0]), 0, 1)
    st, db = shape.declination_st * (0.5 - u), shape.fade_db * (0.5 - u)
    # Accents vary in weight, place and width by themselves, so that none of an emotion's accents is known by one number.
    for index, stressed in enumerate(timing.stressed):
        if stressed:
            begin, weight = ends[index] - seconds[index], math.exp(rng.normal(0, 0.25))
            peak = begin + seconds[index] * np.clip(shape.peak + rng.normal(0, 0.08), 0, 1)
            stretch = math.exp(rng.normal(0, 0.15))
            accent = bump(t - peak, max(shape.attack_s, 0.01) * stretch, max(shape.release_s, 0.01) * stretch)
            st += weight * shape.accent_st * accent
            db += weight * shape.accent_db * accent
    st += shape.final_st * np.clip((t - ends[-2] + 0.25) / 0.25, 0, 1) ** 2
    tremor = np.sin(2 * np.pi * rng.uniform(5.0, 7.0) * t + rng.uniform(0, 2 * np.pi))
    st += shape.tremor_st * tremor
    db += shape.tremor_db * tremor
    # Drift comes last and is not scaled by the speaker: a monotonous voice wanders as much as a lively one.
    T = len(t)
    return st * voice.expressive + 0.5 * wander(rng, T, 0.2), db * voice.expressive + 1.0 * wander(rng, T, 0.15)


def _sound(score: _Score, voice: Speaker, rate_hz: int, rng: np.random.Generator) -> Array:
    """Return the source through the moving filter, (N,), N = T steps of 5 ms."""
    hop = round(FRAME_S * rate_hz)
    voiced, friction = _source(score, voice, rate_hz, rng)  # (N,) each
    size = 1 << math.ceil(math.log2(0.06 * rate_hz))
    tract, mouth = _filters(score, voice, rate_hz, size)  # (T, F) each
    # Hann windows of 10 ms every 5 ms, each through its step's transfer function, overlapped and added.
    spectrum = _frames(voiced, hop, size) * tract + _frames(friction, hop, size) * mouth
    pieces = np.fft.irfft(spectrum, size)  # (T, size)
    T, parts = len(pieces), size // hop + 1
    pieces = np.pad(pieces, ((0, 0), (0, parts * hop - size))).reshape(T, parts, hop)
    out = np.zeros((T + parts, hop))
    for part in range(parts):
        out[part : part + T] += pieces[:, part]
    return out[:T].ravel()


def _source(score: _Score, voice: Speaker, rate_hz: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return what sounds before the filter, (N,) each: the glottis with its breath, and friction."""
    T, hop = len(score.f0_hz), round(FRAME_S * rate_hz)
    N = T * hop
    at = (np.arange(N) / hop) - 0.5

    def spread(track: Array) -> Array:
        return np.interp(at, np.arange(T), track)

    # One open phase a cycle, then a sudden closure, whose step is rounded off against aliasing (polyBLEP).
    step = spread(score.f0_hz) / rate_hz
    cycles = int(step.sum()) + 2
    step *= 1 + 0.012 * np.interp(np.cumsum(step), np.arange(cycles), rng.normal(0, 1, cycles))  # jitter
    phase = np.cumsum(step) + rng.uniform()
    cycle = np.floor(phase).astype(np.int64)
    within = phase - cycle
    open_quotient = float(np.clip(voice.open_quotient - 0.06 * score.effort, 0.35, 0.8))
    x = within / open_quotient
    glottal = np.where(x < 1, 2 * x - 3 * x * x, 0.0)
    late = (within - open_quotient) / step
    glottal += np.where((late >= 0) & (late < 1), -0.5 * (1 - late) ** 2, 0.0)
    glottal += np.where((late < 0) & (late > -1), 0.5 * (1 + late) ** 2, 0.0)
    glottal *= 1 + 0.06 * rng.normal(0, 1, cycle[-1] + 1)[cycle]  # shimmer
    hiss = rng.normal(0, 1, N)
    breath = score.breath * hiss * (0.4 + np.where(x < 1, np.sin(np.pi * np.minimum(x, 1)), 0.0))
    loudness = spread(score.loudness)
    voiced = (glottal + breath) * spread(score.voiced) * loudness
    friction = rng.normal(0, 0.2, N) * spread(score.noise) * loudness**0.6
    return voiced, friction


def _filters(score: _Score, voice: Speaker, rate_hz: int, size: int) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Return what the vocal tract makes of the glottis and the mouth of friction: transfer functions, (T, F) each.

    F are the frequencies of a Fourier transform of ``size`` samples.
    """
    omega = 2 * np.pi * np.arange(size // 2 + 1) / size
    z1, z2 = np.exp(-1j * omega), np.exp(-2j * omega)  # (F,)
    louder = score.effort + 0.5 * np.log2(score.loudness)  # effort opens up the spectrum with loudness
    corner = np.clip(voice.tilt_hz * 2 ** (0.8 * louder), 600, 7000)
    pole = np.exp(-2 * np.pi * corner / rate_hz)[:, None]
    tract = (1 - pole) / (1 - pole * z1)  # (T, F), the source's tilt
    for i, width_hz in enumerate((70.0, 90.0, 140.0, 200.0)):
        tract = tract * _resonance(np.minimum(score.formants_hz[:, i], 0.47 * rate_hz), width_hz, rate_hz, z1, z2)
    for hz in np.arange(4500.0, 0.47 * rate_hz / voice.tract, 1000.0) * voice.tract:  # the formants above F4 stay put
        tract = tract * _resonance(np.array([hz]), 300.0, rate_hz, z1, z2)
    noise_hz = np.minimum(score.noise_hz, 0.45 * rate_hz)
    mouth = _resonance(noise_hz, score.noise_width_hz, rate_hz, z1, z2) * (1 - 0.9 * z1)
    return tract, mouth


def _frames(signal: Array, hop: int, size: int) -> NDArray[np.complex128]:
    """Return the spectra (T, F) of Hann windows of two hops that add up to one."""
    windows = np.lib.stride_tricks.sliding_window_view(np.append(signal, np.zeros(hop)), 2 * hop)[::hop]
    return np.fft.rfft(windows * (0.5 - 0.5 * np.cos(np.pi * (np.arange(2 * hop) + 0.5) / hop)), size)


def _resonance(
    hz: Array, width_hz: float | Array, rate_hz: int, z1: NDArray[np.complex128], z2: NDArray[np.complex128]
) -> NDArray[np.complex128]:
    """Return Klatt's (1980, equation 2) resonator with unit gain at 0 Hz, (T, F)."""
    radius = np.exp(-np.pi * np.broadcast_to(width_hz, hz.shape) / rate_hz)
    b = (2 * radius * np.cos(2 * np.pi * hz / rate_hz))[:, None]
    c = (-(radius**2))[:, None]
    response: NDArray[np.complex128] = (1 - b - c) / (1 - b * z1 - c * z2)
    return response


def _record(samples: Array, level_db: float, session: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the samples as the session's microphone hears them: gain, tilt, noise floor, 16 bits."""
    gain_db, tilt, floor_db = {"Ses01": (0.0, 0.06, -66.0), "Ses02": (-2.0, -0.10, -61.0)}[session]
    samples = samples * 10 ** ((-26 + gain_db + level_db) / 20) / math.sqrt(float(np.mean(samples**2)))
    noise = rng.normal(0, 10 ** (floor_db / 20), len(samples) + 1)
    samples = samples + (noise[1:] + 0.6 * noise[:-1])
    samples[1:] = samples[1:] - tilt * samples[:-1]
    samples *= min(1.0, 0.95 / float(np.abs(samples).max()))
    return (np.rint(samples * 32768) / 32768).astype(np.float32)


def generate(root: Path, config: SynthesisConfig, progress: Callable[[int, int], None] | None = None) -> None:
    """Write the corpus below `root`: `<session>/<utterance_id>.wav`, `synthetic.json`, and last `synthetic.csv`.

    What is there already from the same configuration is kept, so a killed call is simply made again, and a complete
    folder costs a look. `progress` is told (utterances there, utterances in all).

    Raises:
        UsageError: `root` is no folder, or holds another configuration's corpus.
    """
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root}: the synthetic corpus needs a folder, and this is a file")
    rows = utterances(config)
    settings = root / "synthetic.json"
    wanted = json.dumps({"version": VERSION, "config": asdict(config)}, indent=1) + "\n"
    claimed = settings.exists()
    if claimed and settings.read_text(encoding="utf-8") != wanted:
        raise UsageError(
            f"{settings}: this folder holds a synthetic corpus of another version or configuration; "
            "give another folder, or delete this one"
        )
    # The configuration is written before the first recording, the table after the last: a folder without the
    # one is nobody's, and one without the other is not finished.
    for session in SESSIONS:
        (root / session).mkdir(parents=True, exist_ok=True)
    if not claimed:  # wav files without a configuration beside them are of unknown origin: out before it claims the folder
        for name in ["synthetic.csv", *(row.relative_path for row in rows)]:
            (root / name).unlink(missing_ok=True)
        write_bytes(settings, wanted.encode())
    for done, row in enumerate(rows, start=1):
        path = root / row.relative_path
        if not path.exists():
            write_bytes(path, _wav(render(config, row), config.sample_rate_hz))
        if progress is not None:
            progress(done, len(rows))
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(FIELDS)
    for r in rows:
        table.writerow([r.utterance_id, r.relative_path, r.speaker, r.gender, r.session, r.sentence, r.label])
    index, content = root / "synthetic.csv", text.getvalue().encode()
    if not index.exists() or index.read_bytes() != content:
        write_bytes(index, content)


def _wav(samples: NDArray[np.float32], rate_hz: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((samples * 32768).astype("<i2").tobytes())
    return buffer.getvalue()
