-- title: the level of an utterance gives its class away
-- level: warning where it gains 0.3 of the way from chance to 1, info from 0.15
-- explanation: the classifier that knows the level alone (nearest class mean in dB, learnt on each fold's training side, UA over all test utterances) beats chance: loud anger is speech, but files normalised class by class or several recording sessions are not
-- action: normalise the level of each utterance if your features keep it, and report this score beside yours
SELECT protocol, corpus, NULL::INTEGER AS fold, CASE WHEN gain >= 0.3 THEN 'warning' ELSE 'info' END AS level,
  round(ua, 3) AS UA_from_level, round(chance, 3) AS chance, test_utterances
FROM class_by_level WHERE gain >= 0.15
ORDER BY protocol
