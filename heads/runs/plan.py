"""What a sweep trains: heads x presets x recipes x feature sets x seeds x folds, settled before the first training.

In: a `SweepRequest` (of the command line, or of a TOML file: `tfser.heads.runs.sweep_file`). Out: a `Plan` of `Entry`s, one an
experiment, each with its runs; what is asked for twice stands in it once. Every name, setting and feature set is checked here,
and the audits of all folds are run, so that nothing of this kind can stop a sweep in its third hour. `sweep_runs` trains a plan,
`sweep_results` reads its scores.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from tfser.heads import DIMENSION_REFERENCES, HEADS, REFERENCE_HEADS, head, head_names
from tfser.heads.runs.experiment import Experiment, each_request, resolve
from tfser.heads.runs.one_fold import audit_experiment, check_audit
from tfser.heads.runs.references import reference_features
from tfser.heads.runs.request import Request, SweepRequest, Targeted
from tfser.heads.runs.setting_list import UnknownSettingError
from tfser.heads.spec.head import HeadSpec
from tfser.manifests.audits.participation import TAKES_NO_PART
from tfser.manifests.audits.run import Finding
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.options import shared

Key = tuple[str, ...]
"""What features in memory depend on: runs of the same key share them."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: an experiment with its seed, on one fold."""

    experiment: Experiment
    fold: int

    @property
    def run_id(self) -> str:
        """The run's id, as its folder is called."""
        return self.experiment.run_id(self.fold)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a sweep's table: an experiment with all its runs, by seed and fold."""

    experiment: Experiment
    runs: tuple[Run, ...]
    reference: bool = False

    @property
    def seeds(self) -> list[int]:
        """The seeds of its runs, each once."""
        return sorted({run.experiment.seed for run in self.runs})

    @property
    def folds(self) -> list[int]:
        """The folds of its runs, each once."""
        return sorted({run.fold for run in self.runs})


def entry_of(experiment: Experiment) -> Entry:
    """Return an experiment's folds, with its one seed, as an entry."""
    return Entry(experiment=experiment, runs=tuple(Run(experiment=experiment, fold=fold) for fold in experiment.folds))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a sweep trains, in this order: runs on the same features stand together, so that each are loaded once.

    `findings` are the audits' by key; `finished` the ids of runs that the catalogue holds; `references` says whether the
    reference heads are among the entries.
    """

    entries: tuple[Entry, ...]
    findings: Mapping[Key, Sequence[Finding]]
    finished: frozenset[str]
    references: bool
    lacking: str | None = None
    """Which reference rows are missing and how they are had; None where none are, or nobody wants them."""

    @property
    def runs(self) -> list[Run]:
        """All runs."""
        return [run for entry in self.entries for run in entry.runs]

    @property
    def missing(self) -> list[Run]:
        """Those that are not finished, or are to be trained again."""
        return [run for run in self.runs if run.experiment.again or run.run_id not in self.finished]

    def notes(self) -> list[str]:
        """Say who takes no part, and what the two sides of protocols share though nobody claims that they do not."""
        overlaps: dict[str, set[str]] = {}
        absent: dict[str, None] = {}
        for of in (finding for findings in self.findings.values() for finding in findings):
            if of.level == "warning" and of.audit.endswith("_overlap"):
                overlaps.setdefault(of.protocol, set()).add(of.audit)
            elif of.audit == TAKES_NO_PART and of.rows:
                absent[f"{of.protocol} on {of.corpus}: {of.explanation}"] = None
        return [
            *absent,
            *(
                f"{protocol}: {', '.join(sorted(audits))}: not what this protocol keeps apart; see `tfser audit`"
                for protocol, audits in overlaps.items()
            ),
        ]


@dataclass(frozen=True, kw_only=True)
class PlannedRequest:
    """A request with the seeds that it is wanted for."""

    request: Request
    seeds: tuple[int, ...]
    reference: bool = False


def data_key(experiment: Experiment) -> Key:
    """Return what an experiment's features in memory depend on."""
    of = experiment
    return (of.corpus, of.protocol, of.protocol_hash, of.feature_set, of.fingerprint, of.data_hash)


