"""`tfser worth`: what a published split is worth, beside one that keeps speakers apart."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tfser import __version__
from tfser.heads.results.intervals import METRICS
from tfser.heads.results.marks import HEARD
from tfser.heads.results.moments import RATED_METRICS
from tfser.heads.results.outcomes import Subject, read_outcome
from tfser.heads.results.rating_outcomes import read_rated_outcome
from tfser.heads.results.worth import (
    SplitCell,
    Worth,
    WorthPlan,
    cells_of,
    clean_splits,
    in_one_line,
    matched_note,
    measure,
    method,
    of_ratings,
    own_of_split,
    sizes_of,
)
from tfser.heads.results.worth_ratings import measure_ratings
from tfser.heads.runs.experiment import resolve
from tfser.heads.runs.request import Aimed, Request, Targeted, Training, parse_seeds
from tfser.heads.runs.running import Running
from tfser.manifests.audits.foreign import read_split
from tfser.manifests.audits.matching import install
from tfser.manifests.audits.participation import definition, unmatched
from tfser.manifests.audits.seen import audited
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue
from tfser.manifests.commands.printing import Writing
from tfser.manifests.dimensions import rated_name
from tfser.manifests.display import Output, markdown_lines, print_rows, say, show
from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.manifests.options import Option, shared
from tfser.manifests.protocols.own import OwnProtocol
from tfser.manifests.protocols.protocol import JOINED_BY
from tfser.manifests.splits.choose import choose_corpus, settled
from tfser.manifests.splits.split import Split
from tfser.manifests.wording import count


@dataclass(frozen=True, kw_only=True)
class WorthRequest(Aimed, Training):
    """What is trained on both splits."""

    panel: ClassVar[str] = "Head"
    published: Annotated[
        tuple[str, ...],
        Option("The split's files: csv, json, jsonl or a folder; repeat.", flag="--split", metavar="FILE", commas=False),
    ] = ()
    head: Annotated[str, Option("What to train on both.", metavar="NAME")] = "logreg"
    preset: Annotated[str | None, Option("Variant of the architecture.", metavar="NAME")] = None
    recipe: Annotated[str | None, Option("Way of training.", metavar="NAME")] = None
    settings: Annotated[
        Mapping[str, str], Option("Change a setting of the recipe or of the preset.", flag="--set", metavar="KEY=VALUE")
    ] = field(default_factory=dict)
    features: Annotated[str | None, Option("Feature set; the head's favourite if left out.", metavar="NAME")] = None
    seeds: Annotated[
        tuple[int, ...],
        Option("A seed, a list (0,1) or a range (0-4).", metavar="N", numbers=True, also="seed", read=parse_seeds),
    ] = (0,)
    draws: Annotated[int, Option("How often the clean split is drawn.", metavar="N", minimum=1, maximum=1000)] = 5
    metric: Annotated[
        str | None, Option("UA, WA, WF1 or macro_F1; of dimensions CCC, pearson or MAE. UA or CCC if left out.", metavar="NAME")
    ] = None
    selection: Annotated[str, Option("How the epochs are chosen.", metavar="NAME")] = "last"


def worth(*, request: WorthRequest, split: Split, running: Running, writing: Writing) -> None:
    """Train one head on a published split and on one that keeps speakers apart, and say what the difference is.

    Raises:
        UsageError: if the request is off.
        TfserError: if an audit forbids a fold, or a fold could not be trained.

    Example:
        tfser worth --corpus emodb --protocol emobox:emodb
        tfser worth --corpus iemocap --protocol random-kfold:5 --target arousal,valence --head ridge
        tfser worth --corpus emodb --split train.csv --split test.csv --format markdown --output worth.md
    """
    writing.kind()  # before anything is trained
    _metric(request)
    if request.folds != "all":
        raise UsageError("--fold: both splits are trained over all of their folds; leave it out")
    running.prepare(request.device)
    store = running.store(writing.cache)
    plan = _planned(store, request, split)
    for note in plan.notes:
        say(note)
    answer = _trained(store, request, running, plan)
    writing.deliver(
        [_row(answer)],
        lambda: _print(answer),
        as_json=answer.to_dict(),
        as_markdown=lambda: _markdown(answer, _command(request, split)),
    )


@dataclass(frozen=True, kw_only=True)
class _Weighed:
    """The split that is weighed: who is where in it, and the user's own protocols that it becomes; none where it has a name."""

    corpus: str
    called: str
    cells: Sequence[SplitCell]
    own: Sequence[OwnProtocol] = ()
    notes: Sequence[str] = ()


