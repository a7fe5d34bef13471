"""What protocols are called, and how a name is read.

A protocol is written `NAME[:ARGUMENTS][@LABELS][/VALIDATION]`, for instance

    emodb7-speaker                                     a named protocol
    loso-speaker                                       any corpus: leave one speaker out, all labels
    group-kfold:5                                      any corpus: speakers dealt into 5 folds
    stratified-kfold:5                                 the same, with each class (or quartile of ratings) spread evenly
    group-kfold:5:session@anger,happiness:happiness+excitement/next-group
    cross:emodb+casia:iemocap@common4/speakers:1       train on two corpora, test on a third
    loco:emodb,casia,esd                               leave one corpus out
    emobox:emodb                                       a published split (`listed`)

Folds count from 1, and fold k tests the k-th group in natural order (speaker 9 before speaker 10). LABELS is a map as
`labels.parse_label_map` reads it, or the name of one, or `rated:valence+arousal`: no classes, but every utterance that is rated
for these dimensions; VALIDATION a policy of `validation`. A name is canonical: asking for the
same thing in other words gives the same name. A protocol's hash covers the rows it makes, so two papers that name the same hash
used the same split.

Each protocol declares which columns it keeps apart. The audits take an overlap in those for an error, and any other overlap
for a warning. What a protocol makes of a corpus's rows is in `folds`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from tfser.manifests.cache import check_name
from tfser.manifests.dimensions import parse_rated, rated_name
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.labels import LABELS, format_label_map, normalise, parse_label_map
from tfser.manifests.natural import natural_key
from tfser.manifests.protocols.known import PROTOCOLS
from tfser.manifests.protocols.listed import ORIGINS, find_list, list_protocol
from tfser.manifests.protocols.protocol import GROUP_COLUMNS, JOINED_BY, Protocol
from tfser.manifests.protocols.validation import canonical_policy

__all__ = ["PROTOCOLS", "Protocol", "draws_on", "parse", "specify", "with_validation"]

Own = Mapping[str, Protocol]
"""Users' own protocols, by name (`own_protocols`)."""


def parse(text: str, own: Own | None = None) -> Protocol:
    """Return the protocol of a specification.

    >>> parse("group-kfold:5@anger,neutral/next-group").name
    'group-kfold:5@anger,neutral/next-group'
    >>> parse("cross:esd+casia:emodb").over
    ('casia', 'emodb', 'esd')
    >>> parse("loso-speker")
    Traceback (most recent call last):
    ...
    tfser.manifests.errors.UsageError: unknown protocol 'loso-speker'; did you mean 'loso-speaker'? Known: ...

    Raises:
        UsageError: if the name is unknown, its arguments are missing or off, or the labels or the validation policy are.
    """
    stem, labels, validation = _split(text)
    base, *arguments = stem.split(":")
    known = {**PROTOCOLS, **(own or {})}
    if base not in known:
        raise unknown("protocol", base, sorted(known))
    protocol = _with_arguments(text, known[base], arguments)
    rated = parse_rated(labels) if labels is not None else None
    if rated is not None:
        summary = f"the folds of {protocol.name}, over utterances that are rated for {', '.join(rated)}"
        name = f"{protocol.name}@{rated_name(rated)}"
        protocol = replace(protocol, summary=summary, used_by=(), labels=None, rated=rated, name=name)
    elif labels is not None:
        chosen = parse_label_map(labels)
        if chosen != protocol.labels:  # other classes: neither its counts nor who uses it are this protocol's
            classes = ", ".join(dict.fromkeys(chosen.values()))
            protocol = replace(protocol, summary=f"the folds of {protocol.name}, with the classes {classes}", used_by=())
        protocol = replace(protocol, labels=chosen, name=f"{protocol.name}@{format_label_map(chosen)}")
    return with_validation(protocol, validation) if validation is not None else protocol


def with_validation(protocol: Protocol, validation: str) -> Protocol:
    """Return a protocol with another validation policy; its name says so.

    Raises:
        UsageError: if there is no such policy, or the protocol has a validation side of its own.
    """
    policy = canonical_policy(validation)
    if policy == protocol.validation:
        return protocol
    if protocol.sides is not None and (policy in ("none", "next-group") or "val" in _listed(protocol)):
        why = "has its own validation side" if protocol.validation == "split" else "has one fold only"
        raise UsageError(f"protocol {protocol.name!r} {why}: it cannot validate by {policy}")
    return replace(protocol, validation=policy, name=f"{protocol.name}/{policy}")


def _listed(protocol: Protocol) -> tuple[str, ...]:
    """Return the roles that a protocol of fixed sides surely has: what a split column says is the corpus's matter."""
    return () if protocol.grouped_by == "split" else tuple((protocol.sides or {}).values())


def draws_on(text: str, own: Own | None = None) -> str | None:
    """Return the corpora that a specification names, in one word as `runs.corpus` has them; None if it names none.

    Raises:
        UsageError: as `parse`, of a protocol that would name some.
    """
    base = re.split("[:@/]", text, maxsplit=1)[0]
    named = {**{name: p for name, p in PROTOCOLS.items() if p.grouped_by == "corpus"}, **(own or {})}
    return parse(text, own).corpus if base in named else None


