"""A paper's tables with ours beside them: each printed number is a cell that was run, or says why it was not.

In: a paper (`tfser.heads.results.published`), and what the cache holds of its corpora and features. Out: cells, planned as a
sweep (`tfser.heads.runs.plan`), so that finished runs are found, and a row that two tables print is trained once.

Without any of the paper's corpora the same rows are trained on the built-in synthetic corpus, to show that the whole way works;
such numbers say nothing about the paper: its own have the name of their corpus, and no difference is taken. It needs no
weights: slower log-Mel frames stand for an encoder's in joined sets (`synthetic_features`), and a note says so.

Below each table stand the reference heads on the same features and folds: what they reach, a network has to beat.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from tfser.heads import REFERENCE_FEATURES, REFERENCE_HEADS, head
from tfser.heads.results.marks import explain_marks, mark
from tfser.heads.results.published import Paper, PublishedRow, PublishedTable, printed_numbers, printed_text
from tfser.heads.results.summary import check_selection, summary
from tfser.heads.results.written import score_text
from tfser.heads.runs.experiment import Experiment
from tfser.heads.runs.in_turn import Failure
from tfser.heads.runs.plan import Entry, Key, Plan, PlannedRequest, data_key, make_plan, settle
from tfser.heads.runs.references import reference_features
from tfser.heads.runs.request import Request, Training
from tfser.heads.spec.head import Network
from tfser.heads.spec.selections import check_name
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import TfserError, unknown
from tfser.manifests.feature_name import FeatureName, joined_names, meant
from tfser.manifests.options import shared
from tfser.pipeline.features.layer_views import layer_views, meant_views

SYNTHETIC = "synthetic"
QUICK = "logmel"
"""What stands for the paper's features there."""

SYNTHETIC_EPOCHS = 2
"""Enough to see the whole way work."""

STAND_IN = "logmel+hop_s=0.02"
"""What stands for an encoder's frames in a joined set of the synthetic corpus: at an encoder's pace, and without its weights."""

SYNTHETIC_NOTE = (
    "SYNTHETIC: these rows are of the built-in, made-up sounds, since no corpus of the paper is in the cache. "
    "They show that the way is open from end to end and say nothing about the paper: what it prints is of the corpus that is "
    "named beside the number, and no difference is taken."
)

OTHER = "another method: not trained here"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One printed number (percent; None: the row is run on data of which the paper prints nothing), and the run that matches it.

    `reason` says why there is none.
    """

    table: str
    row: str
    corpus: str
    metric: str
    paper: float | None
    experiment: str | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """The cells of some of a paper's tables, and the plan of what they need (None: nothing can be run)."""

    paper: Paper
    cells: tuple[Cell, ...]
    plan: Plan | None
    on_synthetic: bool
    changed: tuple[str, ...] = ()
    """Settings that are not the paper's, KEY=VALUE each."""


def has_a_corpus(cache: Cache, paper: Paper) -> bool:
    """Tell whether the cache holds any corpus of a paper."""
    return bool(set(paper.protocols) & set(cache.corpora()))


def choose_tables(paper: Paper, numbers: Sequence[str] = ()) -> tuple[PublishedTable, ...]:
    """Return the tables of these numbers, all for none.

    Raises:
        UsageError: the paper has no such table that could be reproduced.
    """
    tables = paper.tables()
    known = [table.number for table in tables]
    for number in numbers:
        if number not in known:
            raise unknown(f"table of {paper.name}", number, known)
    return tuple(table for table in tables if not numbers or table.number in numbers)


