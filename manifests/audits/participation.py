"""One rule for counts: what comes in equals what is used plus what is listed with its reason.

`Tally` is that rule as a value; every stage (scan, extract, audit, train) states one, and one that does not add up cannot be
made. `participation` counts, out of the catalogue, who takes part in a protocol and why the others do not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfser.manifests.audits.run import Finding
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.connections import quote
from tfser.manifests.errors import TfserError
from tfser.manifests.labels import NO_EMOTION
from tfser.manifests.protocols.folds import is_rated, placed_list
from tfser.manifests.protocols.listed import ORIGINS, find_list
from tfser.manifests.protocols.names import parse
from tfser.manifests.protocols.own import own_protocols
from tfser.manifests.protocols.protocol import JOINED_BY, Protocol
from tfser.manifests.wording import listed

NO_UTTERANCE = "no utterance"
NO_AUDIO = "no readable audio"
NO_LABEL = "no label"
NO_RATING = "not rated for the targets"
OTHER_LABEL = "label outside the classes"
OTHER_ROWS = "outside the condition"
NOT_LISTED = "not in the published list"
NO_FOLD = "in no fold"
NO_FEATURES = "no features"
"""The reasons, in the order in which they are asked for: an utterance is listed under the first that holds."""

TAKES_NO_PART = "takes_no_part"
"""The name of the finding."""

NOT_IN_CORPUS = "list_unmatched"
"""The name of the finding on files that a published split lists and the corpus lacks."""

_MOST = 5
"""Labels that a sentence names."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What came into a stage, what it used, and how many it left out for each reason; `details` says more of a reason.

    Raises:
        ValueError: if the counts do not add up, which is a fault of the program.
    """

    given: int
    used: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.given != self.used + sum(self.left_out.values()):
            raise ValueError(f"{self.given} came in, {self.used} were used, and {dict(self.left_out)} were listed")

    @property
    def lost(self) -> int:
        """How many are listed."""
        return self.given - self.used

    def reasons(self) -> str:
        """Return the reasons with their counts, the most frequent first, those that hold for nobody left out.

        Of those that hold for as many, the first by letters: a scan and a training say the same of the same utterances.

        >>> Tally(given=9, used=4, left_out={"no label": 1, "no features": 0, "in no fold": 3, "no audio": 1}).reasons()
        '3 in no fold, 1 no audio, 1 no label'
        """
        return ", ".join(
            f"{number:,} {reason}" + (f" ({self.details[reason]})" if self.details.get(reason) else "")
            for reason, number in sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))
            if number
        )

    def sentence(self, things: str = "utterances") -> str:
        """Say it in one line.

        >>> Tally(given=67, used=44, left_out={"no label": 23}).sentence()
        '44 of 67 utterances take part, 23 do not: 23 no label'
        >>> Tally(given=2, used=2).sentence()
        'all 2 utterances take part'
        """
        if not self.lost:
            return f"all {self.given:,} {things} take part"
        do = "does" if self.lost == 1 else "do"
        return f"{self.used:,} of {self.given:,} {things} take part, {self.lost:,} {do} not: {self.reasons()}"

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON prints them."""
        return {"given": self.given, "used": self.used, "left_out": {k: n for k, n in self.left_out.items() if n}}


def unlabelled_query(corpus: str) -> str:
    """Return the command that lists a corpus's utterances without a label."""
    name = corpus.replace("'", "''")
    return f"tfser sql \"SELECT utterance_id, path FROM utterances WHERE corpus = '{name}' AND label IS NULL\""


def definition(cache: Cache, protocol: str) -> Protocol | None:
    """Return what defines a protocol of the catalogue; None where the file of an own one is gone."""
    try:
        return parse(protocol, own_protocols(cache))
    except TfserError:
        return None


def participation(
    connection: Connection, *, protocol: str, corpus: str, defined: Protocol | None, feature_set: str | None = None
) -> Tally:
    """Count who takes part in a protocol: of all utterances of its corpora, those that stand in a fold and can be heard.

    Args:
        connection: an open catalogue that holds the protocol's rows.
        protocol: its canonical name.
        corpus: its corpus, or all of them as `protocols.corpora` joins them.
        defined: its `definition`; None: a label is `label`, and there is no condition.
        feature_set: what has to be there of each; None: audio that can be read.
    """
    defined = defined or _ANY
    chosen = [] if feature_set is None else [feature_set]
    counted = rows(connection, _judged(defined, bool(chosen)), [corpus.split(JOINED_BY), *chosen, protocol])
    # A reason is stated with a count of 0, too: the same reasons of every corpus, in the order in which they are asked for.
    lacking = NO_RATING if defined.rated else NO_LABEL
    left_out = dict.fromkeys((lacking, OTHER_ROWS, NOT_LISTED, OTHER_LABEL, NO_FOLD, NO_AUDIO, NO_FEATURES), 0)
    used = 0
    for row in counted:
        if row["reason"] is None:
            used += row["n"]
        else:
            left_out[row["reason"]] += row["n"]
    words = [f"{row['said']} {row['n']:,}" for row in counted if row["reason"] == OTHER_LABEL]
    return Tally(
        given=used + sum(left_out.values()),
        used=used,
        left_out=left_out,
        details={OTHER_LABEL: listed(words, _MOST)} if words else {},
    )


