-- title: utterances that the split lists twice on one side
-- level: warning
-- explanation: a second row of the same utterance in the same role and fold counts it twice, in training or in the score
-- action: remove the second row
SELECT p.protocol, r.corpus, r.fold, 'warning' AS level, r.utterance_id, coalesce(r.role, 'test') AS role, count(*) AS rows_of_split,
  string_agg(DISTINCT r.written, ', ' ORDER BY r.written) AS written, string_agg(DISTINCT r.file || ':' || r.line, ', ' ORDER BY r.file || ':' || r.line) AS files
FROM split_rows r JOIN protocols p ON p.corpus = r.corpus
WHERE r.matches = 1
GROUP BY p.protocol, r.corpus, r.fold, r.role, r.utterance_id HAVING count(*) > 1
ORDER BY r.fold, r.role, r.utterance_id
