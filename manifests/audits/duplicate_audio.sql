-- title: the same audio on both sides
-- level: error
-- explanation: test utterances whose samples are also heard in training or validation, under another id
-- action: take one of the two out of the corpus (or of its table), or keep both on one side
SELECT t.protocol, t.corpus, t.fold, 'error' AS level, t.utterance_id AS test_utterance, o.role AS other_role,
  min(o.utterance_id) AS other_utterance, count(*) AS copies
FROM fold_utterances t
JOIN fold_utterances o
  ON o.protocol = t.protocol AND o.corpus = t.corpus AND o.fold = t.fold AND o.content_hash = t.content_hash
WHERE t.role = 'test' AND o.role IN ('train', 'val') AND t.utterance_id <> o.utterance_id
GROUP BY ALL
ORDER BY t.protocol, t.fold, t.utterance_id
