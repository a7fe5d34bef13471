-- title: dialogues on both sides
-- level: error where the protocol keeps dialogues apart, else warning
-- explanation: turns of one conversation stand on both sides: topic, partner and channel are known to the head
-- action: group the folds by dialogue (group-kfold:K:dialogue), or say that dialogues are shared
WITH sides AS (
  SELECT protocol, corpus, fold, role, dialogue, count(*) AS n
  FROM fold_utterances WHERE dialogue IS NOT NULL GROUP BY ALL
)
SELECT t.protocol, t.corpus, t.fold,
  CASE WHEN list_contains(p.keeps_apart, 'dialogue') THEN 'error' ELSE 'warning' END AS level,
  t.dialogue, t.n AS test_utterances, sum(o.n)::BIGINT AS other_utterances
FROM sides t
JOIN sides o ON o.protocol = t.protocol AND o.corpus = t.corpus AND o.fold = t.fold AND o.dialogue = t.dialogue
  AND t.role = 'test' AND o.role IN ('train', 'val')
JOIN protocols p ON p.protocol = t.protocol AND p.corpus = t.corpus
GROUP BY ALL
ORDER BY t.protocol, t.fold, t.dialogue
