-- title: dialogues on both sides
-- level: error where the protocol keeps dialogues apart, else warning
-- explanation: turns of one conversation stand on both sides: topic, partner and channel are known to the head
-- action: group the folds by dialogue (group-kfold:K:dialogue), or say that dialogues are shared
SELECT protocol, corpus, fold, level, value AS dialogue, test_utterances, train_utterances, val_utterances
FROM shared_values WHERE kind = 'dialogue'
ORDER BY protocol, fold, corpus, value
