-- title: sentences on both sides
-- level: info
-- explanation: the same sentences are read on both sides, as acted corpora have it: a score says nothing about other words
-- action: nothing is wrong; say in a report that sentences recur
WITH counted AS (
  SELECT a.protocol, a.corpus, a.fold AS tested_in, a.role AS fixed, u.sentence, count(*) AS n
  FROM assignments a JOIN utterances u ON u.corpus = a.corpus AND u.utterance_id = a.utterance_id
  WHERE u.sentence IS NOT NULL GROUP BY ALL
), sides AS (
  SELECT c.protocol, c.corpus, r.fold, coalesce(c.fixed, r.role) AS role, c.sentence, sum(c.n)::BIGINT AS n
  FROM counted c JOIN fold_roles r ON r.protocol = c.protocol AND r.corpus = c.corpus AND r.tested_in = c.tested_in
  GROUP BY ALL
)
SELECT t.protocol, t.corpus, t.fold, 'info' AS level, count(*) AS sentences, sum(t.n)::BIGINT AS test_utterances
FROM sides t
JOIN sides o ON o.fold = t.fold AND o.sentence = t.sentence AND t.role = 'test' AND o.role = 'train'
GROUP BY ALL
ORDER BY t.protocol, t.fold
