-- title: recordings that the corpus holds more than once
-- level: warning where copies differ in speaker, label or gender, else info
-- explanation: the same samples stand under several ids, whatever side they are on; where the copies name two speakers, labels or genders, at least one of the rows is wrong, and such speakers may be one person
-- action: look at the copies, and keep one row of each (own protocols can leave rows out by a condition)
WITH copies AS (
  SELECT u.corpus, u.content_hash, count(*) AS copies, min(u.utterance_id) AS utterance, max(u.utterance_id) AS other_utterance,
    list(DISTINCT u.speaker ORDER BY u.speaker) FILTER (u.speaker IS NOT NULL) AS speakers,
    list(DISTINCT u.label ORDER BY u.label) FILTER (u.label IS NOT NULL) AS labels,
    list(DISTINCT u.gender ORDER BY u.gender) FILTER (u.gender IS NOT NULL) AS genders
  FROM utterances u
  WHERE u.content_hash IS NOT NULL AND u.corpus IN (SELECT corpus FROM protocols)
  GROUP BY u.corpus, u.content_hash HAVING count(*) > 1
), judged AS (
  SELECT *, list_filter([CASE WHEN len(speakers) > 1 THEN 'speaker' END, CASE WHEN len(labels) > 1 THEN 'label' END,
    CASE WHEN len(genders) > 1 THEN 'gender' END], lambda x: x IS NOT NULL) AS differ FROM copies
)
SELECT p.protocol, j.corpus, NULL::INTEGER AS fold, CASE WHEN len(j.differ) > 0 THEN 'warning' ELSE 'info' END AS level,
  j.copies, j.utterance, j.other_utterance, array_to_string(j.differ, ', ') AS differ_in, array_to_string(j.speakers, ', ') AS speakers,
  array_to_string(j.labels, ', ') AS labels
FROM judged j JOIN protocols p ON p.corpus = j.corpus
ORDER BY j.corpus, len(j.differ) DESC, j.utterance
