"""What predictions are worth against the raters: their majority, their distribution, and all that enough of them heard.

In goes the catalogue, with single ratings (`annotations`) and runs, and the class of each label. Out comes a row an experiment
and selection, over the test utterances of all folds whose raters named one of the classes, averaged over seeds. Shares are of the
votes for the protocol's classes (`tfser.manifests.protocols.distributions`):

* UA_majority: mean over the classes of the recall of the raters' majority; utterances without one (`ties`) are no part of it;
* KL: mean of sum d ln(d / p), d being the raters' shares and p the probabilities (1e-12 at least); natural, 0 is best;
* JS: mean of Jensen and Shannon's divergence in bits, from 0 to 1 (Lin, IEEE Trans. Information Theory 37, 1991);
* cosine: mean of the cosine of d and p, 1 is best;
* macro_F1_multi: every class whose share is above 1/K was heard, every class whose probability is above 1/K was recognised; the
  mean of the classes' F1, 0 for one that is in neither (as EMO-SUPERB scores: Wu et al., arXiv 2402.13018).

Intervals are the delete-one-speaker jackknife's with Student's t (`tfser.heads.results.intervals`), where speakers are known and
new to the head, cut at zero and at the most that a measure can be. Seeds that did not test the most utterances are left out, and
a note names them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.heads.results.intervals import CONFIDENCE, ends_of_mean
from tfser.heads.results.outcomes import not_pooled, seeds_that_count
from tfser.heads.spec.selections import ORDER_SQL
from tfser.manifests.audits.participation import definition
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.rater_views import AGREEMENT_BANDS
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.protocols.distributions import Key, class_distributions
from tfser.manifests.protocols.protocol import JOINED_BY

MEASURES = {"UA_majority": 1.0, "macro_F1_multi": 1.0, "KL": math.inf, "JS": 1.0, "cosine": 1.0}
"""And the most that each can be; the first two are shares of 1, like UA."""

Floats = npt.NDArray[np.float64]
LabelMaps = Mapping[str, Mapping[str, str] | None]
"""The class of each label by protocol; None: every label is its own class."""

_TINY, _ROUNDING = 1e-12, 1e-9

_PREDICTED = f"""
SELECT r.experiment, p.selection, r.seed, p.corpus, p.utterance_id, p.corpus || '/' || u.speaker AS speaker,
  list_transform(r.classes, lambda name: coalesce(p.probabilities[name], 0)) AS probabilities, r.classes, r.protocol, r.corpus,
  r.speakers_kept = 'kept' AND r.audit <> 'overridden' AS is_new
