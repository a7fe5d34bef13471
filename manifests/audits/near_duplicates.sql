-- title: near-duplicates on both sides
-- level: error from 0.9 of the fingerprints' bits alike, else warning
-- explanation: test utterances of which a re-encoded, trimmed or louder or quieter copy is heard in training or validation; looked for by `tfser audit --near-duplicates`, from 0.85 of the bits alike (0.5 is chance; two takes of one sentence by one speaker of EmoDB reach 0.76, the synthetic corpus 0.84)
-- action: listen to the two; take one of them out of the corpus (or of its table), or keep both on one side
WITH kept AS MATERIALIZED (  -- first who they are, then their folds
  SELECT a.* FROM assignments a SEMI JOIN near_duplicates d ON d.corpus = a.corpus AND d.utterance_id = a.utterance_id
), placed AS (
  SELECT a.protocol, a.corpus, r.fold, a.utterance_id,
    CASE WHEN h.part IS NOT NULL AND coalesce(a.role, r.role) = 'train' THEN h.role ELSE coalesce(a.role, r.role) END AS role
  FROM kept a
  JOIN fold_roles r ON r.protocol = a.protocol AND r.corpus = a.corpus AND r.tested_in = a.fold
  LEFT JOIN held_out h ON h.protocol = a.protocol AND h.corpus = a.corpus AND h.part = a.part AND h.fold = r.fold
)
SELECT t.protocol, t.corpus, t.fold, CASE WHEN p.similarity >= 0.9 THEN 'error' ELSE 'warning' END AS level, t.utterance_id AS test_utterance, o.role AS other_role,
  CASE WHEN o.corpus = t.corpus THEN o.utterance_id ELSE o.corpus || '/' || o.utterance_id END AS other_utterance,
  round(p.similarity, 3) AS similarity, p.evidence
FROM near_duplicates p
JOIN placed t ON t.corpus = p.corpus AND t.utterance_id = p.utterance_id AND t.role = 'test'
JOIN placed o ON o.corpus = p.other_corpus AND o.utterance_id = p.other_id AND o.fold = t.fold AND o.role IN ('train', 'val')
ORDER BY t.protocol, t.fold, level, p.similarity DESC, t.corpus, t.utterance_id, other_utterance
