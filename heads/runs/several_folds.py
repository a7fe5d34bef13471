"""Runs of one experiment trained together: audit, load, train, store, as `tfser.heads.runs.one_fold` does for one.

What comes in: folds and seeds of one experiment. What goes out: their finished runs, those that were there and those that are
trained now, stacked (`tfser.heads.training.together`). A run's id says that it was stacked and how, its run.json with how many
others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tfser.heads.runs.experiment import Experiment
from tfser.heads.runs.loaded import Loaded
from tfser.heads.runs.one_fold import BY_ITSELF, Begun, EmptySideError, Following, RunResult, begin_run, check_audit, store_run
from tfser.heads.runs.store import peek, pick_up
from tfser.manifests.audits.run import Finding
from tfser.manifests.cache import Cache
from tfser.manifests.errors import TfserError, UnreadableError, UsageError


def train_together(
    cache: Cache,
    runs: Sequence[tuple[Experiment, int]],
    loaded: Callable[[], Loaded],
    findings: Sequence[Finding],
    following: Following = BY_ITSELF,
) -> list[RunResult | TfserError]:
    """Train runs of one experiment together, as its `stacked` says, or find those that are finished.

    Args:
        cache: the cache.
        runs: the experiment, which may differ in its seed only, and the fold of each.
        loaded: gives the features and the sides of all those folds; called only if there is something to train.
        findings: of `audit_experiment`.
        following: who hears of it, with the run's number in ``runs``, and how often states are kept.

    Returns:
        For each run its result, or the error that kept it from one: its audit, an empty side, a loss that is no longer finite.

    Raises:
        UsageError: if the runs are of several experiments.
        TfserError: if the group as a whole cannot be trained.
    """
    if len({experiment.name for experiment, _ in runs}) > 1:
        raise UsageError("runs that are trained together must be of one experiment, in several folds or with several seeds")
    ids = [experiment.run_id(fold) for experiment, fold in runs]
    if len(set(ids)) < len(ids):
        raise UsageError("a run stands twice among those that are trained together")
    with contextlib.ExitStack() as locks:
        # What is finished is shown, not written; the others are locked in one order everywhere, so that no two processes wait for
        # each other.
        to_lock = {run_id for run_id, (of, _) in zip(ids, runs, strict=True) if of.again or peek(cache, run_id) is None}
        for run_id in sorted(to_lock):
            locks.enter_context(cache.lock(f"runs/{run_id}", following.on_wait))
        ended, begun = _begin_all(cache, runs, loaded, findings, following.note)
        if begun:
            ended |= _train_begun(cache, runs, begun, following)
    return [ended[i] for i in range(len(runs))]


def _begin_all(
    cache: Cache,
    runs: Sequence[tuple[Experiment, int]],
    loaded: Callable[[], Loaded],
    findings: Sequence[Finding],
    note: Callable[[str], None],
) -> tuple[dict[int, RunResult | TfserError], dict[int, Begun]]:
    """Return, by number, the runs that are finished or cannot be trained, and those that are begun; their locks are held."""
    ended: dict[int, RunResult | TfserError] = {}
    begun: dict[int, Begun] = {}
    for i, (experiment, fold) in enumerate(runs):
        # A fold that its audit refuses is not even looked at: the others of the group go on without it.
        try:
            check_audit(experiment, findings, fold)
        except TfserError as error:
            ended[i] = error
            continue
        try:
            if (done := pick_up(cache, experiment.run_id(fold), again=experiment.again, note=note)) is not None:
                ended[i] = RunResult(about=done, trained=False)
            else:
                begun[i] = begin_run(cache, experiment, fold, loaded(), findings, note)
        except (EmptySideError, UnreadableError) as error:
            ended[i] = error
    return ended, begun


def _train_begun(
    cache: Cache,
    runs: Sequence[tuple[Experiment, int]],
    begun: Mapping[int, Begun],
    following: Following,
) -> dict[int, RunResult | TfserError]:
    """Train what is begun in one group and store what comes out; return by number the results, or a training's own error."""
    from tfser.heads.training.together import FitJob, choose_stacking, fit_together, provenance

    # How it is stacked is settled by the experiment, whose name holds it; here it is only looked up for what
    # run.json says of it.
    experiment = runs[0][0]
    stacking = choose_stacking(
        experiment.spec, experiment.config, experiment.recipe, experiment.device, experiment.stacked, layers=experiment.layers
    )
    jobs = [
        FitJob(data=run.data, seed=runs[i][0].seed, keeping=following.keeping(i, run.checkpoint_dir)) for i, run in begun.items()
    ]
    results = fit_together(
        jobs,
        spec=experiment.spec,
        config=experiment.config,
        recipe=experiment.recipe,
        device=experiment.device,
        how=experiment.stacked,
        on_note=following.on_note,
    )
    ended: dict[int, RunResult | TfserError] = {}
    for (i, run), result in zip(begun.items(), results, strict=True):
        if isinstance(result, TfserError):
            ended[i] = result
        else:
            about = {**run.about, **provenance(stacking, result.together)}
            ended[i] = store_run(cache, replace(run, about=about), result, following.note)
    return ended
