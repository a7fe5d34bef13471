-- title: the length of an utterance gives its class away
-- level: warning where it gains 0.3 of the way from chance to 1, info from 0.15
-- explanation: the classifier that knows the length alone (nearest class mean of its logarithm, learnt on each fold's training side, UA over all test utterances) beats chance: padding, truncation and frame counts tell a head the class
-- action: pad and pool with masks, and report this score beside yours; if the lengths come from cutting or padding and not from speech, cut all classes alike
SELECT protocol, corpus, NULL::INTEGER AS fold, CASE WHEN gain >= 0.3 THEN 'warning' ELSE 'info' END AS level,
  round(ua, 3) AS UA_from_length, round(chance, 3) AS chance, test_utterances
FROM class_by_length WHERE gain >= 0.15
ORDER BY protocol
