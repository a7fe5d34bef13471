-- title: sentences on both sides
-- level: info
-- explanation: the same sentences are read on both sides, as acted corpora have it: a score says nothing about other words
-- action: nothing is wrong; say in a report that sentences recur, and for how many of the test utterances
WITH counted AS (
  SELECT a.protocol, a.corpus, a.fold AS tested_in, a.role AS fixed, a.part, u.sentence, count(*) AS n
  FROM all_assignments a JOIN utterances u ON u.corpus = a.corpus AND u.utterance_id = a.utterance_id
  GROUP BY ALL
), sides AS (
  SELECT c.protocol, c.corpus, r.fold, c.sentence,
    CASE WHEN h.part IS NOT NULL AND coalesce(c.fixed, r.role) = 'train' THEN 'val' ELSE coalesce(c.fixed, r.role) END AS role,
    sum(c.n)::BIGINT AS n
  FROM counted c JOIN fold_roles r ON r.protocol = c.protocol AND r.corpus = c.corpus AND r.tested_in = c.tested_in
  LEFT JOIN held_out h ON h.protocol = c.protocol AND h.corpus = c.corpus AND h.part = c.part AND h.fold = r.fold
  GROUP BY ALL
)
SELECT t.protocol, t.corpus, t.fold, 'info' AS level, count(*) FILTER (o.n > 0) AS sentences,
  coalesce(sum(t.n) FILTER (o.n > 0), 0)::BIGINT AS test_utterances,
  round(coalesce(sum(t.n) FILTER (o.n > 0), 0) / sum(t.n), 3) AS share_of_test
FROM sides t
LEFT JOIN sides o ON o.corpus = t.corpus AND o.fold = t.fold AND o.sentence = t.sentence AND o.role = 'train'
WHERE t.role = 'test'
GROUP BY ALL
HAVING count(o.n) > 0
ORDER BY t.protocol, t.fold, t.corpus
