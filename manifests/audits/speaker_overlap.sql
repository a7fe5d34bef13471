-- title: speakers on both sides
-- level: error where the protocol keeps speakers apart, else warning
-- explanation: a speaker of the test side is heard in training or validation; the score then measures that voice, too
-- action: group the folds by speaker (loso-speaker, group-kfold:K), or correct the column speaker and scan again
WITH sides AS (
  SELECT protocol, corpus, fold, role, speaker, count(*) AS n
  FROM fold_utterances WHERE speaker IS NOT NULL GROUP BY ALL
)
SELECT t.protocol, t.corpus, t.fold,
  CASE WHEN list_contains(p.keeps_apart, 'speaker') THEN 'error' ELSE 'warning' END AS level,
  t.speaker, t.n AS test_utterances, sum(o.n)::BIGINT AS other_utterances
FROM sides t
JOIN sides o ON o.protocol = t.protocol AND o.corpus = t.corpus AND o.fold = t.fold AND o.speaker = t.speaker
  AND t.role = 'test' AND o.role IN ('train', 'val')
JOIN protocols p ON p.protocol = t.protocol AND p.corpus = t.corpus
GROUP BY ALL
ORDER BY t.protocol, t.fold, t.speaker
