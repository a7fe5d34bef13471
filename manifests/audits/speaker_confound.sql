-- title: who speaks gives the class away
-- level: warning where knowing the speaker removes 0.3 of the uncertainty about the class, info from 0.15; warning where speakers of one class only hold 0.1 of the utterances
-- explanation: speakers have classes of their own, so a head that recognises voices scores on any side that shares them, and learns voices where it should learn emotions
-- action: keep speakers apart, and report UA by speaker; drop speakers of one class with a table of your own, or say that they are there
WITH cells AS (
  SELECT protocol, corpus, speaker, label, count(*) AS n FROM all_members WHERE speaker IS NOT NULL GROUP BY ALL
), margins AS (
  SELECT *, sum(n) OVER (PARTITION BY corpus, speaker) AS of_speaker, sum(n) OVER (PARTITION BY corpus, label) AS of_label,
    sum(n) OVER (PARTITION BY corpus) AS total, count(*) OVER (PARTITION BY corpus, speaker) AS own_classes
  FROM cells
), bits AS (
  SELECT protocol, corpus, any_value(total) AS total, count(DISTINCT speaker) AS speakers, count(DISTINCT label) AS classes,
    sum(n / total * ln(n * total / (of_speaker * of_label))) AS information, -sum(n / total * ln(of_label / total)) AS uncertainty,
    count(DISTINCT speaker) FILTER (own_classes = 1 AND of_speaker >= 10) AS speakers_of_one_class,
    coalesce(sum(n) FILTER (own_classes = 1 AND of_speaker >= 10), 0)::BIGINT AS their_utterances,
    min(speaker) FILTER (own_classes = 1 AND of_speaker >= 10) AS example
  FROM margins GROUP BY protocol, corpus
), judged AS (  -- mutual information less what chance alone would show
  SELECT *, least(greatest(information - (speakers - 1) * (classes - 1) / (2 * total), 0) / uncertainty, 1) AS share,
    their_utterances / total AS share_of_one
  FROM bits WHERE classes > 1 AND speakers > 1 AND uncertainty > 0
)
SELECT protocol, corpus, NULL::INTEGER AS fold, CASE WHEN share >= 0.3 OR share_of_one >= 0.1 THEN 'warning' ELSE 'info' END AS level,
  round(share, 3) AS uncertainty_removed, speakers, speakers_of_one_class, their_utterances, example
FROM judged WHERE share >= 0.15 OR share_of_one >= 0.1
ORDER BY protocol, corpus
