-- title: sides on which one class is almost all there is, or almost nothing
-- level: warning where one class exceeds 95 % of a side, or a training side of at least 100 utterances has fewer than 10 of one; info where a test side of at least 20 has fewer than 3 of one
-- explanation: a head that always answers the one class scores high accuracy there; a recall of one or two utterances is luck
-- action: report UA beside WA, and the score pooled over folds; merge or drop rare classes with a label map
WITH shares AS (
  SELECT s.*, sum(s.n) OVER w AS side, s.n / sum(s.n) OVER w AS share,
    (SELECT any_value(p.corpora) FROM protocols p WHERE p.protocol = s.protocol) AS corpus
  FROM sided_labels s WINDOW w AS (PARTITION BY s.protocol, s.fold, s.role)
), judged AS (
  SELECT *, CASE WHEN share > 0.95 THEN 'warning' WHEN role = 'train' AND side >= 100 AND n < 10 THEN 'warning'
    WHEN role = 'test' AND side >= 20 AND n < 3 THEN 'info' END AS level
  FROM shares
)
SELECT protocol, corpus, fold, level, role, label AS class, n AS utterances, round(share, 4) AS share
FROM judged WHERE level IS NOT NULL
ORDER BY protocol, fold, role, class
