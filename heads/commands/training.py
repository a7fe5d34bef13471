"""What `tfser train` and `tfser ablate` do between their options and their tables: plan, train under bars, print.

In: a cache and requests. Out: finished runs in the cache, tables on standard output, everything else on standard error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tfser.heads import head
from tfser.heads.commands.ablation_table import print_ablation
from tfser.heads.commands.fold_progress import FoldBars
from tfser.heads.commands.training_table import print_for_use, print_scores
from tfser.heads.results.ablation import compare, plan_rows, reference_rows
from tfser.heads.runs.experiment import EVERYTHING, Experiment, each_request, resolve
from tfser.heads.runs.in_turn import Failure, run_here
from tfser.heads.runs.one_fold import EmptySideError
from tfser.heads.runs.plan import entry_of, make_plan
from tfser.heads.runs.references import reference_features
from tfser.heads.runs.request import Request
from tfser.heads.runs.running import Running
from tfser.heads.spec.selections import BASE, check_name
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import refresh_if_possible
from tfser.manifests.display import Output, say
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.experiment_names import give_name


def show_training(
    store: Cache, requests: Sequence[Request], running: Running, format: Output, *, name: str | None = None
) -> None:
    """Train what is requested, which differs in its features alone, and print the scores.

    Args:
        store: the cache.
        requests: what is asked.
        running: how it is trained.
        format: how the scores are printed.
        name: what to call the experiment.

    Raises:
        UsageError: if a request is off; nothing is trained then.
        TfserError: if an audit forbids a fold, or a fold could not be trained; the others are done then.
    """
    settled = (resolve(store, single) for request in requests for single in each_request(store, request))
    experiments = list({experiment.name: experiment for experiment in settled}.values())
    if experiments[0].chosen:
        say(f"chosen for you: {', '.join(experiments[0].chosen)}")
    several = len(experiments) > 1
    if name is not None:
        if several:
            raise UsageError(f"--name {name}: names one experiment, and these are {len(experiments)}")
        give_name(store, name, experiments[0].name)
    headings = {experiment.name: f"features {experiment.feature_set}" for experiment in experiments} if several else {}
    failed = train_folds(store, experiments, running, headings)
    if experiments[0].folds == (EVERYTHING,):
        print_for_use(store, experiments, format)
        _raise_if(failed)
        return
    lost = {failure.run.run_id for failure in failed}
    shown = [one for one in experiments if any(one.run_id(fold) not in lost for fold in one.folds)]
    print_scores(store, shown, format)
    _raise_if(failed)


def show_ablation(
    store: Cache,
    request: Request,
    running: Running,
    format: Output,
    *,
    presets: Sequence[str],
    reference: bool,
    selection: str,
) -> None:
    """Train the rows of a head's ablation table, and print them beside the paper's.

    Args:
        store: the cache.
        request: what all rows share.
        running: how they are trained.
        format: how the table is printed.
        presets: only rows of these; none: all.
        reference: whether the reference heads stand below.
        selection: whose scores are shown.

    Raises:
        UsageError: if the request is off; nothing is trained then.
        TfserError: if an audit forbids a fold, or a fold could not be trained; the others are done then.
    """
    check_name(selection)
    planned = [*plan_rows(head(request.head), request, presets), *(reference_rows(request) if reference else ())]
    table = [(row, resolve(store, wanted)) for row, wanted in planned]  # all of them, before the first is trained
    functionals = reference_features(store, table[0][1].corpus) if reference else None
    if functionals and functionals.name not in (None, table[0][1].feature_set):
        table += [(row, resolve(store, wanted)) for row, wanted in reference_rows(request, functionals.name)]
    if selection not in (*BASE, *table[0][1].recipe.selections):
        raise UsageError(f"--selection {selection}: this recipe does not keep it; add --set selections={selection}")
    if selection.startswith("val") and table[0][1].validation == "none":
        raise UsageError(f"--selection {selection} needs validation utterances: add --validation next-group")
    if chosen := [text for text in table[0][1].chosen if not text.startswith("preset")]:
        say(f"chosen for you: {', '.join(chosen)}")
    headings = {
        experiment.name: f"{number} of {len(table)}: {row.name} ({experiment.preset}, {experiment.recipe_name})"
        for number, (row, experiment) in enumerate(table, start=1)
    }
    failed = train_folds(store, [experiment for _, experiment in table], running, headings)
    print_ablation(table[0][1], compare(store, table, selection), format)
    if functionals and functionals.lacking:
        say(functionals.lacking)
    _raise_if(failed)


def train_folds(store: Cache, experiments: Sequence[Experiment], running: Running, headings: Mapping[str, str]) -> list[Failure]:
    """Train the folds of experiments after the audits of all of them; return those of which a side is empty."""
    plan = make_plan(store, [entry_of(experiment) for experiment in experiments])
    for note in plan.notes():
        say(note)
    try:
        with FoldBars(store, plan, headings) as bars:
            return run_here(
                store,
                plan.runs,
                plan.findings,
                tell=bars.tell,
                checkpoint_every_s=running.checkpoint_every,
                go_on_after=EmptySideError,
                holding=running.holding,
            )
    finally:
        refresh_if_possible(store)


def _raise_if(failed: Sequence[Failure]) -> None:
    """Say which folds could not be trained.

    Raises:
        TfserError: if there are any.
    """
    if failed:
        left = f" (and {len(failed) - 1} more like it)" if len(failed) > 1 else ""
        raise TfserError(f"{failed[0].reason}{left}; the other folds are done")
