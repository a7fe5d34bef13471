"""Tables of dimensions: what they say where a fold has no CCC."""

from __future__ import annotations

from tfser.heads.results.dimension_tables import MEAN, without_score


def test_a_mean_over_folds_says_how_many_runs_it_is_of() -> None:
    """A fold whose test speaker has one utterance has no CCC, and the mean is over the others."""
    rows = [
        {"dimension": "valence", "runs": 4, "CCC_runs": 3},
        {"dimension": "arousal", "runs": 4, "CCC_runs": 4},
        {"dimension": MEAN, "runs": 4, "CCC_runs": 3},
    ]
    (said,) = without_score(rows)
    assert said.startswith("CCC of valence over folds is of 3 of 4 runs: ")
    assert without_score(rows[1:2]) == []
