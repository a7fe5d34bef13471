"""How far probabilities can be believed: log loss, Brier score and calibration error, with intervals over speakers.

In goes the catalogue; out comes a row an experiment and selection, over the test utterances of all folds, averaged over seeds:

* NLL: the mean of -log of the true class's probability (natural; a probability below 1e-12 counts as that);
* Brier: the mean over utterances of the sum over classes of (probability - truth)^2, from 0 to 2 (Brier, Monthly Weather Review
  78, 1950);
* ECE: ten bins of equal width by the largest probability; the mean of |share right - mean probability|, weighted by utterances
  (Guo et al., "On calibration of modern neural networks", ICML 2017). Few utterances alone make it larger than zero.

Of runs whose recipe fits a temperature on their validation utterances (`tfser.heads.training.temperature`), the same with p^(1/T)
in the probabilities' place: NLL_scaled, Brier_scaled and ECE_scaled, with the runs' mean `temperature`; null for others. A note
says where a temperature stands at its bound: then all validation utterances were right (or wrong), and nothing says how sure to
be.

Intervals are the delete-one-speaker jackknife's with Student's t (`tfser.heads.results.intervals`), where speakers are known and
new to the head; they are cut at zero, and at the most that a measure can be. Of ECE, whose bins are absolute values, read them as
a rough guide. Seeds that did not test the most utterances are left out, and a note names them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfser.heads.results.intervals import CONFIDENCE, Floats, ends_of_mean
from tfser.heads.results.outcomes import SeedsOf, not_pooled, seeds_that_count
from tfser.heads.spec.selections import ORDER_SQL
from tfser.heads.training.temperature import LEAST, MOST
from tfser.manifests.catalogue.reading import Connection

MEASURES = {"NLL": math.inf, "Brier": 2.0, "ECE": 1.0}
"""And the most that each can be."""

BINS = 10

_AS_STORED = "map_values(p.probabilities) AS spread, coalesce(p.probabilities[p.label], 0) AS of_true, NULL AS temperature"
_SCALED = """list_transform(map_values(p.probabilities), lambda x: pow(greatest(x, 1e-12), 1 / t.temperature)) AS powers,
    list_transform(powers, lambda x: x / list_sum(powers)) AS spread,
    pow(greatest(coalesce(p.probabilities[p.label], 0), 1e-12), 1 / t.temperature) / list_sum(powers) AS of_true, t.temperature"""
_OF_RUNS = """(
    SELECT run_id, unnest(json_keys(temperature)) AS selection, unnest(json_extract(temperature, '$.*'))::DOUBLE AS temperature
    FROM runs WHERE temperature IS NOT NULL
  ) t"""
_TEMPERATURES = f"JOIN {_OF_RUNS} ON t.run_id = p.run_id AND t.selection = p.selection"
_AT_A_BOUND = f"""
SELECT r.experiment, t.selection, count(*)::BIGINT AS runs, count_if(t.temperature < {1.01 * LEAST})::BIGINT AS least,
  count_if(t.temperature > {0.99 * MOST})::BIGINT AS most
FROM {_OF_RUNS} JOIN runs r USING (run_id) WHERE list_contains(?, r.experiment) GROUP BY ALL HAVING least + most > 0"""


def _cells(probabilities: str, joined: str = "") -> str:
    """Return SQL for the sums by experiment, selection, seed, speaker and bin, of probabilities as stored or scaled."""
    return f"""
