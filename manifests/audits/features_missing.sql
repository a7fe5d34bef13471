-- title: features missing or stale
-- level: error
-- explanation: utterances of the protocol that a feature set lacks, or whose audio changed since they were extracted, and that neither the scan nor that feature set's extraction listed as skipped
-- action: run `tfser extract` for that feature set again; it finishes exactly what is missing
SELECT a.protocol, a.corpus, NULL::INTEGER AS fold, 'error' AS level, c.feature_set, a.utterance_id
FROM assignments a
JOIN checked_feature_sets c ON c.corpus = a.corpus
LEFT JOIN features f ON f.feature_set = c.feature_set AND f.corpus = a.corpus AND f.utterance_id = a.utterance_id
LEFT JOIN skipped s ON s.corpus = a.corpus AND s.utterance_id = a.utterance_id
  AND s.stage IN ('scan', 'extract:' || c.feature_set)
WHERE f.utterance_id IS NULL AND s.utterance_id IS NULL
ORDER BY a.protocol, c.feature_set, a.utterance_id