def plan_sweep(cache: Cache, request: SweepRequest) -> Plan:
    """Settle a sweep.

    Raises:
        UsageError: if a name is unknown, a setting or feature set does not fit a head, or the cache leaves several choices.
        TfserError: if an audit forbids a fold, or the corpus cannot fill the protocol.
    """
    entries = settle(cache, expand(request))
    if not request.reference:
        return make_plan(cache, entries)
    functionals = reference_features(cache, entries[0].experiment.corpus)
    # A reference row is the head as it is by itself: asked for with a recipe or settings of its own, it is another experiment,
    # beside which the plain row stands; asked for plainly, with whatever seeds, it stands there already.
    standing = {entry.experiment.name for entry in entries}
    plain = settle(cache, reference_wanted(request, entries, functionals.name))
    entries += [entry for entry in plain if entry.experiment.name not in standing]
    return replace(make_plan(cache, entries), lacking=functionals.lacking)


def expand(request: SweepRequest) -> list[PlannedRequest]:
    """Return one request for each head, preset, recipe and feature set.

    Raises:
        UsageError: if a name is unknown or fits none of the heads.
    """
    if not request.heads:
        known = ", ".join(sorted(head_names()))
        raise UsageError(f"a sweep needs a head: --head NAME (known: {known}), or a file with [[head]] blocks")
    specs = [head(block.name) for block in request.heads]
    # A name that no head has is an error before anything is settled; one that only some heads have is theirs
    # alone: `--preset full linear` over two heads trains what each of them has.
    _check_used("preset", request.presets, specs, {spec.name: list(spec.presets) for spec in specs})
    _check_used("recipe", request.recipes, specs, {spec.name: spec.recipe_names for spec in specs})
    for key in request.settings:
        of, dot, _ = key.partition(".")
        if dot and of not in {spec.name for spec in specs}:
            raise unknown("head of this sweep", of, [spec.name for spec in specs])
    wanted = []
    for block, spec in zip(request.heads, specs, strict=True):
        presets = _own("preset", block.presets, spec.name, list(spec.presets), list(spec.presets)) or _shared(
            request.presets, spec.name, list(spec.presets), list(spec.presets)
        )
        recipes = _own("recipe", block.recipes, spec.name, spec.recipe_names, list(spec.recipes)) or _shared(
            request.recipes, spec.name, spec.recipe_names, list(spec.recipes)
        )
        # `HEAD.KEY=VALUE` comes after `KEY=VALUE`, and the block's own after both: the narrower word wins.
        settings = {key: text for key, text in request.settings.items() if "." not in key}
        settings |= {key.partition(".")[2]: text for key, text in request.settings.items() if key.startswith(f"{spec.name}.")}
        wanted += [
            PlannedRequest(
                request=replace(
                    _shared_request(request, spec.name),
                    features=features,
                    preset=preset,
                    recipe=recipe,
                    settings=settings | dict(block.settings),
                    epochs=block.epochs if block.epochs is not None else request.epochs,
                ),
                seeds=block.seeds or request.seeds,
            )
            for features in (block.features or request.features or (None,))
            for preset in (presets or [spec.default_preset])
            for recipe in (recipes or [spec.default_recipe])
        ]
    return wanted


def reference_wanted(request: SweepRequest, entries: Sequence[Entry], functionals: str | None = None) -> list[PlannedRequest]:
    """Return the requests of the reference heads: each once a feature set, the functionals too where there are any.

    They have their defaults and the sweep's first seed, whatever the sweep asks of the same heads.
    """
    sets = [entry.experiment.feature_set for entry in entries]
    return [
        PlannedRequest(
            request=replace(_shared_request(request, name), features=feature_set, epochs=None),
            seeds=request.seeds[:1],
            reference=True,
        )
        for feature_set in dict.fromkeys([*sets, *([functionals] if functionals else [])])
        for name in (REFERENCE_HEADS if request.learns_classes else DIMENSION_REFERENCES)
        if name in HEADS
    ]


def check_is_tested(folds: str) -> None:
    """Refuse to tabulate what is tested on nothing.

    Raises:
        UsageError: if the folds are `none`.
    """
    if folds == "none":
        raise UsageError("--fold none trains one model for use, which has no scores to tabulate: take `tfser train`")


def _shared_request(request: SweepRequest, name: str) -> Request:
    """Return what every head of a sweep is asked.

    Raises:
        UsageError: if no fold is tested.
    """
    check_is_tested(request.folds)
    return Request(head=name, **shared(Targeted, request))


