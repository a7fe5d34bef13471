-- title: sessions on both sides
-- level: error where the protocol keeps sessions apart, else warning
-- explanation: test and training share a recording session: its room, microphone and partner are known to the head
-- action: group the folds by session (loso-session), or say that sessions are shared
WITH counted AS (  -- before the folds are rolled out: a million rows stay a million
  SELECT a.protocol, a.corpus, a.fold AS tested_in, a.role AS fixed, a.part, u.session, count(*) AS n
  FROM all_assignments a JOIN utterances u ON u.corpus = a.corpus AND u.utterance_id = a.utterance_id
  WHERE u.session IS NOT NULL GROUP BY ALL
), sides AS (
  SELECT c.protocol, c.corpus, r.fold, c.session,
    CASE WHEN h.part IS NOT NULL AND coalesce(c.fixed, r.role) = 'train' THEN 'val' ELSE coalesce(c.fixed, r.role) END AS role,
    sum(c.n)::BIGINT AS n
  FROM counted c JOIN fold_roles r ON r.protocol = c.protocol AND r.corpus = c.corpus AND r.tested_in = c.tested_in
  LEFT JOIN held_out h ON h.protocol = c.protocol AND h.corpus = c.corpus AND h.part = c.part AND h.fold = r.fold
  GROUP BY ALL
)
SELECT t.protocol, t.corpus, t.fold,
  CASE WHEN list_contains(p.keeps_apart, 'session') THEN 'error' ELSE 'warning' END AS level,
  t.session, t.n AS test_utterances, coalesce(sum(o.n) FILTER (o.role = 'train'), 0)::BIGINT AS train_utterances,
  coalesce(sum(o.n) FILTER (o.role = 'val'), 0)::BIGINT AS val_utterances
FROM sides t
JOIN sides o ON o.protocol = t.protocol AND o.corpus = t.corpus AND o.fold = t.fold AND o.session = t.session
  AND t.role = 'test' AND o.role IN ('train', 'val')
JOIN protocols p ON p.protocol = t.protocol AND p.corpus = t.corpus
GROUP BY ALL
ORDER BY t.protocol, t.fold, t.corpus, t.session
