"""Whisper on 30 s of mostly silence or on the clip's own length: what it gains in time, and what it costs in accuracy.

    python benchmarks/whisper_window.py speed --weights DIR --clips FOLDER [--count 20] [--threads 1]
    python benchmarks/whisper_window.py accuracy --cache DIR [--head logreg]

`speed` encodes the same clips in both ways, in turn, all layers, one clip at a time as on a CPU, and prints clips a second by
the clock and by the processor's own time, which other work on the machine does not change much. `accuracy` trains nothing: it
compares finished runs on each layer in both ways over the same speakers. These commands make them, where the cache holds all
layers in both:

    tfser layers --mix none --features whisper-base/all
    tfser layers --mix none --features whisper-base/all+window=clip
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np


def speed(weights: str, clips: Path, count: int, threads: int) -> None:
    """Print clips a second of both forms, encoded in turn."""
    import torch

    from tfser.pipeline.features.encoders.loading import load
    from tfser.pipeline.features.encoders.spec import encoder_spec
    from tfser.pipeline.sound.audio import decode, resample

    torch.set_num_threads(threads)
    files = sorted(p for p in clips.rglob("*") if p.suffix in (".wav", ".flac"))[:count]
    samples = [resample(audio.samples, audio.sample_rate, 16000) for audio in map(decode, files)]
    seconds = float(np.mean([len(of) / 16000 for of in samples]))
    encoders = {
        window: load(encoder_spec("whisper-base", weights=weights, layer="all", settings={"window": window}))
        for window in ("padded", "clip")
    }
    clock, processor = dict.fromkeys(encoders, 0.0), dict.fromkeys(encoders, 0.0)
    for encoder in encoders.values():
        encoder.encode(samples[:1])
    for of in samples:
        for window, encoder in encoders.items():
            began, spent = time.perf_counter(), time.process_time()
            encoder.encode([of])
            clock[window] += time.perf_counter() - began
            processor[window] += time.process_time() - spent
    print(f"{len(samples)} clips of {seconds:.2f} s on average, {threads} thread(s), all layers")
    for window in encoders:
        print(
            f"{window:7} {len(samples) / clock[window]:8.2f} clips/s by the clock, "
            f"{len(samples) / processor[window]:8.2f} by the processor's time"
        )
    print(f"gain: {clock['padded'] / clock['clip']:.1f} times (clock), {processor['padded'] / processor['clip']:.1f} (processor)")


def accuracy(cache: Path, head: str, validation: str) -> None:
    """Print each layer's pooled UA in both forms and their difference over speakers."""
    from tfser.heads.results.compare import compare
    from tfser.heads.results.outcomes import Subject, read_outcome
    from tfser.manifests.cache import Cache
    from tfser.manifests.catalogue.reading import open_catalogue, rows
    from tfser.manifests.errors import UsageError

    print(f"| layer | UA of {head}, padded | clip | clip - padded [95 %] | p |")
    print("|---|---|---|---|---|")
    with open_catalogue(Cache(cache)) as connection:
        found = rows(
            connection,
            "SELECT feature_set, any_value(experiment) AS experiment FROM runs "
            "WHERE head = ? AND validation = ? GROUP BY ALL ORDER BY 1",
            [head, validation],
        )
        of = {row["feature_set"]: row["experiment"] for row in found}
        for name in of:
            other = f"{name}+window=clip"
            if other not in of:
                continue
            sides = [read_outcome(connection, Subject(experiment=of[each])) for each in (other, name)]
            try:
                compared = compare(*sides)
            except UsageError as error:  # folds that are not trained yet
                print(f"| {name.rpartition('/')[2]} | {error} | | | |")
                continue
            score = compared.score
            low, high = score.difference.low, score.difference.high
            ends = "" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
            p = "" if compared.permutation is None else f"{compared.permutation.p:.2f}"
            print(
                f"| {name.rpartition('/')[2]} | {100 * score.b.value:.1f} | {100 * score.a.value:.1f} "
                f"| {100 * score.difference.value:+.1f}{ends} | {p} |"
            )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    timing = parts.add_parser("speed")
    timing.add_argument("--weights", required=True)
    timing.add_argument("--clips", type=Path, required=True)
    timing.add_argument("--count", type=int, default=20)
    timing.add_argument("--threads", type=int, default=1)
    scoring = parts.add_parser("accuracy")
    scoring.add_argument("--cache", type=Path, required=True)
    scoring.add_argument("--head", default="logreg")
    scoring.add_argument("--validation", default="next-group", help="of the runs: as `tfser layers` makes them")
    asked = parser.parse_args()
    if asked.part == "speed":
        speed(asked.weights, asked.clips, asked.count, asked.threads)
    else:
        accuracy(asked.cache, asked.head, asked.validation)


if __name__ == "__main__":
    main()
