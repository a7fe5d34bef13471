-- title: recording conditions differ by class
-- level: warning from a Cramer's V of 0.3 between sample rate and class, info from 0.1
-- explanation: files of some classes have another sample rate, so their bandwidth, which a head hears, tells the class (0: no relation, 1: the rate determines the class; corrected for chance)
-- action: resample all files to the lowest rate before extracting, and look at where the files come from
WITH cells AS (
  SELECT protocol, corpus, sample_rate, label, count(*) AS n FROM members WHERE sample_rate IS NOT NULL AND label IS NOT NULL GROUP BY ALL
), margins AS (
  SELECT *, sum(n) OVER (PARTITION BY corpus, sample_rate) AS of_rate, sum(n) OVER (PARTITION BY corpus, label) AS of_label,
    sum(n) OVER (PARTITION BY corpus) AS total
  FROM cells
), sums AS (
  SELECT protocol, corpus, any_value(total) AS total, count(DISTINCT sample_rate) AS rates, count(DISTINCT label) AS classes,
    sum(n * n / (of_rate * of_label)) - 1 AS phi2, list(DISTINCT sample_rate ORDER BY sample_rate) AS sample_rates
  FROM margins GROUP BY protocol, corpus
), judged AS (  -- Bergsma's correction
  SELECT *, sqrt(greatest(phi2 - (rates - 1) * (classes - 1) / (total - 1), 0)
    / least(rates - (rates - 1) ** 2 / (total - 1) - 1, classes - (classes - 1) ** 2 / (total - 1) - 1)) AS v
  FROM sums WHERE rates > 1 AND classes > 1 AND total > greatest(rates, classes)
)
SELECT protocol, corpus, NULL::INTEGER AS fold, CASE WHEN v >= 0.3 THEN 'warning' ELSE 'info' END AS level,
  round(v, 3) AS cramers_v, sample_rates
FROM judged WHERE v >= 0.1
ORDER BY protocol, corpus
