-- title: sentences on both sides
-- level: error where the protocol keeps sentences apart, else info
-- explanation: the same sentences are read on both sides, as acted corpora have it: a score says nothing about other words
-- action: where sentences are to be new, group by them, too; else say in a report for how many test utterances they recur
WITH claimed AS (
  SELECT protocol, corpus, list_contains(keeps_apart, 'sentence') AS apart FROM protocols
), heard AS (  -- validation counts where sentences are to be kept apart
  SELECT DISTINCT s.corpus, s.fold, s.value FROM sided s JOIN claimed c ON c.protocol = s.protocol AND c.corpus = s.corpus
  WHERE s.kind = 'sentence' AND s.value IS NOT NULL AND (s.role = 'train' OR (s.role = 'val' AND c.apart))
)
SELECT t.protocol, t.corpus, t.fold, CASE WHEN any_value(c.apart) THEN 'error' ELSE 'info' END AS level,
  count(*) FILTER (h.value IS NOT NULL) AS sentences,
  coalesce(sum(t.n) FILTER (h.value IS NOT NULL), 0)::BIGINT AS test_utterances,
  round(coalesce(sum(t.n) FILTER (h.value IS NOT NULL), 0) / sum(t.n), 3) AS share_of_test
FROM sided t
JOIN claimed c ON c.protocol = t.protocol AND c.corpus = t.corpus
LEFT JOIN heard h ON h.corpus = t.corpus AND h.fold = t.fold AND h.value = t.value
WHERE t.kind = 'sentence' AND t.role = 'test'
GROUP BY t.protocol, t.corpus, t.fold
HAVING count(h.value) > 0
ORDER BY t.protocol, t.fold, t.corpus
