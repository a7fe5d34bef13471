-- title: speakers whose names may be spellings of one name
-- level: warning
-- explanation: two spellings of what may be one speaker stand on both sides (case, blanks, _ and -, leading zeros, 1.0 for 1, accents composed otherwise): as two names they pass for two people
-- action: write each speaker's name in one way in the column speaker and scan again; ignore this if they are two people
WITH counted AS (  -- before the folds are rolled out: a million rows stay a million
  SELECT a.protocol, a.corpus, a.fold AS tested_in, a.role AS fixed, a.part, u.speaker, count(*) AS n
  FROM all_assignments a JOIN utterances u ON u.corpus = a.corpus AND u.utterance_id = a.utterance_id
  WHERE u.speaker IS NOT NULL GROUP BY ALL
), spelt AS (
  SELECT c.*, v.voice FROM counted c JOIN voices v ON v.speaker = c.speaker
), twice AS (
  SELECT * FROM spelt WHERE (corpus, voice) IN (SELECT (corpus, voice) FROM spelt GROUP BY corpus, voice HAVING count(DISTINCT speaker) > 1)
), sides AS (
  SELECT c.protocol, c.corpus, r.fold, coalesce(c.fixed, r.role) AS role, c.speaker, c.voice, sum(c.n)::BIGINT AS n
  FROM twice c JOIN fold_roles r ON r.protocol = c.protocol AND r.corpus = c.corpus AND r.tested_in = c.tested_in
  LEFT JOIN held_out h ON h.protocol = c.protocol AND h.corpus = c.corpus AND h.part = c.part AND h.fold = r.fold
  WHERE h.role IS DISTINCT FROM 'out'
  GROUP BY ALL
)
SELECT t.protocol, t.corpus, t.fold, 'warning' AS level, t.speaker, t.n AS test_utterances,
  min(o.speaker) AS other_spelling, sum(o.n)::BIGINT AS other_utterances
FROM sides t
JOIN sides o ON o.protocol = t.protocol AND o.corpus = t.corpus AND o.fold = t.fold AND o.voice = t.voice
  AND o.speaker <> t.speaker AND t.role = 'test' AND o.role IN ('train', 'val')
GROUP BY ALL
ORDER BY t.protocol, t.fold, t.speaker
