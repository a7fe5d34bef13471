-- title: speakers in both training and validation
-- level: warning
-- explanation: the epoch is chosen on voices that training has heard: validation scores flatter, and favour epochs that fit those voices
-- action: hold whole speakers out (validation speakers:1 or next-group), or say that validation shares speakers with training
WITH counted AS (
  SELECT a.protocol, a.corpus, a.fold AS tested_in, a.role AS fixed, a.part, u.speaker, count(*) AS n
  FROM all_assignments a JOIN utterances u ON u.corpus = a.corpus AND u.utterance_id = a.utterance_id
  WHERE u.speaker IS NOT NULL AND EXISTS (SELECT 1 FROM protocols p WHERE p.validation <> 'none') GROUP BY ALL
), sides AS (
  SELECT c.protocol, c.corpus, r.fold, c.speaker,
    CASE WHEN h.part IS NOT NULL AND coalesce(c.fixed, r.role) = 'train' THEN 'val' ELSE coalesce(c.fixed, r.role) END AS role,
    sum(c.n)::BIGINT AS n
  FROM counted c JOIN fold_roles r ON r.protocol = c.protocol AND r.corpus = c.corpus AND r.tested_in = c.tested_in
  LEFT JOIN held_out h ON h.protocol = c.protocol AND h.corpus = c.corpus AND h.part = c.part AND h.fold = r.fold
  GROUP BY ALL
)
SELECT v.protocol, v.corpus, v.fold, 'warning' AS level, count(*) AS speakers, sum(v.n)::BIGINT AS val_utterances,
  min(v.speaker) AS for_instance
FROM sides v
JOIN sides t ON t.protocol = v.protocol AND t.corpus = v.corpus AND t.fold = v.fold AND t.speaker = v.speaker
  AND v.role = 'val' AND t.role = 'train'
GROUP BY v.protocol, v.corpus, v.fold
ORDER BY v.protocol, v.fold, v.corpus
