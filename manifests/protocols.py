"""Protocols: which utterances take part, under which class, and who tests whom.

A protocol is written `NAME[:K[:COLUMN]][@LABELS][/VALIDATION]`, for instance

    emodb7-speaker                                     a named protocol
    loso-speaker                                       any corpus: leave one speaker out, all labels
    group-kfold:5                                      any corpus: speakers dealt into 5 folds
    group-kfold:5:session@anger,happiness:happiness+excitement/next-group

Folds count from 1, and fold k tests the k-th group in natural order (speaker 9 before speaker 10). Validation is `none` (train
on everything but the test group), `next-group` (fold k validates on group k + 1, cyclically) or, for an official split, what
the corpus calls val. A protocol's hash covers the rows it makes, so two papers that name the same hash used the same split.

Each protocol declares which columns it keeps apart. The audits take an overlap in those for an error, and any other overlap
for a warning. What a protocol makes of a corpus's rows is in `folds`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.labels import LABELS, format_label_map, normalise, parse_label_map

VALIDATIONS = ("none", "next-group")
_GROUP_COLUMNS = ("speaker", "session", "dialogue")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way of splitting a corpus.

    `corpora` names the corpora (by reader) that it is for; None is any. `labels` maps the field's labels to classes, in the
    order of the classes; None takes every label as its own class but those that name no emotion. `where` is an SQL condition
    on `utterances`. `grouped_by` is the column whose values become the groups; `k` deals the groups into that many folds,
    None makes one fold a group.
    """

    name: str
    summary: str
    version: int = 1
    corpora: tuple[str, ...] | None = None
    labels: Mapping[str, str] | None = None
    where: str = "TRUE"
    grouped_by: str = "speaker"
    k: int | None = None
    keeps_apart: tuple[str, ...] = ("speaker",)
    validation: str = "none"
    needs_k: bool = False


def _same(*labels: str) -> dict[str, str]:
    return {label: label for label in labels}


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol(
            name="emodb7-speaker",
            summary="EmoDB, 7 classes, leave one of 10 speakers out",
            corpora=("emodb",),
            labels=_same("anger", "boredom", "disgust", "fear", "happiness", "sadness", "neutral"),
        ),
        Protocol(
            name="iemocap4-session",
            summary="IEMOCAP, 4 classes (happiness with excitement), improvised and scripted, leave one of 5 sessions out",
            corpora=("iemocap",),
            labels={**_same("anger", "happiness"), "excitement": "happiness", **_same("neutral", "sadness")},
            grouped_by="session",
            keeps_apart=("speaker", "session", "dialogue"),
        ),
        Protocol(name="loso-speaker", summary="leave one speaker out, every label a class"),
        Protocol(
            name="loso-session",
            summary="leave one session out, every label a class",
            grouped_by="session",
            keeps_apart=("speaker", "session"),
        ),
        Protocol(
            name="group-kfold",
            summary="whole groups (speakers, or the column named after K) dealt into K folds of about the same size",
            needs_k=True,
        ),
        Protocol(
            name="random-kfold",
            summary="utterances dealt into K folds whoever speaks: speakers leak, and the name says so",
            grouped_by="utterance_id",
            keeps_apart=(),
            needs_k=True,
        ),
        Protocol(
            name="official-split",
            summary="the corpus's own train, val and test",
            grouped_by="split",
            keeps_apart=(),
            validation="split",
        ),
    )
}
"""The named protocols and the generic ones, by name. One line makes another."""


def parse(text: str) -> Protocol:
    """Return the protocol of a specification.

    >>> parse("group-kfold:5@anger,neutral/next-group").name
    'group-kfold:5@anger,neutral/next-group'
    >>> parse("loso-speker")
    Traceback (most recent call last):
    ...
    tfser.manifests.errors.UsageError: unknown protocol 'loso-speker'; did you mean 'loso-speaker'? Known: ...

    Raises:
        UsageError: if the name is unknown, K is missing or no number, or the labels or the validation policy are off.
    """
    head, slash, validation = text.rpartition("/")
    if not slash or validation not in VALIDATIONS:
        if slash and re.fullmatch(r"[a-z-]+", validation) and not _ends_in_label(head, validation):
            raise unknown("validation policy", validation, VALIDATIONS)
        head, validation = text, ""
    stem, at, labels = head.partition("@")
    base, *arguments = stem.split(":")
    if base not in PROTOCOLS:
        raise unknown("protocol", base, sorted(PROTOCOLS))
    protocol = PROTOCOLS[base]
    name = base
    if protocol.needs_k:
        if not arguments or not re.fullmatch("[0-9]{1,9}", arguments[0]) or int(arguments[0]) < 2:
            raise UsageError(f"protocol {text!r}: say into how many folds, from 2: {base}:5")
        protocol = replace(protocol, k=int(arguments[0]))
        name += f":{protocol.k}"
        if len(arguments) == 2 and base == "group-kfold" and arguments[1] in _GROUP_COLUMNS:
            protocol = replace(protocol, grouped_by=arguments[1], keeps_apart=(arguments[1],))
            name += f":{arguments[1]}" if arguments[1] != "speaker" else ""
        elif len(arguments) > 1:
            raise UsageError(f"protocol {text!r}: groups are one of {', '.join(_GROUP_COLUMNS)}: {base}:5:session")
    elif arguments:
        raise UsageError(f"protocol {text!r}: {base} takes no number")
    if at:
        protocol = replace(protocol, labels=parse_label_map(labels))
        name += f"@{format_label_map(protocol.labels or {})}"
    if validation and validation != protocol.validation:
        if protocol.grouped_by == "split":
            raise UsageError(f"protocol {text!r}: {base} has its own validation side")
        protocol = replace(protocol, validation=validation)
        name += f"/{validation}"
    return replace(protocol, name=name)


def _ends_in_label(head: str, tail: str) -> bool:
    """Tell whether `tail` is not a mistyped policy but the end of a label that holds a slash, as in `@neutral,fear/anxiety`."""
    label = re.split("[@,:+]", f"{head}/{tail}")[-1]
    return "@" in head and normalise(label) in LABELS


def specify(name: str, *, labels: str | None = None, validation: str | None = None) -> str:
    """Return the canonical specification for a protocol with the options of the command line.

    Raises:
        UsageError: as `parse`, or if an option contradicts what the name says.
    """
    protocol = parse(name)
    spec = protocol.name
    if labels:
        if "@" in spec:
            raise UsageError(f"protocol {name!r} already says which labels; leave --labels out")
        head, slash, policy = spec.rpartition("/")
        spec = f"{head}@{labels}/{policy}" if slash else f"{spec}@{labels}"
    if validation and validation != protocol.validation:
        if validation not in VALIDATIONS:
            raise unknown("validation policy", validation, VALIDATIONS)
        if spec.endswith(tuple(f"/{policy}" for policy in VALIDATIONS)):
            raise UsageError(f"protocol {name!r} already says how to validate; leave --validation out")
        spec = f"{spec}/{validation}"
    return parse(spec).name
