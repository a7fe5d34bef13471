-- title: sentences on both sides
-- level: info
-- explanation: the same sentences are read on both sides, as acted corpora have it: a score says nothing about other words
-- action: nothing is wrong; say in a report that sentences recur, and for how many of the test utterances
SELECT t.protocol, t.corpus, t.fold, 'info' AS level, count(*) FILTER (o.n > 0) AS sentences,
  coalesce(sum(t.n) FILTER (o.n > 0), 0)::BIGINT AS test_utterances,
  round(coalesce(sum(t.n) FILTER (o.n > 0), 0) / sum(t.n), 3) AS share_of_test
FROM sided t
LEFT JOIN sided o ON o.kind = 'sentence' AND o.corpus = t.corpus AND o.fold = t.fold AND o.value = t.value AND o.role = 'train'
WHERE t.kind = 'sentence' AND t.role = 'test'
GROUP BY ALL
HAVING count(o.n) > 0
ORDER BY t.protocol, t.fold, t.corpus
