"""A user's SQL condition can choose rows, and nothing else."""

from __future__ import annotations

import pytest

from tfser.manifests.errors import UsageError
from tfser.manifests.protocols.conditions import check_condition


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("TRUE", set()),
        ("scenario = 'improvised'", {"scenario"}),
        ("Duration_S BETWEEN 1 AND 10 AND NOT list_contains(flags, 'silent')", {"duration_s", "flags"}),
        ("label IN ('a', 'b') OR \"odd column\" IS NULL  -- why not", {"label", "odd column"}),
        ("regexp_matches(utterance_id, 'impro') AND length(transcript) / 2 > 3", {"utterance_id", "transcript"}),
        ("path = '; DROP TABLE utterances; --'", {"path"}),
    ],
)
def test_conditions(text, columns):
    assert check_condition(text, "here") == columns


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no SQL condition"),
        ("duration_s >", "no SQL condition"),
        ("TRUE; SELECT 2", "more than one expression"),
        ("TRUE; DELETE FROM utterances", "no SQL condition"),
        ("1 = 1); DELETE FROM utterances; --", "no SQL condition"),
        ("TRUE) OR (FALSE", "no SQL condition"),
        ("TRUE ORDER BY label", "more than one expression"),
        ("TRUE LIMIT 3", "more than one expression"),
        ("TRUE GROUP BY label", "more than one expression"),
        ("TRUE UNION SELECT 1", "more than one expression"),
        ("label IN (SELECT label FROM read_csv('x.csv'))", "sub-query"),
        ("EXISTS (SELECT 1)", "sub-query"),
        ("random() < 0.5", r"calls random\(\)"),
        ("now() > '2020-01-01'", r"calls now\(\)"),
        ("ago(INTERVAL 1 DAY) > '2020-01-01'", r"calls ago\(\)"),
        ("age(TIMESTAMP '2020-01-01') > INTERVAL 1 DAY", r"calls age\(\)"),
        ("current_localtimestamp() > '2020-01-01'", "calls current_localtimestamp"),
        ("get_block_size('memory') > 1", "calls get_block_size"),
        ("version() = 'v1.4.0'", r"calls version\(\)"),
        ("COLUMNS(*) IS NOT NULL", "pattern of columns"),
        ("COLUMNS('l.*') = 'anger'", "pattern of columns"),
        ("count(*) > 1", "calls count_star"),
        ("row_number() OVER () < 3", "calls row_number"),
        ("label = ?", "parameter"),
        ("list_contains(list_transform(flags, lambda x: x), 'a')", "lambda"),
    ],
)
def test_what_is_more_than_a_condition(text, error):
    with pytest.raises(UsageError, match=f"^here: .*{error}"):
        check_condition(text, "here")