WITH predicted AS (
  SELECT r.experiment, p.selection, r.seed, p.corpus || '/' || u.speaker AS speaker, p.label = p.predicted AS hit,
    {probabilities}, r.speakers_kept = 'kept' AND r.audit <> 'overridden' AS is_new
  FROM predictions p JOIN runs r USING (run_id) {joined}
  LEFT JOIN utterances u ON u.corpus = p.corpus AND u.utterance_id = p.utterance_id
  WHERE p.level = 'utterance' AND list_contains(?, r.experiment) AND (?::VARCHAR IS NULL OR p.selection = ?)
), told AS (
  SELECT *, list_max(spread) AS sure, list_sum(list_transform(spread, lambda x: x * x)) AS squares FROM predicted
)
SELECT * FROM (SELECT experiment, selection, seed, speaker,
  least(floor(sure * {BINS})::INTEGER, {BINS - 1}) AS bin, count(*) AS n, count_if(hit)::BIGINT AS hits,
  sum(sure) AS sure, sum(-ln(greatest(of_true, 1e-12))) AS nll,
  sum(squares - 2 * of_true + 1) AS brier, bool_and(is_new) AS is_new, sum(temperature) AS temperature
FROM told GROUP BY ALL) ORDER BY experiment, {ORDER_SQL}, seed, speaker, bin
"""


def calibration(connection: Connection, experiments: Sequence[str], selection: str | None = None) -> list[dict[str, Any]]:
    """Return a row an experiment and selection, in their order.

    Args:
        connection: the catalogue.
        experiments: whole names.
        selection: one of them; None: all that there are.
    """
    asked = [list(experiments), selection, selection]
    counting = seeds_that_count(connection, experiments)
    groups, scaled = (
        _groups(connection.execute(sql, asked).fetchall(), counting)
        for sql in (_cells(_AS_STORED), _cells(_SCALED, _TEMPERATURES))
    )
    at_a_bound = {(row[0], row[1]): bound_note(*row[2:]) for row in connection.execute(_AT_A_BOUND, asked[:1]).fetchall()}
    table = []
    for (experiment, chosen), cells in groups.items():
        row = {"experiment": experiment, "selection": chosen, "level": "utterance", **measured(cells)}
        at_bound = [at_a_bound[experiment, chosen]] if (experiment, chosen) in at_a_bound else []
        row |= {"notes": [*not_pooled(counting[experiment, chosen, "utterance"][1]), *at_bound]}
        table.append(row | _of_scaled(cells, scaled.get((experiment, chosen), [])))
    return table


def bound_note(runs: int, least: int, most: int) -> str:
    """Return what it means that temperatures of runs stand at their bounds."""
    ends = [(least, LEAST, "right"), (most, MOST, "wrong")]
    told = [f"{n} of {runs} runs at T = {end:g} (those validating were all {how})" for n, end, how in ends if n]
    return f"{', '.join(told)}: no temperature to be believed; validate on more speakers"


def _groups(found: Sequence[tuple[Any, ...]], counting: SeedsOf) -> dict[tuple[str, str], list[tuple[Any, ...]]]:
    """Return cells by experiment and selection, of the seeds that count."""
    groups: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    for experiment, chosen, *cell in found:
        if cell[0] in counting[experiment, chosen, "utterance"][0]:
            groups.setdefault((experiment, chosen), []).append(tuple(cell))
    return groups


def _of_scaled(cells: Sequence[tuple[Any, ...]], scaled: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """Return the measures of scaled probabilities; None where any of the runs has no temperature: they would be of others."""
    names = [f"{name}_scaled{end}" for name in MEASURES for end in ("", "_low", "_high")]
    n = sum(cell[3] for cell in scaled)
    if not scaled or n != sum(cell[3] for cell in cells):
        return dict.fromkeys(["temperature", *names])
    of_scaled = measured(scaled)
    values = {f"{name}_scaled{end}": of_scaled[f"{name}{end}"] for name in MEASURES for end in ("", "_low", "_high")}
    return {"temperature": sum(cell[9] for cell in scaled) / n, **values}


def measured(cells: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """Return the measures of one experiment and selection with their intervals.

    Args:
        cells: (seed, speaker, bin, n, hits, sure, nll, brier, is_new, and maybe the summed temperature): of the n predictions
            of a seed, a speaker and a bin, how many are right, and the sums of the largest probability, the log loss and the
            squared distance; whether the speaker is new.
    """
    seeds = sorted({cell[0] for cell in cells})
    who = sorted({cell[1] for cell in cells if cell[1] is not None})
    units = all(cell[1] is not None and cell[8] for cell in cells) and len(who) > 1
    place = {name: i for i, name in enumerate(who)} if units else {}
    # By seed, speaker and bin: utterances, hits, summed largest probability, summed log loss and squares.
    sums = np.zeros((len(seeds), max(1, len(place)), BINS, 5))
    for seed, speaker, bin_, *values in cells:
        sums[seeds.index(seed), place.get(speaker, 0), bin_] += values[:5]
    total = sums.sum(axis=1)
    row: dict[str, Any] = {
        "seeds": seeds,
        "n": int(total[:, :, 0].sum(axis=1).max()),
        "clustered_by": "speaker" if units else None,
        "clusters": len(place) if units else None,
        "confidence": CONFIDENCE,
    }
    without = np.stack([_measures(total - sums[:, g]) for g in range(len(place))]) if units else None
    sizes = sums[0, :, :, 0].sum(axis=1)
    for i, ((name, most), value) in enumerate(zip(MEASURES.items(), _measures(total), strict=True)):
        low, high = (None, None) if without is None else ends_of_mean(float(value), without[:, i], sizes, most)
        row |= {name: float(value), f"{name}_low": low, f"{name}_high": high}
    return row


def _measures(sums: Floats) -> Floats:
    """Return NLL, Brier and ECE of sums by seed and bin, averaged over the seeds: (3,)."""
    n = sums[:, :, 0].sum(axis=1)
    gaps = np.abs(sums[:, :, 1] - sums[:, :, 2]).sum(axis=1)
    return np.array([(sums[:, :, 3].sum(axis=1) / n).mean(), (sums[:, :, 4].sum(axis=1) / n).mean(), (gaps / n).mean()])
