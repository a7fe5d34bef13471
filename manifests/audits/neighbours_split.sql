-- title: neighbours in a conversation on both sides
-- level: error where the protocol keeps dialogues apart, else warning
-- explanation: the turn just before or after a test utterance is heard in training or validation: a mood that lasts over turns is learnt by heart (turns in the order of their time where the corpus says it, else of the numbers in their ids)
-- action: group the folds by dialogue or session, or say for how many test utterances it is so
WITH talking AS (
  SELECT corpus, dialogue FROM all_members WHERE dialogue IS NOT NULL GROUP BY ALL HAVING count(*) > 1
), turns AS (
  SELECT m.protocol, m.corpus, m.dialogue, m.utterance_id,
    lead(m.utterance_id) OVER (PARTITION BY m.corpus, m.dialogue
      ORDER BY m.turn_s, try_cast(regexp_extract(m.utterance_id, '(\d+)\D*$', 1) AS HUGEINT), m.utterance_id) AS after
  FROM all_members m SEMI JOIN talking t ON t.corpus = m.corpus AND t.dialogue = m.dialogue
), places AS (
  SELECT DISTINCT a.corpus, a.utterance_id, a.fold AS tested_in, a.role AS fixed, a.part FROM all_assignments a
), pairs AS (  -- by where the two are, before the folds are rolled out
  SELECT t.protocol, t.corpus, x.tested_in, x.fixed, x.part, y.tested_in AS tested_in2, y.fixed AS fixed2, y.part AS part2,
    t.utterance_id, t.after
  FROM turns t
  JOIN places x ON x.corpus = t.corpus AND x.utterance_id = t.utterance_id
  JOIN places y ON y.corpus = t.corpus AND y.utterance_id = t.after
  WHERE t.after IS NOT NULL AND (x.tested_in, x.fixed) IS DISTINCT FROM (y.tested_in, y.fixed)
), ways AS (
  SELECT protocol, corpus, tested_in, fixed, tested_in2, fixed2, part2, utterance_id AS test, after AS other FROM pairs
  UNION ALL
  SELECT protocol, corpus, tested_in2, fixed2, tested_in, fixed, part, after, utterance_id FROM pairs
), hits AS (
  SELECT DISTINCT w.protocol, w.corpus, r.fold, w.test, min(w.other) OVER (PARTITION BY w.corpus, r.fold, w.test) AS other
  FROM ways w
  JOIN fold_roles r ON r.corpus = w.corpus AND r.tested_in = w.tested_in AND coalesce(w.fixed, r.role) = 'test'
  JOIN fold_roles o ON o.corpus = w.corpus AND o.tested_in = w.tested_in2 AND o.fold = r.fold
    AND coalesce(w.fixed2, o.role) IN ('train', 'val')
  LEFT JOIN held_out h ON h.corpus = w.corpus AND h.part = w.part2 AND h.fold = r.fold
  WHERE h.role IS DISTINCT FROM 'out'  -- who is left out of a fold is heard on neither side
), tested AS (
  SELECT a.corpus, r.fold, count(*) AS n FROM all_assignments a
  JOIN fold_roles r ON r.corpus = a.corpus AND r.tested_in = a.fold AND coalesce(a.role, r.role) = 'test' GROUP BY ALL
)
SELECT h.protocol, h.corpus, h.fold, CASE WHEN list_contains(any_value(p.keeps_apart), 'dialogue') THEN 'error' ELSE 'warning' END AS level,
  count(*) AS test_utterances, round(count(*) / any_value(t.n), 3) AS share_of_test, min(h.test) AS example, min_by(h.other, h.test) AS beside
FROM hits h JOIN tested t ON t.corpus = h.corpus AND t.fold = h.fold
JOIN protocols p ON p.protocol = h.protocol AND p.corpus = h.corpus
GROUP BY h.protocol, h.corpus, h.fold
ORDER BY h.protocol, h.fold, h.corpus
