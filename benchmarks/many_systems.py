"""How often the simultaneous intervals of `tfser compare A B C ...` hold all true differences, and its tests are wrong anywhere.

Simulates speakers who differ, alike and by system, and four systems on the same utterances. Prints, for few and many speakers,
the share of simulations in which all six intervals hold their true difference (95 % is wanted), in which equal systems are told
apart somewhere (5 % at most), and in which a pair that differs by what `seen from` says is seen (80 % is meant, by median).

    python benchmarks/many_systems.py --simulations 400
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.special import expit

from tfser.heads.results.many import compare_many
from tfser.heads.results.outcomes import Outcome, Subject

CLASSES = ("anger", "happiness", "neutral", "sadness")
SYSTEMS = 4


def simulate(rng: np.random.Generator, skills: np.ndarray, speakers: int, each: int, spread: float) -> list[Outcome]:
    """Return the predictions of systems of the given skills (logits); speakers differ by 0.6 for all, by `spread` for each."""
    n = speakers * each
    who = np.repeat(np.arange(speakers), each)
    truth = np.tile(np.arange(len(CLASSES)), n // len(CLASSES) + 1)[:n]
    hard = rng.normal(0, 0.6, speakers)
    own = rng.normal(0, spread, (len(skills), speakers))
    found = []
    for m, skill in enumerate(skills):
        right = rng.random(n) < expit(skill + hard + own[m])[who]
        wrong = (truth + rng.integers(1, len(CLASSES), n)) % len(CLASSES)
        predicted = np.where(right, truth, wrong)
        found.append(
            Outcome(
                subject=Subject(experiment=f"system{m}"),
                selection="last",
                level="utterance",
                audit="passed",
                speakers_kept="kept",
                seeds=(0,),
                dropped=(),
                keys=tuple(("toy", str(i), None) for i in range(n)),
                folds=(1,) * n,
                labels=tuple(CLASSES[k] for k in truth),
                predicted=(tuple(CLASSES[k] for k in predicted),),
                who={"speaker": tuple(map(str, who)), "session": (None,) * n, "dialogue": (None,) * n},
            )
        )
    return found


def true_scores(skills: np.ndarray, spread: float) -> np.ndarray:
    """Return the share that each system gets right over endless speakers."""
    drawn = np.random.default_rng(0).normal(0, np.hypot(0.6, spread), 400_000)
    return np.array([expit(skill + drawn).mean() for skill in skills])


def measure(simulations: int, speakers: int, each: int, spread: float) -> dict[str, float]:
    """Return the three shares."""
    rng = np.random.default_rng([speakers, each])
    held = wrong = seen = 0
    unlike, alike = np.array([0.9, 0.7, 0.6, 0.3]), np.full(SYSTEMS, 0.6)
    truth = true_scores(unlike, spread)
    least: list[float] = []
    for _ in range(simulations):
        found = compare_many(simulate(rng, unlike, speakers, each, spread))
        place = [int(of.subject.name.removeprefix("system")) for of in found.outcomes]
        inside = [
            pair.difference.low is not None
            and pair.difference.low <= truth[place[pair.a]] - truth[place[pair.b]] <= (pair.difference.high or 1)
            for pair in found.pairs
        ]
        held += all(inside)
        least.append(found.seen_from or 1.0)
        same = compare_many(simulate(rng, alike, speakers, each, spread))
        wrong += any(pair.p is not None and pair.p < 0.05 for pair in same.pairs)
    typical = float(np.median(least))
    grid = np.linspace(0, 3, 301)
    scores = true_scores(0.6 + grid, spread)
    gain = grid[int(np.argmin(np.abs(scores - scores[0] - typical)))]
    for _ in range(simulations):
        found = compare_many(simulate(rng, np.array([0.6 + gain, 0.6, 0.6, 0.6]), speakers, each, spread))
        names = [of.subject.name for of in found.outcomes]
        best = next(p for p in found.pairs if {names[p.a], names[p.b]} == {"system0", "system1"})
        seen += best.difference.low is not None and (best.difference.low > 0 or (best.difference.high or 0) < 0)
    return {"held": held / simulations, "wrong": wrong / simulations, "seen": seen / simulations, "seen_from": typical}


def main() -> None:
    """Print a line for each number of speakers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=400)
    parser.add_argument("--speakers", type=int, nargs="+", default=[6, 10, 20])
    parser.add_argument("--each", type=int, default=50)
    parser.add_argument("--spread", type=float, default=0.3)
    asked = parser.parse_args()
    for speakers in asked.speakers:
        found = measure(asked.simulations, speakers, asked.each, asked.spread)
        print(
            f"{speakers} speakers: all six hold {100 * found['held']:.1f} %, equal systems told apart "
            f"{100 * found['wrong']:.1f} %, a difference of {100 * found['seen_from']:.1f} points "
            f"seen {100 * found['seen']:.1f} %",
            flush=True,
        )


if __name__ == "__main__":
    main()
