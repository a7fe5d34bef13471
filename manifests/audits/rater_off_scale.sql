-- title: ratings beyond the corpus's scale
-- level: warning
-- explanation: raters of this corpus could give values of its scale only; what lies beyond was mistyped, or is of another scale, and pulls means and agreement
-- action: compare with the corpus's documentation; declare the scale if it is another (tfser scan --scale 1-7), or mend or leave out these rows in a table of ratings (--annotations) and scan again
WITH given AS (
  UNPIVOT (SELECT corpus, utterance_id, rater, valence, arousal, dominance FROM annotations) ON valence, arousal, dominance INTO NAME target VALUE value
)
SELECT p.protocol, g.corpus, NULL::INTEGER AS fold, 'warning' AS level, g.target, count(*) AS ratings, s.low AS scale_least,
  s.high AS scale_most, min(g.value) AS smallest, max(g.value) AS largest, min(g.utterance_id) AS example
FROM given g JOIN protocols p ON p.corpus = g.corpus JOIN scales s ON s.corpus = g.corpus
WHERE g.value < s.low OR g.value > s.high
GROUP BY p.protocol, g.corpus, g.target, s.low, s.high
ORDER BY g.corpus, g.target