def _split(text: str) -> tuple[str, str | None, str | None]:
    """Return what stands before @, between @ and the last slash, and behind that; None for what is not there."""
    head, slash, validation = text.rpartition("/")
    if slash:
        try:
            canonical_policy(validation)
        except UsageError:
            if re.fullmatch(r"[a-z-]+(:[0-9.]*)?", validation) and not _ends_in_label(head, validation):
                raise
            head, slash = text, ""
    else:
        head = text
    stem, at, labels = head.partition("@")
    return stem, labels if at else None, validation if slash else None


def _ends_in_label(head: str, tail: str) -> bool:
    """Tell whether `tail` is not a mistyped policy but the end of a label that holds a slash, as in `@neutral,fear/anxiety`."""
    label = re.split("[@,:+]", f"{head}/{tail}")[-1]
    return "@" in head and normalise(label) in LABELS


def _with_arguments(text: str, protocol: Protocol, arguments: list[str]) -> Protocol:
    """Return a generic protocol with what stands behind its name.

    Raises:
        UsageError: if that is not what it needs.
    """
    base = protocol.name
    if protocol.needs is None:
        if arguments:
            raise UsageError(f"protocol {text!r}: {base} takes no number")
        return protocol
    if base in ORIGINS:
        if len(arguments) != 1:
            raise UsageError(f"protocol {text!r}: say of which corpus: {base}:iemocap (`tfser protocol ls` lists them)")
        return list_protocol(find_list(base, arguments[0]))
    # Corpora are put in one order inside the name: cross:a+b:c and cross:b+a:c are the same protocol, with the
    # same hash.
    if base == "cross":
        if len(arguments) != 2:
            raise UsageError(f"protocol {text!r}: say what to train on and what to test on: cross:emodb+casia:iemocap")
        train, test = (_corpora(text, part, JOINED_BY) for part in arguments)
        if both := [name for name in train if name in test]:
            raise UsageError(f"protocol {text!r}: {both[0]} cannot stand on both sides; take a protocol of {both[0]} for that")
        sides = {**dict.fromkeys(train, "train"), **dict.fromkeys(test, "test")}
        over = tuple(sorted(sides, key=natural_key))
        summary = f"train on {', '.join(train)}; test on {', '.join(test)}"
        return replace(protocol, name=f"cross:{'+'.join(train)}:{'+'.join(test)}", summary=summary, over=over, sides=sides)
    if base == "loco":
        over = _corpora(text, ":".join(arguments), ",")
        if len(over) < 2:
            raise UsageError(f"protocol {text!r}: name the corpora, at least two: loco:emodb,casia,esd")
        return replace(protocol, name=f"loco:{','.join(over)}", summary=f"leave one of {len(over)} corpora out", over=over)
    if not arguments or not re.fullmatch("[0-9]{1,9}", arguments[0]) or int(arguments[0]) < 2:
        raise UsageError(f"protocol {text!r}: say into how many folds, from 2: {base}:5")
    protocol = replace(protocol, k=int(arguments[0]), name=f"{base}:{int(arguments[0])}")
    if len(arguments) == 1:
        return protocol
    column = arguments[1]
    if len(arguments) > 2 or base not in ("group-kfold", "stratified-kfold") or column not in GROUP_COLUMNS:
        raise UsageError(f"protocol {text!r}: groups are one of {', '.join(GROUP_COLUMNS)}: {base}:5:session")
    name = protocol.name + (f":{column}" if column != "speaker" else "")
    return replace(protocol, grouped_by=column, keeps_apart=(column,), name=name)


def _corpora(text: str, part: str, mark: str) -> tuple[str, ...]:
    """Return the corpora of a list, in natural order."""
    names = [name for name in part.split(mark) if name]
    for name in names:
        check_name(f"protocol {text!r}: corpus", name)
        if names.count(name) > 1:
            raise UsageError(f"protocol {text!r}: {name} stands there twice")
    if not names:
        raise UsageError(f"protocol {text!r}: name the corpora: cross:emodb+casia:iemocap, loco:emodb,casia,esd")
    return tuple(sorted(names, key=natural_key))


def specify(name: str, *, labels: str | None = None, validation: str | None = None, own: Own | None = None) -> str:
    """Return the canonical specification for a protocol with the options of the command line.

    Raises:
        UsageError: as `parse`, or if an option contradicts what the name says.
    """
    protocol = parse(name, own)
    spec = protocol.name
    stem, said, policy = _split(spec)
    if labels:
        if said is not None:
            raise UsageError(f"protocol {name!r} already says which labels; leave --labels out")
        spec = f"{stem}@{labels}" + (f"/{policy}" if policy else "")
    if validation and canonical_policy(validation) != protocol.validation:
        if policy is not None:
            raise UsageError(f"protocol {name!r} already says how to validate; leave --validation out")
        return with_validation(parse(spec, own), validation).name
    return parse(spec, own).name
