-- title: near-duplicates that the corpus describes otherwise
-- level: warning from 0.9 of the fingerprints' bits alike, else info
-- explanation: two recordings that sound alike (re-encoded, trimmed, louder or quieter copies; looked for by `tfser audit --near-duplicates`) name two labels or two speakers, on whatever sides they are
-- action: listen to the two; one of the labels is wrong, or the two speakers are one person
SELECT p.protocol, d.corpus, NULL::INTEGER AS fold, CASE WHEN d.similarity >= 0.9 THEN 'warning' ELSE 'info' END AS level,
  u.utterance_id AS utterance, CASE WHEN o.corpus = u.corpus THEN o.utterance_id ELSE o.corpus || '/' || o.utterance_id END AS other_utterance,
  round(d.similarity, 3) AS similarity, u.label, o.label AS other_label, u.speaker, o.speaker AS other_speaker
FROM near_duplicates d
JOIN protocols p ON p.corpus = d.corpus
JOIN utterances u ON u.corpus = d.corpus AND u.utterance_id = d.utterance_id
JOIN utterances o ON o.corpus = d.other_corpus AND o.utterance_id = d.other_id
WHERE (d.corpus, d.utterance_id) < (d.other_corpus, d.other_id)  -- each pair stands there both ways
  AND (u.label <> o.label OR (u.corpus = o.corpus AND u.speaker <> o.speaker))
ORDER BY d.corpus, d.similarity DESC, u.utterance_id, o.utterance_id
