"""How often 95 % intervals hold the truth when a speaker's utterances are alike: naive ones, a cluster bootstrap, and tfser's.

Speakers are drawn with random effects on the logit of being right, one common to all classes and one for each class; they say
unequally many utterances of each class, some classes not at all. The truth is the score over the population of speakers. Sizes:
EmoDB's own counts; 4, 10 and 24 speakers with 4 or 7 classes; and six speakers who say 85 % beside 94 others, as in MELD's test
split. Columns: Wilson's interval over utterances, the percentile bootstrap over speakers, the plain jackknife with t of G - 1
degrees of freedom, and ours (heads/results/intervals.py). Then two systems on the same utterances: intervals of their
difference, and how often tests at 0.05 reject when there is none.

With --dimensions, speakers rate and are predicted on a continuous scale instead, each with a bias and a spread of their
own, and the intervals are of CCC and of differences in it (heads/results/moments.py).

    python benchmarks/intervals.py                   # about two minutes
    python benchmarks/intervals.py --dimensions      # about one
    python benchmarks/intervals.py --rounds 500 --format csv
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from tfser.heads.results.exchanges import mcnemar, permutation_test
from tfser.heads.results.intervals import Counts, Interval, difference, interval, score, score_of
from tfser.heads.results.moments import Moments, gathered, rating_difference, rating_interval, rating_permutation
from tfser.heads.results.moments import score as rated_score
from tfser.heads.spec.dimension_metrics import of_sums
from tfser.manifests.display import Output, print_rows

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

EMODB = np.array(
    [
        [4, 1, 7, 5, 11, 7, 14], [6, 0, 11, 10, 10, 9, 12], [1, 8, 4, 4, 9, 4, 13], [8, 1, 4, 8, 4, 3, 10],
        [10, 2, 8, 8, 9, 7, 11], [12, 8, 8, 8, 7, 10, 16], [6, 2, 2, 5, 4, 4, 12], [7, 8, 10, 10, 9, 5, 12],
        [8, 5, 6, 9, 11, 4, 13], [7, 11, 11, 14, 5, 9, 14],
    ]
)  # fmt: skip
"""Utterances of its ten speakers (rows) by class: fear, disgust, happiness, boredom, neutral, sadness, anger."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A corpus and how its speakers differ: standard deviations on the logit scale, of speakers and of speakers by class."""

    name: str
    sizes: Ints  # (G, K)
    logit: float = 0.5
    speaker: float = 0.5
    by_class: float = 0.5
    seeds: int = 1
    tail: float | None = None
    """Degrees of freedom of the speakers' deviations where they are Student's and not normal."""
    bad: float = 0.0
    """The share of speakers whose logit is three lower: of 62 % right 14 are left, of 92 % 38."""

    @property
    def about(self) -> dict[str, Any]:
        """What a row of the table says of it."""
        return {
            "sizes": self.name,
            "speakers": self.sizes.shape[0],
            "classes": self.sizes.shape[1],
            "spread": f"{self.speaker:g}/{self.by_class:g}{f' t {self.tail:g}' if self.tail else ''}",
            "seeds": self.seeds,
        }


