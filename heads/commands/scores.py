"""`tfser scores` and `tfser compare`: what came out of finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from tfser.heads.commands.columns import side_by_side
from tfser.heads.commands.compare_table import print_comparison
from tfser.heads.commands.dimension_report import dimension_markdown, print_dimensions, print_rated_comparison
from tfser.heads.commands.many_table import print_many
from tfser.heads.commands.published_table import markdown_published, print_published
from tfser.heads.commands.score_report import markdown, print_table
from tfser.heads.results.compare import compare as compare_outcomes
from tfser.heads.results.dimension_compare import compare_ratings
from tfser.heads.results.dimension_many import compare_many_ratings
from tfser.heads.results.dimension_tables import table_beside
from tfser.heads.results.many import compare_many
from tfser.heads.results.moments import RATED_METRICS
from tfser.heads.results.outcomes import Subject, check_classes, find, learned_classes, read_outcome, targets_of
from tfser.heads.results.rater_scores import label_maps
from tfser.heads.results.rating_outcomes import read_rated_outcome
from tfser.heads.results.reference_numbers import beside_scores
from tfser.heads.results.score_tables import Wanted, table, whole_utterances
from tfser.manifests.catalogue.reading import Connection, open_catalogue, rows
from tfser.manifests.commands.printing import Writing
from tfser.manifests.display import show, terminal_width
from tfser.manifests.errors import UsageError
from tfser.manifests.experiment_names import meant_by
from tfser.manifests.options import Option

Clusters = Annotated[str | None, Option("Intervals over speaker (the default), session or dialogue.", metavar="WHAT")]


def scores(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="EXPERIMENT", help="Only experiments whose id begins so, or holds this piece (the hash is enough)."
        ),
    ] = None,
    *,
    by: Annotated[
        str | None,
        Option("seed, fold, class, speaker, session, calibration, agreement (of raters), raters (their votes).", metavar="WHAT"),
    ] = None,
    clusters: Clusters = None,
    published: Annotated[bool, Option("Below, what others print for the same corpora and tasks.")] = False,
    wanted: Wanted,
    writing: Writing,
) -> None:
    """List scores over folds and seeds, with intervals over speakers; or by seed, fold, class, speaker, session.

    Raises:
        UsageError: if no run is what is wanted.

    Example:
        tfser scores --by speaker --head mean_pool
        tfser scores --selection last --output scores.md
        tfser scores --published --corpus emodb
        tfser scores --by agreement
    """
    if name and wanted.experiment:
        raise UsageError("--experiment goes without the argument: both name experiments")
    text = name or wanted.experiment
    wanted = replace(wanted, experiment=text and meant_by(writing.store, text))
    show_scores(wanted, writing, by=by, clusters=clusters, published=published)


def show_scores(
    wanted: Wanted, writing: Writing, *, by: str | None = None, clusters: str | None = None, published: bool = False
) -> None:
    """Print or write the scores of runs.

    Raises:
        UsageError: if no run is what is wanted.
    """
    writing.kind()  # before anything is computed
    with open_catalogue(writing.store) as connection:
        maps = label_maps(writing.store, connection) if by == "raters" else None
        scores = table(connection, wanted, by=by, clusters=clusters, maps=maps)
        rated = table_beside(connection, scores, wanted, by=by, clusters=clusters)
        once = sorted(whole_utterances(connection, [row["experiment"] for row in scores])) if wanted.segments else []
        readers = {row["corpus"]: row["adapter"] for row in rows(connection, "SELECT corpus, adapter FROM corpora")}
    theirs = beside_scores([*scores, *rated], readers) if published else []

    def for_people() -> None:
        if scores or not rated:
            print_table(scores, by, terminal_width(), once)
            show(*[""] * bool(rated))
        print_dimensions(rated, by, terminal_width())
        if published:
            print_published(theirs, terminal_width())

    every = side_by_side(scores, rated)
    writing.deliver(
        every,
        for_people,
        as_json={"scores": every, "published": theirs} if published else None,
        as_markdown=lambda: [
            *(markdown(scores, by, once) if scores or not rated else ()),
            *dimension_markdown(rated, by),
            *(markdown_published(theirs) if published else ()),
        ],
    )


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """What of the predictions of several experiments is compared, and how."""

    metric: Annotated[
        str | None,
        Option(
            "UA, WA, WF1 or macro_F1: what is tested; of dimensions CCC, pearson or MAE. UA or CCC if left out.", metavar="NAME"
        ),
    ] = None
    selection: Annotated[str, Option("How the epochs were chosen.", metavar="NAME")] = "last"
    level: Annotated[str, Option("utterance or segment.")] = "utterance"
    common: Annotated[bool, Option("Compare what both tested under the same label, where they differ in that.")] = False
    clusters: Clusters = None


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="An experiment: its id, or enough of it; or a run.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The one to compare it with.")],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="C", help="Further ones: all pairs at once, and letters for groups.")
    ] = None,
    *,
    comparing: Comparing,
    writing: Writing,
) -> None:
    """Compare two experiments on the same test utterances: difference with interval, tests, wins by fold and speaker.

    Raises:
        UsageError: if there are no such experiments, or they cannot be compared.

    Example:
        tfser compare mean_pool svm --metric WF1
        tfser compare mean_pool svm logreg tf_mamba
    """
    writing.kind()  # before anything is computed
    with open_catalogue(writing.store) as connection:
        subjects = [find(connection, meant_by(writing.store, name)) for name in (a, b, *(more or ()))]
        how: dict[str, Any] = {"clusters": comparing.clusters, "common": comparing.common}
        tested: dict[str, Any] = {"selection": comparing.selection, "level": comparing.level}
        if _by_ratings(connection, subjects, comparing.metric):
            rates = [read_rated_outcome(connection, subject, **tested) for subject in subjects]
            how |= {"metric": comparing.metric or "CCC"}
            if more:
                all_of = compare_many_ratings(rates, **how)
                writing.deliver(all_of.rows(), lambda: print_many(all_of), as_json=all_of.to_dict())
                return
            rated = compare_ratings(rates[0], rates[1], **how)
            writing.deliver(rated.rows(), lambda: print_rated_comparison(rated), as_json=rated.to_dict())
            return
        sides = [read_outcome(connection, subject, **tested) for subject in subjects]
    how |= {"metric": comparing.metric or "UA"}
    if more:
        many = compare_many(sides, **how)
        writing.deliver(many.rows(), lambda: print_many(many), as_json=many.to_dict())
        return
    found = compare_outcomes(sides[0], sides[1], **how)
    writing.deliver(found.rows(), lambda: print_comparison(found), as_json=found.to_dict())


def _by_ratings(connection: Connection, subjects: Sequence[Subject], metric: str | None) -> bool:
    """Tell whether experiments are compared by their ratings: where the metric is one of those, or not all learned classes.

    Raises:
        UsageError: some learned classes alone, and others dimensions alone.
    """
    rates = [subject for subject in subjects if targets_of(connection, subject)]
    classes = [subject for subject in subjects if learned_classes(connection, subject)]
    if metric not in RATED_METRICS and len(classes) == len(subjects):
        return False
    if len(rates) < len(subjects):
        for subject in rates:
            check_classes(connection, subject, "the other")
        none = next(subject for subject in subjects if subject not in rates)
        raise UsageError(f"{none.name} learned no dimensions, and --metric {metric} is of those; take UA, WA, WF1 or macro_F1")
    return True
