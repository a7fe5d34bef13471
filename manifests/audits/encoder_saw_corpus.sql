-- title: the encoder may have heard the corpus
-- level: warning where its card or its name says so, info where its training data are not listed or only a classifier saw them
-- explanation: an encoder that was trained on a corpus knows its test speakers, and perhaps their labels, whatever the folds are
-- action: take an encoder that never saw the corpus, or say in a report that it did; `source` says where this was read
WITH named AS (
  SELECT feature_set, regexp_extract(feature_set, '^[^/+@]+') AS stem, lower(json_extract_string(source, '$.weights')) AS weights
  FROM feature_sets
), parts AS (  -- what names no source itself, a joined set or a sum of layers, has the encoders that its name is made of
  SELECT DISTINCT c.feature_set, c.corpus, n.weights
  FROM checked_feature_sets c LEFT JOIN named own ON own.feature_set = c.feature_set
  JOIN named n ON n.feature_set = c.feature_set OR (own.weights IS NULL
    AND list_contains(list_transform(string_split(c.feature_set, '+'), lambda part: regexp_extract(part, '^[^/@]+')), n.stem))
), used AS (
  SELECT p.protocol, p.corpus, o.adapter, s.feature_set, s.weights,
    string_split(replace(rtrim(s.weights, '/\'), '\', '/'), '/')[-1] AS called
  FROM parts s JOIN protocols p ON p.corpus = s.corpus JOIN corpora o ON o.corpus = p.corpus WHERE s.weights IS NOT NULL
), carded AS (
  SELECT u.*, k.encoder, k.heard, k.part, k.source FROM used u JOIN encoder_cards k
    ON lower(k.encoder) = u.weights OR string_split(lower(k.encoder), '/')[-1] = u.called
), found AS (
  SELECT protocol, corpus, feature_set, encoder, CASE WHEN part = 'encoder' THEN 'warning' ELSE 'info' END AS level,
    part || ' was trained on ' || heard AS heard, source
  FROM carded WHERE heard IN (adapter, corpus)
  UNION ALL
  SELECT u.protocol, u.corpus, u.feature_set, u.weights, 'warning', 'its name says ' || n.word, 'its name; it has no card'
  FROM used u JOIN encoder_names n ON contains(u.called, n.word) AND n.heard IN (u.adapter, u.corpus)
  WHERE NOT EXISTS (SELECT 1 FROM carded c WHERE c.feature_set = u.feature_set AND c.weights = u.weights)
), unlisted AS (
  SELECT DISTINCT protocol, corpus, feature_set, encoder, 'info' AS level, 'its training data are not all listed' AS heard, source
  FROM carded c WHERE heard IS NULL AND NOT EXISTS (
    SELECT 1 FROM found f WHERE f.feature_set = c.feature_set AND f.corpus = c.corpus)
)
SELECT DISTINCT protocol, corpus, NULL::INTEGER AS fold, level, feature_set, encoder, heard, source
FROM (SELECT * FROM found UNION ALL SELECT * FROM unlisted)
ORDER BY protocol, corpus, feature_set, encoder, heard
