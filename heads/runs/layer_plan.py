"""Which layer of an encoder: what has to be trained to answer that.

In: a `LayerRequest` (`tfser.heads.runs.request`), and a cache that holds layers of an encoder, side by side in one feature set or
each by itself. Out: a `LayerPlan`: one experiment a layer, all of the same head under the same folds with validation speakers;
and beside them one on all layers together, and a learned mix of them (`tfser.heads.models.layer_mix`), where the cache holds such
a feature set. The runs are ordinary ones: they are found again, and other commands find them. `tfser.heads.results.layer_choice`
reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tfser.heads import head
from tfser.heads.runs.chosen_features import spread
from tfser.heads.runs.experiment import Experiment
from tfser.heads.runs.head_choice import ON_DIMENSIONS
from tfser.heads.runs.plan import Entry, Plan, PlannedRequest, make_plan, settle
from tfser.heads.runs.request import LayerRequest, Request, Targeted
from tfser.heads.spec.head import Baseline
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import UsageError
from tfser.manifests.feature_name import ALL, FeatureName, meant
from tfser.manifests.options import shared
from tfser.manifests.protocols.protocol import JOINED_BY
from tfser.manifests.splits.choose import choose_protocol, settled
from tfser.pipeline.features.stacks import layers_of

VALIDATION = "next-group"
"""Who chooses the layer where nobody else is named: the speakers that the next fold tests."""

NO_MIX = "none"

ON_CLASSES = "logreg"
"""What judges the layers where no head is named and classes are learned, alone or beside dimensions."""


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """What is trained: `layers` gives the entry of each layer, `others` what stands beside them, by what it is in words."""

    plan: Plan
    layers: Mapping[int, Entry]
    others: Mapping[str, Entry]

    @property
    def of(self) -> Experiment:
        """Any of the layers' experiments: they differ in their features alone."""
        return next(iter(self.layers.values())).experiment


def plan_layers(cache: Cache, request: LayerRequest) -> LayerPlan:
    """Settle which experiments answer which layer.

    Raises:
        UsageError: a name is unknown, the corpus has fewer than two layers of the encoder, or the cache leaves several choices.
        TfserError: an audit forbids a fold.
    """
    if request.head is None:
        request = replace(request, head=ON_CLASSES if request.learns_classes else ON_DIMENSIONS)
    judge = head(str(request.head))
    corpus, validation = _validated(cache, request)
    stack = _stack(cache, corpus, request.features)
    parts = FeatureName.parse(stack)
    layers = [name for name in spread(cache, corpus, str(replace(parts, layer="each"))) if name is not None]
    if len(layers) < 2:
        raise UsageError(f"--features {stack}: {corpus} has one layer of {parts.encoder}; `tfser extract --layer all` has all")
    # A layer that is stored twice (in float16 beside float32) would stand in the table twice, and one of them
    # would be picked by chance.
    by_layer: dict[int, Entry] = {}
    for name in layers:
        (entry,) = settle(cache, [_planned(request, validation, judge.name, name)])
        number = int(FeatureName.parse(entry.experiment.feature_set).layer or 0)
        if number in by_layer:
            twice = f"{by_layer[number].experiment.feature_set} and {entry.experiment.feature_set}"
            raise UsageError(f"--features {stack}: which layer {number}? The cache holds {twice}; name more of one")
        by_layer[number] = entry
    # What a single layer has to beat: all of them side by side for a baseline, a mix that is learned for a
    # network.
    others: dict[str, Entry] = {}
    if parts.layer == ALL:
        is_fitted = isinstance(judge, Baseline)
        words = "all side by side" if is_fitted else "learned mix"
        (others[words],) = settle(cache, [_planned(request, validation, judge.name, stack)])
        if is_fitted and request.mix != NO_MIX:
            if isinstance(head(request.mix), Baseline):
                raise UsageError(f"--mix {request.mix}: it is fitted at once and learns no mix; name a network, or none")
            plain = replace(request, preset=None, recipe=None, settings={})
            (others["learned mix"],) = settle(cache, [_planned(plain, validation, request.mix, stack)])
    plan = make_plan(cache, [*by_layer.values(), *others.values()])
    return LayerPlan(plan=plan, layers=by_layer, others=others)


def _validated(cache: Cache, request: LayerRequest) -> tuple[str, str | None]:
    """Return the corpus, and the validation policy: as asked, the protocol's own, or the next group."""
    if request.validation is None:
        try:
            corpus, _ = choose_protocol(
                cache, request.corpus, request.protocol, labels=request.split_labels, validation=VALIDATION
            )
            return corpus, VALIDATION
        except UsageError:  # the protocol has a validation side of its own; any other mistake is met again
            pass
    corpus, _ = settled(cache, replace(request, labels=request.split_labels), request.protocol)
    return corpus, request.validation


def _stack(cache: Cache, corpus: str, asked: str | None) -> str:
    """Return the feature set of all layers that a name means, or the only one; else the name, for layers that are stored singly.

    Raises:
        UsageError: there is none, or several.
    """
    with open_catalogue(cache) as connection:
        have = {
            row["feature_set"]
            for row in rows(
                connection,
                "SELECT feature_set FROM features WHERE list_contains(?, corpus) GROUP BY feature_set "
                "HAVING count(DISTINCT corpus) = len(?)",
                [corpus.split(JOINED_BY)] * 2,
            )
        }
        # Of several corpora, only what all of them have: layers are chosen once, for all.
        sets = [row for row in rows(connection, "FROM feature_sets ORDER BY feature_set") if row["feature_set"] in have]
    stacks = [row["feature_set"] for row in sets if layers_of(row) > 1]
    if asked is None:
        candidates = stacks
    else:
        parts = FeatureName.parse(asked)
        if parts.layer not in (None, ALL):
            raise UsageError(f"--features {asked}: this is one layer; name all of them: {parts.encoder}/{ALL}")
        # A stack before single layers: one file a shard instead of one a layer. Where there is none, the layers that
        # are stored singly.
        candidates = meant(str(replace(parts, layer=ALL)), stacks)
        if not candidates and meant(str(replace(parts, layer=None)), have):
            return str(replace(parts, layer=None))
    if len(candidates) == 1:
        return str(candidates[0])
    if candidates:
        raise UsageError(f"which layers? {corpus} has {', '.join(candidates)}; say --features NAME")
    what = "no features of all layers" if asked is None else f"no layers of {asked}"
    extract = f"`tfser extract --corpus {corpus} --features NAME --layer all`"
    raise UsageError(f"{what} of {corpus} in the cache; {extract} stores them")


def _planned(request: LayerRequest, validation: str | None, name: str, features: str) -> PlannedRequest:
    """Return the request of one experiment."""
    epochs = None if isinstance(head(name), Baseline) else request.epochs
    asked = Request(
        **shared(Targeted, request) | {"validation": validation, "epochs": epochs},
        head=name,
        features=features,
        preset=request.preset,
        recipe=request.recipe,
        settings=request.settings,
    )
    return PlannedRequest(request=asked, seeds=request.seeds)


def layer_entries(plan: LayerPlan) -> Sequence[tuple[int | None, str, Entry]]:
    """Return every entry with its layer, if it is one, and what it is in words: the layers first, from the lowest on."""
    layers = [(number, f"layer {number}", plan.layers[number]) for number in sorted(plan.layers)]
    return [*layers, *((None, words, entry) for words, entry in plan.others.items())]
