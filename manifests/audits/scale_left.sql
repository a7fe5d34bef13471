-- title: ratings outside their corpus's scale
-- level: warning
-- explanation: a rating of valence, arousal or dominance lies beyond the ends of the scale that the corpus is known or declared to be rated on: the scale is another one, or the rating is wrong; mapped to 0..1 it is below 0 or above 1, and no head can predict it
-- action: declare the scale that the corpus was rated on (tfser scan --corpus NAME --scale 1-7), or mend the ratings and scan again
WITH rated AS (
  UNPIVOT (SELECT m.protocol, m.corpus, m.utterance_id, u.valence, u.arousal, u.dominance
    FROM members m JOIN utterances u ON u.corpus = m.corpus AND u.utterance_id = m.utterance_id)
  ON valence, arousal, dominance INTO NAME dimension VALUE rating
)
SELECT r.protocol, r.corpus, NULL::INTEGER AS fold, 'warning' AS level, r.dimension, s.low, s.high,
  min(r.rating) AS lowest, max(r.rating) AS highest, count(*) AS utterances, min(r.utterance_id) AS example
FROM rated r JOIN scales s ON s.corpus = r.corpus
WHERE isfinite(r.rating) AND (r.rating < s.low OR r.rating > s.high)
GROUP BY ALL ORDER BY ALL
