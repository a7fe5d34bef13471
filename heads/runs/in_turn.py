"""The loop that trains runs one after the other: of `tfser train`, of `tfser ablate`, and of each process of `tfser sweep`.

In: runs in an order in which those on the same features stand together. Out: events, and what failed. Features are loaded when
a run needs them, shared by the runs that follow on the same, and let go before others are loaded. Nothing else passes from one
run to the next: `fit` draws all randomness from the run's own seed, so a run gives the same numbers whichever stood beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tfser.heads.runs.experiment import Experiment
from tfser.heads.runs.holding import AS_IT_FITS, Holding
from tfser.heads.runs.loaded import Loaded, load
from tfser.heads.runs.one_fold import Following, train_fold, utterances_cut
from tfser.heads.runs.plan import Key, Run, data_key
from tfser.heads.runs.several_folds import train_together
from tfser.heads.spec.fold import EpochRecord
from tfser.heads.training.frame_sums import KeptSums
from tfser.manifests.audits.run import Finding
from tfser.manifests.cache import Cache
from tfser.manifests.errors import TfserError, first_line
from tfser.manifests.wording import count


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happens to a run: `start`, `epoch` (each one), `done`, `failed` or `busy`; a `note` is for people and of no run.

    `record` belongs to an epoch, `about` (run.json) and `trained` (now, or found) to what is done, `text` to a failure or note.
    `busy`: another process is training the run; it comes again when the others are through.
    """

    kind: Literal["start", "epoch", "done", "failed", "busy", "note"]
    run: Run | None = None
    record: EpochRecord | None = None
    about: Mapping[str, Any] | None = None
    trained: bool = False
    text: str = ""


TOGETHER = 32
"""Runs that are trained in one step, at most: enough to fill a GPU with small heads."""

