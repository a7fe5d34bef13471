"""Single figures for papers: what each kind needs, and how it comes to be. The page draws from the same functions.

In goes the cache, a kind and what it is of; out comes a drawn Matplotlib figure. Call in `tfser.heads.reports.style.house_style`.
`wishes.PLOTS` says which function draws a kind: one of these, or one of a file of its own that takes an `AskedFigure`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from tfser.heads.reports import drawing, failing_data, inside_data, paper_data, paper_drawing, scores_data, trust_data
from tfser.heads.reports.dimension_parts import rated_members, scatter
from tfser.heads.reports.epochs_data import curves
from tfser.heads.reports.figure_data import FigureData
from tfser.heads.reports.layers import layers_figure
from tfser.heads.reports.material import Contender, ContenderGroup, Material, read_material, spoken
from tfser.heads.reports.wishes import PLOTS, PlotWishes
from tfser.heads.results.layer_choice import layer_scores
from tfser.heads.results.outcomes import find, targets_of
from tfser.heads.runs.layer_plan import plan_layers
from tfser.heads.runs.request import LayerRequest
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.experiment_names import meant_by
from tfser.manifests.notes import note

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class AskedFigure(NamedTuple):
    """A figure that is asked for: of a cache, its catalogue, experiments (of `features` an utterance), so many inches wide."""

    cache: Cache
    connection: Connection
    names: Sequence[str]
    wishes: PlotWishes
    width: float


def _material(asked: AskedFigure) -> Material:
    """Return what the experiments are drawn from."""
    return read_material(asked.cache, asked.connection, asked.names, selection=asked.wishes.selection)


def _group(asked: AskedFigure) -> ContenderGroup:
    """Return what is to be shown, all of which must compare.

    Raises:
        UsageError: The experiments are of several protocols or classes.
    """
    material = _material(asked)
    if len(material.groups) > 1:
        kinds = "; ".join(f"{group.corpus} {group.protocol} ({group.members[0].experiment} ...)" for group in material.groups)
        raise UsageError(f"these experiments do not compare, name those of one protocol and its classes: {kinds}")
    return material.groups[0]


def _one(asked: AskedFigure) -> Contender:
    """Return the one experiment to be shown: the one that is named, or the only one there is.

    Raises:
        UsageError: Several could be meant.
    """
    members = _material(asked).members
    if len(members) > 1:
        raise UsageError(f"name one experiment for this figure: {', '.join(member.experiment for member in members)}")
    return members[0]


def _of_one(make: Callable[[Connection, Contender], FigureData]) -> Callable[[AskedFigure], Figure]:
    """Return the plot that draws data of one experiment."""
    return lambda asked: drawing.draw(make(asked.connection, _one(asked)), asked.width)


def _of_sureness(make: Callable[[Contender, trust_data.Sureness], FigureData]) -> Callable[[AskedFigure], Figure]:
    """Return the plot that draws how far one experiment can be trusted."""
    return _of_one(lambda connection, one: make(one, trust_data.read_sureness(connection, one)))


def _failing(connection: Connection, one: Contender) -> FigureData:
    data = failing_data.failing(one, spoken(connection, [one.experiment]))
    if not data.rows:
        raise UsageError(f"{one.experiment}: {data.reading}")
    return data


def forest(asked: AskedFigure) -> Figure:
    """Draw experiments with their intervals."""
    return drawing.draw(scores_data.forest(_group(asked)), asked.width)


def difference(asked: AskedFigure) -> Figure:
    """Draw the confusion of the first minus that of the second."""
    if len(asked.names) != 2:
        raise UsageError("name two experiments: the difference is the first minus the second")
    a, b = (_one(asked._replace(names=[name])) for name in asked.names)
    return drawing.draw(scores_data.confusion_difference(a, b), asked.width)


def cost(asked: AskedFigure) -> Figure:
    """Draw scores against latency and parameters, as TF-Mamba's Fig. 3 does."""
    points, left_out = paper_data.costs(asked.connection, _material(asked))
    for line in left_out:
        note(f"left out: {line}")
    note(f"timed on {points[0].conditions}")
    return paper_drawing.cost(points, asked.width)


def tokens(asked: AskedFigure) -> Figure:
    """Draw tokens and spectrum before and after TF-Mamba's modules, as its Fig. 4 does."""
    return paper_drawing.tokens(inside_data.tokens(_watched(asked, "tf_mamba")), asked.width)


def attention(asked: AskedFigure) -> Figure:
    """Draw log-Mel frames with TF-Transformer's attention over them, as its Fig. 3 does."""
    return paper_drawing.attention(inside_data.attention(_watched(asked, "tf_transformer")), asked.width)


