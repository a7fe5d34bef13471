-- title: classes without utterances
-- level: error in train, warning in val and test
-- explanation: a class that training never hears cannot be learnt; one that the test side lacks is left out of that fold's UA
-- action: choose folds or a label map that keep each class on each side; report the score pooled over folds, too
-- kind: gap
WITH named AS (
  SELECT protocol, any_value(corpora) AS corpus, any_value(classes) AS classes FROM protocols GROUP BY protocol
), expected AS (  -- the sides that each fold must have, whether or not anybody stands there
  SELECT DISTINCT p.protocol, r.role FROM protocols p, (VALUES ('train'), ('val'), ('test')) r(role)
  WHERE r.role <> 'val' OR p.validation NOT IN ('none', 'split')
    OR (p.validation = 'split' AND EXISTS (SELECT 1 FROM utterances u WHERE u.corpus = p.corpus AND u.split = 'val'))
), wanted AS (
  SELECT protocol, fold, role FROM sided_labels
  UNION
  SELECT e.protocol, r.fold, e.role FROM expected e
  JOIN (SELECT DISTINCT protocol, fold FROM fold_roles WHERE tested_in = fold) r ON r.protocol = e.protocol
), classes AS (SELECT protocol, corpus, unnest(classes) AS class FROM named)
SELECT w.protocol, c.corpus, w.fold, CASE w.role WHEN 'train' THEN 'error' ELSE 'warning' END AS level, w.role, c.class
FROM wanted w JOIN classes c ON c.protocol = w.protocol
LEFT JOIN sided_labels s ON s.protocol = w.protocol AND s.fold = w.fold AND s.role = w.role AND s.label = c.class
WHERE s.label IS NULL
ORDER BY w.protocol, w.fold, w.role, c.class
