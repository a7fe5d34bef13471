-- The catalogue's views but those of raters (rater_views.py): each stands below a line with its name (or two that differ in who
-- is counted alone, with both), in an order in which they can be created. tables.toml says what their columns mean. What begins
-- with a dollar sign is written out in views.py.
--
-- Means, deviations and sums of fractions say in which order they go through their rows (avg(UA ORDER BY fold)): DuckDB would
-- take them as its threads deliver them, and the last digits would differ from run to run.

-- view: fold_roles
SELECT p.protocol, p.corpus, p.validation, g.tested_in, k.fold,
  CASE WHEN g.tested_in = k.fold THEN 'test'
       WHEN p.validation = 'next-group' AND g.tested_in = k.fold % p.folds + 1 THEN 'val'
       ELSE 'train' END AS role
FROM protocols p, LATERAL (SELECT unnest(range(1, p.folds + 1))::INTEGER AS tested_in) g,
  LATERAL (SELECT unnest(range(1, p.folds + 1))::INTEGER AS fold) k

-- view: folds
SELECT * FROM (
SELECT a.protocol, a.corpus, r.fold,
  CASE WHEN h.part IS NOT NULL AND coalesce(a.role, r.role) = 'train' THEN h.role ELSE coalesce(a.role, r.role) END AS role,
  a.utterance_id, a.label, r.validation
FROM assignments a
JOIN fold_roles r ON r.protocol = a.protocol AND r.corpus = a.corpus AND r.tested_in = a.fold
LEFT JOIN held_out h ON h.protocol = a.protocol AND h.corpus = a.corpus AND h.part = a.part AND h.fold = r.fold
) WHERE role <> 'out'

-- view: left_out
SELECT a.protocol, a.corpus, h.fold, a.utterance_id, a.label, h.reason
FROM assignments a JOIN held_out h ON h.protocol = a.protocol AND h.corpus = a.corpus AND h.part = a.part
WHERE h.role = 'out'

-- view: fold_utterances
SELECT f.protocol, f.corpus, f.fold, f.role, f.utterance_id, f.label,
  u.speaker, u.session, u.dialogue, u.content_hash, u.duration_s
FROM folds f JOIN utterances u ON u.corpus = f.corpus AND u.utterance_id = f.utterance_id

-- view: fold_scores
WITH scored AS (
  SELECT r.experiment, r.seed, m.selection, m.level, m.fold, m.run_id,
    max(m.epoch) AS epoch, max(m.value) FILTER (m.metric = 'UA') AS UA, max(m.value) FILTER (m.metric = 'WA') AS WA,
    max(m.value) FILTER (m.metric = 'WF1') AS WF1, max(m.value) FILTER (m.metric = 'macro_F1') AS macro_F1
  FROM metrics m JOIN runs r USING (run_id) WHERE m.class IS NULL GROUP BY ALL
), counted AS (
  SELECT run_id, selection, level, sum(count)::BIGINT AS n, sum(count) FILTER (label = predicted)::BIGINT AS hits
  FROM confusion GROUP BY ALL
)
SELECT s.experiment, s.seed, s.selection, s.level, s.fold, s.run_id, s.epoch, coalesce(c.n, 0) AS n, coalesce(c.hits, 0) AS hits,
  s.UA, s.WA, s.WF1, s.macro_F1, r.audit, r.speakers_kept
FROM scored s JOIN runs r ON r.run_id = s.run_id
LEFT JOIN counted c ON c.run_id = s.run_id AND c.selection = s.selection AND c.level = s.level

