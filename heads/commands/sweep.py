"""`tfser sweep` and `tfser reproduce`: what many runs are asked. What is shown meanwhile and afterwards is in `sweeps`.

Torch is imported inside of the commands, once the process is set up for it, and not for `--help`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from tfser.heads import REFERENCE_FEATURES
from tfser.heads.commands.showing import Showing
from tfser.heads.results.published import Paper
from tfser.heads.results.published import paper as find_paper
from tfser.heads.runs.request import SweepRequest, Training, parse_seeds
from tfser.heads.runs.running import RunningMany
from tfser.heads.runs.sweep_file import asked
from tfser.manifests.cache import Cache
from tfser.manifests.commands.opening import Said
from tfser.manifests.display import say
from tfser.manifests.options import Option
from tfser.pipeline.commands.extract import extract_synthetic
from tfser.pipeline.features.functionals import is_installed


def sweep(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE.toml", help="A sweep written down; options override its defaults.")
    ] = None,
    *,
    heads: Annotated[
        tuple[str, ...],
        Option("What to train, a list (a,b) or repeated; of a file: only these.", flag="--head", metavar="NAMES", panel="Heads"),
    ] = (),
    given: Annotated[Mapping[str, Any], Said(SweepRequest)],
    running: RunningMany,
    output: Annotated[
        Path | None, Option("Write one row a run to a .parquet or .csv file.", metavar="FILE", panel="Output and cache")
    ] = None,
    showing: Showing,
) -> None:
    """Train heads x presets x recipes x features x seeds x folds; what is finished is found. Exits with 1 if a run failed.

    Raises:
        UsageError: if the request is off; nothing is trained then.
        TfserError: if an audit forbids a fold.

    Example:
        tfser sweep --head mean_pool,svm --features logmel --seeds 0-2 --dry-run
        tfser sweep sweep.toml --jobs 2 --output runs.csv
    """
    request = asked(file, heads, given)
    running.prepare(request.device)
    from tfser.heads.commands.sweeps import show_sweep

    if not show_sweep(running.store(showing.cache), request, running, showing, output):
        raise typer.Exit(1)


def reproduce(
    paper: Annotated[str, typer.Argument(help="tf-mamba or tf-transformer.")],
    *,
    tables: Annotated[
        tuple[str, ...], Option("Only these (I, II, III; 4, 5), a list or repeated.", flag="--table", metavar="N")
    ] = (),
    seeds: Annotated[
        tuple[int, ...],
        Option("A seed, a list (0,1) or a range (0-4); 0 if left out.", metavar="N", read=parse_seeds),
    ] = (0,),
    settings: Annotated[
        Mapping[str, str],
        Option(
            "A setting of all heads that have it, or head.KEY=VALUE of one: no reproduction any more.",
            flag="--set",
            metavar="KEY=VALUE",
            panel="Training",
        ),
    ] = MappingProxyType({}),
    training: Training,
    running: RunningMany,
    showing: Showing,
) -> None:
    """Run what a paper's tables hold, and print its numbers, ours and the difference, or why a cell could not run.

    Raises:
        UsageError: if the request is off; nothing is trained then.

    Example:
        tfser reproduce tf-transformer --dry-run
        tfser reproduce tf-mamba --table II --epochs 20 --format markdown
        tfser reproduce tf-mamba --table I --epochs 1 --set width=32 --set ca_mser.image=64,96
    """
    chosen, store = find_paper(paper), running.store(showing.cache)
    running.prepare(training.device)
    from tfser.heads.commands.sweeps import show_reproduction
    from tfser.heads.results.papers import check_settings, choose_tables, has_a_corpus

    check_settings(chosen, choose_tables(chosen, tables), settings)  # before the minutes that features take
    demo = (
        None if has_a_corpus(store, chosen) else _synthetic(running.store(store.root / "demo"), chosen, tables, showing.dry_run)
    )
    wanted = {"tables": tables, "seeds": seeds, "settings": settings, "on_synthetic": demo is not None}
    if not show_reproduction(demo or store, chosen, training, running, showing, **wanted):
        raise typer.Exit(1)


def _synthetic(demo: Cache, chosen: Paper, tables: Sequence[str], is_dry: bool) -> Cache | None:
    """Return the cache of the synthetic corpus, with what a paper's tables need; None where a dry run, which makes nothing,
    finds no such corpus to plan on."""
    from tfser.heads.results.papers import SYNTHETIC, synthetic_features

    if not is_dry:
        corpora = ", ".join(chosen.protocols)
        say(f"no corpus of {chosen.name} ({corpora}) in the cache: going the whole way on the synthetic one")
        references = [REFERENCE_FEATURES] if is_installed() else []
        extract_synthetic(demo, [*references, *synthetic_features(chosen, tables)])
    return demo if SYNTHETIC in demo.corpora() else None
