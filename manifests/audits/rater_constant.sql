-- title: raters who always say the same
-- level: warning
-- explanation: a rater of 20 utterances and more who gave all of them one label, or one value, has told nothing about any of them; such raters pull distributions and agreement
-- action: compare with the corpus's documentation; leave the rater's rows out of the table of ratings (--annotations) and scan again
WITH given AS (
  SELECT corpus, rater, 'label' AS target, label_ratings AS ratings, labels AS kinds, usual_label AS always FROM raters
  UNION ALL SELECT corpus, rater, 'valence', valence_ratings, (valence_least <> valence_most)::INTEGER + 1, valence_least::VARCHAR FROM raters
  UNION ALL SELECT corpus, rater, 'arousal', arousal_ratings, (arousal_least <> arousal_most)::INTEGER + 1, arousal_least::VARCHAR FROM raters
  UNION ALL SELECT corpus, rater, 'dominance', dominance_ratings, (dominance_least <> dominance_most)::INTEGER + 1, dominance_least::VARCHAR
    FROM raters
)
SELECT p.protocol, g.corpus, NULL::INTEGER AS fold, 'warning' AS level, g.rater, g.target, g.always, g.ratings
FROM given g JOIN protocols p ON p.corpus = g.corpus
WHERE g.ratings >= 20 AND g.kinds = 1
ORDER BY g.corpus, g.rater, g.target
