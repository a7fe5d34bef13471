-- title: layer mix learned in another fold
-- level: error
-- explanation: the features are a sum of an encoder's layers whose weights were trained in one fold of one protocol; other folds, protocols and validation policies test or validate on utterances that the weights were trained on
-- action: train the fold that the mix belongs to, collapse a run of this very fold (`tfser cache collapse --run`), or train on the features of all layers, which learns the weights anew in each fold
SELECT DISTINCT p.protocol, p.corpora AS corpus, r.fold, 'error' AS level, c.feature_set,
  s.config ->> '$.belongs_to.protocol' AS learned_on, (s.config ->> '$.belongs_to.fold')::INTEGER AS learned_in_fold,
  CASE WHEN (s.config ->> '$.belongs_to.protocol') <> p.protocol THEN 'another protocol'
       WHEN (s.config ->> '$.belongs_to.corpora') <> p.corpora OR (s.config ->> '$.belongs_to.protocol_hash') <> p.hash
         THEN 'the protocol has other rows now'
       ELSE 'another fold' END AS because
FROM checked_feature_sets c
JOIN feature_sets s ON s.feature_set = c.feature_set
JOIN protocols p ON p.corpus = c.corpus
JOIN fold_roles r ON r.protocol = p.protocol AND r.corpus = p.corpus
WHERE (s.config ->> '$.belongs_to.run_id') IS NOT NULL
  AND NOT coalesce((s.config ->> '$.belongs_to.corpora') = p.corpora AND (s.config ->> '$.belongs_to.protocol') = p.protocol
    AND (s.config ->> '$.belongs_to.protocol_hash') = p.hash AND (s.config ->> '$.belongs_to.fold')::INTEGER = r.fold, FALSE)
ORDER BY c.feature_set, r.fold
