-- title: speakers that cannot be checked
-- level: error
-- explanation: the protocol keeps speakers apart, but these utterances name no speaker ("Unknown" and the like name nobody), so nobody can tell whether they leak
-- action: fill the column speaker, or choose a protocol that does not claim to keep speakers apart
WITH nameless AS (
  SELECT a.protocol, a.corpus, a.utterance_id
  FROM all_assignments a
  JOIN utterances u ON u.corpus = a.corpus AND u.utterance_id = a.utterance_id
  JOIN protocols p ON p.protocol = a.protocol AND p.corpus = a.corpus
  WHERE u.speaker IS NULL AND a.fold IS NOT NULL AND list_contains(p.keeps_apart, 'speaker')
)
SELECT r.protocol, r.corpus, r.fold, 'error' AS level, n.utterances, n.example
FROM (SELECT protocol, corpus, count(DISTINCT utterance_id) AS utterances, min(utterance_id) AS example FROM nameless GROUP BY ALL) n
JOIN (SELECT DISTINCT protocol, corpus, fold FROM fold_roles) r ON r.protocol = n.protocol AND r.corpus = n.corpus
ORDER BY r.protocol, r.fold, r.corpus
