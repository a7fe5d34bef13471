-- title: utterances that are left out of a fold
-- level: info
-- explanation: the protocol keeps several columns apart at once, so who shares one of them with the tested is on neither side of that fold; they are tested in another one
-- action: nothing, if this is meant; deal the columns into more parts (k) to leave out fewer
SELECT a.protocol, a.corpus, h.fold, 'info' AS level, h.reason, count(*) AS utterances, min(a.utterance_id) AS example
FROM all_assignments a JOIN held_out h ON h.protocol = a.protocol AND h.corpus = a.corpus AND h.part = a.part
WHERE h.role = 'out'
GROUP BY ALL
ORDER BY a.protocol, h.fold, h.reason, a.corpus
