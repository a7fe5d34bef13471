"""What the synthetic voices are made of: phones, sentences, emotions, speakers. `synthesis` turns them into sound.

Sources: vowels, Peterson and Barney (JASA 24, 1952); consonant loci, Delattre, Liberman and Cooper (JASA 27, 1955);
directions of the emotions, Murray and Arnott (JASA 93, 1993). Frequencies in Hz, times in seconds, levels in dB.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

VERSION = 1
"""Raised whenever a sample of the corpus changes."""

Array = NDArray[np.float64]

OFF = -math.inf  # dB


class Phone(NamedTuple):
    """A phone of a man with a 17.5 cm vocal tract; other voices are scaled from it."""

    seconds: float
    formants_hz: tuple[float, float, float]
    voice_db: float  # loudness of the voiced source, -inf for none
    noise_db: float = OFF  # loudness of frication
    noise_hz: float = 4000.0
    noise_width_hz: float = 2000.0
    closure_s: float = 0.0  # silence before a stop's burst


_VOWELS = {  # F1, F2, F3 in Hz of the men in Peterson and Barney (1952), table II
    "IY": (270, 2290, 3010), "IH": (390, 1990, 2550), "EH": (530, 1840, 2480), "AE": (660, 1720, 2410),
    "AH": (640, 1190, 2390), "AA": (730, 1090, 2440), "AO": (570, 840, 2410), "UH": (440, 1020, 2240),
    "UW": (300, 870, 2240), "ER": (490, 1350, 1690),
}  # fmt: skip
PHONES: dict[str, Phone] = {
    **{name: Phone(0.085, formants, 0.0) for name, formants in _VOWELS.items()},
    "M": Phone(0.065, (280, 1000, 2300), -9.0),
    "N": Phone(0.060, (280, 1650, 2500), -9.0),
    "L": Phone(0.060, (360, 1200, 2700), -5.0),
    "R": Phone(0.060, (330, 1200, 1650), -5.0),
    "W": Phone(0.060, (310, 700, 2200), -6.0),
    "Y": Phone(0.055, (280, 2200, 2900), -6.0),
    "S": Phone(0.095, (320, 1700, 2600), OFF, -10.0, 5600.0, 2200.0),
    "SH": Phone(0.095, (320, 1850, 2500), OFF, -8.0, 3100.0, 1500.0),
    "F": Phone(0.080, (320, 1000, 2300), OFF, -20.0, 5000.0, 5000.0),
    "HH": Phone(0.055, (500, 1500, 2500), -16.0, -20.0, 1600.0, 1500.0),
    "Z": Phone(0.070, (300, 1700, 2600), -12.0, -16.0, 5600.0, 2200.0),
    "V": Phone(0.055, (300, 1000, 2300), -10.0, -24.0, 5000.0, 5000.0),
    "DH": Phone(0.045, (300, 1350, 2500), -10.0, -26.0, 5000.0, 5000.0),
    "P": Phone(0.030, (350, 900, 2300), OFF, -16.0, 900.0, 1500.0, 0.060),
    "T": Phone(0.035, (350, 1750, 2600), OFF, -10.0, 4300.0, 2500.0, 0.050),
    "K": Phone(0.040, (350, 2000, 2400), OFF, -12.0, 2000.0, 1200.0, 0.055),
    "B": Phone(0.015, (300, 900, 2300), -10.0, -20.0, 900.0, 1500.0, 0.050),
    "D": Phone(0.018, (300, 1750, 2600), -10.0, -14.0, 4300.0, 2500.0, 0.045),
    "G": Phone(0.022, (300, 2000, 2400), -10.0, -16.0, 2000.0, 1200.0, 0.045),
    ",": Phone(0.190, (450, 1450, 2450), OFF),
}
SENTENCES: dict[str, str] = {  # 1 marks the vowel of an accented syllable
    "s01": "N AA1 T AH N T IH L N UW1 N",
    "s02": "W IY S AO1 DH AH B AA1 T , AH N D W EH N T IH N T UW T AA1 N",
    "s03": "M AE1 R IY K EH1 IH M HH AO UH M S UW1 N",
    "s04": "DH AH L AE1 M P IH Z AO N DH AH T IY1 B AH L IH N DH AH K IH1 T SH AH N",
    "s05": "SH IY W IH L S IY1 DH AH M AH G EH1 N",
    "s06": "AH B AA1 G , F UH L AH V R EH1 D R IH B AH N Z , AH N D AH N UW1 B UH1 K",
}


class Course(NamedTuple):
    """How an utterance moves around its means; the defaults are neutral speech."""

    accent_st: float = 3.5  # an accent's height, semitones
    accent_db: float = 5.0
    attack_s: float = 0.12  # from its foot to its peak; attack + release is the same for all, so that the means are too
    release_s: float = 0.12
    peak: float = 0.5  # where in the accented vowel the peak is, 0 to 1
    declination_st: float = 2.5  # how far pitch sinks from the first to the last sound, semitones
    fade_db: float = 1.0  # how far loudness does
    slowing: float = 0.0  # logarithm of how much longer the last sounds are than the middle ones
    final_st: float = -1.0  # pitch movement of the last quarter of a second
    tremor_st: float = 0.0  # at 5 to 7 Hz
    tremor_db: float = 0.0


class Emotion(NamedTuple):
    """How one emotion differs from the speaker's habit."""

    code: str
    means: tuple[float, ...]  # pitch in semitones, level in dB, logarithm of rate, vocal effort, breathiness
    course: Course


