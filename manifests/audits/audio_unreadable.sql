-- title: utterances without readable audio
-- level: error where a protocol has none that can be read, warning from 1 %, else info
-- explanation: nobody can train or test on these utterances; who speaks on which side is judged with them all the same, and where no audio can be read at all, so are the classes
-- action: look at the reasons (tfser sql "SELECT reason, count(*) AS n FROM skipped WHERE stage = 'scan' GROUP BY ALL"), bring the files, and scan again
-- kind: gap
WITH counted AS (
  SELECT m.protocol, m.corpus, count(*) AS utterances, count(*) FILTER (m.content_hash IS NULL OR s.utterance_id IS NOT NULL) AS unreadable,
    min(m.utterance_id) FILTER (m.content_hash IS NULL OR s.utterance_id IS NOT NULL) AS example
  FROM (SELECT DISTINCT protocol, corpus, utterance_id, content_hash FROM all_members) m
  LEFT JOIN (SELECT DISTINCT corpus, utterance_id FROM skipped WHERE stage = 'scan') s
    ON s.corpus = m.corpus AND s.utterance_id = m.utterance_id
  GROUP BY m.protocol, m.corpus
)
SELECT c.protocol, c.corpus, NULL::INTEGER AS fold,
  CASE WHEN c.unreadable = c.utterances AND p.version IS NOT NULL THEN 'error'
       WHEN c.unreadable >= 0.01 * c.utterances THEN 'warning' ELSE 'info' END AS level,
  c.unreadable, c.utterances AS of_utterances, c.example
FROM counted c JOIN protocols p ON p.protocol = c.protocol AND p.corpus = c.corpus
WHERE c.unreadable > 0
ORDER BY c.corpus