def _check_used(kind: str, asked: Iterable[str], specs: Sequence[HeadSpec], names_of_head: Mapping[str, list[str]]) -> None:
    """Refuse a name that no head of the sweep has."""
    for text in asked:
        of, dot, name = text.rpartition(".")
        if dot and of not in names_of_head:
            raise unknown("head of this sweep", of, list(names_of_head))
        have = names_of_head[of] if dot else [name for spec in specs for name in names_of_head[spec.name]]
        if name not in (*have, "all"):
            raise unknown(f"{kind} of {of or ', '.join(names_of_head)}", name, list(dict.fromkeys(have)))


def _own(kind: str, names: Sequence[str], of: str, known: list[str], every: list[str]) -> list[str]:
    """Return the names that a head's own block asks for, of those that it has; `every` are those that `all` stands for."""
    for name in names:
        if name not in (*known, "all"):
            raise unknown(f"{kind} of {of}", name, known)
    return list(dict.fromkeys(each for name in names for each in (every if name == "all" else [name])))


def _shared(asked: Iterable[str], head_name: str, own_names: list[str], every: list[str]) -> list[str]:
    """Return those of the names that a sweep asks for which one head has; `every` are those that `all` stands for."""
    names: list[str] = []
    for text in asked:
        only, dot, name = text.rpartition(".")
        if not dot or only == head_name:
            names += every if name == "all" else [name] if name in own_names else []
    return list(dict.fromkeys(names))


def settle(cache: Cache, wanted: Sequence[PlannedRequest], onto: Sequence[Entry] = ()) -> list[Entry]:
    """Settle requests and merge the runs that are asked for twice; the entry that was settled last is the last one.

    Raises:
        UsageError: if a name is unknown, or a setting or feature set does not fit its head.
        TfserError: if the corpus cannot fill the protocol.
    """
    # By the experiment's name, which holds its whole configuration: two presets that come to the same numbers
    # are one entry.
    entries: dict[str, Entry] = {entry.experiment.name: entry for entry in onto}
    for each, settled in _settled(cache, wanted):
        runs = [Run(experiment=replace(settled, seed=seed), fold=fold) for seed in each.seeds for fold in settled.folds]
        entry = entries.pop(settled.name, None)
        before = entry.runs if entry else ()
        merged = {run.run_id: run for run in (*before, *runs)}
        entries[settled.name] = Entry(
            experiment=entry.experiment if entry else runs[0].experiment,
            runs=tuple(merged.values()),
            reference=each.reference and (entry is None or entry.reference),
        )
    return list(entries.values())


def _settled(cache: Cache, wanted: Sequence[PlannedRequest]) -> Iterator[tuple[PlannedRequest, Experiment]]:
    """Yield what each request comes to; one for every layer of an encoder comes to several."""
    for each in wanted:
        try:
            for request in each_request(cache, each.request):
                yield each, resolve(cache, request)
        except UsageError as error:
            several = len({of.request.head for of in wanted}) > 1 and isinstance(error, UnknownSettingError)
            hint = "; --set HEAD.KEY=VALUE changes it for one head alone" if several else ""
            raise UsageError(f"{_called(each.request)}: {error}{hint}") from error


def _called(request: Request) -> str:
    """Return how an error calls a request."""
    about = "/".join(part for part in (request.preset, request.recipe) if part)
    return f"{request.head}{f' {about}' if about else ''}{f' on {request.features}' if request.features else ''}"


