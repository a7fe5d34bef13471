"""Tables on narrow terminals: what goes, in which order, and what is said of it."""

from __future__ import annotations

import pytest

from tfser.heads.commands.columns import fitted
from tfser.manifests.display import Output, print_rows

LINES = [
    {"head": "mean_pool", "folds": "1-4 of 4", "parameters": "174,085", "WF1": "48.4 ± 8.7", "UA": "54.5 ± 8.1"},
    {"head": "logreg", "folds": "1-4 of 4", "parameters": "805", "WF1": "37.3 ± 13.5", "UA": "37.2 ± 10.5"},
]
WIDTH = 9 + 8 + 10 + 11 + 11 + 4 * 2


def test_a_table_that_fits_stays_as_it_is() -> None:
    for width in (None, WIDTH, 200):
        assert fitted(LINES, width, ["WF1", "folds"]) == (LINES, [])
    assert fitted([], 10, ["WF1"]) == ([], [])


def test_columns_go_in_their_order_until_the_rest_fits() -> None:
    lines, notes = fitted(LINES, WIDTH - 1, ["parameters", "not_there", "folds", "WF1"])
    assert [list(line) for line in lines] == [["head", "folds", "WF1", "UA"]] * 2
    assert notes == ["Not shown for want of width: parameters (--format csv has them)."]
    lines, notes = fitted(LINES, 24, ["parameters", "folds", "WF1"])
    assert lines == [{"head": of["head"], "UA": of["UA"]} for of in LINES]
    assert notes == ["In all rows: folds 1-4 of 4.", "Not shown for want of width: parameters, WF1 (--format csv has them)."]
    assert [list(line) for line in fitted(LINES, 3, ["WF1"])[0]] == [["head", "folds", "parameters", "UA"]] * 2


def test_a_pipe_loses_nothing() -> None:
    """What all rows share goes below the table; what tells them apart stays, however wide that is."""
    long = [{**line, "recipe": "r" * 90, "note": str(n) * 90} for n, line in enumerate(LINES)]
    lines, notes = fitted(long, None, ["note", "folds", "recipe", "WF1"])
    assert [list(line) for line in lines] == [["head", "parameters", "WF1", "UA", "note"]] * 2
    assert notes == [f"In all rows: folds 1-4 of 4, recipe {'r' * 90}."]


def test_marked_scores_and_their_intervals_stand_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"UA": "9.5 ± 8.1†", "95 %": "9.3 to 68.1†"}, {"UA": "54.5 ± 8.1†", "95 %": "29.3 to 68.1†"}], Output.table)
    assert capsys.readouterr().out.splitlines()[1] == " 9.5 ± 8.1†   9.3 to 68.1†"
