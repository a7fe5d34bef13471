"""What the audits say of an experiment before it is trained: its findings, who takes part, and which folds they forbid.

What comes in: a settled experiment and the cache. What goes out: findings and counts, or an error with the way out. Nothing here
loads features.
"""

from __future__ import annotations

from collections.abc import Sequence

from tfser.heads.runs.experiment import Experiment
from tfser.manifests.audits.participation import Tally, definition, finding, participation, unmatched
from tfser.manifests.audits.run import Finding, blocking, run_audits
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, open_catalogue
from tfser.manifests.errors import TfserError
from tfser.manifests.wording import more


def audit_experiment(cache: Cache, experiment: Experiment) -> list[Finding]:
    """Run the audits that decide about an experiment: its protocol, and its feature set's completeness.

    The last finding is who takes no part in it, and why (`participation`).
    """
    protocol, corpus = experiment.protocol, experiment.corpus
    with open_catalogue(cache) as connection:
        findings = run_audits(connection, protocol=protocol, corpus=corpus, feature_sets=[experiment.stored])
        findings += unmatched(connection, protocol=protocol, corpus=corpus)
        tally = who_takes_part(cache, connection, experiment)
    return [*findings, finding(tally, protocol=protocol, corpus=corpus)]


def who_takes_part(cache: Cache, connection: Connection, experiment: Experiment) -> Tally:
    """Count who takes part in an experiment's protocol with its features; those of a layer are looked for in its stack."""
    return participation(
        connection,
        protocol=experiment.protocol,
        corpus=experiment.corpus,
        defined=definition(cache, experiment.protocol),
        feature_set=experiment.stored,
    )


def check_audit(experiment: Experiment, findings: Sequence[Finding], fold: int) -> None:
    """Refuse a fold whose audit found an error.

    Raises:
        TfserError: unless errors of that kind, leaks or gaps, are allowed.
    """
    allowed = {"leak": experiment.allow_leaks, "gap": experiment.allow_gaps}
    errors = [finding for finding in blocking(findings, fold) if not allowed[finding.kind]]
    if errors:
        others = more(len(errors) - 1, brackets=True)
        raise TfserError(
            f"{experiment.protocol} fold {fold} fails its audit: {errors[0].sentence()}{others}. What to do: {errors[0].action}. "
            f"See `tfser audit`; --allow-{errors[0].kind}s trains all the same, and the run says so"
        )