def make_plan(cache: Cache, entries: Sequence[Entry]) -> Plan:
    """Order entries by their features, audit every fold, and see what is finished.

    Raises:
        TfserError: if an audit forbids a fold.
    """
    # Entries of one data set stand together, since only one set of features is in memory at a time; among them
    # the order of asking stays.
    keys = list(dict.fromkeys(data_key(entry.experiment) for entry in entries))
    ordered = sorted(entries, key=lambda entry: keys.index(data_key(entry.experiment)))
    # All folds are judged before any is trained: a leak in the last one should not cost a night.
    findings: dict[Key, list[Finding]] = {}
    of_stack: dict[Key, list[Finding]] = {}  # the layers of a stack have one audit: its utterances are theirs
    for entry in ordered:
        key, of = data_key(entry.experiment), entry.experiment
        if key not in findings:
            shared = (of.corpus, of.protocol, of.protocol_hash, of.stored, of.data_hash)
            if shared not in of_stack:
                of_stack[shared] = audit_experiment(cache, of)
            findings[key] = of_stack[shared]
        for fold in entry.folds:
            check_audit(entry.experiment, findings[key], fold)
    names = [entry.experiment.name for entry in ordered]
    with open_catalogue(cache) as connection:
        done = rows(connection, "SELECT run_id FROM runs WHERE list_contains(?, experiment)", [names])
    return Plan(
        entries=tuple(ordered),
        findings=findings,
        finished=frozenset(row["run_id"] for row in done),
        references=any(
            entry.reference or entry.experiment.spec.name in (*REFERENCE_HEADS, *DIMENSION_REFERENCES) for entry in ordered
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """How long an entry's missing runs may take, in seconds of training one after the other, and how that is known.

    `seconds` is None where nothing like it was ever trained in this cache.
    """

    seconds: float | None
    known_by: str


def estimate(cache: Cache, plan: Plan) -> dict[str, Estimate]:
    """Estimate each entry's time, by name, from runs in the cache on the same kind of device.

    A finished run of the same experiment tells its time; else the time of an epoch of the same head and preset at the same
    sizes on the same features, times the epochs. Nothing is guessed beyond that: what a head takes at a quarter of its width
    does not follow from what it takes at all of it.
    """
    estimates: dict[str, Estimate] = {}
    with open_catalogue(cache) as connection:
        finished = rows(
            connection, "SELECT experiment, head, preset, feature_set, protocol, epochs, seconds, device, config FROM runs"
        )
    for entry in plan.entries:
        experiment = entry.experiment
        todo = [run for run in entry.runs if run.experiment.again or run.run_id not in plan.finished]
        # Only runs on the same kind of device, and nothing is guessed beyond what was trained: a wrong estimate
        # is worse than none.
        near = [row for row in finished if row["device"].partition(":")[0] == experiment.device.partition(":")[0]]
        same = [row["seconds"] for row in near if row["experiment"] == experiment.name]
        key = (experiment.spec.name, experiment.preset, experiment.feature_set, experiment.protocol)
        epochs = [
            row["seconds"] / row["epochs"]
            for row in near
            if (row["head"], row["preset"], row["feature_set"], row["protocol"]) == key
            and row["epochs"]
            and _has_sizes(row, experiment)
        ]
        if not todo:
            estimates[experiment.name] = Estimate(seconds=0.0, known_by="finished")
        elif same:
            estimates[experiment.name] = Estimate(seconds=len(todo) * mean(same), known_by="runs of this experiment")
        elif epochs:
            seconds = mean(epochs) * sum(run.experiment.epochs(run.fold) for run in todo)
            estimates[experiment.name] = Estimate(seconds=seconds, known_by="an epoch of this head and preset")
        else:
            estimates[experiment.name] = Estimate(seconds=None, known_by="no estimate yet")
    return estimates


def _has_sizes(row: Mapping[str, Any], experiment: Experiment) -> bool:
    """Return whether a finished run's head has an experiment's settings; those that it does not tell are younger than the run."""
    sizes = experiment.config.to_dict()
    stored: dict[str, Any] = json.loads(row["config"] or "{}").get("head_config", {})
    return {**sizes, **stored} == sizes


def feature_bytes(cache: Cache, plan: Plan) -> dict[Key, int]:
    """Return the memory that each of the plan's features takes while its runs are trained; only one of them is held at a time."""
    import numpy as np

    sizes: dict[Key, int] = {}
    with open_catalogue(cache) as connection:
        for entry in plan.entries:
            experiment, key = entry.experiment, data_key(entry.experiment)
            if key not in sizes:
                row = rows(
                    connection,
                    "SELECT coalesce(sum(f.frames), 0) AS frames, (SELECT any_value(dtype) FROM feature_sets s "
                    "WHERE s.feature_set = ?) AS dtype FROM features f JOIN assignments a "
                    "ON a.corpus = f.corpus AND a.utterance_id = f.utterance_id WHERE f.feature_set = ? AND a.protocol = ? "
                    "AND a.fold IS NOT NULL AND list_contains(?, a.corpus)",
                    [experiment.stored, experiment.stored, experiment.protocol, experiment.corpora],
                )[0]
                sizes[key] = int(row["frames"]) * experiment.dim * np.dtype(row["dtype"]).itemsize
    return sizes
