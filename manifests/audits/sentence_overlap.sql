-- title: sentences on both sides
-- level: info
-- explanation: the same sentences are read on both sides, as acted corpora have it: a score says nothing about other words
-- action: nothing is wrong; say in a report that sentences recur
SELECT f.protocol, f.corpus, f.fold, 'info' AS level,
  count(DISTINCT u.sentence) AS sentences, count(*) AS test_utterances
FROM folds f
JOIN utterances u ON u.corpus = f.corpus AND u.utterance_id = f.utterance_id
WHERE f.role = 'test' AND EXISTS (
  SELECT 1 FROM folds o JOIN utterances v ON v.corpus = o.corpus AND v.utterance_id = o.utterance_id
  WHERE o.protocol = f.protocol AND o.corpus = f.corpus AND o.fold = f.fold AND o.role = 'train' AND v.sentence = u.sentence
)
GROUP BY ALL
ORDER BY f.protocol, f.fold
