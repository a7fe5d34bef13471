"""The contents page of the command line: one line a command, in the order of `tfser --help`.

A new command is a function in the `commands` folder of the highest room that it needs (`manifests`, `pipeline`, `heads`). Its
parameters are arguments of the parser, single options (`Annotated[str, Option("...")]`), and dataclasses of options that the
code below uses too (`manifests/options.py`). Its docstring is its help: one sentence, whatever else is to be said, and an
example at the end. Then it gets one line here: its name, where it is, and that first sentence, so that `--help` need not
import it. A test holds the two together and lets the parser read the example. Only `commands` print.
"""

from __future__ import annotations

import sys
from typing import Annotated, ClassVar

import typer

from tfser import __version__
from tfser.manifests.commands.program import WIDEST, Line, Program, Stage
from tfser.manifests.streams import leave, make_ready
from tfser.pipeline.resources.threads import wait_passively

MANIFESTS, PIPELINE, HEADS = "tfser.manifests.commands", "tfser.pipeline.commands", "tfser.heads.commands"

CONTENTS = (
    Stage("Data", (
        Line("corpora", f"{PIPELINE}.corpora:corpora", "List the corpora that are known, and those in the cache."),
        Line("scan", f"{PIPELINE}.scan:scan",
             "Index a corpus without extracting: who speaks what, where, how long, how loud.", goes_on=True),
        Line("features", f"{PIPELINE}.corpora:features", "List the feature sets that `extract` can make."),
        Line("extract", f"{PIPELINE}.extract:extract",
             "Scan a corpus and extract what its feature set lacks; a second run does nothing.",
             goes_on=True),
        Line("import-features", f"{PIPELINE}.import_features:import_own",
             "Store features that were computed elsewhere, one vector an utterance or frames, as a feature set to train on.",
             goes_on=True),
    )),
    Stage("Splits", (
        Line("protocol ls", f"{MANIFESTS}.protocol:protocol_ls", "List the named and generic protocols."),
        Line("protocol show", f"{MANIFESTS}.protocol:protocol_show",
             "Print what a protocol is, who uses it, and its counts by fold, role and class.", ends_at_once=True),
        Line("protocol export", f"{MANIFESTS}.protocol:protocol_export", "Write who is in which fold and role, for other tools."),
        Line("audit", f"{PIPELINE}.audit:audit",
             "Check a protocol, or a split of others, for leaks: who and what stands on both sides.",
             ends_at_once=True),
    )),
    Stage("Training", (
        Line("heads", f"{HEADS}.heads:heads",
             "List the heads with their presets (architectures) and recipes (ways of training), "
             "or what `--set` takes for one head.", ends_at_once=True),
        Line("train", f"{HEADS}.train:train",
             "Train a head on cached features, fold by fold; what is finished is found, what was interrupted is resumed.",
             goes_on=True),
        Line("ablate", f"{HEADS}.train:ablate",
             "Train every row of a head's ablation table over the same folds, and print the paper's beside ours.",
             goes_on=True),
        Line("sweep", f"{HEADS}.sweep:sweep",
             "Train heads x presets x recipes x features x seeds x folds; what is finished is found.",
             goes_on=True),
        Line("layers", f"{HEADS}.layers:layers",
             "Score every layer of an encoder, and let validation speakers choose one, fold by fold.", goes_on=True),
        Line("reproduce", f"{HEADS}.sweep:reproduce",
             "Run what a paper's tables hold, and print its numbers, ours and the difference, or why a cell could not run.",
             goes_on=True),
    )),
    Stage("Results", (
        Line("scores", f"{HEADS}.scores:scores",
             "List scores over folds and seeds, with intervals over speakers; or by seed, fold, class, speaker, session.",
             ends_at_once=True),
        Line("compare", f"{HEADS}.scores:compare",
             "Compare two experiments on the same test utterances: difference with interval, tests, wins by fold and speaker.",
             ends_at_once=True),
        Line("report", f"{HEADS}.report:report",
             "Write a page of scores with intervals, speakers, confusions, errors and audits, with the SQL of each number.",
             ends_at_once=True),
        Line("plot", f"{HEADS}.plot:plot",
             "Draw one figure for a paper: readable at one column or two, for any colour vision, fonts embedded.",
             ends_at_once=True),
        Line("ui", f"{HEADS}.ui:ui",
             "Show the cache in a browser: listen to utterances, filter them by SQL, compare experiments, "
             "see audits and the report."),
        Line("fuse", f"{HEADS}.fuse:fuse_runs",
             "Average the probabilities of experiments (late fusion), and store the result, which `scores` and `compare` know.",
             goes_on=True),
        Line("worth", f"{HEADS}.worth:worth",
             "Train one head on a published split and on one that keeps speakers apart, and say what the difference is.",
             goes_on=True),
        Line("sql", f"{MANIFESTS}.sql:sql",
             "Ask the catalogue; tables and columns are in docs/schema.md (`tfser manifest schema`).",
             ends_at_once=True),
    )),
    Stage("Using a model", (
        Line("predict", f"{HEADS}.predicting:predict",
             "Predict the emotion in audio: a class with probabilities, ratings, or both, for each input or window.",
             ends_at_once=True),
        Line("export", f"{HEADS}.exporting:export",
             "Write a trained model to a folder that needs no cache: safetensors, JSON and a card, no pickle."),
        Line("runs ls", f"{HEADS}.run_lists:list_runs",
             "List experiments: what each is, its folds and seeds, whether it was trained for use, and its UA or CCC.",
             ends_at_once=True),
        Line("runs show", f"{HEADS}.run_lists:show_run",
             "Show what an experiment or a run is: its whole configuration, versions, folds and seeds.",
             ends_at_once=True),
        Line("runs diff", f"{HEADS}.run_lists:diff_runs",
             "Show in what two experiments or runs differ; `tfser compare` tests whether their scores do.",
             ends_at_once=True),
        Line("runs name", f"{HEADS}.run_lists:name_run",
             "Give an experiment a name, which every command that takes an experiment knows."),
    )),
    Stage("Cache", (
        Line("cache ls", f"{PIPELINE}.cache:cache_ls",
             "List the feature sets by corpus; `stale` rows fit no utterance any more.", ends_at_once=True),
        Line("cache du", f"{PIPELINE}.cache:cache_du", "Print the room that each part of the cache takes.",
             ends_at_once=True),
        Line("cache verify", f"{PIPELINE}.cache:cache_verify", "Read every file and compare it with its digest."),
        Line("cache rm", f"{PIPELINE}.cache:cache_rm", "Remove a part of the cache."),
        Line("cache push", f"{PIPELINE}.share:cache_push",
             "Copy corpora's rows, features and finished runs to a store elsewhere; what is there already is not sent again."),
        Line("cache pull", f"{PIPELINE}.share:cache_pull",
             "Copy what this cache lacks from a store elsewhere; what it has is never replaced."),
        Line("cache collapse", f"{HEADS}.collapse:cache_collapse",
             "Make an ordinary feature set of stored layers: the mix that a run learned (it belongs to that run's fold), "
             "or one layer.", goes_on=True),
        Line("cache join", f"{PIPELINE}.join:cache_join",
             "Write the frames of several feature sets side by side as one, which `--features A+B` then trains on.",
             goes_on=True),
        Line("manifest rebuild", f"{MANIFESTS}.manifest:manifest_rebuild", "Build the catalogue anew from the cache's files."),
        Line("manifest path", f"{MANIFESTS}.manifest:manifest_path", "Print where the catalogue lies, brought up to date."),
        Line("manifest schema", f"{MANIFESTS}.manifest:manifest_schema", "Print the catalogue's tables and columns."),
    )),
    Stage("This machine", (
        Line("doctor", f"{HEADS}.machine:doctor", "Say what works on this machine, and why something does not."),
        Line("profile", f"{HEADS}.machine:profile",
             "Measure what heads cost, all under the same conditions: parameters, multiply-accumulates, time, memory."),
        Line("demo", f"{HEADS}.demo:demo",
             "Go the whole way on the built-in synthetic corpus: generate, extract, audit, train two heads, "
             "print and draw the scores.",
             goes_on=True),
    )),
)  # fmt: skip


class Contents(Program):
    """The program of the lines above."""

    contents: ClassVar = CONTENTS
    chapters: ClassVar = {
        "protocol": "Protocols: which splits there are (ls, show, export).",
        "runs": "Runs and experiments: list, show, diff, name.",
        "cache": "The cache: list, size up, verify, remove, collapse layers, join sets.",
        "manifest": "The catalogue: path, schema, rebuild.",
    }
    names: ClassVar = {
        "head": "tfser.heads:head_names",
        "corpus": "tfser.pipeline.corpora:CORPORA",
        "setting": f"{HEADS}.heads:known_settings",
    }


app = typer.Typer(
    cls=Contents,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": WIDEST},
    help="Speech emotion recognition from cached features: extract once, audit the split, train small heads.",
)


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from tfser.manifests.display import show  # which takes longer to import than all of `--help`

        show(__version__)
        raise typer.Exit


def main() -> None:
    """Run the program."""
    make_ready()
    wait_passively()
    try:
        app()
    except SystemExit as ended:
        if Contents.says(sys.argv[1:], "ends_at_once"):
            leave(ended.code if isinstance(ended.code, int) else 0)
        raise


if __name__ == "__main__":
    main()
