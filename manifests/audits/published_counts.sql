-- title: the corpus has not as many utterances as its documentation says
-- level: warning
-- explanation: a copy that lacks utterances, whose audio cannot be read, or that holds more, is not the corpus that others report scores on
-- action: compare with the corpus's documentation and the list of what was skipped (tfser sql "SELECT * FROM skipped")
SELECT p.protocol, c.corpus, NULL::INTEGER AS fold, 'warning' AS level, count(u.utterance_id) AS utterances,
  count(u.utterance_id) FILTER (u.content_hash IS NOT NULL AND s.utterance_id IS NULL) AS readable, c.expected_utterances AS published
FROM corpora c JOIN protocols p ON p.corpus = c.corpus LEFT JOIN utterances u ON u.corpus = c.corpus
LEFT JOIN (SELECT DISTINCT corpus, utterance_id FROM skipped WHERE stage = 'scan') s
  ON s.corpus = u.corpus AND s.utterance_id = u.utterance_id
WHERE c.expected_utterances IS NOT NULL
GROUP BY p.protocol, c.corpus, c.expected_utterances
HAVING count(u.utterance_id) <> c.expected_utterances OR readable <> c.expected_utterances
ORDER BY c.corpus
