-- title: sessions on both sides
-- level: error where the protocol keeps sessions apart, else warning
-- explanation: test and training share a recording session: its room, microphone and partner are known to the head
-- action: group the folds by session (loso-session), or say that sessions are shared
WITH sides AS (
  SELECT protocol, corpus, fold, role, session, count(*) AS n
  FROM fold_utterances WHERE session IS NOT NULL GROUP BY ALL
)
SELECT t.protocol, t.corpus, t.fold,
  CASE WHEN list_contains(p.keeps_apart, 'session') THEN 'error' ELSE 'warning' END AS level,
  t.session, t.n AS test_utterances, sum(o.n)::BIGINT AS other_utterances
FROM sides t
JOIN sides o ON o.protocol = t.protocol AND o.corpus = t.corpus AND o.fold = t.fold AND o.session = t.session
  AND t.role = 'test' AND o.role IN ('train', 'val')
JOIN protocols p ON p.protocol = t.protocol AND p.corpus = t.corpus
GROUP BY ALL
ORDER BY t.protocol, t.fold, t.session