FROM predictions p JOIN runs r USING (run_id)
LEFT JOIN utterances u ON u.corpus = p.corpus AND u.utterance_id = p.utterance_id
WHERE p.level = 'utterance' AND list_contains(?, r.experiment) AND (?::VARCHAR IS NULL OR p.selection = ?)
ORDER BY r.experiment, {ORDER_SQL.replace("selection", "p.selection")}, r.seed, p.corpus, p.utterance_id
"""


def rater_scores(
    connection: Connection, experiments: Sequence[str], maps: LabelMaps, selection: str | None = None
) -> list[dict[str, Any]]:
    """Return a row an experiment and selection, in their order; those whose test utterances nobody rated have none.

    Args:
        connection: the catalogue.
        experiments: whole names.
        maps: the class of each label, by protocol.
        selection: one of them; None: all that there are.
    """
    found = connection.execute(_PREDICTED, [list(experiments), selection, selection]).fetchall()
    groups: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    counting = seeds_that_count(connection, experiments)
    for experiment, chosen, *row in found:
        if row[0] in counting[experiment, chosen, "utterance"][0]:
            groups.setdefault((experiment, chosen), []).append(tuple(row))
    # Experiments of one protocol share its votes, which are asked for once.
    votes: dict[tuple[str, tuple[str, ...]], dict[Key, tuple[float, ...]]] = {}
    table = []
    for (experiment, chosen), predicted in groups.items():
        classes, protocol, corpus = tuple(predicted[0][5]), predicted[0][6], predicted[0][7]
        if (protocol, classes) not in votes:
            # Of all utterances: an old run's protocol may be gone from the catalogue, and the predictions say who was tested.
            labels = maps.get(protocol)
            votes[protocol, classes] = class_distributions(connection, None, corpus.split(JOINED_BY), classes, labels)
        rated = [row for row in predicted if (row[1], row[2]) in votes[protocol, classes]]
        if rated:
            shares = np.array([votes[protocol, classes][row[1], row[2]] for row in rated])
            scored = {"experiment": experiment, "selection": chosen, "level": "utterance"}
            notes = not_pooled(counting[experiment, chosen, "utterance"][1])
            table.append(scored | _measured(rated, shares, len(predicted)) | {"notes": notes})
    return table


def label_maps(cache: Cache, connection: Connection) -> dict[str, Mapping[str, str] | None]:
    """Return the class of each label by protocol of the finished runs, users' own protocols among them."""
    names = [row["protocol"] for row in rows(connection, "SELECT DISTINCT protocol FROM runs ORDER BY protocol")]
    defined = {name: definition(cache, name) for name in names}
    return {name: None if protocol is None else protocol.labels for name, protocol in defined.items()}


BANDS = (*AGREEMENT_BANDS, "not rated")
"""By the share of the raters who gave the most frequent label, whatever the label that is predicted."""

_BY_AGREEMENT = f"""
WITH placed AS (
  SELECT t.experiment, t.seed, t.selection, t.level, t.label, t.hit,
    list_position({list(BANDS)}, coalesce(b.raters_agree, '{BANDS[-1]}')) AS band
  FROM test_predictions t LEFT JOIN rater_bands b ON b.corpus = t.corpus AND b.utterance_id = t.utterance_id
  WHERE list_contains(?, t.experiment) AND t.level = 'utterance' AND (?::VARCHAR IS NULL OR t.selection = ?)
), by_class AS (
  SELECT experiment, seed, selection, level, band, label, count(*) AS n, count_if(hit) AS hits FROM placed GROUP BY ALL
), of_seed AS (
  SELECT experiment, seed, selection, level, band, sum(n)::BIGINT AS n, sum(hits)::BIGINT AS hits, count(*) AS classes,
    avg(hits / n ORDER BY label) AS UA, sum(hits) / sum(n) AS WA FROM by_class GROUP BY ALL
)
SELECT experiment, selection, level, band, list(seed ORDER BY seed) AS seeds, max(n) AS n, avg(hits ORDER BY seed) AS hits,
  max(classes) AS classes_there, avg(UA ORDER BY seed) AS UA, stddev_samp(UA ORDER BY seed) AS UA_std,
  avg(WA ORDER BY seed) AS WA, stddev_samp(WA ORDER BY seed) AS WA_std
FROM of_seed GROUP BY experiment, selection, level, band ORDER BY experiment, {ORDER_SQL}, band
"""


def by_agreement(connection: Connection, experiments: Sequence[str], selection: str | None = None) -> list[dict[str, Any]]:
    """Return a row an experiment, selection and band of agreement: means over seeds, with deviations over them.

    UA is over the classes that the band has (`classes_there`). Nothing where no test utterance of the experiments was rated.
    """
    found = rows(connection, _BY_AGREEMENT, [list(experiments), selection, selection])
    rated = {row["experiment"] for row in found if row["band"] < len(BANDS)}
    kept = [row for row in found if row["experiment"] in rated]
    return [{**row, "agreement": BANDS[row["band"] - 1]} for row in kept]


