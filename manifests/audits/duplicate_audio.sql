-- title: the same audio on both sides
-- level: error
-- explanation: test utterances whose samples are also heard in training or validation, under another id
-- action: take one of the two out of the corpus (or of its table), or keep both on one side
WITH copies AS (
  SELECT u.utterance_id, u.content_hash
  FROM assignments a JOIN utterances u ON u.corpus = a.corpus AND u.utterance_id = a.utterance_id
  QUALIFY count(*) OVER (PARTITION BY u.content_hash) > 1 AND u.content_hash IS NOT NULL
), placed AS (
  SELECT f.protocol, f.corpus, f.fold, f.role, f.utterance_id, c.content_hash
  FROM folds f JOIN copies c ON c.utterance_id = f.utterance_id
)
SELECT t.protocol, t.corpus, t.fold, 'error' AS level, t.utterance_id AS test_utterance, o.role AS other_role,
  min(o.utterance_id) AS other_utterance, count(*) AS copies
FROM placed t
JOIN placed o ON o.fold = t.fold AND o.content_hash = t.content_hash
WHERE t.role = 'test' AND o.role IN ('train', 'val') AND t.utterance_id <> o.utterance_id
GROUP BY ALL
ORDER BY t.protocol, t.fold, t.utterance_id