-- view: scores
WITH of_fold AS (
  SELECT r.*, s.selection, s.level, s.WA, s.UA, s.WF1, s.macro_F1 FROM fold_scores s JOIN runs r USING (run_id)
), class_counts AS (
  SELECT r.experiment, r.seed, c.selection, c.level, c.label,
    sum(c.count) FILTER (c.label = c.predicted) AS hits, sum(c.count) AS total
  FROM confusion c JOIN runs r USING (run_id) GROUP BY ALL HAVING sum(c.count) > 0
), pooled AS (
  SELECT experiment, seed, selection, level, sum(coalesce(hits, 0)) / sum(total) AS pooled_WA,
    avg(coalesce(hits, 0) / total ORDER BY label) AS pooled_UA
  FROM class_counts GROUP BY ALL
), counted AS (
  SELECT r.experiment, r.seed, c.selection, c.level, count(DISTINCT c.fold) AS pooled_folds
  FROM confusion c JOIN runs r USING (run_id) WHERE c.count > 0 GROUP BY ALL
)
SELECT s.experiment, any_value(head) AS head, any_value(preset) AS preset, any_value(recipe) AS recipe,
  any_value(s.corpus) AS corpus, any_value(s.protocol) AS protocol, any_value(feature_set) AS feature_set, s.seed,
  any_value(epochs) AS epochs, s.selection, s.level, count(UA) AS folds,
  (SELECT any_value(p.folds) FROM protocols p WHERE p.protocol = any_value(s.protocol) AND p.corpora = any_value(s.corpus))
    AS of_folds,
  avg(WA ORDER BY fold) AS WA, stddev_samp(WA ORDER BY fold) AS WA_std,
  avg(UA ORDER BY fold) AS UA, stddev_samp(UA ORDER BY fold) AS UA_std,
  avg(WF1 ORDER BY fold) AS WF1, avg(macro_F1 ORDER BY fold) AS macro_F1,
  any_value(pooled_WA) AS pooled_WA, any_value(pooled_UA) AS pooled_UA,
  coalesce(any_value(pooled_folds), 0) AS pooled_folds, sum(seconds ORDER BY fold) AS seconds,
  $worst_audit AS audit, $worst_of_runs AS speakers_kept
FROM of_fold s LEFT JOIN pooled USING (experiment, seed, selection, level)
LEFT JOIN counted USING (experiment, seed, selection, level)
GROUP BY s.experiment, s.seed, s.selection, s.level

-- view: test_predictions
SELECT r.experiment, r.seed, p.run_id, p.fold, p.selection, p.level, p.corpus, p.utterance_id, p.segment,
  u.speaker, u.session, u.dialogue, p.label, p.predicted, p.label = p.predicted AS hit
FROM predictions p JOIN runs r USING (run_id)
LEFT JOIN utterances u ON u.corpus = p.corpus AND u.utterance_id = p.utterance_id

-- view: test_ratings
SELECT r.experiment, r.seed, p.run_id, p.fold, p.selection, p.level, p.corpus, p.utterance_id, p.segment,
  u.speaker, u.session, u.dialogue, p.dimension, (p.rating - p.low) / (p.high - p.low) AS rating,
  (p.predicted - p.low) / (p.high - p.low) AS predicted, abs(p.predicted - p.rating) AS error
FROM rated_predictions p JOIN runs r USING (run_id)
LEFT JOIN utterances u ON u.corpus = p.corpus AND u.utterance_id = p.utterance_id

-- view: dimension_scores
WITH scored AS (
  SELECT m.run_id, m.selection, m.level, m.class AS dimension, max(m.epoch) AS epoch,
    max(m.value) FILTER (m.metric = 'CCC') AS CCC, max(m.value) FILTER (m.metric = 'pearson') AS pearson,
    max(m.value) FILTER (m.metric = 'MAE') AS MAE, max(m.value) FILTER (m.metric = 'scale_shift') AS scale_shift,
    max(m.value) FILTER (m.metric = 'location_shift') AS location_shift
  FROM metrics m JOIN runs r USING (run_id) WHERE list_contains(r.targets, m.class)
    AND m.metric IN ('CCC', 'pearson', 'MAE', 'scale_shift', 'location_shift') GROUP BY ALL
), counted AS (
  SELECT run_id, selection, level, dimension, count(*) AS n FROM rated_predictions GROUP BY ALL
)
SELECT r.experiment, r.seed, s.selection, s.level, r.fold, s.run_id, s.epoch, s.dimension, c.n, s.CCC, s.pearson, s.MAE,
  s.scale_shift, s.location_shift, r.audit, r.speakers_kept
FROM scored s JOIN runs r USING (run_id) JOIN counted c USING (run_id, selection, level, dimension)

-- view: class_scores
WITH counted AS (
  SELECT r.experiment, r.seed, c.selection, c.level, c.label, c.predicted, sum(c.count)::BIGINT AS n
  FROM confusion c JOIN runs r USING (run_id) GROUP BY ALL
), named AS (
  SELECT experiment, seed, selection, level, label AS class, n, if(label = predicted, n, 0) AS hits, 0 AS predicted FROM counted
  UNION ALL SELECT experiment, seed, selection, level, predicted, 0, 0, n FROM counted
)
SELECT experiment, seed, selection, level, class, sum(n)::BIGINT AS n, sum(hits)::BIGINT AS hits,
  sum(predicted)::BIGINT AS predicted, sum(hits) / nullif(sum(n), 0) AS recall,
  sum(hits) / nullif(sum(predicted), 0) AS precision, 2 * sum(hits) / nullif(sum(n) + sum(predicted), 0) AS F1,
  any_value(s.audit) AS audit, any_value(s.speakers_kept) AS speakers_kept