def _planned(store: Cache, request: WorthRequest, split: Split) -> WorthPlan:
    """Settle both arms."""
    weighed = _of_files(store, request, split) if request.published else _of_protocol(store, request, split)
    rated = _rated(request)

    def ensured(own: OwnProtocol) -> tuple[str, OwnProtocol]:
        name = own.protocol.name if rated is None else f"{own.protocol.name}@{rated}"
        return ensure_protocol(store, weighed.corpus, name, own=own), own

    published: list[tuple[str, OwnProtocol | None]] = [ensured(own) for own in weighed.own]
    # The clean arm is drawn from the very utterances of the published one, so that nothing but who stands where
    # differs.
    drawn, notes = clean_splits(weighed.cells, weighed.called, weighed.corpus, request.draws)
    clean = tuple(map(ensured, drawn))
    with open_catalogue(store) as connection:
        first = cells_of(connection, clean[0][0], weighed.corpus, "label")
    return WorthPlan(
        corpus=weighed.corpus,
        called=weighed.called,
        published=tuple(published or [(weighed.called, None)]),
        clean=clean,
        sizes=(sizes_of(weighed.cells), sizes_of(first)),
        notes=(*weighed.notes, *notes),
    )


def _rated(request: WorthRequest) -> str | None:
    """Return what protocols are called by that have the utterances which are rated, where ratings are learned alone."""
    return rated_name(request.targets) if request.targets and not request.learns_classes else None


def _of_files(store: Cache, request: WorthRequest, split: Split) -> _Weighed:
    """Return a split that others publish as files, matched with the utterances of a corpus."""
    if split.protocol or split.labels or split.validation:
        raise UsageError("--split goes without --protocol, --labels and --validation")
    corpus = choose_corpus(store, split.corpus)
    foreign = read_split([Path(path) for path in request.published])
    called = foreign.name.removeprefix("split:")
    # The rows of the files are matched and looked at as the audits do, and become protocols of the cache: both arms
    # are then trained by the same code.
    with open_catalogue(store) as connection:
        notes = [*foreign.notes, matched_note(install(connection, corpus, foreign))]
        with audited(connection, protocol=foreign.name, corpus=corpus, feature_sets=[], claims=()):
            cells = cells_of(connection, foreign.name, corpus, "label")
        cells = cells if _rated(request) is None else of_ratings(connection, cells, corpus, request.targets)
    return _Weighed(corpus=corpus, called=called, cells=cells, own=own_of_split(cells, called, corpus), notes=notes)


def _of_protocol(store: Cache, request: WorthRequest, split: Split) -> _Weighed:
    """Return a split that the catalogue knows by its name."""
    if not split.protocol:
        raise UsageError("name what is to be weighed: --split FILES, or --protocol NAME (`tfser protocol ls`)")
    rated = _rated(request)
    asked = Targeted(target=request.target, **shared(Split, split)) if rated else None
    corpus, called = settled(store, replace(split, labels=asked.split_labels) if asked else split, split.protocol)
    if JOINED_BY in corpus:
        raise UsageError(f"{called} is over several corpora; `tfser worth` weighs splits of one")
    defined = definition(store, called)
    with open_catalogue(store) as connection:
        lost = unmatched(connection, protocol=called, corpus=corpus)
        cells = cells_of(connection, called, corpus, defined.label_column if defined else "label")
        cells = cells if rated is None else of_ratings(connection, cells, corpus, request.targets)
    return _Weighed(corpus=corpus, called=called, cells=cells, notes=[reason.explanation for reason in lost if reason.rows])


def _trained(store: Cache, request: WorthRequest, running: Running, plan: WorthPlan) -> Worth:
    """Train what is not finished of both arms, and measure."""
    from tfser.heads.commands.training import train_folds

    asked = Request(
        **shared(Training, request),
        head=request.head,
        preset=request.preset,
        recipe=request.recipe,
        settings=request.settings,
        features=request.features,
        corpus=plan.corpus,
        target=request.target,
    )
    arms = [[name for name, _ in plan.published], [name for name, _ in plan.clean]]
    experiments = [[resolve(store, replace(asked, protocol=name)) for name in arm] for arm in arms]
    every = [replace(settled, seed=seed) for arm in experiments for settled in arm for seed in request.seeds]
    if experiments[0][0].chosen:
        say(f"chosen for you: {', '.join(experiments[0][0].chosen)}")
    headings = {settled.name: f"{settled.protocol}" for settled in every}
    # Seed by seed: where it is stopped, both arms have the same seeds.
    for seed in request.seeds:
        if failed := train_folds(store, [settled for settled in every if settled.seed == seed], running, headings):
            raise TfserError(failed[0].reason)
    settled = experiments[0][0]
    head = settled.spec.name if settled.preset in ("plain", "full") else f"{settled.spec.name} ({settled.preset})"
    measured = {"head": head, "features": settled.feature_set, "metric": _metric(request)}
    subjects = [[Subject(experiment=settled.name) for settled in arm] for arm in experiments]
    # The seeds that were asked for alone: the cache may hold others, and the same command is to give the same number.
    tested: dict[str, Any] = {"selection": request.selection, "only": [of.run_id(fold) for of in every for fold in of.folds]}
    with open_catalogue(store) as connection:
        if measured["metric"] in RATED_METRICS:
            rated = [[read_rated_outcome(connection, one, **tested) for one in arm] for arm in subjects]
            return measure_ratings(plan, rated[0], rated[1], **measured)
        outcomes = [[read_outcome(connection, one, **tested) for one in arm] for arm in subjects]
    return measure(plan, outcomes[0], outcomes[1], **measured)


