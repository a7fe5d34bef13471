-- title: utterances in no fold
-- level: error
-- explanation: the protocol's classes cover these utterances, but no fold trains or tests on them: the score is of another corpus
-- action: fill the column that the folds are made of (speaker, session, split) and scan again
-- kind: gap
SELECT a.protocol, a.corpus, NULL::INTEGER AS fold, 'error' AS level, a.utterance_id, a."group" AS grouped_as, p.grouped_by
FROM assignments a
JOIN protocols p ON p.protocol = a.protocol AND p.corpus = a.corpus
WHERE a.fold IS NULL
ORDER BY a.protocol, a.corpus, a.utterance_id
