-- title: classes are distributed otherwise in test than in training
-- level: warning from a total variation of 0.3, info from 0.2, where chance alone would explain it in less than 1 of 1000 cases
-- explanation: total variation is the share of test utterances that would have to change class to give training's distribution (0 none, 1 all); priors learnt in training then mislead, and WA moves with the mix rather than with the head
-- action: report UA, which does not depend on the mix; choose folds of a similar mix if the corpus allows it
WITH shares AS (
  SELECT protocol, fold, label, coalesce(sum(n) FILTER (role = 'train'), 0) AS train, coalesce(sum(n) FILTER (role = 'test'), 0) AS test
  FROM sided_labels GROUP BY ALL
), totals AS (
  SELECT *, sum(train) OVER w AS trains, sum(test) OVER w AS tests, count(*) OVER w AS classes FROM shares
  WHERE train + test > 0  -- a class of the validation side alone is in neither
  WINDOW w AS (PARTITION BY protocol, fold)
), effects AS (
  SELECT protocol, fold, any_value(classes) AS classes, any_value(tests) AS tests,
    sum(abs(test / tests - train / trains)) / 2 AS total_variation,
    sum((train - trains * (train + test) / (trains + tests)) ** 2 / (trains * (train + test) / (trains + tests))
      + (test - tests * (train + test) / (trains + tests)) ** 2 / (tests * (train + test) / (trains + tests))) AS chi2,
    any_value(trains + tests) AS n, max_by(label, key) AS class, max_by(test / tests, key) AS share_in_test,
    max_by(train / trains, key) AS share_in_train
  FROM (SELECT *, (round(abs(test / tests - train / trains), 9), label) AS key FROM totals WHERE trains > 0 AND tests > 0) GROUP BY protocol, fold
)
SELECT protocol, (SELECT any_value(p.corpora) FROM protocols p WHERE p.protocol = e.protocol) AS corpus, fold,
  CASE WHEN total_variation >= 0.3 THEN 'warning' ELSE 'info' END AS level, round(total_variation, 3) AS total_variation,
  round(sqrt(chi2 / n), 3) AS cramers_v, class, round(share_in_test, 3) AS share_in_test, round(share_in_train, 3) AS share_in_train
FROM effects e
-- the 99.9 % point of chi squared with k = classes - 1 degrees of freedom, by Wilson and Hilferty
WHERE classes > 1 AND total_variation >= 0.2
  AND chi2 > (classes - 1) * (1 - 2 / (9.0 * (classes - 1)) + 3.09 * sqrt(2 / (9.0 * (classes - 1)))) ** 3
ORDER BY protocol, fold
