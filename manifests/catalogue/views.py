"""The catalogue's views: folds out of assignments, folds beside what audits compare, scores over folds, and test predictions
beside who said them, counted by fold, class, speaker and session.

What comes in: `views.sql`. What goes out: the SQL of each view by name, with what several of them share written out; and the
pieces of SQL that other queries share with them.
"""

from __future__ import annotations

import re
from string import Template

from tfser.manifests.catalogue.rater_views import RATER_VIEWS
from tfser.manifests.texts import packaged

WORST = "CASE WHEN bool_or({0} = 'broken') THEN 'broken' WHEN bool_and({0} = 'kept') THEN 'kept' ELSE 'unknown' END"
"""SQL over runs: the worst of their `speakers_kept`; one that is not known leaves all unknown, but for broken ones."""

WORST_AUDIT = (
    "CASE WHEN bool_or(audit = 'overridden') THEN 'overridden' WHEN bool_or(audit = 'gaps') THEN 'gaps' ELSE 'passed' END"
)

_WORST_OF_RUNS = WORST.format("speakers_kept")
_STANDING = f"""(
  SELECT experiment, seed, {WORST_AUDIT} AS audit, {_WORST_OF_RUNS} AS speakers_kept FROM runs GROUP BY experiment, seed
)"""
"""What the numbers of an experiment's seed are worth, for views of its parts."""

TAKEN_FOR = "SELECT experiment, label, predicted, sum(n) AS n FROM result_confusion GROUP BY ALL ORDER BY ALL"
"""The question that `tfser demo` suggests: whom each experiment takes for whom."""

BOUND = "json_extract_string(config, '$.belongs_to.run_id') IS NOT NULL"
"""Of `feature_sets`: whether something in it was learned in a fold, to which it belongs (a collapsed layer mix)."""


def _views() -> dict[str, str]:
    """Return the SQL of the views of `views.sql`, in the order of the file."""
    shared = {"standing": _STANDING, "worst_audit": WORST_AUDIT, "worst_of_runs": _WORST_OF_RUNS}
    _, *headed = re.split(r"^-- view: (.+)$", packaged("manifests.catalogue", "views.sql"), flags=re.M)
    return {
        name: Template(sql).substitute(shared, who=name.removesuffix("_scores"))
        for names, sql in zip(headed[::2], headed[1::2], strict=True)
        for name in names.split(", ")
    }


VIEWS = RATER_VIEWS | _views()
"""By name, in an order in which they can be created."""

AUDITED_VIEWS = ("fold_roles", "folds", "left_out", "fold_utterances", "raters")
"""Those that protocols and audits read: what becomes of rows and of who rated them, and nothing of runs."""
