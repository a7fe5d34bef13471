-- title: speakers that cannot be checked
-- level: error
-- explanation: the protocol keeps speakers apart, but these utterances name no speaker, so nobody can tell whether they leak
-- action: fill the column speaker, or choose a protocol that does not claim to keep speakers apart
SELECT f.protocol, f.corpus, f.fold, 'error' AS level, count(*) AS utterances, min(f.utterance_id) AS example
FROM fold_utterances f
JOIN protocols p ON p.protocol = f.protocol AND p.corpus = f.corpus
WHERE f.speaker IS NULL AND list_contains(p.keeps_apart, 'speaker')
GROUP BY ALL
ORDER BY f.protocol, f.fold
