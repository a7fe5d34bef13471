-- title: utterances that were not compared for near-duplicates
-- level: info
-- explanation: the corpus was searched for near-duplicates, but these utterances came, or their audio changed, since then
-- action: run `tfser audit --near-duplicates` again; it computes exactly what is missing
SELECT m.protocol, m.corpus, NULL::INTEGER AS fold, 'info' AS level, count(*) AS utterances, min(m.utterance_id) AS example
FROM members m
WHERE m.content_hash IS NOT NULL AND EXISTS (SELECT 1 FROM fingerprints f WHERE f.corpus = m.corpus)
  AND NOT EXISTS (SELECT 1 FROM fingerprints f WHERE f.corpus = m.corpus AND f.utterance_id = m.utterance_id)
GROUP BY m.protocol, m.corpus
ORDER BY m.corpus