def prepare(
    cache: Cache,
    paper: Paper,
    training: Training | None = None,
    *,
    tables: Sequence[str] = (),
    seeds: tuple[int, ...] = (0,),
    settings: Mapping[str, str] | None = None,
    on_synthetic: bool = False,
) -> Reproduction:
    """See what can be run, and plan it.

    A fold that a protocol does not have (a single fold of an official split against ten of another) leaves out its corpus, with
    the reason, as does whatever else does not fit; only an unknown table is an error.

    Args:
        cache: the cache.
        paper: the paper.
        training: what is asked of every run; on the synthetic corpus 2 epochs where nothing is said.
        tables: their numbers; none: all.
        seeds: each is run.
        settings: that are changed in the rows of all heads that have them, or, as `head.name`, of one.
        on_synthetic: run on the built-in corpus, which is in the cache, instead of the paper's.

    Raises:
        UsageError: the paper has no such table, or no row of the tables has such a setting.
    """
    changed = dict(settings or {})
    check_settings(paper, choose_tables(paper, tables), changed)
    request = Request(head=paper.head, recipe=paper.recipe, **shared(Training, training or Training()))
    if on_synthetic and request.epochs is None:
        request = replace(request, epochs=SYNTHETIC_EPOCHS)
    planner = _Planner(cache, paper, request, seeds, changed)
    cells = [cell for table in choose_tables(paper, tables) for cell in planner.cells_of(table, on_synthetic)]
    return Reproduction(
        paper=paper,
        cells=tuple(cells),
        plan=make_plan(cache, planner.entries) if planner.entries else None,
        on_synthetic=on_synthetic,
        changed=tuple(f"{name}={value}" for name, value in changed.items()),
    )


def check_settings(paper: Paper, tables: Sequence[PublishedTable], settings: Mapping[str, str]) -> None:
    """Refuse a setting that no trained row of the tables has.

    Raises:
        UsageError: the head is none of theirs, or has no such setting.
    """
    known: dict[str, set[str]] = {}
    for row in (row for table in tables for row in table.rows if row.preset is not None):
        known.setdefault(row.head or paper.head, set()).update(_own_settings(paper, row))
    for name in settings:
        of, dot, key = name.rpartition(".")
        if dot and of not in known:
            raise unknown("head of these rows", of, list(known))
        have = known[of] if dot else set().union(*known.values())
        if key not in have:
            raise unknown(f"setting of {of or 'these rows'}", key, sorted(have), listed_by="tfser heads HEAD")


def _own_settings(paper: Paper, row: PublishedRow) -> set[str]:
    """Return the names of the settings that a row's head and recipe have."""
    spec = head(row.head or paper.head)
    return {of.name for part in (spec.preset(row.preset), spec.recipe(row.recipe or paper.recipe)) for of in fields(part)}


