-- title: the same audio on both sides
-- level: error
-- explanation: test utterances whose samples are also heard in training or validation, under another id
-- action: take one of the two out of the corpus (or of its table), or keep both on one side
WITH shared AS (  -- across corpora, too
  SELECT content_hash FROM members WHERE content_hash IS NOT NULL GROUP BY content_hash HAVING count(*) > 1
), copies AS MATERIALIZED (  -- first who they are, then their folds: a million rows stay a million
  SELECT m.corpus, m.utterance_id, m.content_hash FROM members m SEMI JOIN shared s ON s.content_hash = m.content_hash
), kept AS MATERIALIZED (
  SELECT a.*, c.content_hash FROM assignments a JOIN copies c ON c.corpus = a.corpus AND c.utterance_id = a.utterance_id
), placed AS (
  SELECT a.protocol, a.corpus, r.fold, a.utterance_id, a.content_hash,
    CASE WHEN h.part IS NOT NULL AND coalesce(a.role, r.role) = 'train' THEN h.role ELSE coalesce(a.role, r.role) END AS role
  FROM kept a
  JOIN fold_roles r ON r.protocol = a.protocol AND r.corpus = a.corpus AND r.tested_in = a.fold
  LEFT JOIN held_out h ON h.protocol = a.protocol AND h.corpus = a.corpus AND h.part = a.part AND h.fold = r.fold
)
SELECT t.protocol, t.corpus, t.fold, 'error' AS level, t.utterance_id AS test_utterance, o.role AS other_role,
  min(CASE WHEN o.corpus = t.corpus THEN o.utterance_id ELSE o.corpus || '/' || o.utterance_id END) AS other_utterance,
  count(*) AS copies
FROM placed t
JOIN placed o ON o.fold = t.fold AND o.content_hash = t.content_hash AND (o.corpus, o.utterance_id) <> (t.corpus, t.utterance_id)
WHERE t.role = 'test' AND o.role IN ('train', 'val')
GROUP BY ALL
ORDER BY t.protocol, t.fold, t.corpus, t.utterance_id