def _metric(request: WorthRequest) -> str:
    """Return which score is measured.

    Raises:
        UsageError: it is one of what is not learned, or none.
    """
    asked = request.metric or ("UA" if request.learns_classes else "CCC")
    known = (*(METRICS if request.learns_classes else ()), *(RATED_METRICS if request.targets else ()))
    if asked not in known:
        raise unknown("metric of what is learned here", asked, known)
    return asked


def _row(answer: Worth) -> dict[str, Any]:
    """Return the answer as one flat row."""
    published, clean = answer.plan.sizes
    return {
        "split": answer.plan.called,
        "corpus": answer.plan.corpus,
        "head": answer.head,
        "features": answer.features,
        "metric": answer.metric,
        "selection": answer.selection,
        "utterances": answer.utterances,
        "speakers": answer.difference.clusters,
        "published": answer.published,
        "clean": answer.clean.value,
        "worth": answer.difference.value,
        "worth_low": answer.difference.low,
        "worth_high": answer.difference.high,
        "p_permutation": answer.permutation.p,
        "draws": len(answer.plan.clean),
        "train_published": published.train,
        "train_clean": clean.train,
        "test_speakers_heard": published.shared,
        "test_speakers": published.speakers,
    }


def _arms(answer: Worth) -> list[dict[str, Any]]:
    """Return the two splits beside each other, for people."""
    published, clean = answer.plan.sizes
    mark = HEARD if published.shared else ""
    return [
        {
            "split": name,
            "folds": sizes.folds,
            "train": round(sizes.train),
            "val": round(sizes.val),
            "test": round(sizes.test),
            "test speakers heard": f"{sizes.shared} of {sizes.speakers}",
            f"{answer.metric} [95 %]": score,
        }
        for name, sizes, score in (
            (answer.plan.called, published, f"{answer.written(answer.published)}{mark}"),
            ("speakers apart", clean, f"{answer.written(answer.clean.value)}{answer.ends(answer.clean)}"),
        )
    ]


def _speakers(answer: Worth) -> list[dict[str, Any]]:
    return [
        {"speaker": name, "n": n, "as published": answer.written(a), "apart": answer.written(b)}
        | {"worth": answer.written(a - b, "+")}
        for name, n, a, b in answer.speakers
    ]


def _below(answer: Worth) -> list[str]:
    lines = [method(answer)]
    lines += [f"{answer.metric}: mean over {', '.join(answer.dimensions)}"] if len(answer.dimensions) > 1 else []
    if len(answer.by_draw) > 1:
        draws = ", ".join(map(answer.written, answer.by_draw))
        lines.append(f"{answer.metric} with speakers apart, by draw: {draws}")
    if answer.plan.sizes[0].shared:
        lines.append(f"{HEARD} test speakers are heard in training: no interval of that score by itself")
    else:
        lines.append("the published split keeps its speakers apart: the difference is one between two clean splits")
    return lines


def _print(answer: Worth) -> None:
    """Print the answer, and how it was made."""
    show(in_one_line(answer), "")
    print_rows(_arms(answer), Output.table)
    if len(answer.speakers) <= 30:
        show("")
        print_rows(_speakers(answer), Output.table)
    show("", *_below(answer))


def _markdown(answer: Worth, command: str) -> list[str]:
    """Return a report to paste into an issue."""
    lines = [f"## What `{answer.plan.called}` of {answer.plan.corpus} is worth", "", f"**T{in_one_line(answer)[1:]}.**", ""]
    lines += [*markdown_lines(_arms(answer)), "", *(f"{line}.  " for line in (*_below(answer), *answer.plan.notes)), ""]
    lines += [f"### By speaker ({count(len(answer.speakers), 'speaker')})", "", *markdown_lines(_speakers(answer)), ""]
    return [*lines, f"Made by tfser {__version__}: `{command}`"]


def _command(request: WorthRequest, split: Split) -> str:
    """Return the command that says the same, without what only says where things lie and on what it is computed.

    What stands at its default is left out, but for the corpus, the head and the draws.
    """
    values = {
        "corpus": split.corpus,
        "head": request.head,
        "preset": request.preset,
        "recipe": request.recipe,
        "protocol": split.protocol,
        "labels": split.labels,
        "validation": split.validation,
        "target": ",".join(request.target),
        "features": request.features,
        "epochs": request.epochs,
        "labels-from": request.labels_from,
        "seeds": ",".join(map(str, request.seeds)) if request.seeds != (0,) else None,
        "metric": request.metric,
        "selection": request.selection if request.selection != "last" else None,
    }
    words = [f"--{name} {shlex.quote(str(value))}" for name, value in values.items() if value]
    words += [f"--split {shlex.quote(path)}" for path in request.published]
    words += [f"--set {shlex.quote(f'{key}={value}')}" for key, value in request.settings.items()]
    words += [f"--{name}" for name, on in (("allow-leaks", request.allow_leaks), ("allow-gaps", request.allow_gaps)) if on]
    return " ".join(["tfser worth", *words, f"--draws {request.draws}"])
