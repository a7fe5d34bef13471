"""Which feature set of the cache a request means, and where its frames lie.

What comes in: the catalogue, the corpora, the head, and the name that was asked for, which may be none, not whole, or that of one
layer out of a stored stack. What goes out: a `Features`, or an error that says how to come by what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfser.heads.spec.head import HeadSpec
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, open_catalogue, rows
from tfser.manifests.catalogue.views import BOUND
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.feature_name import ALL, DTYPES, FeatureName, joined_names, meant
from tfser.manifests.protocols.protocol import JOINED_BY
from tfser.pipeline.features.encoders.known import ENCODERS
from tfser.pipeline.features.feature_set import is_per_utterance, namesakes, superseded
from tfser.pipeline.features.layer_views import Features, LayerView, asks_for_each, each_layer, layer_views, meant_views
from tfser.pipeline.features.registry import UPSTREAMS


@dataclass(frozen=True, kw_only=True)
class _There:
    """What a cache has of some corpora: feature sets that all of them have, those of them that are current, and views."""

    have: list[str]
    current: list[str]
    views: dict[str, LayerView]
    sets: dict[str, dict[str, Any]]


def choose_features(connection: Connection, spec: HeadSpec, corpus: str, asked: str | None) -> Features:
    """Return the features that a request means.

    Args:
        connection: the catalogue.
        spec: the head, which has its favourites.
        corpus: one corpus, or several joined by +.
        asked: a name, or None.

    Raises:
        UsageError: there is none, or several fit.
    """
    there = _there(connection, corpus, asked)
    name = _favourite(there, spec, corpus) if asked is None else _asked(there, corpus, asked)
    view = None if name in there.have else there.views[name]
    return Features(row=there.sets[name] if view is None else dict(view.row), view=view)


def spread(cache: Cache, corpus: str, asked: str | None) -> list[str | None]:
    """Return the feature sets that a name of a list stands for: every layer of an encoder for `whisper-base/each`, else itself.

    Raises:
        UsageError: the corpus has no layer of that encoder.
    """
    if not asks_for_each(asked):
        return [asked]
    with open_catalogue(cache) as connection:
        choices = _there(connection, corpus, asked)
    assert asked is not None
    layers = each_layer(asked, choices.current, choices.views.values())
    if not layers:
        encoder = FeatureName.parse(asked).encoder
        if encoder in UPSTREAMS and encoder not in ENCODERS:
            raise UsageError(
                f"--features {asked}: {encoder} has no layers; name an encoder, of which the cache holds some or all"
            )
        raise UsageError(
            f"--features {asked}: no layer of {encoder} in the cache, which holds {', '.join(choices.have)} of {corpus}; "
            f"`tfser extract --corpus {corpus} --features {encoder} --layer all` stores all of them in one pass"
        )
    return list(layers)


def _there(connection: Connection, corpus: str, asked: str | None) -> _There:
    """Return what the corpora have in common."""
    corpora = corpus.split(JOINED_BY)
    of_corpus: dict[str, set[str]] = {name: set() for name in corpora}
    for row in rows(connection, "SELECT DISTINCT feature_set, corpus FROM features WHERE list_contains(?, corpus)", [corpora]):
        of_corpus[row["corpus"]].add(row["feature_set"])
    for name, sets_of_corpus in of_corpus.items():
        if not sets_of_corpus:
            _check_readable(connection, name)
            wanted = f" --features {FeatureName.parse(asked).encoder}" if asked is not None else ""
            raise UsageError(f"no features of {name} in the cache; run `tfser extract --corpus {name}{wanted}` first")
    have = sorted(set.intersection(*of_corpus.values()))
    if not have:
        each = "; ".join(f"{name} has {', '.join(sorted(sets_of_corpus))}" for name, sets_of_corpus in of_corpus.items())
        raise UsageError(f"no feature set that all corpora have: {each}; extract the same one of each")
    # A learned mix belongs to the fold that it was learned in, and what a newer version replaced is still
    # there: both are for those who ask by name.
    bound = {row["feature_set"] for row in rows(connection, f"SELECT feature_set FROM feature_sets WHERE {BOUND}")}
    sets = {row["feature_set"]: row for row in rows(connection, "FROM feature_sets")}
    old = superseded(have)
    return _There(
        have=have,
        current=[name for name in have if name not in old and name not in bound] or have,
        views={name: view for name, view in layer_views(list(sets.values())).items() if view.stack in have},
        sets=sets,
    )


def _asked(choices: _There, corpus: str, asked: str) -> str:
    """Return the one feature set that a name means: what is stored under it, else one layer of a stack."""
    if asked in choices.have:
        return asked
    # Two encoders of one name (a fine-tuned one beside its origin) are never chosen between.
    if alike := namesakes(asked, [*choices.have, *choices.views]):
        sources = {name: choices.sets[name] if name in choices.sets else choices.views[name].row for name in alike}
        places = (json.loads(row["source"] or "{}").get("weights", "?") for row in sources.values())
        each = ", ".join(f"{name} ({place})" for name, place in zip(alike, places, strict=True))
        raise UsageError(f"--features {asked}: which encoder? The cache has several of this name: {each}; name one in full")
    if asked in choices.views:
        return asked
    # A set of exactly this name that has nothing of this corpus is to be extracted: another one never stands in for it.
    found = [] if asked in choices.sets else meant_here(asked, choices.current) or meant_views(asked, choices.views.values())
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"--features {asked}: which one? The cache holds {', '.join(found)} of {corpus}")
    if asks_for_each(asked):
        raise UsageError(f"--features {asked}: this names every layer, and one feature set is wanted; `tfser sweep` takes it")
    # A stack that is here holds every layer there is: to extract another one would be refused after the weights are read.
    name = FeatureName.parse(asked)
    views = [of for of in map(FeatureName.parse, choices.views) if of.encoder == name.encoder]
    highest = max((int(of.layer) for of in views if of.layer and of.layer.isdecimal()), default=None)
    if highest is not None and name.layer is not None and name.layer.isdecimal() and int(name.layer) > highest:
        raise UsageError(f"--features {asked}: {name.encoder} has the layers 0 to {highest}")
    raise _not_extracted(corpus.split(JOINED_BY), asked, choices.have)


def _favourite(choices: _There, spec: HeadSpec, corpus: str) -> str:
    """Return the feature set that a head takes where none was asked for."""
    # Functionals stand beside the others in most caches, for the reference rows: they are for those who ask.
    current = [name for name in choices.current if not is_per_utterance(choices.sets[name])] or choices.current
    for name in spec.features:
        # A stack of layers, and numbers that were computed in other ways than by default, are for those who ask.
        parts = {of: FeatureName.parse(of) for of in meant_here(name, current)}
        wanted = set(FeatureName.parse(name).options)
        found = [of for of, part in parts.items() if part.layer != ALL and set(part.options) <= wanted]
        if len(found) == 1:
            return found[0]
        if found:
            break  # several layers, and nothing says which
    if len(current) == 1:
        return current[0]
    raise UsageError(f"which features? The cache holds {', '.join(choices.current)} of {corpus}; say --features NAME")


def _check_readable(connection: Connection, corpus: str) -> None:
    """Refuse a corpus of which nothing can be heard: to extract it again would change nothing.

    Raises:
        UsageError: if it has utterances, and none of them has audio that can be read.
    """
    counting = "SELECT count(*) AS there, count(content_hash) AS readable FROM utterances WHERE corpus = ?"
    (counts,) = rows(connection, counting, [corpus])
    if counts["there"] and not counts["readable"]:
        raise UsageError(
            f"none of the {counts['there']:,} utterances of {corpus} has audio that can be read, so there is nothing to train "
            f"on; `tfser sql \"SELECT path, reason FROM skipped WHERE corpus = '{corpus}'\"` says why"
        )


def _not_extracted(corpora: Sequence[str], asked: str, have: Sequence[str]) -> UsageError:
    """Return the error for features that are not there: how to extract them, where `extract` knows the name."""
    if len(joined_names(asked)) > 1:
        return UsageError(
            f"features {asked} of {JOINED_BY.join(corpora)} are not in the cache; run `tfser cache join --features {asked}` first"
        )
    name = FeatureName.parse(asked)
    if name.encoder not in UPSTREAMS:
        return unknown(f"feature set of {JOINED_BY.join(corpora)}", asked, have)
    more = f" --layer {name.layer}" if name.layer else ""
    more += "".join(f" --set {option}" for option in name.options)
    more += f" --dtype {name.dtype}" if name.dtype != DTYPES[0] else ""
    commands = " and ".join(f"`tfser extract --corpus {corpus} --features {name.encoder}{more}`" for corpus in corpora)
    return UsageError(
        f"features {asked} of {JOINED_BY.join(corpora)} are not in the cache, which holds {', '.join(have)}; run {commands} first"
    )


def meant_here(asked: str, have: Sequence[str]) -> list[str]:
    """Return the feature sets that a name may mean: of an encoder without a layer, its default layer alone if that is there."""
    found, known = meant(asked, have), ENCODERS.get(asked)
    default = meant(f"{asked}/{known.layer}", found) if known is not None and found != [asked] else []
    return default or found
