-- title: sessions on both sides
-- level: error where the protocol keeps sessions apart, else warning
-- explanation: test and training share a recording session: its room, microphone and partner are known to the head
-- action: group the folds by session (loso-session), or say that sessions are shared
SELECT protocol, corpus, fold, level, value AS session, test_utterances, train_utterances, val_utterances
FROM shared_values WHERE kind = 'session'
ORDER BY protocol, fold, corpus, value
