-- title: corpora on both sides
-- level: error where the protocol keeps corpora apart
-- explanation: test and training share a corpus: its room, microphone, speakers and raters are known to the head
-- action: let whole corpora train or test (cross:A:B, loco:A,B), or leave corpus out of keeps_apart
WITH sides AS (
  SELECT DISTINCT a.protocol, a.corpus, r.fold, coalesce(a.role, r.role) AS role
  FROM (SELECT DISTINCT protocol, corpus, fold, role FROM all_assignments) a
  JOIN fold_roles r ON r.protocol = a.protocol AND r.corpus = a.corpus AND r.tested_in = a.fold
)
SELECT DISTINCT t.protocol, t.corpus, t.fold, 'error' AS level
FROM sides t
JOIN sides o ON o.protocol = t.protocol AND o.corpus = t.corpus AND o.fold = t.fold AND t.role = 'test' AND o.role <> 'test'
JOIN protocols p ON p.protocol = t.protocol AND p.corpus = t.corpus
WHERE list_contains(p.keeps_apart, 'corpus')
ORDER BY t.protocol, t.fold, t.corpus
