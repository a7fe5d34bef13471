-- title: the length of an utterance gives its class away
-- level: warning where it gains 0.3 of the way from chance to 1, info from 0.15
-- explanation: the classifier that knows the length alone (nearest class mean of its logarithm, learnt on each fold's training side, UA over all test utterances) beats chance: padding, truncation and frame counts tell a head the class
-- action: pad and pool with masks, and report this score beside yours; if the lengths come from cutting or padding and not from speech, cut all classes alike
WITH measured AS (
  SELECT a.protocol, a.corpus, a.fold AS tested_in, a.role AS fixed, a.part, a.label, ln(greatest(u.duration_s, 1e-3)) AS x
  FROM assignments a JOIN utterances u ON u.corpus = a.corpus AND u.utterance_id = a.utterance_id
  WHERE isfinite(ln(greatest(u.duration_s, 1e-3)))
), counted AS (
  SELECT protocol, corpus, tested_in, fixed, part, label, count(*) AS n, sum(x) AS total FROM measured GROUP BY ALL
), means AS (  -- of each class, on the training side of each fold
  SELECT c.protocol, r.fold, c.label, sum(c.total) / sum(c.n) AS mean
  FROM counted c JOIN fold_roles r ON r.protocol = c.protocol AND r.corpus = c.corpus AND r.tested_in = c.tested_in
  LEFT JOIN held_out h ON h.protocol = c.protocol AND h.corpus = c.corpus AND h.part = c.part AND h.fold = r.fold
  WHERE coalesce(c.fixed, r.role) = 'train' AND h.part IS NULL GROUP BY ALL
), borders AS (  -- a class is the nearest from the middle to the one below on
  SELECT *, coalesce((lag(mean) OVER w + mean) / 2, '-inf'::DOUBLE) AS low
  FROM means WINDOW w AS (PARTITION BY protocol, fold ORDER BY mean, label)
), classifiers AS (
  SELECT protocol, fold, list(low ORDER BY mean, label) AS lows, list(label ORDER BY mean, label) AS labels
  FROM borders GROUP BY protocol, fold
), tested AS (
  SELECT m.protocol, r.fold, m.label, m.x FROM measured m
  JOIN fold_roles r ON r.protocol = m.protocol AND r.corpus = m.corpus AND r.tested_in = m.tested_in
    AND coalesce(m.fixed, r.role) = 'test'
), recalls AS (
  SELECT t.protocol, t.label, count(*) AS n,
    avg((c.labels[list_sum(list_transform(c.lows, lambda low: (t.x >= low)::INTEGER))::BIGINT] = t.label)::INTEGER) AS recall
  FROM tested t JOIN classifiers c ON c.protocol = t.protocol AND c.fold = t.fold
  GROUP BY ALL
), scores AS (
  SELECT protocol, count(*) AS classes, avg(recall) AS ua, sum(n)::BIGINT AS n FROM recalls GROUP BY protocol
), judged AS (SELECT *, (ua - 1 / classes) / (1 - 1 / classes) AS gain FROM scores WHERE classes > 1)
SELECT protocol, (SELECT any_value(p.corpora) FROM protocols p WHERE p.protocol = j.protocol) AS corpus, NULL::INTEGER AS fold,
  CASE WHEN gain >= 0.3 THEN 'warning' ELSE 'info' END AS level, round(ua, 3) AS UA_from_length, round(1 / classes, 3) AS chance,
  n AS test_utterances
FROM judged j WHERE gain >= 0.15
ORDER BY protocol
