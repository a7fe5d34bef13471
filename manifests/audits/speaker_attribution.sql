-- title: utterances attributed to the wrong speaker
-- level: error where the folds follow the wrong speakers, else warning
-- explanation: the split names another speaker than the corpus, in its own column or, where it has none, by the first part of the ids (as in IEMOCAP, whose prefix names who wears the markers, not who speaks), and makes folds of that
-- action: take the speaker that the corpus names (here: its column speaker), and make the folds anew
WITH known AS (SELECT DISTINCT corpus, speaker FROM utterances WHERE speaker IS NOT NULL
), rows_ AS (
  SELECT DISTINCT r.corpus, r.utterance_id, r.speaker AS said FROM split_rows r WHERE r.matches = 1 AND r.speaker IS NOT NULL
), named AS (  -- whether the split's names are the corpus's own
  SELECT r.corpus, avg((k.speaker IS NOT NULL)::INTEGER) > 0.5 AS same_names
  FROM rows_ r LEFT JOIN known k ON k.corpus = r.corpus AND lower(k.speaker) = lower(r.said) GROUP BY r.corpus
), counted AS (
  SELECT r.corpus, r.said, u.speaker, count(*) AS n FROM rows_ r
  JOIN utterances u ON u.corpus = r.corpus AND u.utterance_id = r.utterance_id WHERE u.speaker IS NOT NULL GROUP BY ALL
), usual AS (SELECT corpus, said, max_by(speaker, n) AS speaker FROM counted GROUP BY ALL
), by_column AS (
  SELECT r.corpus, r.utterance_id, CASE WHEN n.same_names THEN r.said ELSE u.speaker END AS said, r.said AS written
  FROM rows_ r JOIN named n ON n.corpus = r.corpus JOIN usual u ON u.corpus = r.corpus AND u.said = r.said
), by_id AS (  -- where the first part of every id is the name of some speaker
  SELECT m.corpus, m.utterance_id, split_part(m.utterance_id, '_', 1) AS said, split_part(m.utterance_id, '_', 1) AS written
  FROM all_members m
  WHERE EXISTS (SELECT 1 FROM split_rows) AND NOT EXISTS (SELECT 1 FROM rows_) AND NOT EXISTS (
    SELECT 1 FROM all_members x WHERE split_part(x.utterance_id, '_', 1) NOT IN (SELECT speaker FROM known k WHERE k.corpus = x.corpus))
), claimed AS (FROM by_column UNION ALL FROM by_id
), tested AS (
  SELECT a.corpus, a.utterance_id, r.fold FROM all_assignments a
  JOIN fold_roles r ON r.corpus = a.corpus AND r.tested_in = a.fold AND coalesce(a.role, r.role) = 'test'
), judged AS (
  SELECT c.corpus, c.utterance_id, c.written, c.said, m.speaker, t.fold
  FROM claimed c JOIN all_members m ON m.corpus = c.corpus AND m.utterance_id = c.utterance_id
  LEFT JOIN tested t ON t.corpus = c.corpus AND t.utterance_id = c.utterance_id
  WHERE m.speaker IS NOT NULL
), follow AS (  -- each name is tested in one fold, but some true speaker in several
  SELECT j.corpus, max(of_name) = 1 AND max(of_speaker) > 1 AS follows FROM (
    SELECT corpus, (SELECT count(DISTINCT fold) FROM judged x WHERE x.corpus = judged.corpus AND x.written = judged.written) AS of_name,
      (SELECT count(DISTINCT fold) FROM judged x WHERE x.corpus = judged.corpus AND x.speaker = judged.speaker) AS of_speaker
    FROM judged) j GROUP BY j.corpus
), totals AS (
  SELECT corpus, count(DISTINCT utterance_id) FILTER (said <> speaker) AS wrong, count(DISTINCT utterance_id) AS utterances FROM judged GROUP BY corpus
)
SELECT p.protocol, t.corpus, NULL::INTEGER AS fold,
  CASE WHEN f.follows AND list_contains(p.keeps_apart, 'speaker') THEN 'error' ELSE 'warning' END AS level,
  t.wrong, t.utterances, j.written AS said_to_be, j.speaker AS spoken_by, count(DISTINCT j.utterance_id) AS of_these,
  min(j.utterance_id) AS example
FROM totals t JOIN follow f ON f.corpus = t.corpus JOIN judged j ON j.corpus = t.corpus AND j.said <> j.speaker
JOIN protocols p ON p.corpus = t.corpus
WHERE f.follows OR EXISTS (SELECT 1 FROM rows_)
GROUP BY p.protocol, t.corpus, level, t.wrong, t.utterances, j.written, j.speaker
ORDER BY t.corpus, j.written, j.speaker
