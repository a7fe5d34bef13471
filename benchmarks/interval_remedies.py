"""What else could stand in for tfser's interval of a score where speakers do not vary normally: coverage and width of each.

Corpora of 4, 6, 10 and 24 speakers (`intervals.hard`): even, uneven, with classes missing, at 90 % accuracy, with heavy tails
(Student's t with 2.5 degrees of freedom), and with one speaker in eight whom the head fails. Candidates for the pooled UA:

* ours: jackknife (CV3), Satterthwaite's t, logit scale (heads/results/intervals.py); the same on the scale of the score and of
  its arcsine, with one and two degrees of freedom less, and at 99 %;
* BCa (Efron, "Better bootstrap confidence intervals", JASA 82, 1987) and the bootstrap-t on the logit scale (Hall, "Theoretical
  comparison of bootstrap confidence intervals", Annals of Statistics 16, 1988), over speakers;
* the restricted wild cluster bootstrap with Rademacher weights, inverted (Cameron, Gelbach and Miller, "Bootstrap-based
  improvements for inference with clustered errors", Review of Economics and Statistics 90, 2008), over the jackknife's
  pseudo-values;
* Johnson's t for skewed samples ("Modified t tests and confidence intervals for asymmetrical populations", JASA 73, 1978);
* a Bayesian beta-binomial over speakers, flat in the mean and in the logarithm of the precision;
* Anderson's bound for means of bounded variables ("Confidence limits for the expected value of an arbitrary bounded random
  variable", 1969), which assumes nothing.

Then intervals for the score of a new speaker (`statistics.new_speaker`), on several scales.

    python benchmarks/interval_remedies.py                  # about twenty minutes
    python benchmarks/interval_remedies.py --rounds 200 --speakers 10
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from intervals import Population, Scenario, few_say_most, hard
from scipy import special

from tfser.heads.results.intervals import Counts, Interval, cluster_scores, interval, new_speaker, score_of, without_one
from tfser.manifests.display import Output, print_rows

Floats = npt.NDArray[np.float64]
Ends = tuple[float, float]
DRAWS = 399


def _t(df: float) -> float:
    return float(special.stdtrit(max(df, 1.0), 0.975))


def ours(found: Interval, counts: Counts, rng: np.random.Generator) -> Ends:
    """Return the interval of heads/results/intervals.py."""
    return (found.value, found.value) if found.low is None or found.high is None else (found.low, found.high)


def at_99(found: Interval, counts: Counts, rng: np.random.Generator) -> Ends:
    """Return ours at 99 %: the coverage that width alone buys."""
    return ours(interval(counts, "UA", confidence=0.99), counts, rng)


def fewer(less: float) -> Callable[[Interval, Counts, np.random.Generator], Ends]:
    """Return ours with fewer degrees of freedom."""

    def ends(found: Interval, counts: Counts, rng: np.random.Generator) -> Ends:
        value, reach = found.value, _t((found.df or 1.0) - less) * (found.std_error or 0.0)
        if not 0 < value < 1:
            return value, value
        middle, reach = special.logit(value), reach / (value * (1 - value))
        return float(special.expit(middle - reach)), float(special.expit(middle + reach))

    return ends


def plain(found: Interval, counts: Counts, rng: np.random.Generator) -> Ends:
    """Return ours on the scale of the score."""
    reach = _t(found.df or 1.0) * (found.std_error or 0.0)
    return max(found.value - reach, 0.0), min(found.value + reach, 1.0)


def arcsine(found: Interval, counts: Counts, rng: np.random.Generator) -> Ends:
    """Return ours on the scale of the arcsine of the root."""
    value = found.value
    if not 0 < value < 1:
        return value, value
    middle, reach = np.arcsin(np.sqrt(value)), _t(found.df or 1.0) * (found.std_error or 0.0) / (2 * np.sqrt(value * (1 - value)))
    low, high = np.sin(np.clip([middle - reach, middle + reach], 0, np.pi / 2)) ** 2
    return float(low), float(high)


def _drawn(counts: Counts, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return how often each bootstrap sample has each speaker (B, G), and its score (B,)."""
    G = len(counts.clusters)
    times = rng.multinomial(G, np.full(G, 1 / G), DRAWS).astype(np.float64)
    parts = [np.einsum("bg,sgk->bsk", times, of) for of in (counts.hits, counts.true, counts.predicted)]
    return times, np.asarray(score_of(*parts, "UA").mean(axis=1))


