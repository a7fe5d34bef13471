"""`tfser fuse`: the mean of several experiments' probabilities, as a result of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from tfser.heads.commands.scores import show_scores
from tfser.heads.results.fusion import fuse, plan_fusion
from tfser.heads.results.score_tables import Wanted
from tfser.manifests.catalogue.reading import refresh
from tfser.manifests.commands.printing import Writing
from tfser.manifests.display import say
from tfser.manifests.options import Option
from tfser.manifests.wording import count


def fuse_runs(
    experiments: Annotated[
        list[str], typer.Argument(metavar="A B", help="Experiments: the id of each, enough of it, or a name.")
    ],
    *,
    again: Annotated[bool, Option("Make again what is there.")] = False,
    writing: Writing,
) -> None:
    """Average the probabilities of experiments (late fusion), and store the result, which `scores` and `compare` know.

    Raises:
        UsageError: if there are no such experiments, or they were not trained under one protocol.
        TfserError: if they were tested on different utterances.

    Example:
        tfser fuse logreg-plain mean_pool-mlp
    """
    writing.kind()  # before anything is computed
    store = writing.store
    plan = plan_fusion(store, experiments)
    done = fuse(store, plan, again=again)
    refresh(store)
    say(f"{plan.experiment}: the mean of {', '.join(plan.sources)}")
    say(f"{count(done.made, 'run')} made, {done.found:,} were there")
    for line in plan.left_out:
        say(f"left out: {line}")
    show_scores(replace(Wanted(), experiment=plan.experiment), writing)
