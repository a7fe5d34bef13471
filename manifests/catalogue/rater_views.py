"""The SQL behind what follows from raters: their votes by utterance, the distribution, and how far they agree.

Every rater has one vote an utterance: one who gives m labels gives each a share of 1/m. Only ratings that count are votes (see
the table `annotations`). Agreement is of pairs of raters, so it leaves out who gave several labels, and says how many; and
utterances that one rater heard, of whom nobody can agree.

Krippendorff's alpha is 1 - D_o / D_e (Krippendorff, Computing Krippendorff's alpha-reliability, 2011). Of labels (nominal), with
n_u ratings of utterance u, n_uc of them of label c, and N the sum of n_u over utterances of two ratings and more:
D_o = sum_u (n_u^2 - sum_c n_uc^2) / (n_u - 1) / N, and D_e = (N^2 - sum_c n_c^2) / (N (N - 1)). Of values (interval), differences
are squared, which makes D_o = 2 sum_u n_u s_u^2 / N and D_e = 2 s^2, s_u^2 and s^2 being the sample variances of an utterance and
of all. Fleiss' kappa is (P - P_e) / (1 - P_e), P the mean over utterances of the share of pairs that agree, P_e the sum of
squared shares of the labels (Fleiss, Psychological Bulletin 76, 1971; his raters are equally many, here they may differ).
"""

from __future__ import annotations

from tfser.manifests.dimensions import DIMENSIONS

LABEL_VOTES = """
WITH given AS (
  SELECT corpus, utterance_id, rater, label,
    CASE WHEN rater IS NULL THEN 1 ELSE count(*) OVER (PARTITION BY corpus, utterance_id, setting, rater) END AS labels
  FROM annotations WHERE counts AND label IS NOT NULL
)
SELECT corpus, utterance_id, label, sum(1 / labels ORDER BY labels) AS votes, count(*) FILTER (labels = 1)::BIGINT AS sole
FROM given GROUP BY corpus, utterance_id, label
"""

LABEL_DISTRIBUTIONS = """
WITH summed AS (
  SELECT corpus, utterance_id, sum(votes ORDER BY label) AS votes, max(votes) AS most, sum(sole)::BIGINT AS sole,
    sum(sole * (sole - 1))::BIGINT AS agreeing
  FROM label_votes GROUP BY corpus, utterance_id
)
SELECT v.corpus, v.utterance_id, any_value(s.votes) AS raters,
  map_from_entries(list((v.label, v.votes / s.votes) ORDER BY v.label)) AS distribution,
  CASE WHEN count_if(v.votes > s.most - 1e-9) = 1 THEN max_by(v.label, v.votes) END AS majority,
  any_value(s.most / s.votes) AS majority_share,
  any_value(s.agreeing / nullif(s.sole * (s.sole - 1), 0)) AS agreement,
  -sum(v.votes / s.votes * log2(v.votes / s.votes) ORDER BY v.label) + 0 AS entropy
FROM label_votes v JOIN summed s ON s.corpus = v.corpus AND s.utterance_id = v.utterance_id
GROUP BY v.corpus, v.utterance_id
"""

_OF_LABELS = """
sole AS (
  SELECT corpus, utterance_id, label, sole AS n FROM label_votes WHERE sole > 0
), of_utterance AS (
  SELECT corpus, utterance_id, sum(n) AS n, sum(n * n) AS squares FROM sole GROUP BY ALL HAVING sum(n) > 1
), of_label AS (
  SELECT s.corpus, s.label, sum(s.n) AS n FROM sole s
  SEMI JOIN of_utterance u ON u.corpus = s.corpus AND u.utterance_id = s.utterance_id
  GROUP BY ALL
), by_chance AS (
  SELECT corpus, sum(n) AS n, sum(n * n) AS squares FROM of_label GROUP BY corpus
), observed AS (
  SELECT corpus, count(*) AS utterances, sum((n * n - squares) / (n - 1) ORDER BY utterance_id) AS differing,
    avg((squares - n) / (n * (n - 1)) ORDER BY utterance_id) AS pairs
  FROM of_utterance GROUP BY corpus
), rated AS (
  SELECT corpus, count(*) AS ratings, count(DISTINCT rater) AS raters FROM annotations WHERE counts AND label IS NOT NULL
  GROUP BY corpus
)"""

