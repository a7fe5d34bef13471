"""The raters' votes as a distribution over a protocol's classes: what heads are trained on with --labels-from distribution.

Comes in: the catalogue, a protocol and its label map. Goes out: for each utterance whose raters named at least one of the
classes, the classes' shares of their votes, in the order of the head's outputs. Votes for labels that are in no class are left
out, and the others make up the whole; an utterance without such votes is not there, and keeps its one label in training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from tfser.manifests.connections import Connection

Key = tuple[str, str]
"""Corpus and id of an utterance."""


def class_distributions(
    connection: Connection, protocol: str | None, corpora: Sequence[str], classes: Sequence[str], labels: Mapping[str, str] | None
) -> dict[Key, tuple[float, ...]]:
    """Return the shares of the classes among the raters' votes, by utterance.

    Args:
        connection: the catalogue.
        protocol: whose utterances; None: all of the corpora.
        corpora: the corpora that it draws on.
        classes: in the order of the shares.
        labels: the class of each label; None: every label is its own class.
    """
    mapped = {name: name for name in classes} if labels is None else dict(labels)
    shares = connection.execute(
        "SELECT v.corpus, v.utterance_id, m.class, sum(v.votes ORDER BY v.label) AS votes FROM label_votes v "
        "JOIN (SELECT unnest(?) AS label, unnest(?) AS class) m ON m.label = v.label "
        "WHERE list_contains(?, v.corpus) AND (?::VARCHAR IS NULL OR EXISTS (SELECT 1 FROM assignments a "
        "WHERE a.protocol = ? AND a.corpus = v.corpus AND a.utterance_id = v.utterance_id AND a.fold IS NOT NULL)) "
        "GROUP BY ALL ORDER BY ALL",
        [list(mapped), list(mapped.values()), list(corpora), protocol, protocol],
    ).fetchall()
    votes: dict[Key, dict[str, float]] = {}
    for corpus, utterance_id, name, number in shares:
        votes.setdefault((corpus, utterance_id), {})[name] = number
    return {
        key: tuple(of.get(name, 0.0) / total for name in classes)
        for key, of in votes.items()
        if (total := sum(of.get(name, 0.0) for name in classes)) > 0
    }


def digest_of(distributions: Mapping[Key, Sequence[float]]) -> str:
    """Return 16 hexadecimal digits over distributions: a run's name holds what it was trained on."""
    rows = sorted([*key, *(round(share, 9) for share in shares)] for key, shares in distributions.items())
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