def _measured(rated: Sequence[tuple[Any, ...]], shares: Floats, tested: int) -> dict[str, Any]:
    """Return the measures of one experiment and selection; `rated` are its predictions whose votes are known, (n,)."""
    seeds = sorted({row[0] for row in rated})
    speakers = [row[3] for row in rated]
    who = sorted({name for name in speakers if name is not None})
    units = len(who) > 1 and None not in speakers and all(row[8] for row in rated)
    place = {name: i for i, name in enumerate(who)}
    unit = np.array([place[name] if units else 0 for name in speakers])
    seed = np.array([seeds.index(row[0]) for row in rated])
    sums = _sums(np.array([row[4] for row in rated], dtype=np.float64), shares, seed, unit, (len(seeds), max(1, len(who))))
    total = sums.sum(axis=1)
    row: dict[str, Any] = {
        "seeds": seeds,
        "n": len(rated) // len(seeds),
        "not_rated": (tested - len(rated)) // len(seeds),
        "ties": int((_majority(shares) < 0).sum()) // len(seeds),
        "clustered_by": "speaker" if units else None,
        "clusters": len(who) if units else None,
        "confidence": CONFIDENCE,
    }
    without = np.stack([_measures(total - sums[:, i]) for i in range(len(who))]) if units else None
    for i, ((name, most), value) in enumerate(zip(MEASURES.items(), _measures(total), strict=True)):
        low, high = (None, None) if without is None else ends_of_mean(float(value), without[:, i], sums[0, :, 0], most)
        row |= {name: None if math.isnan(value) else float(value), f"{name}_low": low, f"{name}_high": high}
    return row


def _majority(shares: Floats) -> npt.NDArray[np.int64]:
    """Return the class of the most votes, (n,); -1 where several have as many."""
    most = shares.max(axis=1, keepdims=True)
    return np.where((shares > most - _ROUNDING).sum(axis=1) == 1, shares.argmax(axis=1), -1)


def _sums(
    probabilities: Floats, shares: Floats, seed: npt.NDArray[np.int64], unit: npt.NDArray[np.int64], shape: tuple[int, int]
) -> Floats:
    """Return what the measures are made of, added up by seed and unit: (seeds, units, 4 + 5 K)."""
    n, k = shares.shape
    p, d = np.maximum(probabilities, _TINY), np.maximum(shares, _TINY)
    middle = (p + d) / 2
    divergence = (shares * (np.log(d) - np.log(p))).sum(axis=1)
    halves = shares * np.log2(d / middle) + probabilities * np.log2(p / middle)
    norms = np.linalg.norm(probabilities, axis=1) * np.linalg.norm(shares, axis=1)
    means = [np.ones(n), divergence, halves.sum(axis=1) / 2, (probabilities * shares).sum(axis=1) / np.maximum(norms, _TINY)]
    majority = _majority(shares)
    is_majority = majority[:, None] == np.arange(k)  # (n, K)
    is_hit = is_majority & (probabilities.argmax(axis=1) == majority)[:, None]
    heard, recognised = shares > 1 / k + _ROUNDING, probabilities > 1 / k + _ROUNDING
    columns = np.hstack([np.stack(means, axis=1), is_majority, is_hit, heard, recognised, heard & recognised])
    sums = np.zeros((*shape, columns.shape[1]))
    np.add.at(sums, (seed, unit), columns)
    return sums


def _measures(sums: Floats) -> Floats:
    """Return MEASURES of sums by seed (S, 4 + 5 K), averaged over the seeds: (5,)."""
    n, divergence, halves, cosine = sums[:, :4].T
    true, hits, heard, recognised, both = np.split(sums[:, 4:], 5, axis=1)  # (S, K) each
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(true > 0, hits / true, np.nan)
        f1 = np.where(heard + recognised > 0, 2 * both / (heard + recognised), 0.0)
        of_majority = np.nanmean(recall) if np.isfinite(recall).any() else np.nan
        return np.array(
            [of_majority, f1.mean(), (divergence / n).mean(), (halves / n).mean(), (cosine / n).mean()], dtype=np.float64
        )
