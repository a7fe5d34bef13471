-- title: odd recordings gather in a class
-- level: warning
-- explanation: silent, clipped, damaged or oddly long or short recordings are at least 5 % of a class, at least 5 of them, and at least three times as frequent there as in the other classes: the flaw tells the class
-- action: look at them (tfser sql with list_contains(flags, 'clipped')), and mend or drop them with a table of your own
WITH flagged AS (
  SELECT protocol, corpus, label, unnest(flags) AS flag FROM members WHERE len(flags) > 0
), counts AS (
  SELECT protocol, corpus, label, flag, count(*) AS n FROM flagged GROUP BY ALL
), totals AS (
  SELECT protocol, corpus, label, count(*) AS of_class, sum(count(*)) OVER (PARTITION BY protocol, corpus) AS of_all
  FROM members GROUP BY protocol, corpus, label
), shares AS (
  SELECT c.*, c.n / t.of_class AS share,
    (sum(c.n) OVER (PARTITION BY c.protocol, c.corpus, c.flag) - c.n) / (t.of_all - t.of_class) AS share_elsewhere
  FROM counts c JOIN totals t ON t.protocol = c.protocol AND t.corpus = c.corpus AND t.label = c.label
  WHERE t.of_all > t.of_class
)
SELECT protocol, corpus, NULL::INTEGER AS fold, 'warning' AS level, flag, label AS class, n AS utterances, round(share, 3) AS share,
  round(share_elsewhere, 3) AS share_elsewhere
FROM shares WHERE n >= 5 AND share >= 0.05 AND share >= 3 * share_elsewhere
ORDER BY protocol, corpus, share DESC, class, flag
