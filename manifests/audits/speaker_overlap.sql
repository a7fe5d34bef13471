-- title: speakers on both sides
-- level: error where the protocol keeps speakers apart, else warning
-- explanation: a speaker of the test side is heard in training or validation; the score then measures that voice, too
-- action: group the folds by speaker (loso-speaker, group-kfold:K), or correct the column speaker and scan again
SELECT protocol, corpus, fold, level, value AS speaker, test_utterances, train_utterances, val_utterances
FROM shared_values WHERE kind = 'speaker'
ORDER BY protocol, fold, corpus, value
