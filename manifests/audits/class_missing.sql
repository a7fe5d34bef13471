-- title: classes without utterances
-- level: error in train, warning in val and test
-- explanation: a class that training never hears cannot be learnt; one that the test side lacks is left out of that fold's UA
-- action: choose folds or a label map that keep each class on each side; report the score pooled over folds, too
WITH present AS (
  SELECT DISTINCT a.protocol, a.corpus, r.fold, coalesce(a.role, r.role) AS role, a.label
  FROM (SELECT DISTINCT protocol, corpus, fold, role, label FROM assignments) a
  JOIN fold_roles r ON r.protocol = a.protocol AND r.corpus = a.corpus AND r.tested_in = a.fold
), expected AS (  -- the sides that each fold must have, whether or not anybody stands there
  SELECT p.protocol, p.corpus, p.folds, r.role FROM protocols p, (VALUES ('train'), ('val'), ('test')) r(role)
  WHERE r.role <> 'val' OR p.validation = 'next-group'
    OR (p.validation = 'split' AND EXISTS (SELECT 1 FROM utterances u WHERE u.corpus = p.corpus AND u.split = 'val'))
), sides AS (
  SELECT protocol, corpus, fold, role FROM present
  UNION
  SELECT protocol, corpus, unnest(range(1, folds + 1))::INTEGER, role FROM expected
)
SELECT s.protocol, s.corpus, s.fold, CASE s.role WHEN 'train' THEN 'error' ELSE 'warning' END AS level, s.role, c.class
FROM sides s
JOIN (SELECT protocol, corpus, unnest(classes) AS class FROM protocols) c ON c.protocol = s.protocol AND c.corpus = s.corpus
LEFT JOIN present e
  ON e.protocol = s.protocol AND e.corpus = s.corpus AND e.fold = s.fold AND e.role = s.role AND e.label = c.class
WHERE e.label IS NULL
ORDER BY s.protocol, s.fold, s.role, c.class