EMOTIONS: dict[str, Emotion] = {
    "anger": Emotion(
        "ang",
        (1.5, 2.5, 0.06, 0.5, -0.2),
        Course(
            accent_st=5.0, accent_db=7.0, attack_s=0.03, release_s=0.21, peak=0.15,
            declination_st=3.0, slowing=-0.05, final_st=-3.0,
        ),
    ),
    "happiness": Emotion(
        "hap",
        (2.0, 1.5, 0.04, 0.2, 0.0),
        Course(
            accent_st=5.0, accent_db=5.5, attack_s=0.21, release_s=0.03, peak=0.85,
            declination_st=-1.5, fade_db=-3.0, slowing=-0.2, final_st=3.5,
        ),
    ),
    "sadness": Emotion(
        "sad",
        (-1.0, -2.5, -0.10, -0.4, 0.4),
        Course(
            accent_st=2.5, accent_db=4.0, declination_st=4.5, fade_db=5.0, slowing=0.25, tremor_st=0.9, tremor_db=2.5,
        ),
    ),
    "neutral": Emotion("neu", (0.0, 0.0, 0.0, 0.0, 0.0), Course()),
}  # fmt: skip
LABELS: tuple[str, ...] = tuple(EMOTIONS)


class Speaker(NamedTuple):
    """A voice: what stays the same from one utterance to the next."""

    f0_hz: float
    tract: float  # formants relative to a 17.5 cm vocal tract
    breath: float  # aspiration relative to the voiced source, linear
    rate: float  # a factor on durations' inverse
    level_db: float
    tilt_hz: float  # corner of the source's extra spectral tilt
    open_quotient: float
    expressive: float  # a factor on all contours
    habits: dict[str, Array]  # label -> this speaker's own offsets of pitch (st), level (dB), rate, effort, breath


def generator(seed: int, name: str) -> np.random.Generator:
    """Return the random generator of one thing with a name (an utterance, a speaker), whatever else is drawn."""
    digest = hashlib.sha256(f"tfser-synthetic {VERSION} {seed} {name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


@lru_cache(maxsize=256)
def voice_of(seed: int, name: str) -> Speaker:
    """Return the voice of a speaker; the name's last letter is the gender, F or M."""
    rng = generator(seed, name)
    female = name.endswith("F")
    return Speaker(
        f0_hz=rng.uniform(170, 235) if female else rng.uniform(92, 140),
        tract=rng.uniform(1.10, 1.22) if female else rng.uniform(0.95, 1.06),
        breath=rng.uniform(0.02, 0.07) * (1.3 if female else 1.0),
        rate=math.exp(rng.normal(0, 0.09)),
        level_db=rng.uniform(-3, 3),
        tilt_hz=2600 * math.exp(rng.normal(0, 0.25)),
        open_quotient=rng.uniform(0.55, 0.72) if female else rng.uniform(0.45, 0.62),
        expressive=rng.uniform(0.85, 1.2),
        habits={label: rng.normal(0, (0.7, 0.9, 0.04, 0.2, 0.2)) for label in EMOTIONS},
    )