def bca(found: Interval, counts: Counts, rng: np.random.Generator) -> Ends:
    """Return Efron's bias-corrected and accelerated percentiles."""
    _, drawn = _drawn(counts, rng)
    below = (np.sum(drawn < found.value) + 0.5 * np.sum(drawn == found.value)) / DRAWS
    z0 = special.ndtri(np.clip(below, 1 / DRAWS, 1 - 1 / DRAWS))
    without = without_one(counts, "UA")
    away = without.mean() - without
    a = (away**3).sum() / max(6 * (away**2).sum() ** 1.5, 1e-12)
    z = z0 + np.array([-1.959964, 1.959964])
    low, high = np.quantile(drawn, special.ndtr(z0 + z / (1 - a * z)))
    return float(low), float(high)


def bootstrap_t(found: Interval, counts: Counts, rng: np.random.Generator) -> Ends:
    """Return the studentised bootstrap's interval on the logit scale; a sample without a spread is left out."""
    value = found.value
    if not found.std_error or not 0 < value < 1:
        return value, value
    times, drawn = _drawn(counts, rng)
    G = len(counts.clusters)
    # the jackknife within each sample: one of the speakers that it has goes, as often as it has them
    whole = [np.einsum("bg,sgk->bsk", times, of)[:, :, None] for of in (counts.hits, counts.true, counts.predicted)]
    left = [w - of[None] for w, of in zip(whole, (counts.hits, counts.true, counts.predicted), strict=True)]  # (B, S, G, K)
    left = [np.maximum(of, 0) for of in left]
    with np.errstate(invalid="ignore", divide="ignore"):
        without = score_of(*left, "UA").mean(axis=1)  # (B, G)
    there = np.where(times > 0, times * (np.nan_to_num(without) - drawn[:, None]) ** 2, 0).sum(axis=1)
    error = np.sqrt((G - 1) / G * there)
    fine = (error > 1e-6) & (drawn > 0) & (drawn < 1)
    if fine.sum() < 20:
        return 0.0, 1.0
    t = (special.logit(drawn[fine]) - special.logit(value)) / (error[fine] / (drawn[fine] * (1 - drawn[fine])))
    upper, lower = np.quantile(t, [0.025, 0.975])
    own = found.std_error / (value * (1 - value))
    return float(special.expit(special.logit(value) - lower * own)), float(special.expit(special.logit(value) - upper * own))


def _pseudo(found: Interval, counts: Counts) -> Floats:
    """Return the jackknife's pseudo-values: one score a speaker, whose mean is about the score."""
    G = len(counts.clusters)
    return np.asarray(found.value + (G - 1) * (found.value - without_one(counts, "UA")))


def wild(found: Interval, counts: Counts, rng: np.random.Generator) -> Ends:
    """Return the means that a sign-flip test of the pseudo-values does not reject at 0.05."""
    values = _pseudo(found, counts)
    G = len(values)
    every = G <= 10
    signs = 1.0 - 2.0 * (np.arange(2**G)[:, None] >> np.arange(G) & 1) if every else rng.choice((-1.0, 1.0), (DRAWS, G))
    grid = np.linspace(0, 1, 101)

    def t_of(sample: Floats) -> Floats:
        spread = sample.std(axis=-1, ddof=1)
        return np.asarray(np.abs(sample.mean(axis=-1)) / np.where(spread > 0, spread, np.inf))

    away = values[None] - grid[:, None]  # the null imposed
    kept = (t_of(signs[None] * away[:, None]) >= t_of(away)[:, None] - 1e-12).mean(axis=1) > 0.05
    inside = grid[kept]
    return (float(inside.min()), float(inside.max())) if len(inside) else (found.value, found.value)