FROM named JOIN $standing s USING (experiment, seed) GROUP BY experiment, seed, selection, level, class

-- view: speaker_scores, session_scores
WITH by_class AS (
  SELECT experiment, seed, selection, level, corpus, $who, label, count(*) AS n, count_if(hit)::BIGINT AS hits
  FROM test_predictions WHERE $who IS NOT NULL GROUP BY ALL
)
SELECT experiment, seed, selection, level, corpus, $who, sum(n)::BIGINT AS n, sum(hits)::BIGINT AS hits,
  count(*) AS classes, avg(hits / n ORDER BY label) AS UA, sum(hits) / sum(n) AS WA,
  map_from_entries(list((label, n) ORDER BY label)) AS n_by_class,
  map_from_entries(list((label, hits) ORDER BY label)) AS hits_by_class,
  any_value(s.audit) AS audit, any_value(s.speakers_kept) AS speakers_kept
FROM by_class JOIN $standing s USING (experiment, seed) GROUP BY experiment, seed, selection, level, corpus, $who

-- view: result_predictions
WITH shown AS (SELECT * FROM test_predictions WHERE selection = 'last' AND level = 'utterance'),
sides AS (
  SELECT experiment, seed, count(*) AS n, bit_xor(hash(corpus, utterance_id, fold, label)) AS side FROM shown GROUP BY ALL
), largest AS (
  SELECT experiment, max(n) AS n, arg_max(side, (n, -seed)) AS side FROM sides GROUP BY experiment
)
SELECT experiment, seed, fold, corpus, utterance_id, speaker, session, dialogue, label, predicted, hit, run_id
FROM shown JOIN sides USING (experiment, seed) JOIN largest USING (experiment, n, side)

-- view: result_confusion
SELECT experiment, seed, label, predicted, count(*) AS n FROM result_predictions GROUP BY ALL

-- view: results
WITH about AS (
  SELECT experiment, any_value(head) AS head, any_value(preset) AS preset, any_value(recipe) AS recipe,
    any_value(feature_set) AS feature_set, any_value(corpus) AS corpus, any_value(protocol) AS protocol,
    any_value(validation) AS validation, any_value(classes) AS classes,
    $worst_audit AS audit, $worst_of_runs AS speakers_kept
  FROM runs GROUP BY experiment
), over_folds AS (
  SELECT experiment, avg(UA ORDER BY seed, fold) AS UA, stddev_samp(UA ORDER BY seed, fold) AS UA_std,
    avg(WA ORDER BY seed, fold) AS WA, stddev_samp(WA ORDER BY seed, fold) AS WA_std
  FROM fold_scores WHERE selection = 'last' AND level = 'utterance' GROUP BY experiment
), over_seeds AS (
  SELECT experiment, list(seed ORDER BY seed) AS seeds, max(folds) AS folds, any_value(of_folds) AS of_folds
  FROM scores WHERE selection = 'last' AND level = 'utterance' GROUP BY experiment
), recalls AS (
  SELECT experiment, seed, label, avg(hit::INTEGER) AS recall, count(*) AS n, count_if(hit) AS hits
  FROM result_predictions GROUP BY ALL
), of_seed AS (
  SELECT experiment, seed, avg(recall ORDER BY label) AS UA, sum(hits) / sum(n) AS WA FROM recalls GROUP BY ALL
), pooled AS (
  SELECT experiment, avg(UA ORDER BY seed) AS pooled_UA, avg(WA ORDER BY seed) AS pooled_WA FROM of_seed GROUP BY experiment
)
SELECT experiment, head, preset, recipe, feature_set, corpus, protocol, validation, classes, seeds, folds, of_folds,
  UA, UA_std, WA, WA_std, pooled_UA, pooled_WA, audit, speakers_kept
FROM about JOIN over_folds USING (experiment) JOIN over_seeds USING (experiment) LEFT JOIN pooled USING (experiment)