def unequal(speakers: int, classes: int, *, each: int = 25, spread: float = 0.4, seed: int = 0) -> Ints:
    """Draw sizes (G, K): gamma-distributed speakers, Dirichlet classes, and one cell in thirty empty."""
    rng = np.random.default_rng(seed)
    speaker = rng.gamma(1 / spread**2, spread**2, speakers)[:, None]
    sizes = 2 + rng.poisson(each * speaker * rng.dirichlet(np.full(classes, 8.0)) * classes)
    for g in rng.choice(speakers, max(1, speakers * classes // 30), replace=False):
        sizes[g, rng.integers(classes)] = 0
    return np.asarray(sizes, dtype=np.int64)


def few_say_most() -> Ints:
    """Draw sizes like MELD's test split: 2,600 utterances of 100 speakers, 85 % of them by six; seven unequal classes."""
    rng = np.random.default_rng(0)
    classes = [0.48, 0.11, 0.08, 0.15, 0.13, 0.03, 0.02]
    return np.vstack([rng.multinomial(370, classes, 6), rng.multinomial(4, classes, 94)])


SCENARIOS = (
    Scenario(name="EmoDB", sizes=EMODB),
    Scenario(name="EmoDB", sizes=EMODB, speaker=0.1, by_class=0.1),
    Scenario(name="EmoDB", sizes=EMODB, speaker=1.0, by_class=1.0),
    Scenario(name="EmoDB, 90 % right", sizes=EMODB, logit=2.5, speaker=0.7, by_class=0.7),
    Scenario(name="EmoDB, 3 seeds", sizes=EMODB, seeds=3),
    Scenario(name="equal", sizes=np.full((10, 4), 50)),
    Scenario(name="unequal", sizes=unequal(10, 4, each=50)),
    Scenario(name="unequal", sizes=unequal(10, 7)),
    Scenario(name="equal", sizes=np.full((4, 4), 50)),
    Scenario(name="unequal", sizes=unequal(4, 4)),
    Scenario(name="unequal", sizes=unequal(4, 7)),
    Scenario(name="unequal", sizes=unequal(4, 7), logit=2.5, speaker=0.7, by_class=0.7),
    Scenario(name="unequal", sizes=unequal(24, 4)),
    Scenario(name="unequal", sizes=unequal(24, 7)),
    Scenario(name="six say 85 %", sizes=few_say_most()),
)


def hard(speakers: int) -> tuple[Scenario, ...]:
    """Return corpora of so many speakers that break the assumptions one at a time."""
    even = np.full((speakers, 5), 15)
    missing = unequal(speakers, 5, each=15)
    missing[np.random.default_rng(1).random(missing.shape) < 0.2] = 0
    missing[0] = np.maximum(missing[0], 5)  # so that each class and each speaker has something
    missing[1:, 0] = np.maximum(missing[1:, 0], 5)
    high = {"logit": 2.5, "speaker": 0.7, "by_class": 0.7}
    return (
        Scenario(name="even", sizes=even),
        Scenario(name="uneven", sizes=unequal(speakers, 5, each=15, spread=0.8)),
        Scenario(name="classes missing", sizes=missing),
        Scenario(name="90 % right", sizes=even, **high),
        Scenario(name="heavy tails", sizes=even, tail=2.5),
        Scenario(name="one in eight bad", sizes=even, bad=1 / 8),
        Scenario(name="one in eight bad, 90 % right", sizes=even, bad=1 / 8, **high),
        Scenario(name="one in eight bad, the others alike", sizes=even, bad=1 / 8, speaker=0.15, by_class=0.15),
        Scenario(name="the same, 90 % right", sizes=even, bad=1 / 8, logit=2.5, speaker=0.15, by_class=0.15),
    )


@cache
def _quantile(df: float) -> float:
    return float(stats.t.ppf(0.975, df))


def _logistic(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


class Population:
    """Speakers to draw from, and the truth over all of them."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.of = scenario
        self.rng = np.random.default_rng(seed)
        G, K = scenario.sizes.shape
        self.classes = tuple(f"class {k}" for k in range(K))
        self.clusters = tuple(f"speaker {g}" for g in range(G))
        self.centre = scenario.logit + self.rng.normal(0, 0.5, K)
        wrong = self.rng.dirichlet(np.full(K, 3.0), K)
        np.fill_diagonal(wrong, 0)
        self.wrong = wrong / wrong.sum(axis=1, keepdims=True)
        self.right = self.speakers(200_000).mean(axis=0)  # (K,)

    def speakers(self, n: int) -> Floats:
        """Draw n speakers' probabilities of being right: (n, K)."""
        tail, bad = self.of.tail, self.of.bad
        common = self.rng.normal(0, 1, (n, 1)) if tail is None else self.rng.standard_t(tail, (n, 1))
        own = self.of.speaker * common + self.rng.normal(0, self.of.by_class, (n, len(self.classes)))
        if bad:
            own = own - 3.0 * (self.rng.random((n, 1)) < bad)
        return _logistic(self.centre + own)

    def draw(self) -> Counts:
        """Draw the test utterances' predictions of new speakers: each seed predicts anew for the same ones."""
        sizes = self.of.sizes
        right = self.speakers(len(sizes))
        rate = (1 - right)[:, :, None] * self.wrong
        K = np.arange(len(self.classes))
        rate[:, K, K] = right
        found = np.stack([self.rng.multinomial(sizes, rate) for _ in range(self.of.seeds)]).astype(np.float64)  # (S, G, K, K)
        return self.counts(found[:, :, K, K], found.sum(axis=2))

    def counts(self, hits: Floats, predicted: Floats) -> Counts:
        """Return counts (S, G, K) with the scenario's sizes."""
        true = np.broadcast_to(self.of.sizes.astype(np.float64), hits.shape)
        return Counts(clusters=self.clusters, classes=self.classes, hits=hits, true=true, predicted=predicted)

    def truth(self, metric: str) -> float:
        """Return the score of all speakers there could be."""
        sizes = self.of.sizes.sum(axis=0).astype(np.float64)
        hits = sizes * self.right
        predicted = (sizes - hits) @ self.wrong + hits
        whole = {"hits": hits[None, None], "true": sizes[None, None], "predicted": predicted[None, None]}
        return score(Counts(clusters=("all",), classes=self.classes, **whole), metric)


def wilson(counts: Counts, metric: str) -> tuple[float, float]:
    """Return Wilson's interval, as if the score were a share of independent utterances."""
    value, n, z = score(counts, metric), counts.true[0].sum(), 1.959964
    middle, half = value + z * z / (2 * n), z * np.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def bootstrap(counts: Counts, metric: str, rng: np.random.Generator, draws: int = 299) -> tuple[float, float]:
    """Return the percentile interval over speakers that are drawn with replacement."""
    G = len(counts.clusters)
    times = rng.multinomial(G, np.full(G, 1 / G), draws).astype(np.float64)  # (draws, G)
    drawn = [np.einsum("bg,sgk->bsk", times, of) for of in (counts.hits, counts.true, counts.predicted)]
    low, high = np.quantile(score_of(drawn[0], drawn[1], drawn[2], metric).mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def plain(found: Interval) -> tuple[float, float]:
    """Return the jackknife's interval with t of G - 1 degrees of freedom, symmetric."""
    reach = _quantile(found.clusters - 1) * (found.std_error or 0.0)
    return found.value - reach, found.value + reach


def coverage(scenario: Scenario, metric: str, rounds: int, seed: int = 0) -> dict[str, Any]:
    """Return how often each kind of interval of a score held the truth, in percent, and ours's mean width."""
    population = Population(scenario, seed)
    truth = population.truth(metric)
    held: dict[str, int] = dict.fromkeys(("naive", "bootstrap", "jackknife", "ours"), 0)
    width, df = 0.0, 0.0
    for _ in range(rounds):
        counts = population.draw()
        found = interval(counts, metric)
        low, high = (found.value if of is None else of for of in (found.low, found.high))
        width, df = width + high - low, found.df or 0.0
        ends = {
            "naive": wilson(counts, metric),
            "bootstrap": bootstrap(counts, metric, population.rng),
            "jackknife": plain(found),
            "ours": (low, high),
        }
        for name, (a, b) in ends.items():
            held[name] += a <= truth <= b
    return {
        **scenario.about,
        "metric": metric,
        "truth": round(100 * truth, 1),
        "df": round(df, 1),
        **{name: round(100 * n / rounds, 1) for name, n in held.items()},
        "width": round(100 * width / rounds, 1),
    }


def paired(scenario: Scenario, rounds: int, seed: int = 0, *, better: float = 0.0, tests: bool = True) -> dict[str, Any]:
    """Return the same for the difference in UA of two systems, and how often each test rejects at 0.05.

    Both find the same speakers hard, and each has its own trouble with them (half the scenario's deviations); an utterance that
    one gets right is likelier right for the other. `better` is added to the first one's logit; 0: no difference.
    """
    population, of, rng = Population(scenario, seed), scenario, np.random.default_rng(seed + 1)
    G, K = of.sizes.shape

    def rates(n: int) -> tuple[Floats, Floats]:
        common = population.centre + rng.normal(0, of.speaker, (n, 1)) + rng.normal(0, of.by_class, (n, K))
        own = [rng.normal(0, of.speaker / 2, (n, 1)) + rng.normal(0, of.by_class / 2, (n, K)) for _ in range(2)]
        return _logistic(common + better + own[0]), _logistic(common + own[1])

    many = rates(200_000)
    truth = float((many[0].mean(axis=0) - many[1].mean(axis=0)).mean()) if better else 0.0
    held = dict.fromkeys(("naive", "bootstrap", "jackknife", "ours"), 0)
    rejected = dict.fromkeys(("mcnemar", "permutation"), 0)
    for _ in range(rounds):
        p, q = rates(G)
        alike = 0.3 * np.sqrt(p * (1 - p) * q * (1 - q))
        both = np.minimum(p * q + alike, np.minimum(p, q))
        cells = rng.multinomial(of.sizes, np.stack([both, p - both, q - both, np.maximum(1 - p - q + both, 0)], axis=-1))
        a, b = ((cells[..., 0] + cells[..., side])[None].astype(np.float64) for side in (1, 2))
        A, B = population.counts(a, a), population.counts(b, b)
        found = difference(A, B, "UA")
        n = of.sizes.sum(axis=0)
        one, two = cells[..., 1].sum(axis=0) / n, cells[..., 2].sum(axis=0) / n
        naive = 1.96 * float(np.sqrt(((one + two - (one - two) ** 2) / n).sum())) / K  # utterances as independent pairs
        times = rng.multinomial(G, np.full(G, 1 / G), 299)
        drawn = np.nanmean(((times @ a[0]) - (times @ b[0])) / np.where((t := times @ of.sizes) > 0, t, np.nan), axis=1)
        ends = {
            "naive": (found.value - naive, found.value + naive),
            "bootstrap": tuple(np.quantile(drawn, [0.025, 0.975])),
            "jackknife": plain(found),
            "ours": (found.low or 0.0, found.high or 0.0),
        }
        for name, (low, high) in ends.items():
            held[name] += low <= truth <= high
        if tests:
            only_a, only_b = int(cells[..., 1].sum()), int(cells[..., 2].sum())
            rejected["mcnemar"] += mcnemar([True] * only_a + [False] * only_b, [False] * only_a + [True] * only_b)[2] < 0.05
            rejected["permutation"] += permutation_test(A, B, "UA", exact_up_to=10, draws=999).p < 0.05
    return {
        **scenario.about,
        "truth": round(100 * truth, 1),
        **{name: round(100 * n / rounds, 1) for name, n in held.items()},
        **({f"{name}_rejects": round(100 * n / rounds, 1) for name, n in rejected.items()} if tests else {}),
    }


@dataclass(frozen=True, kw_only=True)
class Raters:
    """Speakers whose ratings are predicted: `sizes` (G,) utterances each.

    True ratings have deviation 1 within a speaker and `own` between speakers' means. Predictions are `slope` times the
    rating, that times exp of a normal number of deviation `scale` by speaker, plus a bias of deviation `bias` by speaker,
    plus noise.
    """

    name: str
    sizes: Ints
    own: float = 0.3
    bias: float = 0.3
    slope: float = 0.6
    noise: float = 0.5
    scale: float = 0.2
    seeds: int = 1

    def draw(self, rng: np.random.Generator, sizes: Ints | None = None, systems: int = 1) -> tuple[Ints, Floats, list[Floats]]:
        """Return who speaks (n,), the true ratings (n,) and the predictions (S, n) of one or two systems of equal merit.

        Two systems share half of the variance of each speaker's bias and spread, and of the noise.
        """
        of = self.sizes if sizes is None else sizes
        who = np.repeat(np.arange(len(of)), of)
        true = rng.normal(0, 1, len(who)) + rng.normal(0, self.own, len(of))[who]
        half = np.sqrt(0.5) if systems > 1 else 0.0
        rest = np.sqrt(1 - half**2)
        shared = [half * rng.normal(0, 1, shape) for shape in (len(of), len(of), (self.seeds, len(who)))]
        said = []
        for _ in range(systems):
            bias = self.bias * (shared[0] + rest * rng.normal(0, 1, len(of)))
            scale = np.exp(self.scale * (shared[1] + rest * rng.normal(0, 1, len(of))))
            noise = self.noise * (shared[2] + rest * rng.normal(0, 1, (self.seeds, len(who))))
            said.append(self.slope * scale[who] * true + bias[who] + noise)
        return who, true, said


def _moments(who: Ints, true: Floats, said: Floats) -> Moments:
    """Return the moments of ratings whose middle is 0, mapped so that nearly all lie in 0..1."""
    ratings, predicted = 0.5 + true / 8, 0.5 + said / 8
    names = [f"{g:06d}" for g in who]
    return gathered(names, ["arousal"], ratings[:, None], predicted[..., None], np.abs(said - true)[..., None])


def _spoken(speakers: int, each: int) -> Ints:
    """Draw unequal numbers of utterances (G,), five at least."""
    return np.asarray(np.maximum(unequal(speakers, 1, each=each)[:, 0], 5))


RATERS = (
    Raters(name="equal", sizes=np.full(10, 50)),
    Raters(name="unequal", sizes=_spoken(10, 50)),
    Raters(name="unequal, 3 seeds", sizes=_spoken(10, 50), seeds=3),
    Raters(name="speakers alike", sizes=np.full(10, 50), bias=0.1, scale=0.1),
    Raters(name="speakers far apart", sizes=np.full(10, 50), own=0.5, bias=0.6, scale=0.3),
    Raters(name="weak system", sizes=np.full(10, 50), slope=0.3, noise=0.8),
    Raters(name="strong system", sizes=np.full(10, 50), own=0.2, bias=0.2, slope=0.9, noise=0.3, scale=0.05),
    Raters(name="unequal", sizes=_spoken(24, 20)),
    Raters(name="equal", sizes=np.full(4, 50)),
)


def rated_coverage(of: Raters, rounds: int, seed: int = 0) -> dict[str, Any]:
    """Return how often intervals of CCC and of a difference held the truth, in percent; two systems differ by chance alone."""
    rng = np.random.default_rng(seed)
    who, true, said = of.draw(rng, np.full(20_000, int(of.sizes.mean())))
    whole = rated_score(_moments(np.zeros_like(who), true, said[0][:1]), "CCC") or 0.0
    held = dict.fromkeys(("naive", "bootstrap", "jackknife", "ours", "difference"), 0)
    rejected, width = 0, 0.0
    for _ in range(rounds):
        who, true, (one, two) = of.draw(rng, systems=2)
        a, b = _moments(who, true, one), _moments(who, true, two)
        found, difference_found = rating_interval(a, "CCC"), rating_difference(a, b, "CCC")
        assert found is not None and difference_found is not None
        assert found.std_error is not None and found.low is not None and found.high is not None
        n, G = int(of.sizes.sum()), len(of.sizes)
        z = np.arctanh(found.value)
        reach = 1.96 / np.sqrt(n - 2)  # Fisher's, of independent utterances
        times = rng.multinomial(G, np.full(G, 1 / G), 299).astype(np.float64)
        drawn = of_sums(np.einsum("bg,sgtk->bstk", times, a.sums), "CCC").mean(axis=(1, 2))
        plain_reach = _quantile(G - 1) * found.std_error * np.sqrt((G - 1) / G)
        ends = {
            "naive": (np.tanh(z - reach), np.tanh(z + reach)),
            "bootstrap": tuple(np.quantile(drawn, [0.025, 0.975])),
            "jackknife": (found.value - plain_reach, found.value + plain_reach),
            "ours": (found.low, found.high),
        }
        for name, (low, high) in ends.items():
            held[name] += low <= whole <= high
        assert difference_found.low is not None and difference_found.high is not None
        held["difference"] += difference_found.low <= 0 <= difference_found.high
        test = rating_permutation(a, b, "CCC", exact_up_to=10, draws=499)
        rejected += test is not None and test.p < 0.05
        width += found.high - found.low
    return {
        "sizes": of.name,
        "speakers": len(of.sizes),
        "seeds": of.seeds,
        "CCC": round(whole, 3),
        **{name: round(100 * n / rounds, 1) for name, n in held.items()},
        "permutation_rejects": round(100 * rejected / rounds, 1),
        "width": round(width / rounds, 3),
    }


def main() -> None:
    """Print both tables, in percent; of dimensions, the one."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=2000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--format", type=Output, choices=list(Output), default=Output.table)
    options.add_argument("--dimensions", action="store_true", help="CCC of ratings instead of scores of classes")
    chosen = options.parse_args()
    if chosen.dimensions:
        print_rows([rated_coverage(of, chosen.rounds, chosen.seed) for of in RATERS], chosen.format)
        return
    single: list[dict[str, Any]] = []
    for scenario in SCENARIOS:
        metrics = ("UA", "WA", "WF1", "macro_F1") if scenario is SCENARIOS[0] else ("UA",)
        single += [coverage(scenario, metric, chosen.rounds, chosen.seed) for metric in metrics]
    print_rows(single, chosen.format)
    print()
    plan = [s for s in SCENARIOS if s.seeds == 1 and s.logit < 2]
    print_rows([paired(s, chosen.rounds, chosen.seed, better=better) for s in plan for better in (0.0, 0.3)], chosen.format)


if __name__ == "__main__":
    main()
