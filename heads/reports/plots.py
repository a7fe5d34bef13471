"""Single figures for papers: what each kind needs, and how it comes to be. The page draws from the same functions.

In goes the cache, a kind and what it is of; out comes a drawn Matplotlib figure. Call in `tfser.heads.reports.style.house_style`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tfser.heads.reports import drawing, failing_data, inside_data, paper_data, paper_drawing, scores_data, trust_data
from tfser.heads.reports.dimension_parts import rated_members, scatter
from tfser.heads.reports.epochs_data import curves
from tfser.heads.reports.figure_data import FigureData
from tfser.heads.reports.layers import layers_figure
from tfser.heads.reports.material import Contender, ContenderGroup, read_material, spoken
from tfser.heads.reports.wishes import PLOTS, PlotWishes
from tfser.heads.results.layer_choice import layer_scores
from tfser.heads.results.outcomes import find, targets_of
from tfser.heads.runs.layer_plan import plan_layers
from tfser.heads.runs.request import LayerRequest
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.notes import note

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Plan = tuple[Cache, Connection, Sequence[str], PlotWishes, float]


def _group(plan: Plan) -> ContenderGroup:
    """Return what is to be shown, all of which must compare.

    Raises:
        UsageError: The experiments are of several protocols or classes.
    """
    cache, connection, names, wishes, _ = plan
    material = read_material(cache, connection, names, selection=wishes.selection)
    if len(material.groups) > 1:
        kinds = "; ".join(f"{group.corpus} {group.protocol} ({group.members[0].experiment} ...)" for group in material.groups)
        raise UsageError(f"these experiments do not compare, name those of one protocol and its classes: {kinds}")
    return material.groups[0]


def _one(plan: Plan) -> Contender:
    """Return the one experiment to be shown: the one that is named, or the only one there is.

    Raises:
        UsageError: Several could be meant.
    """
    cache, connection, names, wishes, _ = plan
    members = read_material(cache, connection, names, selection=wishes.selection).members
    if len(members) > 1:
        raise UsageError(f"name one experiment for this figure: {', '.join(member.experiment for member in members)}")
    return members[0]


def _of_one(make: Callable[[Connection, Contender], FigureData]) -> Callable[[Plan], Figure]:
    """Return the plot that draws data of one experiment."""
    return lambda plan: drawing.draw(make(plan[1], _one(plan)), plan[4])


def _confusion(connection: Connection, one: Contender) -> FigureData:
    return scores_data.confusion(one)


def _reliability(connection: Connection, one: Contender) -> FigureData:
    return trust_data.reliability(one, trust_data.read_sureness(connection, one))


def _risk(connection: Connection, one: Contender) -> FigureData:
    return trust_data.risk(one, trust_data.read_sureness(connection, one))


def _entropy(connection: Connection, one: Contender) -> FigureData:
    return trust_data.entropy(one, trust_data.read_sureness(connection, one))


def _failing(connection: Connection, one: Contender) -> FigureData:
    data = failing_data.failing(one, spoken(connection, [one.experiment]))
    if not data.rows:
        raise UsageError(f"{one.experiment}: {data.reading}")
    return data


def _forest(plan: Plan) -> Figure:
    return drawing.draw(scores_data.forest(_group(plan)), plan[4])


def _difference(plan: Plan) -> Figure:
    cache, connection, names, wishes, width = plan
    if len(names) != 2:
        raise UsageError("name two experiments: the difference is the first minus the second")
    a, b = (_one((cache, connection, [name], wishes, width)) for name in names)
    return drawing.draw(scores_data.confusion_difference(a, b), width)


def _cost(plan: Plan) -> Figure:
    points, left_out = paper_data.costs(plan[1], read_material(plan[0], plan[1], plan[2], selection=plan[3].selection))
    for line in left_out:
        note(f"left out: {line}")
    note(f"timed on {points[0].conditions}")
    return paper_drawing.cost(points, plan[4])


def _tokens(plan: Plan) -> Figure:
    cache, connection, _, wishes, width = plan
    name = _named(plan, "tf_mamba")
    watched = inside_data.watch(cache, connection, name, head="tf_mamba", utterance=wishes.utterance, fold=wishes.fold)
    return paper_drawing.tokens(inside_data.tokens(watched), width)


def _attention(plan: Plan) -> Figure:
    cache, connection, _, wishes, width = plan
    name = _named(plan, "tf_transformer")
    watched = inside_data.watch(cache, connection, name, head="tf_transformer", utterance=wishes.utterance, fold=wishes.fold)
    return paper_drawing.attention(inside_data.attention(watched), width)


def _named(plan: Plan, head: str) -> str:
    """Return the one experiment or run that is named, or the only one of a head."""
    _, connection, names, _, _ = plan
    if len(names) == 1:
        return names[0]
    found = [
        row["experiment"] for row in rows(connection, "SELECT DISTINCT experiment FROM runs WHERE head = ? ORDER BY 1", [head])
    ]
    if len(found) != 1 or names:
        raise UsageError(f"name one experiment of {head}; here: {', '.join(found) or 'none, `tfser train` makes one'}")
    return str(found[0])


def _embedding(plan: Plan) -> Figure:
    cache, connection, _, wishes, width = plan
    if wishes.method not in paper_data.METHODS:
        raise unknown("method", wishes.method, paper_data.METHODS)
    if len(wishes.features) > 1:
        raise UsageError("--features: an embedding is of one feature set")
    feature_set = wishes.features[0] if wishes.features else None
    found = paper_data.embed(cache, connection, _one(plan), wishes.method, feature_set)
    return paper_drawing.embedding(found, width)


def _features(plan: Plan) -> Figure:
    cache, connection, names, wishes, width = plan
    if len(names) != 1:
        raise UsageError("name one utterance: tfser plot features UTTERANCE -o x.pdf")
    view = paper_data.features_of(cache, connection, names[0], corpus=wishes.corpus, feature_sets=wishes.features)
    for line in view.notes:
        note(line)
    return paper_drawing.features(view, width)


def _layers(plan: Plan) -> Figure:
    cache, _, _, wishes, width = plan
    if len(wishes.features) > 1:
        raise UsageError("--features: layers are of one encoder")
    asked = LayerRequest(features=wishes.features[0] if wishes.features else None)
    # What `tfser layers` trained is found by its runs' names; nothing is trained here.
    return layers_figure(layer_scores(cache, plan_layers(cache, asked), wishes.selection).rows, width)


def _ratings(plan: Plan) -> Figure:
    _, connection, names, wishes, width = plan
    found = rows(connection, "SELECT DISTINCT experiment FROM runs WHERE len(targets) > 0 ORDER BY 1")
    rating = [row["experiment"] for row in found]
    if len(names or rating) != 1:
        have = ", ".join(rating) or "none here; `tfser train --target` makes one"
        raise UsageError(f"name one experiment on dimensions: {have}")
    subject = find(connection, (names or rating)[0])
    if not (dimensions := targets_of(connection, subject)):
        raise UsageError(f"{subject.name} learned classes alone: it rates nothing")
    if wishes.dimension is None and len(dimensions) > 1:
        raise UsageError(f"{subject.name} rates {', '.join(dimensions)}: say --dimension {dimensions[0]}")
    if (chosen := wishes.dimension or dimensions[0]) not in dimensions:
        raise unknown("dimension of this experiment", chosen, dimensions)
    (member,), _ = rated_members(connection, [subject.experiment], wishes.selection)
    return drawing.draw(scatter(member, chosen), width)


DRAWN: dict[str, Callable[[Plan], Figure]] = {
    "forest": _forest,
    "speakers": _of_one(scores_data.speakers),
    "confusion": _of_one(_confusion),
    "difference": _difference,
    "curves": _of_one(curves),
    "ratings": _ratings,
    "reliability": _of_one(_reliability),
    "risk": _of_one(_risk),
    "entropy": _of_one(_entropy),
    "failing": _of_one(_failing),
    "cost": _cost,
    "tokens": _tokens,
    "attention": _attention,
    "layers": _layers,
    "embedding": _embedding,
    "features": _features,
}
"""How each of `wishes.PLOTS` is drawn."""


def plot(cache: Cache, connection: Connection, kind: str, names: Sequence[str], wishes: PlotWishes, inches: float) -> Figure:
    """Draw a figure.

    Args:
        cache: the cache.
        connection: its catalogue.
        kind: a name of PLOTS.
        names: experiments; of `features`, an utterance.
        wishes: what else was said.
        inches: its width.

    Raises:
        UsageError: There is no such kind, or what it needs is not there.
    """
    if kind not in PLOTS:
        raise unknown("kind of plot", kind, list(PLOTS))
    return DRAWN[kind]((cache, connection, names, wishes, inches))