def johnson(found: Interval, counts: Counts, rng: np.random.Generator) -> Ends:
    """Return Johnson's interval: the mean moved by the sample's skewness."""
    values = _pseudo(found, counts)
    G, s = len(values), values.std(ddof=1)
    third = ((values - values.mean()) ** 3).mean()
    middle = found.value + (third / (6 * s * s * G) if s else 0.0)
    reach = _t(found.df or 1.0) * (found.std_error or 0.0)
    return middle - reach, middle + reach


_MEANS, _SIZES = np.linspace(0.005, 0.995, 100), np.exp(np.linspace(np.log(1), np.log(300), 24))


def beta_binomial(found: Interval, counts: Counts, rng: np.random.Generator) -> Ends:
    """Return the credible interval of the mean of a beta that speakers' shares come from."""
    n = counts.true[0].sum(axis=1)[:, None, None]
    hits = cluster_scores(counts, "UA")[:, None, None] * n
    a, b = _MEANS[:, None] * _SIZES, (1 - _MEANS[:, None]) * _SIZES
    log = (special.betaln(hits + a, n - hits + b) - special.betaln(a, b)).sum(axis=0)
    mass = np.exp(log - log.max()).sum(axis=1)
    total = np.cumsum(mass) / mass.sum()
    return float(np.interp(0.025, total, _MEANS)), float(np.interp(0.975, total, _MEANS))


def anderson(found: Interval, counts: Counts, rng: np.random.Generator) -> Ends:
    """Return Anderson's bounds over the speakers' own scores, each side at 0.025 (Massart's constant)."""
    values = np.sort(cluster_scores(counts, "UA"))
    G = len(values)
    band = np.sqrt(np.log(1 / 0.025) / (2 * G))
    above = np.clip(np.arange(1, G + 1) / G + band, 0, 1)  # the distribution lies no higher than this after each value
    gaps = np.diff(np.append(values, 1.0))
    low = 1 - min(band, 1.0) * values[0] - float((above * gaps).sum())
    mirrored = 1 - values[::-1]
    high = min(band, 1.0) * mirrored[0] + float((above * np.diff(np.append(mirrored, 1.0))).sum())
    return low, high


REMEDIES: dict[str, Callable[[Interval, Counts, np.random.Generator], Ends]] = {
    "ours": ours, "plain": plain, "arcsine": arcsine, "df - 1": fewer(1), "df - 2": fewer(2), "99 %": at_99, "BCa": bca,
    "boot-t": bootstrap_t, "wild": wild, "Johnson": johnson, "beta-bin": beta_binomial, "Anderson": anderson,
}  # fmt: skip


def of_the_mean(scenario: Scenario, rounds: int, seed: int) -> list[dict[str, Any]]:
    """Return a row of coverages and one of mean widths, in percent, for the pooled UA."""
    population = Population(scenario, seed)
    truth = population.truth("UA")
    held, width = dict.fromkeys(REMEDIES, 0), dict.fromkeys(REMEDIES, 0.0)
    below = 0
    for _ in range(rounds):
        counts = population.draw()
        found = interval(counts, "UA")
        for name, remedy in REMEDIES.items():
            low, high = remedy(found, counts, population.rng)
            held[name] += low <= truth <= high
            width[name] += high - low
            below += name == "ours" and truth < low
    about = {"speakers": scenario.sizes.shape[0], "data": scenario.name}
    share: dict[str, Any] = {name: round(100 * n / rounds, 1) for name, n in held.items()}
    mean = {name: round(100 * total / rounds, 1) for name, total in width.items()}
    return [
        {**about, "figure": "held", **share, "ours too high": round(100 * below / rounds, 1)},
        {**about, "figure": "width", **mean, "ours too high": None},
    ]


# -- a new speaker -----------------------------------------------------------------------------------------------------------


def _reach(values: Floats) -> float:
    G = len(values)
    return _t(G - 1) * float(values.std(ddof=1)) * float(np.sqrt(1 + 1 / G))