class _Planner:
    """Plans a paper's rows one after another: what two of them have in common is one entry, and is audited once."""

    def __init__(self, cache: Cache, paper: Paper, request: Request, seeds: tuple[int, ...], changed: Mapping[str, str]) -> None:
        self.cache, self.paper, self.request, self.seeds, self.changed = cache, paper, request, seeds, changed
        self.entries: list[Entry] = []
        self._audited: dict[Key, str | None] = {}

    def cells_of(self, table: PublishedTable, on_synthetic: bool) -> list[Cell]:
        """Return a table's cells, and below them those of the reference heads on each corpus and features that it used."""
        cells: list[Cell] = []
        used: dict[tuple[str, str], tuple[str, ...]] = {}
        for row in table.rows:
            for corpus, printed in _by_corpus(row, on_synthetic).items():
                features = _features(self.cache, self.paper, row, corpus)
                experiment, reason = self._row(row, corpus, features)
                cells += [_cell(table, row.name, corpus, metric, value, experiment, reason) for metric, value in printed.items()]
                if experiment is not None:
                    used.setdefault((corpus, features), tuple(printed))
        # A reference head is fitted at once and by no seed: one is enough, and the paper's recipe and epochs are not its own.
        used |= {(corpus, REFERENCE_FEATURES): metrics for (corpus, _), metrics in used.items()}
        for (corpus, features), metrics in used.items():
            lacking = self._no_functionals(corpus) if features == REFERENCE_FEATURES else None
            for name in REFERENCE_HEADS:
                request = replace(self.request, head=name, recipe=None, epochs=None, features=features)
                planned = PlannedRequest(request=request, seeds=self.seeds[:1], reference=True)
                experiment, reason = (None, lacking) if lacking else self._plan(corpus, planned)
                row_name = f"{name} on {features} (reference)"
                cells += [_cell(table, row_name, corpus, metric, None, experiment, reason) for metric in metrics]
        return cells

    def _no_functionals(self, corpus: str) -> str | None:
        """Return why the reference heads cannot stand on functionals, and the way out; None: they can."""
        lacking = reference_features(self.cache, corpus).lacking
        if lacking is None or corpus != SYNTHETIC:
            return lacking
        return f"no {REFERENCE_FEATURES} features: `pip install '.[opensmile]'`, and the same command makes them"

    def _row(self, row: PublishedRow, corpus: str, features: str) -> tuple[str | None, str | None]:
        """Plan a printed row; return its experiment's name, or the reason why there is none."""
        if row.preset is None:
            return None, OTHER
        name, own = row.head or self.paper.head, _own_settings(self.paper, row)
        # `HEAD.KEY=VALUE` comes after `KEY=VALUE`: the narrower word wins.
        changed = {key: value for key, value in self.changed.items() if key in own}
        changed |= {key.partition(".")[2]: value for key, value in self.changed.items() if key.startswith(f"{name}.")}
        request = replace(
            self.request,
            head=name,
            recipe=row.recipe or self.paper.recipe,
            preset=row.preset,
            settings={**row.settings, **changed},
            features=features,
        )
        return self._plan(corpus, PlannedRequest(request=request, seeds=self.seeds))

    def _plan(self, corpus: str, planned: PlannedRequest) -> tuple[str | None, str | None]:
        """Add a request to the entries; return its experiment's name, or the reason why there is none.

        What does not fit leaves out this cell alone: a paper's other corpora and rows go on without it.
        """
        if why := missing(self.cache, corpus, planned.request.features or ""):
            return None, why
        asked = replace(planned.request, corpus=corpus, protocol=self.paper.protocols.get(corpus))
        try:
            merged = settle(self.cache, [replace(planned, request=asked)], onto=self.entries)
        except TfserError as error:
            return None, str(error)
        experiment = merged[-1].experiment
        key = data_key(experiment)
        if key not in self._audited:
            self._audited[key] = _audit(self.cache, merged[-1])
        if (why := self._audited[key]) is not None:
            return None, why
        self.entries = merged
        return experiment.name, None


def _cell(
    table: PublishedTable, row: str, corpus: str, metric: str, printed: float | None, experiment: str | None, reason: str | None
) -> Cell:
    return Cell(table=table.number, row=row, corpus=corpus, metric=metric, paper=printed, experiment=experiment, reason=reason)


def _by_corpus(row: PublishedRow, on_synthetic: bool) -> dict[str, dict[str, float | None]]:
    """Return a row's numbers by corpus and metric; of the synthetic corpus the metrics alone, and of rows that can be run."""
    if on_synthetic:
        return {} if row.preset is None else {SYNTHETIC: dict.fromkeys(("WA", "UA", "WF1"))}
    found: dict[str, dict[str, float | None]] = {}
    for name, value in row.printed.items():
        corpus, metric = name.split()
        found.setdefault(corpus, {})[metric] = value
    return found


def _audit(cache: Cache, entry: Entry) -> str | None:
    """Return why the audit forbids an entry's folds, None if it does not: only the cells of that corpus go without."""
    try:
        make_plan(cache, [entry])
    except TfserError as error:
        return str(error)
    return None


def _features(cache: Cache, paper: Paper, row: PublishedRow, corpus: str) -> str:
    """Return the features that a row is trained on: on the synthetic corpus the row's own only where they are there."""
    own = row.features or paper.features
    if corpus != SYNTHETIC or missing(cache, SYNTHETIC, own) is None:
        return own
    return _quick(row) or own


