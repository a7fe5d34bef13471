"""The SQL behind the catalogue's views: folds out of assignments, folds beside what audits compare, scores over folds."""

from __future__ import annotations

FOLD_ROLES = """
SELECT p.protocol, p.corpus, p.validation, g.tested_in, k.fold,
  CASE WHEN g.tested_in = k.fold THEN 'test'
       WHEN p.validation = 'next-group' AND g.tested_in = k.fold % p.folds + 1 THEN 'val'
       ELSE 'train' END AS role
FROM protocols p, LATERAL (SELECT unnest(range(1, p.folds + 1))::INTEGER AS tested_in) g,
  LATERAL (SELECT unnest(range(1, p.folds + 1))::INTEGER AS fold) k
"""

FOLDS = """
SELECT a.protocol, a.corpus, r.fold,
  CASE WHEN h.part IS NOT NULL AND coalesce(a.role, r.role) = 'train' THEN 'val' ELSE coalesce(a.role, r.role) END AS role,
  a.utterance_id, a.label, r.validation
FROM assignments a
JOIN fold_roles r ON r.protocol = a.protocol AND r.corpus = a.corpus AND r.tested_in = a.fold
LEFT JOIN held_out h ON h.protocol = a.protocol AND h.corpus = a.corpus AND h.part = a.part AND h.fold = r.fold
"""

FOLD_UTTERANCES = """
SELECT f.protocol, f.corpus, f.fold, f.role, f.utterance_id, f.label,
  u.speaker, u.session, u.dialogue, u.content_hash, u.duration_s
FROM folds f JOIN utterances u ON u.corpus = f.corpus AND u.utterance_id = f.utterance_id
"""

SCORES = """
WITH fold_scores AS (
  SELECT r.experiment, r.seed, m.selection, m.level, m.fold,
    any_value(r.head) AS head, any_value(r.preset) AS preset, any_value(r.recipe) AS recipe, any_value(r.corpus) AS corpus,
    any_value(r.protocol) AS protocol, any_value(r.feature_set) AS feature_set, any_value(r.epochs) AS epochs,
    any_value(r.seconds) AS seconds, bool_or(r.audit = 'overridden') AS overridden,
    max(m.value) FILTER (m.metric = 'WA') AS WA, max(m.value) FILTER (m.metric = 'UA') AS UA,
    max(m.value) FILTER (m.metric = 'WF1') AS WF1, max(m.value) FILTER (m.metric = 'macro_F1') AS macro_F1
  FROM metrics m JOIN runs r USING (run_id) WHERE m.class IS NULL GROUP BY ALL
), class_counts AS (
  SELECT r.experiment, r.seed, c.selection, c.level, c.label,
    sum(c.count) FILTER (c.label = c.predicted) AS hits, sum(c.count) AS total
  FROM confusion c JOIN runs r USING (run_id) GROUP BY ALL HAVING sum(c.count) > 0
), pooled AS (
  SELECT experiment, seed, selection, level, sum(coalesce(hits, 0)) / sum(total) AS pooled_WA,
    avg(coalesce(hits, 0) / total) AS pooled_UA
  FROM class_counts GROUP BY ALL
)
SELECT s.experiment, any_value(head) AS head, any_value(preset) AS preset, any_value(recipe) AS recipe,
  any_value(s.corpus) AS corpus, any_value(s.protocol) AS protocol, any_value(feature_set) AS feature_set, s.seed,
  any_value(epochs) AS epochs, s.selection, s.level, count(*) AS folds,
  (SELECT any_value(p.folds) FROM protocols p WHERE p.protocol = any_value(s.protocol) AND p.corpora = any_value(s.corpus))
    AS of_folds,
  avg(WA) AS WA, stddev_samp(WA) AS WA_std, avg(UA) AS UA, stddev_samp(UA) AS UA_std, avg(WF1) AS WF1,
  avg(macro_F1) AS macro_F1, any_value(pooled_WA) AS pooled_WA, any_value(pooled_UA) AS pooled_UA, sum(seconds) AS seconds,
  CASE WHEN bool_or(overridden) THEN 'overridden' ELSE 'passed' END AS audit
FROM fold_scores s JOIN pooled USING (experiment, seed, selection, level)
GROUP BY s.experiment, s.seed, s.selection, s.level
"""

BOUND = "json_extract_string(config, '$.belongs_to.run_id') IS NOT NULL"
"""Of `feature_sets`: whether something in it was learned in a fold, to which it belongs (a collapsed layer mix)."""

VIEWS = {"fold_roles": FOLD_ROLES, "folds": FOLDS, "fold_utterances": FOLD_UTTERANCES, "scores": SCORES}
"""By name, in an order in which they can be created."""
