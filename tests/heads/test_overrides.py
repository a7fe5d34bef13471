"""Leaks and gaps are two things: each has an override of its own, and neither covers for the other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tfser.heads.runs.one_fold import check_audit
from tfser.manifests.audits.run import Finding, packaged_audits
from tfser.manifests.errors import TfserError


def finding(kind: str) -> Finding:
    return Finding(
        audit=kind, title=f"a {kind}", protocol="p", corpus="c", fold=1, level="error", rows=1, action="mend it", kind=kind
    )


def experiment(*, leaks: bool = False, gaps: bool = False) -> Any:
    return SimpleNamespace(protocol="p", allow_leaks=leaks, allow_gaps=gaps)


@pytest.mark.parametrize("kind", ["leak", "gap"])
def test_each_kind_has_its_override(kind):
    found = [finding(kind)]
    with pytest.raises(TfserError, match=rf"a {kind} .*--allow-{kind}s trains all the same"):
        check_audit(experiment(leaks=kind == "gap", gaps=kind == "leak"), found, 1)
    check_audit(experiment(leaks=kind == "leak", gaps=kind == "gap"), found, 1)
    check_audit(experiment(), found, 2)  # another fold's


def test_what_is_left_is_named():
    both = [finding("gap"), finding("leak")]
    with pytest.raises(TfserError, match=r"a leak .*--allow-leaks"):
        check_audit(experiment(gaps=True), both, 1)
    check_audit(experiment(leaks=True, gaps=True), both, 1)


def test_which_audits_are_of_gaps():
    gaps = {audit.name for audit in packaged_audits() if audit.kind == "gap"}
    assert gaps == {"class_missing", "features_missing", "utterance_in_no_fold", "audio_unreadable"}