def _quick(row: PublishedRow) -> str | None:
    """Return what stands for a row's features on the synthetic corpus: quick to make, and without weights. None: nothing does.

    >>> _quick(PublishedRow(name="CA-MSER", printed={}, features="logmel+mfcc+wav2vec2-base/12"))
    'logmel+mfcc+logmel+hop_s=0.02'
    """
    if row.features is None:
        return QUICK
    *front_ends, _ = joined_names(row.features)
    return "+".join([*front_ends, STAND_IN]) if front_ends else None


def synthetic_features(paper: Paper, tables: Sequence[str] = ()) -> list[str]:
    """Return the feature sets that a paper's rows are trained on where the synthetic corpus has no others, joined ones last.

    Raises:
        UsageError: the paper has no such table.
    """
    trained = (row for table in choose_tables(paper, tables) for row in table.rows if row.preset is not None)
    names = dict.fromkeys([QUICK, *(name for row in trained if (name := _quick(row)) is not None)])
    return sorted(names, key=lambda name: len(joined_names(name)))


def missing(cache: Cache, corpus: str, features: str) -> str | None:
    """Return what to do where the cache lacks a corpus or its features; None if they are there."""
    parts = joined_names(features)
    # The synthetic corpus lies in a cache of its own, of which a command has to be told.
    where = f" --cache {shlex.quote(str(cache.root))}" if corpus == SYNTHETIC else ""
    command = f"tfser extract --corpus {corpus} --features {parts[0]}{where}"
    if corpus not in cache.corpora():
        return f"{corpus} is not in the cache: run `{command} --root FOLDER`"
    with open_catalogue(cache) as connection:
        have = {row["feature_set"] for row in rows(connection, "SELECT feature_set FROM features WHERE corpus = ?", [corpus])}
        views = layer_views(rows(connection, "FROM feature_sets")).values()
    # In another format, or as a layer of a stack, they are the paper's; with other settings, such as fewer bands, they are not.
    names = [*meant(features, have), *meant_views(features, [view for view in views if view.stack in have])]
    if any(FeatureName.parse(name).options == FeatureName.parse(features).options for name in names):
        return None
    joined = f"extract each, and run `tfser cache join --features {features}{where}`" if len(parts) > 1 else None
    return f"no {features} features of {corpus}: {joined or f'run `{command}`'}"


def compare(
    cache: Cache, reproduction: Reproduction, selection: str = "last", failures: Sequence[Failure] = ()
) -> list[dict[str, Any]]:
    """Return one row a cell: the paper's number, ours, and the difference, all in percent.

    `ours` is the mean over folds and seeds with the sample deviation `ours_std`, `pooled` over all test utterances (WA and UA).
    `printed` is what the paper prints of `printed_on`; of no other corpus than the cell's is it its `paper`, or has a difference.
    """
    plan, printed = reproduction.plan, printed_numbers(reproduction.paper)
    found = {row["experiment"]: row for row in summary(cache, plan, selection, failures)} if plan else {}
    why = {failure.run.experiment.name: failure.reason for failure in failures}
    table = []
    for cell in reproduction.cells:
        row = _compared(cell, found.get(cell.experiment or ""), why, selection)
        on, value = printed.get((cell.table, cell.row, cell.metric), (None, None))
        own = cell.paper is not None
        table.append(row | {"printed": cell.paper if own else value, "printed_on": cell.corpus if own else on})
    return table