def new_plain(counts: Counts, metric: str) -> Ends:
    """Return Student's prediction interval of the next of G values."""
    values = cluster_scores(counts, metric)
    return max(values.mean() - _reach(values), 0.0), min(values.mean() + _reach(values), 1.0)


def _utterances(counts: Counts) -> Floats:
    return np.asarray(counts.true[0].sum(axis=1))


def new_logit(counts: Counts, metric: str) -> Ends:
    """Return it on the logit scale of shares that half an utterance keeps from 0 and 1."""
    n = _utterances(counts)
    values = special.logit((cluster_scores(counts, metric) * n + 0.5) / (n + 1))
    low, high = special.expit([values.mean() - _reach(values), values.mean() + _reach(values)])
    return float(low), float(high)


def new_arcsine(counts: Counts, metric: str) -> Ends:
    """Return it on the scale of the arcsine of the root: ours."""
    found = new_speaker(counts, metric)
    values = cluster_scores(counts, metric)
    return (values[0], values[0]) if found.low is None or found.high is None else (found.low, found.high)


def new_order(counts: Counts, metric: str) -> Ends:
    """Return the least and the greatest speaker: the next one is outside in 2 of G + 1 cases, whatever the distribution."""
    values = cluster_scores(counts, metric)
    return float(values.min()), float(values.max())


NEW: dict[str, Callable[[Counts, str], Ends]] = {
    "plain": new_plain, "logit": new_logit, "ours": new_arcsine, "range": new_order,
}  # fmt: skip


def of_a_new_speaker(scenario: Scenario, rounds: int, seed: int, metric: str = "UA") -> list[dict[str, Any]]:
    """Return how often a new speaker's measured score, and the one that endless utterances would give, lay inside."""
    population = Population(scenario, seed)
    sizes = scenario.sizes
    held, endless, width = (dict.fromkeys(NEW, 0.0) for _ in range(3))
    for _ in range(rounds):
        counts = population.draw()
        # new speakers say as much as the tested ones: twenty of them judge each interval
        right = population.speakers(20)
        said = sizes[population.rng.integers(0, len(sizes), 20)]
        hits = population.rng.binomial(said, right, (scenario.seeds, *said.shape)).mean(axis=0)
        there = said > 0
        if metric == "UA":
            seen = (np.divide(hits, said, out=np.zeros(hits.shape), where=there)).sum(axis=1) / there.sum(axis=1)
            true = (right * there).sum(axis=1) / there.sum(axis=1)
        else:
            seen, true = hits.sum(axis=1) / said.sum(axis=1), (right * said).sum(axis=1) / said.sum(axis=1)
        for name, way in NEW.items():
            low, high = way(counts, metric)
            held[name] += np.mean((low - 1e-12 <= seen) & (seen <= high + 1e-12))
            endless[name] += np.mean((low <= true) & (true <= high))
            width[name] += high - low
    about = {"speakers": len(sizes), "data": scenario.name, "metric": metric}
    figures = (("measured", held), ("endless", endless), ("width", width))
    return [{**about, "figure": what, **{k: round(100 * v / rounds, 1) for k, v in of.items()}} for what, of in figures]


def main() -> None:
    """Print both tables, in percent."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=1000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--speakers", type=int, nargs="+", default=[4, 6, 10, 24])
    options.add_argument("--only", choices=("mean", "new"))
    options.add_argument("--format", type=Output, choices=list(Output), default=Output.table)
    chosen = options.parse_args()
    plan = [scenario for speakers in chosen.speakers for scenario in hard(speakers)]
    if chosen.only != "new":
        print_rows([row for s in plan for row in of_the_mean(s, chosen.rounds, chosen.seed)], chosen.format)
        print()
    if chosen.only != "mean":
        plan = [*plan, Scenario(name="six say 85 %", sizes=few_say_most())]
        print_rows([row for s in plan for row in of_a_new_speaker(s, chosen.rounds, chosen.seed)], chosen.format)


if __name__ == "__main__":
    main()
