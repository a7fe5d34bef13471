"""`tfser profile` and `tfser doctor`: what heads cost here, and what works here."""

from __future__ import annotations

from typing import Annotated

import typer

from tfser.heads.training.conditions import Conditions
from tfser.heads.training.doctor import examine, problems
from tfser.manifests.commands.printing import Format, Printing
from tfser.manifests.display import Output, bar, print_rows, say
from tfser.manifests.options import Option
from tfser.manifests.wording import count
from tfser.pipeline.resources.memory import Process


def profile(
    *,
    heads: Annotated[
        tuple[str, ...],
        Option("What to measure, may be repeated; all if left out.", flag="--head", metavar="NAME", commas=False),
    ] = (),
    presets: Annotated[
        tuple[str, ...], Option("Variants, may be repeated; all if left out.", flag="--preset", metavar="NAME", commas=False)
    ] = (),
    format: Format = Output.table,
    conditions: Conditions,
    process: Process,
) -> None:
    """Measure what heads cost, all under the same conditions: parameters, multiply-accumulates, time, memory.

    Raises:
        UsageError: if there is no such head or preset, or a condition is off.

    Example:
        tfser profile --head tf_mamba --head tf_transformer --threads 2
    """
    kept = process.prepare(conditions.device)
    from tfser.heads.commands.cost_table import print_profiles
    from tfser.heads.training.cost import fitting, select
    from tfser.heads.training.cost import profile as measure

    chosen = select(heads, presets)
    if not heads:  # of those that were named, one that does not fit is an error
        chosen, odd = fitting(chosen, conditions.width)
        for why in odd.values():
            say(f"left out: {why}")
    with bar("measuring", len(chosen) * (1 + conditions.repeats)) as update:
        found = measure(chosen, conditions, advance=lambda: update(advance=1))
    if format is Output.table:
        print_profiles(found)
    else:
        print_rows([{**of.to_dict(), "kept_memory": kept} for of in found], format)


def doctor(*, printing: Printing) -> None:
    """Say what works on this machine, and why something does not. Exits with 1 if there is a problem.

    Example:
        tfser doctor --format json
    """
    checks = examine(printing.cache)
    print_rows([check.to_dict() for check in checks], printing.format)
    if wrong := problems(checks):
        say(f"{count(wrong, 'problem')}; what to do stands beside it")
        raise typer.Exit(1)
