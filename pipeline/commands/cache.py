"""`tfser cache ls`, `du`, `verify` and `rm`: what lies in the cache, whether it is whole, and taking parts of it away."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from tfser.manifests.cache import Cache
from tfser.manifests.commands.printing import InCache, Printing, confirm
from tfser.manifests.display import Output, print_rows, say, show
from tfser.manifests.options import Option
from tfser.manifests.wording import count, size
from tfser.pipeline.inventory import Unwanted, delete, doomed, list_features, size_of, usage
from tfser.pipeline.verify import Problem, repair, verify


def cache_ls(*, printing: Printing) -> None:
    """List the feature sets by corpus; `stale` rows fit no utterance any more.

    Example:
        tfser cache ls
    """
    store = printing.store
    entries = [dataclasses.asdict(entry) for entry in list_features(store)]
    if printing.format is Output.table:
        for entry in entries:
            entry["size"] = size(entry.pop("bytes"))
    print_rows(entries, printing.format)
    if store.removed.is_dir():
        say(f"{size(size_of(store.removed))} that were damaged lie in removed/; `tfser cache rm --removed` empties it")


def cache_du(*, printing: Printing) -> None:
    """Print the room that each part of the cache takes.

    Example:
        tfser cache du --format json
    """
    parts = usage(printing.store.require())
    rows: list[dict[str, Any]] = [{"part": name, "bytes": number} for name, number in parts.items()]
    rows.append({"part": "all", "bytes": sum(parts.values())})
    if printing.format is Output.table:
        rows = [{"part": row["part"], "size": size(row["bytes"])} for row in rows]
    print_rows(rows, printing.format)


def cache_verify(
    *,
    mend: Annotated[
        bool,
        Option("Move what is damaged or left over to removed/, so that it can be made again.", flag="--repair"),
    ] = False,
    yes: Annotated[bool, Option("With --repair: do not ask.")] = False,
    printing: Printing,
) -> None:
    """Read every file and compare it with its digest. Exits with 1 if something is damaged, missing or could not be checked.

    Example:
        tfser cache verify --repair
    """
    store = printing.store
    problems = verify(store)
    if printing.format is Output.table:
        show(*(problem.line for problem in problems))
    else:
        print_rows([problem.to_dict() for problem in problems], printing.format, ["path", "problem", "reason", "way_out"])
    movable = [problem for problem in problems if problem.moves]
    if not problems:
        say("the cache is whole")
    elif not mend:
        advice = "; `tfser cache verify --repair` moves what is damaged or left over away" if movable else ""
        say(f"{count(len(problems), 'problem')}{advice}")
        raise typer.Exit(1)
    elif movable:
        _move_away(store, movable, yes)
    if len(problems) > len(movable):
        say(f"{count(len(problems) - len(movable), 'problem')} left, which --repair does not touch")
        raise typer.Exit(1)


def _move_away(store: Cache, problems: list[Problem], yes: bool) -> None:
    """Move what can be made again to removed/, after asking."""
    for path in dict.fromkeys(path for problem in problems for path in problem.moves):
        say(f"  {store.place(path)}")
    confirm(yes, "moving needs a yes: add --yes", f"move these to {store.removed}?")
    for line in repair(store, problems, say):
        say(line)


def cache_rm(*, unwanted: Unwanted, yes: Annotated[bool, Option("Do not ask.")] = False, place: InCache) -> None:
    """Remove a part of the cache.

    Example:
        tfser cache rm --features logmel --corpus emodb
        tfser cache rm --stale --yes
    """
    store = place.store
    paths = doomed(store, unwanted)
    if not paths:
        say("nothing to remove")
        return
    for path in paths:
        say(f"  {path.relative_to(store.root)}  {size(size_of(path)) if path.exists() else 'not there'}")
    confirm(yes, "removing needs a yes: add --yes", "remove these?")
    say(f"{size(delete(store, paths))} are free again")