Tell = Callable[[Event], None]
Findings = Mapping[Key, "Sequence[Finding]"]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A run that could not be trained, and why."""

    run: Run
    reason: str


class BusyError(TfserError):
    """Another process is training this run."""


class Shelf:
    """The features in memory: those of one key at a time."""

    def __init__(self, cache: Cache, tell: Tell, holding: Holding = AS_IT_FITS) -> None:
        self._cache, self._tell, self._holding = cache, tell, holding
        self._key: Key | None = None
        self._loaded: Loaded | None = None
        self._said: set[str] = set()

    def get(self, experiment: Experiment, folds: Sequence[int]) -> Loaded:
        """Return the features of an experiment with the sides of `folds`; whatever else was held is let go first."""
        key = data_key(experiment)
        if self._loaded is None or key != self._key or not set(folds) <= self._loaded.sides.keys():
            self._loaded, self._key = None, None
            self._loaded = load(self._cache, replace(experiment, folds=tuple(folds)), holding=self._holding)
            self._key = key
        if (why := self._loaded.streamed) is not None:
            self._say(f"{experiment.stored}: frames are streamed from the cache, {why}; the numbers are the same (--no-stream)")
        if cut := utterances_cut(experiment, self._loaded):
            most = experiment.spec.seen_frames(experiment.config, experiment.recipe)
            what = "cut_seconds" if most == experiment.recipe.cut_frames else "max_seconds"
            self._say(
                f"{count(cut, 'utterance')} of {len(self._loaded.labels):,} are longer than {most:,} frames and cut there "
                f"(--set {what}=...)"
            )
        return self._loaded

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._tell(Event(kind="note", text=text))


def folds_by_key(runs: Iterable[Run]) -> dict[Key, tuple[int, ...]]:
    """Return the folds that any of the runs needs of each features."""
    found: dict[Key, set[int]] = {}
    for run in runs:
        found.setdefault(data_key(run.experiment), set()).add(run.fold)
    return {key: tuple(sorted(folds)) for key, folds in found.items()}


def groups(runs: Sequence[Run]) -> list[tuple[Run, ...]]:
    """Return the runs in the groups that are trained together (`tfser.heads.training.together`), each on its own unless it is
    stacked.

    A group holds runs of one experiment, folds and seeds, at most `TOGETHER`.
    """
    batches: list[tuple[Run, ...]] = []
    for run in runs:
        of, before = run.experiment, batches[-1] if batches else ()
        if of.stacked != "none" and before and before[0].experiment.name == of.name and len(before) < TOGETHER:
            batches[-1] += (run,)
        else:
            batches.append((run,))
    return batches


class RunTrainer:
    """Trains groups of runs one after the other, with the features that they share."""

    def __init__(self, cache: Cache, *, tell: Tell, checkpoint_every_s: float = 30.0, holding: Holding = AS_IT_FITS) -> None:
        self.tell = tell
        self._cache, self._every_s = cache, checkpoint_every_s
        self._shelf = Shelf(cache, lambda event: self.tell(event), holding)
        self._sums = KeptSums()

    def train(self, group: Sequence[Run], folds: Sequence[int], findings: Sequence[Finding], *, wait: bool) -> list[Failure]:
        """Train the runs of a group, or find them; tell what happens, and return those of several that failed.

        Args:
            group: the runs: one, or several of one experiment.
            folds: all that later runs on the same features need.
            findings: of the audits.
            wait: for another process that is training one of them.

        Raises:
            BusyError: there is such a process, and `wait` is off.
            TfserError: a run that is alone, or the whole group, cannot be trained.
        """
        with self._sums.used():
            return self._train(group, folds, findings, wait=wait)

    def _train(self, group: Sequence[Run], folds: Sequence[int], findings: Sequence[Finding], *, wait: bool) -> list[Failure]:
        """Train as `train` says."""
        for run in group:
            self.tell(Event(kind="start", run=run))

        # Bound to the group here: who trains knows runs by their numbers in it, and who listens knows no
        # numbers.
        def on_epoch(number: int, record: EpochRecord) -> None:
            self.tell(Event(kind="epoch", run=group[number], record=record))

        def loaded() -> Loaded:
            return self._shelf.get(group[0].experiment, folds)

        # The first time round nobody waits: another process's run may be through by the end of the queue, and
        # there is other work until then.
        following = Following(
            checkpoint_every_s=self._every_s,
            on_epoch=on_epoch,
            on_wait=self._note if wait else _on_busy,
            on_note=self._note,
        )
        if group[0].experiment.stacked == "none":
            result = train_fold(self._cache, group[0].experiment, group[0].fold, loaded, findings, following)
            self.tell(Event(kind="done", run=group[0], about=result.about, trained=result.trained))
            return []
        numbered = [(run.experiment, run.fold) for run in group]
        results = train_together(self._cache, numbered, loaded, findings, following)
        failures = []
        for run, of in zip(group, results, strict=True):
            if isinstance(of, TfserError):
                failures.append(Failure(run=run, reason=str(of)))
                self.tell(Event(kind="failed", run=run, text=str(of)))
            else:
                self.tell(Event(kind="done", run=run, about=of.about, trained=of.trained))
        return failures

    def _note(self, text: str) -> None:
        self.tell(Event(kind="note", text=text))


def _on_busy(text: str) -> None:
    raise BusyError(text)


def run_here(
    cache: Cache,
    runs: Sequence[Run],
    findings: Findings,
    *,
    tell: Tell,
    checkpoint_every_s: float = 30.0,
    go_on_after: type[Exception] = Exception,
    holding: Holding = AS_IT_FITS,
) -> list[Failure]:
    """Train runs in this process; return those that failed.

    Runs that another process is training are left for the end, and waited for then.

    Args:
        cache: the cache.
        runs: what to train, those on the same features together.
        findings: of the audits, by key.
        tell: told what happens.
        checkpoint_every_s: as `train_fold` has it.
        go_on_after: errors of this kind fail their runs alone; any other stops everything.
        holding: where frames are held.
    """
    trainer = RunTrainer(cache, tell=tell, checkpoint_every_s=checkpoint_every_s, holding=holding)
    folds = folds_by_key(runs)
    failures: list[Failure] = []
    queue = [(group, False) for group in groups(runs)]
    while queue:
        group, wait = queue.pop(0)
        key = data_key(group[0].experiment)
        try:
            failures += trainer.train(group, folds[key], findings[key], wait=wait)
        except BusyError:
            queue.append((group, True))
            for run in group:
                tell(Event(kind="busy", run=run))
        except go_on_after as error:
            for run in group:
                failures.append(Failure(run=run, reason=reason(error)))
                tell(Event(kind="failed", run=run, text=reason(error)))
    return failures


def reason(error: BaseException) -> str:
    """Return why a run failed, in one line."""
    if isinstance(error, TfserError):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}"