_BY_LABELS = """
SELECT r.corpus, 'label' AS target, r.ratings, nullif(r.raters, 0) AS raters, coalesce(o.utterances, 0) AS utterances,
  (r.ratings - coalesce(c.n, 0))::BIGINT AS left_out,
  1 - o.differing * (c.n - 1) / nullif(c.n * c.n - c.squares, 0) AS alpha,
  (o.pairs - c.squares / (c.n * c.n)) / nullif(1 - c.squares / (c.n * c.n), 0) AS kappa
FROM rated r LEFT JOIN observed o ON o.corpus = r.corpus LEFT JOIN by_chance c ON c.corpus = r.corpus
"""


def _by_values(target: str) -> str:
    """Return SQL for the agreement about a dimension: alpha of intervals, and no kappa."""
    return f"""
SELECT corpus, '{target}' AS target, any_value(ratings) AS ratings, any_value(raters) AS raters,
  count_if(n > 1)::BIGINT AS utterances, (any_value(ratings) - coalesce(sum(n) FILTER (n > 1), 0))::BIGINT AS left_out,
  1 - sum(n * spread ORDER BY utterance_id) FILTER (n > 1) / nullif(sum(n) FILTER (n > 1) * any_value(of_all), 0) AS alpha,
  NULL AS kappa
FROM (
  SELECT corpus, utterance_id, count(*) AS n, var_samp({target} ORDER BY {target}) AS spread FROM annotations
  WHERE counts AND {target} IS NOT NULL GROUP BY ALL
) u JOIN (
  SELECT corpus, count(*) AS ratings, nullif(count(DISTINCT rater), 0) AS raters FROM annotations
  WHERE counts AND {target} IS NOT NULL GROUP BY corpus
) r USING (corpus) LEFT JOIN (
  SELECT corpus, var_samp({target} ORDER BY {target}) AS of_all
  FROM (SELECT *, count(*) OVER (PARTITION BY corpus, utterance_id) AS n FROM annotations WHERE counts AND {target} IS NOT NULL)
  WHERE n > 1 GROUP BY corpus
) v USING (corpus) GROUP BY corpus"""


RATER_AGREEMENT = f"WITH {_OF_LABELS} {_BY_LABELS} UNION ALL {' UNION ALL '.join(_by_values(of) for of in DIMENSIONS)}"

_VALUES = ", ".join(f"count({of})::BIGINT AS {of}_ratings, min({of}) AS {of}_least, max({of}) AS {of}_most" for of in DIMENSIONS)

RATERS = f"""
SELECT corpus, rater, count(DISTINCT utterance_id) AS utterances, count(label)::BIGINT AS label_ratings,
  count(DISTINCT label) AS labels, mode(label ORDER BY label) AS usual_label, {_VALUES}
FROM annotations WHERE counts AND rater IS NOT NULL GROUP BY corpus, rater
"""

AGREEMENT_BANDS = ("all agree", "more than half agree", "half or fewer agree")
"""How far the raters of an utterance agree, by the share of the votes for the most frequent label."""

RATER_BANDS = f"""
SELECT corpus, utterance_id, CASE WHEN majority_share > 1 - 1e-9 THEN '{AGREEMENT_BANDS[0]}'
  WHEN majority_share > 0.5 + 1e-9 THEN '{AGREEMENT_BANDS[1]}' ELSE '{AGREEMENT_BANDS[2]}' END AS raters_agree
FROM label_distributions
"""

RATER_VIEWS = {
    "label_votes": LABEL_VOTES,
    "label_distributions": LABEL_DISTRIBUTIONS,
    "rater_bands": RATER_BANDS,
    "rater_agreement": RATER_AGREEMENT,
    "raters": RATERS,
}
"""By name, in an order in which they can be created."""
