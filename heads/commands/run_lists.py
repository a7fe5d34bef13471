"""`tfser runs`: which experiments there are, what one is, in what two differ, and what they are called.

In: the catalogue of a cache. Out: tables, csv or JSON. What the rows hold is `tfser.heads.results.descriptions`'s
business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from tfser.heads.results.descriptions import described, differences, listed, runs_of
from tfser.heads.results.marks import explain_marks, mark
from tfser.heads.results.outcomes import find
from tfser.heads.results.written import number_text, score_text
from tfser.heads.runs.experiment import EVERYTHING
from tfser.manifests.catalogue.reading import open_catalogue
from tfser.manifests.commands.printing import InCache
from tfser.manifests.display import Output, print_json, print_rows, say, show
from tfser.manifests.errors import UsageError
from tfser.manifests.experiment_names import give_name, meant_by, names_of, take_name
from tfser.manifests.options import Option


@dataclass(frozen=True, kw_only=True)
class RunListing(InCache):
    """Of which cache, and how it is printed."""

    format: Annotated[Output, Option("How to print the result.")] = Output.table


def list_runs(*, listing: RunListing) -> None:
    """List experiments: what each is, its folds and seeds, whether it was trained for use, and its UA or CCC.

    Example:
        tfser runs ls --format json
    """
    cache = listing.store
    with open_catalogue(cache) as connection:
        experiments = listed(connection, names_of(cache))
    if listing.format is not Output.table:
        print_rows(experiments, listing.format)
        return
    if not experiments:
        show(f"no finished run in {cache.runs}")
        return
    # People get what tells experiments apart; a column that is empty in all of them is left out.
    shown = [
        {
            "experiment": row["experiment"],
            "called": ", ".join(row["names"]),
            "protocol": row["protocol"],
            "features": row["feature_set"],
            "folds": len(row["folds"]),
            "seeds": len(row["seeds"]),
            "for use": "yes" if row["for_use"] else "",
            "UA": score_text(row["UA"], None, mark(row)),
            "CCC": number_text(row["CCC"], None, mark(row)),
        }
        for row in experiments
    ]
    print_rows([{key: row[key] for key in row if any(of[key] not in ("", None) for of in shown)} for row in shown], Output.table)
    for line in explain_marks([row for row in experiments if row["UA"] is not None or row["CCC"] is not None]):
        say(line)


def show_run(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run or an experiment: id, name, or a piece of it.")],
    *,
    listing: RunListing,
) -> None:
    """Show what an experiment or a run is: its whole configuration, versions, folds and seeds.

    Example:
        tfser runs show tf_mamba-full
    """
    cache = listing.store
    with open_catalogue(cache) as connection:
        runs = runs_of(connection, find(connection, meant_by(cache, model)))
    description = described(runs)
    parts = [
        {
            "run_id": run["run_id"],
            "fold": run["fold"],
            "seed": run["seed"],
            "epochs": run["epochs"],
            "finished_at": run["finished_at"],
        }
        for run in runs
    ]
    if listing.format is Output.json:
        names = [name for name, experiment in names_of(cache).items() if experiment == description["experiment"]]
        print_json({**description, "names": names, "runs": parts})
        return
    rows = [{"what": key, "value": _text(value)} for key, value in description.items() if key != "versions"]
    rows += [{"what": f"versions.{name}", "value": value} for name, value in description["versions"].items()]
    print_rows(rows, listing.format)
    if listing.format is Output.table:
        show("")
        print_rows([{**part, "fold": _fold(part["fold"])} for part in parts], Output.table)


def diff_runs(
    a: Annotated[str, typer.Argument(metavar="A", help="A run or an experiment: id, name, or a piece of it.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    *,
    listing: RunListing,
) -> None:
    """Show in what two experiments or runs differ; `tfser compare` tests whether their scores do.

    Example:
        tfser runs diff tf_mamba-full tf_mamba-attention
    """
    cache = listing.store
    with open_catalogue(cache) as connection:
        sides = [runs_of(connection, find(connection, meant_by(cache, text))) for text in (a, b)]
    differing = differences(*sides)
    if listing.format is Output.table:
        if not differing:
            show("they differ in nothing that is stored")
        else:
            print_rows([{"what": row["what"], a: _text(row["a"]), b: _text(row["b"])} for row in differing], Output.table)
    else:
        print_rows(differing, listing.format, ["what", "a", "b"])


def name_run(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="A run or an experiment: its id or a piece of it.")] = None,
    *,
    remove: Annotated[bool, typer.Option("--remove", help="Take the name back instead.")] = False,
    listing: RunListing,
) -> None:
    """Give an experiment a name, which every command that takes an experiment knows.

    Example:
        tfser runs name baseline mean_pool-mlp
    """
    cache = listing.store
    if remove == (model is not None):
        raise UsageError("say which experiment to call so, or --remove to take the name back")
    if model is None:
        say(f"{name} no longer means {take_name(cache, name)}")
        return
    with open_catalogue(cache) as connection:
        experiment = find(connection, model).experiment
    give_name(cache, name, experiment)
    say(f"{name} means {experiment}")


def _fold(number: int) -> str:
    return "all, for use" if number == EVERYTHING else str(number)


def _text(value: Any) -> Any:
    """Return a setting as a cell: nothing is a word, too."""
    return "none" if value is None else value
