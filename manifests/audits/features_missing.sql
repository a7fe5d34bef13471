-- title: features missing or stale
-- level: error
-- explanation: utterances of the protocol that a feature set lacks, or whose audio changed since they were extracted, and that neither the scan nor that feature set's extraction listed as skipped
-- action: run `tfser extract` for that feature set again (of a joined one `tfser cache join`, of an imported one `tfser import-features`); it finishes exactly what is missing
-- kind: gap
SELECT m.protocol, m.corpus, NULL::INTEGER AS fold, 'error' AS level, c.feature_set, m.utterance_id
FROM members m
JOIN checked_feature_sets c ON c.corpus = m.corpus
LEFT JOIN features f ON f.feature_set = c.feature_set AND f.corpus = m.corpus AND f.utterance_id = m.utterance_id
LEFT JOIN skipped s ON s.corpus = m.corpus AND s.utterance_id = m.utterance_id
  AND s.stage IN ('scan', 'extract:' || c.feature_set)
WHERE f.utterance_id IS NULL AND s.utterance_id IS NULL
ORDER BY m.protocol, c.feature_set, m.corpus, m.utterance_id
