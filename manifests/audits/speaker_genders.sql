-- title: speakers of two genders
-- level: warning
-- explanation: one speaker's utterances name two genders: the column gender is wrong for some of them, or two people share a name, and then one of them may be tested while "the other" trains
-- action: compare with the corpus's documentation, mend the column gender or speaker, and scan again
WITH counted AS (
  SELECT u.corpus, u.speaker, u.gender, count(*) AS n, min(u.utterance_id) AS example
  FROM utterances u WHERE u.speaker IS NOT NULL AND u.gender IS NOT NULL AND u.corpus IN (SELECT corpus FROM protocols) GROUP BY ALL
)
SELECT p.protocol, c.corpus, NULL::INTEGER AS fold, 'warning' AS level, c.speaker,
  string_agg(c.gender || ' ' || c.n, ', ' ORDER BY c.n DESC, c.gender) AS genders, min_by(c.example, c.n) AS example_of_fewer
FROM counted c JOIN protocols p ON p.corpus = c.corpus
GROUP BY p.protocol, c.corpus, c.speaker HAVING count(*) > 1
ORDER BY c.corpus, c.speaker
