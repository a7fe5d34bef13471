-- title: utterances in two roles, or tested in two folds
-- level: error
-- explanation: an utterance that stands in two roles of one fold is trained and tested on; one tested twice counts twice in pooled scores
-- action: give each utterance one row and one group
WITH repeated AS (  -- with one row, nobody can stand in two places: this spares counting all folds
  SELECT corpus, utterance_id FROM assignments GROUP BY corpus, utterance_id HAVING count(*) > 1
), suspects AS (
  SELECT f.* FROM folds f SEMI JOIN repeated r ON r.corpus = f.corpus AND r.utterance_id = f.utterance_id
)
SELECT protocol, corpus, fold, 'error' AS level, utterance_id, string_agg(DISTINCT role, ', ' ORDER BY role) AS found
FROM suspects GROUP BY protocol, corpus, fold, utterance_id HAVING count(*) > 1
UNION ALL
SELECT protocol, corpus, NULL::INTEGER, 'error', utterance_id,
  'test in folds ' || array_to_string(list_sort(list(DISTINCT fold)), ', ')
FROM suspects WHERE role = 'test' GROUP BY protocol, corpus, utterance_id HAVING count(DISTINCT fold) > 1
ORDER BY protocol, fold, corpus, utterance_id
