"""The reference rows that need no encoder: functionals (eGeMAPS) under the reference heads, in every table by default.

What comes in: the cache and the corpora of a table. What goes out: the feature set on which those rows stand, or a sentence
that says what is missing and the command that makes it. Nothing is extracted here, and a table never fails for want of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from tfser.heads import REFERENCE_FEATURES
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.protocols.protocol import JOINED_BY
from tfser.pipeline.features.functionals import is_installed


@dataclass(frozen=True, kw_only=True)
class ReferenceFeatures:
    """The functionals of a table's corpora: their name, or why there are none; one of the two is None."""

    name: str | None
    lacking: str | None = None


def reference_features(cache: Cache, corpus: str) -> ReferenceFeatures:
    """Return the functionals of a corpus, or of several joined by +, of which each utterance that has any features has them.

    Where only some do, the rows would stand on other utterances than the rest of the table, or be refused by its audit.
    """
    corpora = corpus.split(JOINED_BY)
    query = (
        "SELECT corpus, count(DISTINCT utterance_id) AS there, "
        "count(DISTINCT utterance_id) FILTER (feature_set = ?) AS have FROM features "
        "WHERE list_contains(?, corpus) GROUP BY corpus"
    )
    with open_catalogue(cache) as connection:
        counts = {row["corpus"]: row for row in rows(connection, query, [REFERENCE_FEATURES, corpora])}
    short = [name for name in corpora if name not in counts or counts[name]["have"] < counts[name]["there"]]
    if not short:
        return ReferenceFeatures(name=REFERENCE_FEATURES)
    commands = " and ".join(f"`tfser extract --corpus {name} --features {REFERENCE_FEATURES}`" for name in short)
    first = "" if is_installed() else "`pip install '.[opensmile]'` and then "
    some = any(name in counts and counts[name]["have"] for name in short)
    why = f"{'some utterances' if some else 'the utterances'} of {', '.join(short)} have no {REFERENCE_FEATURES} features"
    return ReferenceFeatures(name=None, lacking=f"No reference rows on {REFERENCE_FEATURES}: {why}; {first}{commands} adds them")