def _watched(asked: AskedFigure, head: str) -> inside_data.Watched:
    """Return what a head does with an utterance: the experiment or run that is named, or the only one of that head."""
    name = asked.names[0] if len(asked.names) == 1 else None
    if name is None:
        trained = rows(asked.connection, "SELECT DISTINCT experiment FROM runs WHERE head = ? ORDER BY 1", [head])
        have = [str(row["experiment"]) for row in trained]
        if len(have) != 1 or asked.names:
            raise UsageError(f"name one experiment of {head}; here: {', '.join(have) or 'none, `tfser train` makes one'}")
        name = have[0]
    wishes = asked.wishes
    return inside_data.watch(asked.cache, asked.connection, name, head=head, utterance=wishes.utterance, fold=wishes.fold)


def embedding(asked: AskedFigure) -> Figure:
    """Draw the utterances of one experiment in a plane."""
    wishes = asked.wishes
    if wishes.method not in paper_data.METHODS:
        raise unknown("method", wishes.method, paper_data.METHODS)
    if len(wishes.features) > 1:
        raise UsageError("--features: an embedding is of one feature set")
    feature_set = wishes.features[0] if wishes.features else None
    placed = paper_data.embed(asked.cache, asked.connection, _one(asked), wishes.method, feature_set)
    return paper_drawing.embedding(placed, asked.width)


def features(asked: AskedFigure) -> Figure:
    """Draw one utterance as its feature sets hold it."""
    if len(asked.names) != 1:
        raise UsageError("name one utterance: tfser plot features UTTERANCE -o x.pdf")
    wishes = asked.wishes
    view = paper_data.features_of(
        asked.cache, asked.connection, asked.names[0], corpus=wishes.corpus, feature_sets=wishes.features
    )
    for line in view.notes:
        note(line)
    return paper_drawing.features(view, asked.width)


def layers(asked: AskedFigure) -> Figure:
    """Draw the score of each layer, as `tfser layers` trained them."""
    wishes = asked.wishes
    if len(wishes.features) > 1:
        raise UsageError("--features: layers are of one encoder")
    request = LayerRequest(features=wishes.features[0] if wishes.features else None)
    # What `tfser layers` trained is found by its runs' names; nothing is trained here.
    return layers_figure(layer_scores(asked.cache, plan_layers(asked.cache, request), wishes.selection).rows, asked.width)


def ratings(asked: AskedFigure) -> Figure:
    """Draw predicted against rated values of one dimension."""
    connection, wishes = asked.connection, asked.wishes
    rating = [row["experiment"] for row in rows(connection, _THAT_RATE)]
    if len(asked.names or rating) != 1:
        have = ", ".join(rating) or "none here; `tfser train --target` makes one"
        raise UsageError(f"name one experiment on dimensions: {have}")
    subject = find(connection, (asked.names or rating)[0])
    if not (dimensions := targets_of(connection, subject)):
        raise UsageError(f"{subject.name} learned classes alone: it rates nothing")
    if wishes.dimension is None and len(dimensions) > 1:
        raise UsageError(f"{subject.name} rates {', '.join(dimensions)}: say --dimension {dimensions[0]}")
    if (chosen := wishes.dimension or dimensions[0]) not in dimensions:
        raise unknown("dimension of this experiment", chosen, dimensions)
    (member,), _ = rated_members(connection, [subject.experiment], wishes.selection)
    return drawing.draw(scatter(member, chosen), asked.width)


_THAT_RATE = "SELECT DISTINCT experiment FROM runs WHERE len(targets) > 0 ORDER BY 1"


# Of one experiment: what the page draws as well.
speakers = _of_one(scores_data.speakers)
confusion = _of_one(lambda connection, one: scores_data.confusion(one))
epochs = _of_one(curves)
failing = _of_one(_failing)
reliability = _of_sureness(trust_data.reliability)
risk = _of_sureness(trust_data.risk)
entropy = _of_sureness(trust_data.entropy)


def plot(cache: Cache, connection: Connection, kind: str, names: Sequence[str], wishes: PlotWishes, inches: float) -> Figure:
    """Draw a figure.

    Args:
        cache: the cache.
        connection: its catalogue.
        kind: a name of PLOTS.
        names: experiments, by id, enough of it, or a name that somebody gave; of `features`, an utterance.
        wishes: what else was said.
        inches: its width.

    Raises:
        UsageError: There is no such kind, or what it needs is not there.
    """
    if kind not in PLOTS:
        raise unknown("kind of plot", kind, list(PLOTS))
    module, _, function = PLOTS[kind].drawn_by.partition(":")
    draw: Callable[[AskedFigure], Figure] = getattr(import_module(f"tfser.heads.reports.{module}"), function)
    # Names that people gave mean experiments; what `features` names is an utterance, whatever experiments are called.
    meant = list(names) if kind == "features" else [meant_by(cache, name) for name in names]
    return draw(AskedFigure(cache=cache, connection=connection, names=meant, wishes=wishes, width=inches))
