-- title: labels of the split that are not the corpus's
-- level: warning
-- explanation: the split calls an utterance otherwise than most utterances of the same label in the corpus, or swaps two of the corpus's labels; maps that hold for a whole label (excitement as happiness, 2 for anger) are no mismatch
-- action: compare with the corpus's documentation; tfser takes the label that the corpus publishes
WITH said AS (
  SELECT DISTINCT r.corpus, r.utterance_id, r.label AS split_says, u.label AS corpus_says
  FROM split_rows r JOIN utterances u ON u.corpus = r.corpus AND u.utterance_id = r.utterance_id
  WHERE r.matches = 1 AND r.label IS NOT NULL AND u.label IS NOT NULL
), counted AS (SELECT corpus, corpus_says, split_says, count(*) AS n FROM said GROUP BY ALL
), usual AS (  -- what most utterances of a label are called; the label itself where it is as frequent
  SELECT corpus, corpus_says, max_by(split_says, n + CASE WHEN split_says = corpus_says THEN 0.5 ELSE 0 END) AS means
  FROM counted GROUP BY ALL
), swapped AS (  -- two labels of the corpus that stand for each other, or in a circle
  SELECT a.corpus, a.corpus_says FROM usual a JOIN usual b ON b.corpus = a.corpus AND b.corpus_says = a.means
  WHERE a.means <> a.corpus_says AND b.means <> b.corpus_says
)
SELECT p.protocol, s.corpus, NULL::INTEGER AS fold, 'warning' AS level, s.utterance_id, s.corpus_says, s.split_says
FROM said s JOIN usual u ON u.corpus = s.corpus AND u.corpus_says = s.corpus_says
JOIN protocols p ON p.corpus = s.corpus
LEFT JOIN swapped w ON w.corpus = s.corpus AND w.corpus_says = s.corpus_says
WHERE s.split_says <> u.means OR w.corpus_says IS NOT NULL
ORDER BY s.corpus_says, s.split_says, s.utterance_id
