-- title: rows of the split that are no utterances of the corpus, or several
-- level: warning
-- explanation: what the split writes is the id or path of none of the corpus's utterances, or fits several equally well; these rows are not audited
-- action: say the corpus that the split is of, scan all of it, or write ids that are unique
SELECT p.protocol, p.corpus, NULL::INTEGER AS fold, 'warning' AS level, CASE WHEN r.matches = 0 THEN 'none' ELSE 'several' END AS fits,
  count(*) AS rows_of_split, r.written, min(r.file) AS file, min(r.line) AS line
FROM split_rows r, protocols p WHERE r.matches <> 1
GROUP BY p.protocol, p.corpus, fits, r.written
ORDER BY fits, min(r.file), min(r.line)
