"""Recall and false alarms of the near-duplicate search, on a corpus of one's own with planted copies.

Each kind of copy is planted for every utterance: encoded and decoded again, trimmed at either end, made louder or quieter,
resampled, with noise, and all of it together. Recall: the share of utterances whose copy of that kind is found. False alarms:
pairs that are found and are not of one utterance, among the originals, and among all files.

    python benchmarks/near_duplicates.py EMODB_FOLDER/wav

EmoDB is the hard case: ten speakers read the same ten sentences, often twice in one emotion.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from tfser.pipeline.copies.fingerprints import Fingerprinter
from tfser.pipeline.copies.search import find_pairs
from tfser.pipeline.sound.audio import KNOWN_SUFFIXES, decode, resample

Sound = tuple[npt.NDArray[np.float32], int]


def encoded(samples: npt.NDArray[np.float32], rate: int, kind: str, subtype: str) -> Sound:
    """Write and read again."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    buffer.seek(0)
    out, rate = soundfile.read(buffer, dtype="float32")
    return out, rate


def copies(samples: npt.NDArray[np.float32], rate: int, rng: np.random.Generator) -> Iterator[tuple[str, Sound]]:
    """Yield each kind of copy."""
    yield "ogg", encoded(samples, rate, "OGG", "VORBIS")
    yield "mp3", encoded(samples, rate, "MP3", "MPEG_LAYER_III")
    for seconds in (0.1, 0.2, 0.3):
        cut = int((seconds + rng.uniform(-0.01, 0.01)) * rate)  # never a whole number of words
        yield f"start -{seconds} s", (samples[cut:], rate)
        yield f"end -{seconds} s", (samples[:-cut], rate)
    for gain in (-12, -6, 6):
        louder = np.clip(samples * 10 ** (gain / 20), -1, 1).astype(np.float32)
        yield f"gain {gain:+d} dB", (np.round(louder * 32767) / np.float32(32767), rate)
    for target in (8000, 16000, 44100):
        yield f"{target} Hz", (resample(samples, rate, target), target)
    power = float(np.sqrt(np.mean(np.square(samples))))
    for snr in (30, 20, 10):
        noise = rng.standard_normal(len(samples)).astype(np.float32) * power * 10 ** (-snr / 20)
        yield f"noise at {snr} dB", (samples + noise, rate)
    cut = int(0.15 * rate)
    yield "trimmed, -8 dB, mp3", encoded(samples[cut : -cut // 2] * np.float32(0.4), rate, "MP3", "MPEG_LAYER_III")


def main() -> None:
    """Print a table: one line a kind of copy, then the false alarms."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of audio files")
    parser.add_argument("--every", type=int, default=1, help="take every N-th file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=["table", "json"], default="table")
    options = parser.parse_args()
    files = sorted(p for p in options.folder.rglob("*") if p.suffix.lower() in KNOWN_SUFFIXES)[:: options.every]
    if not files:
        raise SystemExit(f"{options.folder}: no audio files in it")
    rng, front = np.random.default_rng(options.seed), Fingerprinter()
    owners, kinds, prints = [], [], []
    audio_s = spent = 0.0
    for number, file in enumerate(files):
        audio = decode(file)
        sounds = [("original", (audio.samples, audio.sample_rate)), *copies(audio.samples, audio.sample_rate, rng)]
        start = time.perf_counter()
        for kind, (samples, rate) in sounds:
            prints.append(front.words(samples, rate))
            owners.append(number)
            kinds.append(kind)
            audio_s += len(samples) / rate
        spent += time.perf_counter() - start
    start = time.perf_counter()
    pairs = find_pairs(prints)
    searching = time.perf_counter() - start
    found = {(kinds[p.b], owners[p.b]): p for p in pairs if owners[p.a] == owners[p.b] and kinds[p.a] == "original"}
    lines = []
    for kind in dict.fromkeys(kinds):
        if kind != "original":
            hits = [found[kind, n].similarity for n in range(len(files)) if (kind, n) in found]
            recall = len(hits) / len(files)
            lines.append({"copy": kind, "recall": recall, "lowest": min(hits, default=0.0), "mean": float(np.mean(hits or [0]))})
    wrong = [p for p in pairs if owners[p.a] != owners[p.b]]
    among = sum(kinds[p.a] == kinds[p.b] == "original" for p in wrong)
    n, m = len(files), len(prints)
    report = {
        "files": n,
        "fingerprints": m,
        "recall": lines,
        "false_alarms_among_originals": among,
        "pairs_of_originals": n * (n - 1) // 2,
        "false_alarms_in_all": len(wrong),
        "pairs_in_all": m * (m - 1) // 2,
        "times_real_time": audio_s / spent,
        "search_s": searching,
    }
    if options.format == "json":
        print(json.dumps(report, indent=2))
        return
    speed = f"{audio_s / spent:,.0f} x real time"
    print(f"{n} files, {m} fingerprints of {audio_s / 60:.0f} min ({speed}), searched in {searching:.1f} s")
    print(f"{'copy':22}{'recall':>8}{'lowest':>8}{'mean':>8}   (similarity of those found; chance is 0.5)")
    for line in lines:
        print(f"{line['copy']:22}{line['recall']:8.3f}{line['lowest']:8.3f}{line['mean']:8.3f}")
    print(f"false alarms: {among} of {n * (n - 1) // 2:,} pairs of originals, {len(wrong)} of {m * (m - 1) // 2:,} pairs in all")
    for pair in sorted(wrong, key=lambda p: -p.similarity)[:10]:
        one, other = (f"{files[owners[i]].stem} ({kinds[i]})" for i in (pair.a, pair.b))
        print(f"  {one} and {other}: {pair.similarity:.3f} over {pair.words} words")


if __name__ == "__main__":
    main()