def _compared(cell: Cell, row: Mapping[str, Any] | None, failed: Mapping[str, str], selection: str) -> dict[str, Any]:
    own = None if row is None else row[cell.metric]
    reason = cell.reason
    # A cell without a number of ours always says why; a number whose runs failed in part says that beside it.
    if reason is None and own is None:
        reason = failed.get(cell.experiment or "", f"no run of it has the selection {selection} yet")
    elif row is not None and row["failed"]:
        reason = f"{row['failed']} of {row['of_runs']} runs failed: {failed.get(cell.experiment or '', '')}"
    columns = row or {}
    return {
        "table": cell.table,
        "row": cell.row,
        "corpus": cell.corpus,
        "metric": cell.metric,
        "paper": cell.paper,
        "ours": _percent(own),
        "ours_std": _percent(columns.get(f"{cell.metric}_std")),
        "pooled": _percent(columns.get(f"pooled_{cell.metric}")),
        "difference": None if own is None or cell.paper is None else round(100 * own - cell.paper, 4),
        "folds": columns.get("folds"),
        "of_folds": columns.get("of_folds"),
        "seeds": columns.get("seeds"),
        "preset": columns.get("preset"),
        "recipe": columns.get("recipe"),
        "features": columns.get("features"),
        "protocol": columns.get("protocol"),
        "selection": columns.get("selection"),
        "looked_at_test": columns.get("looked_at_test"),
        "audit": columns.get("audit"),
        "speakers_kept": columns.get("speakers_kept"),
        "reason": reason,
        "experiment": cell.experiment,
    }


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 4)


def readable(table: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the cells for people, one line each."""
    lines = []
    for row in table:
        signs = "" if row["ours"] is None else mark(row)
        lines.append(
            {
                "table": row["table"],
                "row": row["row"],
                "corpus": row["corpus"],
                "metric": row["metric"],
                "paper": printed_text(row),
                "ours": score_text(row["ours"], row["ours_std"], signs, scale=1),
                "pooled": score_text(row["pooled"], None, signs, scale=1),
                "difference": score_text(row["difference"], None, signs, sign="+", scale=1),
                "note": row["reason"] or "",
            }
        )
    return lines


def notes(reproduction: Reproduction, table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a reader of the cells has to know."""
    paper = f"{reproduction.paper.name}: {reproduction.paper.source}"
    lines = [f"{paper}. Percent; ours: mean ± sample standard deviation over folds and seeds."]
    ran = [row for row in table if row["ours"] is not None]
    if reproduction.on_synthetic:
        lines.append(SYNTHETIC_NOTE)
        if any(row["features"] and row["features"].endswith(STAND_IN) for row in ran):
            lines.append(f"In place of an encoder's frames {STAND_IN} is joined, since there are no weights.")
    entries = reproduction.plan.entries if reproduction.plan is not None else ()
    shortened = {each.experiment.name for each in entries if _other_epochs(each.experiment)}
    short = sorted({row["recipe"] for row in ran if row["experiment"] in shortened})
    if short:
        lines.append(f"Trained by {', '.join(short)}, not as long as the paper: no reproduction of its numbers.")
    if reproduction.changed:
        changed = ", ".join(reproduction.changed)
        lines.append(f"Changed in the rows that have it: {changed}: no reproduction of the paper's numbers.")
    if any(len(row["folds"]) < row["of_folds"] for row in ran):
        lines.append("Not all folds were run.")
    lines += [f"{line}." for line in explain_marks(ran)]
    if ran and not any(row["looked_at_test"] for row in ran):
        lines.append("The papers do not say how their epochs were chosen; ours is the last one (see --selection).")
    return lines


def _other_epochs(of: Experiment) -> bool:
    """Tell whether an experiment was trained for another number of epochs than its recipe has by itself."""
    return isinstance(of.spec, Network) and of.recipe.epochs != of.spec.recipe(of.recipe_name.partition("+")[0]).epochs


def check(selection: str, reproduction: Reproduction) -> None:
    """Refuse a selection that no run can have.

    Raises:
        UsageError: it is unknown, or `val` where nothing is held out.
    """
    check_name(selection)
    if reproduction.plan is not None:
        check_selection(reproduction.plan, selection)