_ANY = Protocol(name="", summary="")
"""What stands for a protocol whose definition is gone: every label is a class, and there is no condition."""


def _judged(defined: Protocol, has_features: bool) -> str:
    """Return the SQL that counts utterances by the reason for which they take no part (null: they do) and by label.

    Its parameters are the corpora, the feature set if there is one, and the protocol.
    """
    column = "NULL" if defined.rated else '"' + defined.label_column.replace('"', '""') + '"'
    columns = ", ".join(("corpus", "utterance_id", "content_hash", *defined.rated))
    # Of a protocol over ratings nobody needs a label: what an utterance lacks is a rating.
    lacks, lacking = (f"NOT ({is_rated(defined.rated)})", NO_RATING) if defined.rated else ("said IS NULL", NO_LABEL)
    of_a_class = "FALSE" if not defined.listed else "TRUE" if defined.rated else _is_of_a_class(defined)
    usable = "u.content_hash IS NOT NULL"
    if has_features:
        usable = (
            "EXISTS (SELECT 1 FROM features f WHERE f.corpus = u.corpus AND f.utterance_id = u.utterance_id "
            "AND f.feature_set = ?)"
        )
    # The reasons are tried in the order in which an utterance falls out on its way into a fold, so that each
    # has one: no label, the condition, another label, no fold, no audio, no features.
    return (
        f"WITH u AS (SELECT {columns}, {column}::VARCHAR AS said, coalesce((\n{defined.where}\n), FALSE) "
        "AS inside FROM utterances WHERE list_contains(?, corpus)), "
        "judged AS (SELECT said, CASE "
        f"WHEN a.utterance_id IS NULL AND {lacks} THEN '{lacking}' "
        f"WHEN a.utterance_id IS NULL AND NOT inside THEN '{OTHER_ROWS}' "
        f"WHEN a.utterance_id IS NULL AND {of_a_class} THEN '{NOT_LISTED}' "
        f"WHEN a.utterance_id IS NULL THEN '{OTHER_LABEL}' "
        f"WHEN a.fold IS NULL THEN '{NO_FOLD}' "
        f"WHEN {usable} THEN NULL "
        f"WHEN u.content_hash IS NULL THEN '{NO_AUDIO}' ELSE '{NO_FEATURES}' END AS reason "
        "FROM u LEFT JOIN assignments a ON a.protocol = ? AND a.corpus = u.corpus AND a.utterance_id = u.utterance_id) "
        "SELECT reason, said, count(*) AS n FROM judged GROUP BY ALL ORDER BY n DESC, said"
    )


def _is_of_a_class(defined: Protocol) -> str:
    """Return the SQL of whether a label, `said`, belongs to one of a protocol's classes."""
    words = sorted(defined.labels if defined.labels is not None else NO_EMOTION)
    names = ", ".join(quote(word) for word in words)
    return f"said {'IN' if defined.labels is not None else 'NOT IN'} ({names})"


def unmatched(connection: Connection, *, protocol: str, corpus: str) -> list[Finding]:
    """Return how many files of the published split that a protocol is are not in the corpus; nothing for other protocols."""
    origin, _, rest = protocol.partition(":")
    if origin not in ORIGINS:
        return []
    published = find_list(origin, re.split("[@/]", rest, maxsplit=1)[0])
    placed = placed_list(connection, published, corpus)
    lost = placed.unknown + placed.ambiguous
    return [
        Finding(
            audit=NOT_IN_CORPUS,
            title="files of the published list that are no utterance here",
            protocol=protocol,
            corpus=corpus,
            fold=None,
            level="warning" if lost else "ok",
            rows=lost,
            action="a score is one of another split than the published one; say so, or scan the whole corpus" if lost else "",
            examples=(
                {"listed": placed.rows, "unknown": placed.unknown, "ambiguous": placed.ambiguous, "for_instance": placed.example},
            )
            if lost
            else (),
            explanation=f"of {placed.rows:,} files that {published.source} lists, {lost:,} could not be told here",
        )
    ]


def finding(tally: Tally, *, protocol: str, corpus: str) -> Finding:
    """Return a tally as the audits print what they found: a row a reason, `rows` are the utterances."""
    examples = [
        {"reason": reason, "utterances": number} | ({"which": tally.details[reason]} if tally.details.get(reason) else {})
        for reason, number in tally.left_out.items()
        if number
    ]
    return Finding(
        audit=TAKES_NO_PART,
        title="utterances that take no part in the protocol",
        protocol=protocol,
        corpus=corpus,
        fold=None,
        level="info" if tally.lost else "ok",
        rows=tally.lost,
        action="make sure that they are meant to be left out: nothing below counts them" if tally.lost else "",
        examples=tuple(examples),
        explanation=tally.sentence(),
    )
