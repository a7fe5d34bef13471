-- title: speakers in both training and validation
-- level: warning
-- explanation: the epoch is chosen on voices that training has heard: validation scores flatter, and favour epochs that fit those voices
-- action: hold whole speakers out (validation speakers:1 or next-group), or say that validation shares speakers with training
SELECT v.protocol, v.corpus, v.fold, 'warning' AS level, count(*) AS speakers, sum(v.n)::BIGINT AS val_utterances,
  min(v.value) AS for_instance
FROM sided v
JOIN sided t ON t.protocol = v.protocol AND t.corpus = v.corpus AND t.fold = v.fold AND t.value = v.value
  AND v.kind = 'speaker' AND t.kind = 'speaker' AND v.role = 'val' AND t.role = 'train'
GROUP BY v.protocol, v.corpus, v.fold
ORDER BY v.protocol, v.fold, v.corpus
