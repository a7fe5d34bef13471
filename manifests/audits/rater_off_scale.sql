-- title: ratings beyond the corpus's scale
-- level: warning
-- explanation: raters of this corpus could give values of its scale only; what lies beyond was mistyped, or is of another scale, and pulls means and agreement
-- action: compare with the corpus's documentation; mend or leave out these rows in a table of ratings (--annotations) and scan again
WITH given AS (
  UNPIVOT (SELECT corpus, utterance_id, rater, valence, arousal, dominance FROM annotations) ON valence, arousal, dominance INTO NAME target VALUE value
)
SELECT p.protocol, g.corpus, NULL::INTEGER AS fold, 'warning' AS level, g.target, count(*) AS ratings, s.least AS scale_least,
  s.most AS scale_most, min(g.value) AS smallest, max(g.value) AS largest, min(g.utterance_id) AS example
FROM given g JOIN protocols p ON p.corpus = g.corpus JOIN corpora c ON c.corpus = g.corpus JOIN rating_scales s ON s.adapter = c.adapter
WHERE g.value < s.least OR g.value > s.most
GROUP BY p.protocol, g.corpus, g.target, s.least, s.most
ORDER BY g.corpus, g.target
