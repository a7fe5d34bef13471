"""The command line: one thin command a stage. What it says to people goes to standard error, results to standard output.

Heavy imports stand inside the commands, so that `tfser --help` is instant. A `TfserError` becomes one line and an exit code:
2 for a request that is off, 1 for a failure; `--debug` anywhere on the line shows the traceback instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from tfser import __version__
from tfser.manifests.cache import Cache
from tfser.manifests.display import (
    Lines,
    Output,
    ReaderGoneError,
    TableOutput,
    bar,
    count,
    markdown_lines,
    print_json,
    print_rows,
    say,
    show,
    show_notes,
    size,
    utterance_bar,
)
from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.manifests.failures import INTERRUPTED, check_words, describe, interrupted
from tfser.manifests.options import opened
from tfser.manifests.outputs import check_output, format_of, output_to, write_parquet
from tfser.manifests.streams import finish, is_file, make_ready, standard_input

if TYPE_CHECKING:
    from tfser.heads.runs.experiment import Experiment, Request
    from tfser.heads.runs.in_turn import Failure
    from tfser.manifests.audits.report import AuditReport
    from tfser.pipeline.scan import ScanReport


class _Group(TyperGroup):
    """Turns the errors that users can mend into one line and an exit code, at every depth of sub-commands."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **named: Any) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in words
        words = [w for w in words if w != "--debug"]
        show_notes()
        named["standalone_mode"], standalone = False, named.get("standalone_mode", True)
        try:
            check_words(words)
            code = super().main(words, *rest, **named)
        except ReaderGoneError:
            code = 0
        except Exception as error:
            if debug:
                raise
            if type(error).__name__ == "NoArgsIsHelpError":
                print(error.format_message(), file=sys.stderr)  # type: ignore[attr-defined]
                code = error.exit_code  # type: ignore[attr-defined]
            else:
                message, code = describe(error, _NAMES)
                say(f"tfser: {message}")
        except KeyboardInterrupt:
            code = INTERRUPTED
        if code == INTERRUPTED:  # the parser of options turns Ctrl-C into this, too
            say(f"tfser: {interrupted(words)}")
        if standalone:
            sys.exit(finish(code if isinstance(code, int) else 0))
        return code


def _known_heads() -> list[str]:
    from tfser.heads import head_names

    return head_names()


def _known_corpora() -> list[str]:
    from tfser.pipeline.corpora import CORPORA

    return list(CORPORA)


def _known_settings() -> list[str]:
    from tfser.heads.runs.setting_list import setting_names
    from tfser.pipeline.features.registry import UPSTREAMS

    return [*setting_names(), *(name for upstream in UPSTREAMS.values() for name in upstream.options)]


_NAMES = {"head": _known_heads, "corpus": _known_corpora, "setting": _known_settings}
"""What an error of the option parser can list."""

app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Speech emotion recognition from cached features: extract once, audit the split, train small heads.",
)
protocol_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Protocols: which splits there are.")
manifest_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The catalogue: path, schema, rebuild.")
cache_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The cache: list, size up, verify, remove.")
app.add_typer(protocol_app, name="protocol")
app.add_typer(manifest_app, name="manifest")
app.add_typer(cache_app, name="cache")
runs_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Runs: list, show, diff, name.")
app.add_typer(runs_app, name="runs")


class SqlOutput(StrEnum):
    """How `tfser sql`, `scores` and `compare` write their result."""

    table = "table"
    csv = "csv"
    json = "json"
    markdown = "markdown"
    parquet = "parquet"


class AuditOutput(StrEnum):
    """How `tfser audit` prints its findings."""

    table = "table"
    csv = "csv"
    json = "json"
    markdown = "markdown"


class ShardKind(StrEnum):
    """File format of new shards."""

    hdf5 = "hdf5"
    parquet = "parquet"


class Frames(StrEnum):
    """When cached frames are compared with their checksums."""

    once = "once"
    never = "never"


CacheDir = Annotated[
    Path | None, typer.Option("--cache", metavar="DIR", help="Cache folder; else $TFSER_CACHE, else the user's cache folder.")
]
Corpus = Annotated[
    str | None, typer.Option("--corpus", metavar="NAME", help="Corpus in the cache; may be left out if there is one.")
]
Format = Annotated[Output, typer.Option("--format", help="How to print the result.")]
CorpusToScan = Annotated[
    str, typer.Option("--corpus", metavar="NAME", help="A known corpus (see `tfser corpora`), or one scanned before.")
]
Root = Annotated[
    Path | None,
    typer.Option("--root", metavar="DIR", help="Its folder; else $TFSER_CORPORA/<corpus>, else that of the last scan."),
]
Name = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Name it gets in the cache, for a second copy or a table.")
]
TableFile = Annotated[
    Path | None, typer.Option("--table", metavar="FILE", help="With --corpus table: the csv, tsv or Parquet file.")
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="OURS=THEIRS", help="With table or audformat: what a column is called, e.g. label=emo."),
]
Rescan = Annotated[
    bool, typer.Option("--rescan", help="Decode every file again, and read weights again, instead of believing size and time.")
]
MaxDuration = Annotated[
    float | None,
    typer.Option("--max-duration", min=0.1, metavar="SECONDS", help="Longest utterance; half an hour unless asked before."),
]
Delimiter = Annotated[str | None, typer.Option("--delimiter", help="With --corpus table: between columns; guessed if left out.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 if anything was skipped.")]
AllowLoss = Annotated[
    bool, typer.Option("--allow-loss", help="Go on even if most of what the last scan could read is gone from the folder.")
]
ProtocolName = Annotated[
    str | None,
    typer.Option("--protocol", metavar="NAME", help="Protocol, or a file my.toml of your own; the corpus's default if left out."),
]
Labels = Annotated[
    str | None, typer.Option("--labels", metavar="MAP", help="Classes, e.g. common4 or anger,happiness:happiness+excitement.")
]
Validation = Annotated[
    str | None,
    typer.Option("--validation", metavar="POLICY", help="none, next-group, speakers:1 or random-leaky:0.1."),
]

Head = Annotated[str, typer.Option("--head", metavar="NAME", help="What to train; see `tfser heads`.")]
Folds = Annotated[str, typer.Option("--fold", metavar="N", help="A fold, a list (1,3), a range (2-4), or all.")]
FoldsOrNone = Annotated[
    str,
    typer.Option("--fold", metavar="N", help="A fold, a list (1,3), a range (2-4), all; or none: all utterances, for use."),
]
Features = Annotated[
    str | None, typer.Option("--features", metavar="NAME", help="Feature set; the head's favourite in the cache if left out.")
]
FeatureLists = Annotated[
    list[str] | None,
    typer.Option(
        "--features", metavar="NAMES", help="Feature sets, a list (a,b) or repeated; the head's favourite if left out."
    ),
]
RecipeName = Annotated[str | None, typer.Option("--recipe", metavar="NAME", help="Way of training.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe or of the preset.")
]
Epochs = Annotated[int | None, typer.Option("--epochs", min=1, help="Instead of the recipe's number.")]
Width = Annotated[
    int | None, typer.Option("--width", min=1, metavar="D", help="Width of the network, for heads that have one (tf_mamba).")
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Random seed.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 ...")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; torch's choice if left out.")]
KeepMemory = Annotated[
    bool, typer.Option("--keep-memory/--no-keep-memory", help="On Linux CPUs: keep freed memory: faster, for more memory.")
]
CheckpointEvery = Annotated[
    float, typer.Option("--checkpoint-every", min=0, metavar="SECONDS", help="Keep the state so often, after an epoch.")
]
Stack = Annotated[
    bool,
    typer.Option("--stack/--no-stack", help="On a GPU: train folds and seeds of one experiment together; runs of their own."),
]
AllowLeaks = Annotated[bool, typer.Option("--allow-leaks", help="Train a fold in which the audit finds leaks; the run says so.")]
AllowGaps = Annotated[
    bool, typer.Option("--allow-gaps", help="Train a fold that lacks something (a class, features); the run says so.")
]
RunsDir = Annotated[
    Path | None,
    typer.Option("--runs", metavar="DIR", help="Keep runs there, beside a cache that cannot be written; --cache DIR shows them."),
]
VerifyFrames = Annotated[
    Frames, typer.Option("--verify", help="Compare frames with their checksums once, when they are read first, or never.")
]
Again = Annotated[bool, typer.Option("--again", help="Train again what is finished; the old run stays until then.")]

TableFormat = Annotated[
    SqlOutput | None, typer.Option("--format", help="How to write the result; by the output's suffix if left out.")
]
OutputFile = Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Write there instead of standard output.")]
Clusters = Annotated[
    str | None,
    typer.Option("--clusters", metavar="WHAT", help="Intervals over speaker (the default), session or dialogue."),
]

# -- corpora, scan, extract --------------------------------------------------------------------------------------------------


def _pairs(option: str, items: Iterable[str] | None) -> dict[str, str]:
    """Parse repeated KEY=VALUE options."""
    result = {}
    for item in items or ():
        key, mark, value = item.partition("=")
        if not mark or not key.strip() or not value.strip():
            raise UsageError(f"{option} {item}: write KEY=VALUE")
        result[key.strip()] = value.strip()
    return result


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        show(__version__)
        raise typer.Exit


@app.command()
def corpora(cache: CacheDir = None, format: Format = Output.table) -> None:
    """List the corpora that are known, and those in the cache."""
    from tfser.manifests.plugins import CORPORA as GROUP
    from tfser.pipeline.corpora import CORPORA, remembered

    scanned = remembered(Cache(cache))
    rows = []
    for name, reader in CORPORA.items():
        here = [c for c, about in scanned.items() if about["adapter"] == name]
        protocol = reader.default_protocol or ", ".join(sorted({scanned[c]["default_protocol"] or "-" for c in here}))
        row: dict[str, Any] = {"corpus": name, "default_protocol": protocol, "in_cache_as": ", ".join(here)}
        row["about"] = reader.summary
        if format is Output.table:  # a second line, since three more columns would be too wide to read
            row["about"] = Lines((reader.summary, f"{reader.licence}; {reader.page}"))
        else:
            row |= {"licence": reader.licence, "page": reader.page, "source": reader.source}
        rows.append(row)
    print_rows(_with_origins(rows, "corpus", GROUP, format), format)


@app.command()
def scan(
    corpus: CorpusToScan,
    root: Root = None,
    name: Name = None,
    table: TableFile = None,
    column: Columns = None,
    delimiter: Delimiter = None,
    rescan: Rescan = False,
    max_duration: MaxDuration = None,
    cache: CacheDir = None,
    strict: Strict = False,
    allow_loss: AllowLoss = False,
    format: Format = Output.table,
) -> None:
    """Index a corpus without extracting: who speaks what, where, how long, how loud."""
    from tfser.manifests.catalogue.reading import refresh

    store = Cache(cache)
    report = _scan(store, corpus, root, name, table, column, delimiter, allow_loss, rescan, max_duration)
    refresh(store)
    if format is not Output.table:
        print_rows([report.to_row()], format)
    if report.failure is not None:
        raise TfserError(report.failure)
    if strict and report.skipped:
        raise typer.Exit(1)


def _scan(
    store: Cache,
    corpus: str,
    root: Path | None,
    name: str | None,
    table: Path | None,
    column: list[str] | None,
    delimiter: str | None,
    allow_loss: bool,
    rescan: bool = False,
    max_duration: float | None = None,
) -> ScanReport:
    from tfser.pipeline.corpora import locate
    from tfser.pipeline.scan import scan as run_scan

    columns = _pairs("--column", column) if column else None
    found = locate(store, corpus, name=name, root=root, table=table, columns=columns, delimiter=delimiter)
    with utterance_bar(f"scanning {found.corpus}") as begin, bar(f"generating {found.corpus}") as generating:
        report = run_scan(
            store,
            found.reader,
            corpus=found.corpus,
            root=found.root,
            options=found.options,
            begin=lambda files: begin(files, 0.0),
            on_prepare=lambda done, of: generating(completed=done, total=of),
            on_wait=say,
            allow_loss=allow_loss,
            rescan=rescan,
            max_duration_s=max_duration,
        )
    for line in report.lines():
        say(line)
    return report


@app.command()
def extract(
    corpus: CorpusToScan,
    features: Annotated[
        str,
        typer.Option("--features", metavar="NAME", help="See `tfser features`; or the hub id or folder of an encoder."),
    ] = "logmel",
    layer: Annotated[
        str | None,
        typer.Option("--layer", metavar="K", help="Of an encoder: 12, last, mean, all, or 6,12,24 (one pass, a set each)."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="ID|DIR", help="Encoder weights: hub id or folder, instead of its own.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="REV", help="Branch, tag or commit of the weights on the hub.")
    ] = None,
    root: Root = None,
    name: Name = None,
    table: TableFile = None,
    column: Columns = None,
    delimiter: Delimiter = None,
    rescan: Rescan = False,
    max_duration: MaxDuration = None,
    cache: CacheDir = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the front-end or encoder.")
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Storage: float32 or float16.")] = "float32",
    precision: Annotated[
        str, typer.Option("--precision", help="What an encoder computes in: float32, bfloat16 or float16.")
    ] = "float32",
    device: Device = "auto",
    devices: Annotated[
        str | None, typer.Option("--devices", metavar="LIST", help="Several GPUs: cuda:0,cuda:1, or how many, or all.")
    ] = None,
    max_batch_seconds: Annotated[
        float | None,
        typer.Option("--max-batch-seconds", metavar="S", help="Audio in an encoder's batch, padding included; else by device."),
    ] = None,
    threads: Threads = None,
    keep_memory: KeepMemory = True,
    shards: Annotated[ShardKind, typer.Option("--format", help="File format of new shards.")] = ShardKind.hdf5,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Threads that decode; one a core if left out.")
    ] = None,
    strict: Strict = False,
    allow_loss: AllowLoss = False,
    report_as: Annotated[
        Output, typer.Option("--report", help="Print the counts on standard output, too: csv or json.")
    ] = Output.table,
) -> None:
    """Scan a corpus and extract what its feature set lacks; a second run does nothing."""
    from tfser.manifests.catalogue.reading import refresh_if_possible
    from tfser.pipeline.extract import extract_pass
    from tfser.pipeline.features.engine import Compute
    from tfser.pipeline.features.registry import FeatureRequest, feature_pass

    store = Cache(cache)
    wanted = feature_pass(
        features,
        FeatureRequest(
            settings=_pairs("--set", settings),
            dtype=dtype,
            layer=layer,
            weights=weights,
            revision=revision,
            precision=precision,
            memo=store.root / "weights.json",
            rehash=rescan,
        ),
    )
    for note in wanted.notes:
        say(note)
    where: tuple[str, ...] = ("cpu",)
    if wanted.is_encoder:
        where = _encoder_devices(device, devices, threads, keep_memory)
    elif devices is not None or device != "auto" or max_batch_seconds is not None:
        raise UsageError(f"--device, --devices and --max-batch-seconds are for encoders; {features} is computed on the CPU")
    compute = Compute(devices=where, max_batch_seconds=max_batch_seconds, workers=workers, tell=say)
    scanned = _scan(store, corpus, root, name, table, column, delimiter, allow_loss, rescan, max_duration)
    if scanned.failure is not None:
        refresh_if_possible(store)
        raise TfserError(scanned.failure)
    names = ", ".join(of.name for of in wanted.sets)
    try:
        with utterance_bar(f"extracting {names}") as begin:
            reports = extract_pass(
                store, scanned.corpus, wanted, compute=compute, format=shards.value, begin=begin, on_wait=say
            )
    finally:
        refresh_if_possible(store)
    listed: list[tuple[str, str]] = []
    for report in reports:
        for line in report.lines(listed):
            say(line)
        listed = report.named()
    say(f"cache: {store.root}")
    if report_as is not Output.table:
        print_rows([of.to_row() for of in reports], report_as)
    if refused := [report.refused for report in reports if report.refused is not None]:
        raise TfserError("; ".join(refused))
    if strict and (scanned.skipped or any(report.skipped for report in reports)):
        raise typer.Exit(1)


def _encoder_devices(device: str, devices: str | None, threads: int | None, keep_memory: bool) -> tuple[str, ...]:
    """Return where an encoder runs, with torch set up for it."""
    if devices is not None and device != "auto":
        raise UsageError("--devices goes without --device")
    _prepare_torch(devices or device, threads, keep_memory)
    from tfser.pipeline.features.devices import choose_device, choose_devices

    if devices is not None:
        return choose_devices(devices)
    # Whatever was named is tried now. To find the best one takes torch, for which a run with nothing to do need not wait.
    return (device,) if device == "auto" else (choose_device(device),)


@app.command()
def features(format: Format = Output.table) -> None:
    """List the feature sets that `extract` can make."""
    from tfser.manifests.plugins import UPSTREAMS as GROUP
    from tfser.pipeline.features.registry import UPSTREAMS

    rows: list[dict[str, Any]] = []
    for name, upstream in UPSTREAMS.items():
        row: dict[str, Any] = {"features": name, "settings": ", ".join(upstream.options), "about": upstream.summary}
        if upstream.hub is not None:
            row |= {"about": Lines((upstream.summary, upstream.hub))} if format is Output.table else {"hub": upstream.hub}
        rows.append(row)
    print_rows(_with_origins(rows, "features", GROUP, format), format)
    say("and any wav2vec 2.0, HuBERT, WavLM or Whisper by its hub id or folder: --features organisation/name")


# -- heads -------------------------------------------------------------------------------------------------------------------


@app.command()
def heads(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A head: its settings, with default and meaning.")] = None,
    preset: Annotated[str | None, typer.Option("--preset", metavar="NAME", help="With NAME: the defaults of this one.")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", metavar="NAME", help="With NAME: the defaults of this one.")] = None,
    format: Format = Output.table,
) -> None:
    """List the heads with their presets (architectures) and recipes (ways of training), or what `--set` takes for one head."""
    from tfser.heads import head, head_names
    from tfser.heads.spec import lineages
    from tfser.manifests.plugins import HEADS as GROUP
    from tfser.manifests.plugins import PluginError

    if name is not None:
        from tfser.heads.runs.setting_list import settings_of

        spec = head(name)
        print_rows(settings_of(spec, preset, recipe), format)
        say(f"defaults of preset {preset or spec.default_preset} and recipe {recipe or spec.default_recipe}")
        say(f"presets: {', '.join(spec.presets)}; recipes: {', '.join(spec.recipe_names)}")
        return
    if preset or recipe:
        raise UsageError("--preset and --recipe go with the name of a head: tfser heads NAME")
    rows: list[dict[str, Any]] = []
    for name in head_names():
        try:
            spec = head(name)
        except PluginError as error:
            rows.append({"head": name, "presets": "", "recipes": "", "about": str(error)})
            continue
        rows.append(
            {
                "head": name,
                "presets": _default_first(spec.default_preset, spec.presets),
                "recipes": _default_first(spec.default_recipe, spec.recipes),
                "about": f"{spec.summary} ({spec.source})",
            }
        )
    rows = _with_origins(rows, "head", GROUP, format)
    shared = lineages.listed()
    if format is Output.table:
        print_rows(rows, format)
        show("", "recipes of published lineages, for every head with a network, and the selections that they report:")
        print_rows(shared, format, ["recipe", "reports", "about"])
        say("selections that begin with test- chose their epoch on the test fold: upper bounds, and no results")
    else:
        every: list[dict[str, Any]] = [{"head": None, "presets": None, "recipes": of["recipe"], **of} for of in shared]
        columns = [*rows[0], *(name for name in shared[0] if name not in (*rows[0], "recipe"))]
        print_rows([dict.fromkeys(columns) | row for row in (*rows, *every)], format, columns)


def _with_origins(rows: list[dict[str, Any]], column: str, group: str, format: Output) -> list[dict[str, Any]]:
    """Say where each entry of a registry is from; in a table only if one is of another package."""
    from tfser.manifests.plugins import origin_of

    origins = [origin_of(group, row[column]) for row in rows]
    if format is Output.table and set(origins) == {"tfser"}:
        return rows
    return [{**row, "from": origin} for row, origin in zip(rows, origins, strict=True)]


def _default_first(default: str, names: Iterable[str]) -> str:
    return ", ".join([default, *(name for name in names if name != default)])


@app.command()
def train(
    head: Head,
    fold: FoldsOrNone = "all",
    corpus: Corpus = None,
    features: FeatureLists = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to call the experiment, for later commands.")
    ] = None,
    protocol: ProtocolName = None,
    labels: Labels = None,
    validation: Validation = None,
    preset: Annotated[str | None, typer.Option("--preset", metavar="NAME", help="Variant of the architecture.")] = None,
    recipe: RecipeName = None,
    settings: Changes = None,
    epochs: Epochs = None,
    width: Width = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    keep_memory: KeepMemory = True,
    checkpoint_every: CheckpointEvery = 30.0,
    stack: Stack = False,
    allow_leaks: AllowLeaks = False,
    allow_gaps: AllowGaps = False,
    again: Again = False,
    verify: VerifyFrames = Frames.once,
    runs: RunsDir = None,
    cache: CacheDir = None,
    format: Format = Output.table,
) -> None:
    """Train a head on cached features, fold by fold; what is finished is found, what was interrupted is resumed."""
    from tfser.heads.runs.experiment import Request

    request = Request(
        head=head,
        folds=fold,
        corpus=corpus,
        protocol=protocol,
        labels=labels,
        validation=validation,
        preset=preset,
        recipe=recipe,
        settings=_changes(settings, width),
        epochs=epochs,
        seed=seed,
        device=device,
        allow_leaks=allow_leaks,
        allow_gaps=allow_gaps,
        again=again,
        stack=stack,
    )
    _prepare_torch(device, threads, keep_memory)
    store = _store(cache, verify, runs)
    _train(store, request, format, _listed(features), checkpoint_every_s=checkpoint_every, name=name)


@app.command()
def ablate(
    head: Head,
    fold: Folds = "all",
    preset: Annotated[
        list[str] | None, typer.Option("--preset", metavar="NAME", help="Only rows of these variants; may be repeated.")
    ] = None,
    selection: Annotated[
        str, typer.Option("--selection", help="Whose scores: last, val, test-oracle or one of the recipe's.")
    ] = "last",
    reference: Annotated[
        bool, typer.Option("--reference/--no-reference", help="The reference heads logreg and svm below the table.")
    ] = True,
    corpus: Corpus = None,
    features: Features = None,
    protocol: ProtocolName = None,
    labels: Labels = None,
    validation: Validation = None,
    recipe: RecipeName = None,
    settings: Changes = None,
    epochs: Epochs = None,
    width: Width = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    keep_memory: KeepMemory = True,
    checkpoint_every: CheckpointEvery = 30.0,
    stack: Stack = False,
    allow_leaks: AllowLeaks = False,
    allow_gaps: AllowGaps = False,
    again: Again = False,
    verify: VerifyFrames = Frames.once,
    runs: RunsDir = None,
    cache: CacheDir = None,
    format: Format = Output.table,
) -> None:
    """Train every row of a head's ablation table over the same folds, and print the paper's beside ours."""
    from tfser.heads import head as find_head
    from tfser.heads.commands.ablation_table import print_ablation
    from tfser.heads.results.ablation import compare, plan_rows, reference_rows
    from tfser.heads.runs.experiment import Request, resolve
    from tfser.heads.spec.selections import BASE, check_name

    check_name(selection)
    request = Request(
        head=head,
        folds=fold,
        corpus=corpus,
        features=features,
        protocol=protocol,
        labels=labels,
        validation=validation,
        recipe=recipe,
        settings=_changes(settings, width),
        epochs=epochs,
        seed=seed,
        device=device,
        allow_leaks=allow_leaks,
        allow_gaps=allow_gaps,
        again=again,
        stack=stack,
    )
    _prepare_torch(device, threads, keep_memory)
    planned = [*plan_rows(find_head(head), request, preset or ()), *(reference_rows(request) if reference else ())]
    store = _store(cache, verify, runs)
    table = [(row, resolve(store, wanted)) for row, wanted in planned]  # all of them, before the first is trained
    if selection not in (*BASE, *table[0][1].recipe.selections):
        raise UsageError(f"--selection {selection}: this recipe does not keep it; add --set selections={selection}")
    if selection.startswith("val") and table[0][1].validation == "none":
        raise UsageError(f"--selection {selection} needs validation utterances: add --validation next-group")
    chosen = [of for of in table[0][1].chosen if not of.startswith("preset")]
    if chosen:
        say(f"chosen for you: {', '.join(chosen)}")
    headings = {
        experiment.name: f"{number} of {len(table)}: {row.name} ({experiment.preset}, {experiment.recipe_name})"
        for number, (row, experiment) in enumerate(table, start=1)
    }
    failed = _train_folds(store, [experiment for _, experiment in table], checkpoint_every, headings)
    print_ablation(table[0][1], compare(store, table, selection), format)
    _exit_if(failed)


def _store(cache: Path | None, verify: Frames, runs: Path | None) -> Cache:
    """Return the cache that training reads, and writes its runs to: another folder's if `--runs` names one."""
    store = Cache(cache, verify=verify.value)
    return store if runs is None else store.beside(runs)


def _listed(items: Iterable[str] | None) -> list[str]:
    """Return what a repeated option names, each of which may be a list with commas."""
    return list(dict.fromkeys(part.strip() for item in items or () for part in item.split(",") if part.strip()))


def _changes(settings: list[str] | None, width: int | None) -> dict[str, str]:
    """Return what `--set` and `--width` ask for."""
    return _pairs("--set", settings) | ({} if width is None else {"width": str(width)})


@app.command()
def sweep(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE.toml]", help="A sweep written down; options override its defaults.")
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option("--head", metavar="NAMES", help="What to train, a list (a,b) or repeated; of a file: only these."),
    ] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option("--preset", metavar="NAMES", help="Variants: a name goes to every head that has it, or head.name; or all."),
    ] = None,
    recipe: Annotated[
        list[str] | None, typer.Option("--recipe", metavar="NAMES", help="Ways of training: as --preset.")
    ] = None,
    features: FeatureLists = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="N", help="A seed, a list (0,1) or a range (0-4); 0 if left out.")
    ] = None,
    fold: Annotated[
        str | None, typer.Option("--fold", metavar="N", help="A fold, a list (1,3), a range (2-4), or all (the default).")
    ] = None,
    corpus: Corpus = None,
    protocol: ProtocolName = None,
    labels: Labels = None,
    validation: Validation = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of all heads, or head.KEY=VALUE of one."),
    ] = None,
    epochs: Epochs = None,
    reference: Annotated[
        bool | None, typer.Option("--reference/--no-reference", help="The reference heads logreg and svm, once a feature set.")
    ] = None,
    selection: Annotated[
        str, typer.Option("--selection", help="Whose scores: last, val, test-oracle or one of a recipe's.")
    ] = "last",
    jobs: Annotated[int, typer.Option("--jobs", min=1, max=256, metavar="N", help="Processes at once.")] = 1,
    stack: Stack = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and what it may cost; train nothing.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Write one row a run to a .parquet or .csv file.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1 ...")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads of each process; the cores are shared if left out.")
    ] = None,
    keep_memory: KeepMemory = True,
    checkpoint_every: CheckpointEvery = 30.0,
    allow_leaks: AllowLeaks = False,
    allow_gaps: AllowGaps = False,
    again: Again = False,
    verify: VerifyFrames = Frames.once,
    runs: RunsDir = None,
    cache: CacheDir = None,
    format: Annotated[TableOutput, typer.Option("--format", help="How to print the table.")] = TableOutput.table,
) -> None:
    """Train heads x presets x recipes x features x seeds x folds; what is finished is found. Exits with 1 if a run failed."""
    from tfser.heads.commands.sweeps import Running, asked
    from tfser.heads.commands.sweeps import sweep as sweep_it

    request = asked(
        file,
        heads=_listed(head),
        presets=_listed(preset),
        recipes=_listed(recipe),
        features=_listed(features),
        seeds=seeds,
        folds=fold,
        corpus=corpus,
        protocol=protocol,
        labels=labels,
        validation=validation,
        settings=_pairs("--set", settings),
        epochs=epochs,
        device=device,
        allow_leaks=allow_leaks or None,
        allow_gaps=allow_gaps or None,
        again=again or None,
        reference=reference,
        stack=stack or None,
    )
    how = Running(
        jobs=jobs,
        threads=threads,
        keep_memory=keep_memory,
        checkpoint_every_s=checkpoint_every,
        selection=selection,
    )
    if not sweep_it(_store(cache, verify, runs), request, how, format=format, dry_run=dry_run, output=output):
        raise typer.Exit(1)


@app.command()
def reproduce(
    paper: Annotated[str, typer.Argument(help="tf-mamba or tf-transformer.")],
    table: Annotated[
        list[str] | None, typer.Option("--table", metavar="N", help="Only these (I, II, III; 4, 5), a list or repeated.")
    ] = None,
    epochs: Epochs = None,
    fold: Folds = "all",
    seeds: Annotated[str, typer.Option("--seeds", metavar="N", help="A seed, a list (0,1) or a range (0-4).")] = "0",
    selection: Annotated[
        str, typer.Option("--selection", help="Whose scores: last, val, test-oracle or one of a recipe's.")
    ] = "last",
    jobs: Annotated[int, typer.Option("--jobs", min=1, max=256, metavar="N", help="Processes at once.")] = 1,
    stack: Stack = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what could run, and why something could not.")] = False,
    device: Device = "auto",
    threads: Threads = None,
    keep_memory: KeepMemory = True,
    checkpoint_every: CheckpointEvery = 30.0,
    allow_leaks: AllowLeaks = False,
    allow_gaps: AllowGaps = False,
    cache: CacheDir = None,
    format: Annotated[TableOutput, typer.Option("--format", help="How to print the tables.")] = TableOutput.table,
) -> None:
    """Run what a paper's tables hold, and print its numbers, ours and the difference, or why a cell could not run."""
    from tfser.heads.commands.sweeps import Running
    from tfser.heads.commands.sweeps import reproduce as reproduce_it
    from tfser.heads.results.papers import choose_tables, has_a_corpus
    from tfser.heads.results.published import paper as find_paper
    from tfser.heads.runs.plan import parse_seeds

    of, store, numbers = find_paper(paper), Cache(cache), _listed(table)
    choose_tables(of, numbers)
    wanted = {"tables": numbers, "epochs": epochs, "folds": fold, "seeds": parse_seeds(seeds), "device": device}
    on_synthetic = not dry_run and not has_a_corpus(store, of)
    if on_synthetic:
        store = Cache(store.root / "demo")
        say(f"no corpus of {of.name} ({', '.join(of.protocols)}) in the cache: going the whole way on the synthetic one")
        extract("synthetic", cache=store.root)
    how = Running(
        jobs=jobs,
        threads=threads,
        keep_memory=keep_memory,
        checkpoint_every_s=checkpoint_every,
        selection=selection,
    )
    wanted |= {"allow_leaks": allow_leaks, "allow_gaps": allow_gaps, "stack": stack, "on_synthetic": on_synthetic}
    if not reproduce_it(store, of, how, format=format, dry_run=dry_run, **wanted):
        raise typer.Exit(1)


def _train(
    store: Cache,
    request: Request,
    format: Output,
    features: Sequence[str] = (),
    *,
    checkpoint_every_s: float = 30.0,
    name: str | None = None,
) -> None:
    """Train what a request asks for on each of the feature sets (none: its own), and print the scores."""
    from dataclasses import replace

    from tfser.heads.commands.training_table import print_scores
    from tfser.heads.runs.experiment import resolve

    requests = [replace(request, features=name) for name in features] or [request]
    experiments = list({of.name: of for of in (resolve(store, each) for each in requests)}.values())
    if experiments[0].chosen:
        say(f"chosen for you: {', '.join(experiments[0].chosen)}")
    several = len(experiments) > 1
    if name is not None:
        from tfser.heads.runs.names import give_name

        if several:
            raise UsageError(f"--name {name}: names one experiment, and these are {len(experiments)}")
        give_name(store, name, experiments[0].name)
    headings = {of.name: f"features {of.feature_set}" for of in experiments} if several else {}
    failed = _train_folds(store, experiments, checkpoint_every_s, headings)
    if request.folds == "none":
        from tfser.heads.commands.training_table import print_for_use

        print_for_use(store, experiments, format)
        _exit_if(failed)
        return
    lost = {failure.run.run_id for failure in failed}
    shown = [of for of in experiments if any(of.run_id(fold) not in lost for fold in of.folds)]
    print_scores(store, shown, format)
    _exit_if(failed)


def _prepare_torch(device: str, threads: int | None, keep_memory: bool) -> None:
    """Set up what has to be before torch allocates anything."""
    from tfser.heads.machine.memory import keep_freed_memory

    if keep_memory and not device.startswith("cuda"):
        keep_freed_memory()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _train_folds(
    store: Cache, experiments: Sequence[Experiment], checkpoint_every_s: float, headings: Mapping[str, str]
) -> list[Failure]:
    """Train the folds of experiments after the audits of all of them; return those of which a side is empty."""
    from tfser.heads.commands.fold_progress import FoldBars
    from tfser.heads.runs.in_turn import run_here
    from tfser.heads.runs.one_fold import EmptySideError
    from tfser.heads.runs.plan import entry_of, make_plan
    from tfser.manifests.catalogue.reading import refresh_if_possible

    plan = make_plan(store, [entry_of(experiment) for experiment in experiments])
    for note in plan.notes():
        say(note)
    try:
        with FoldBars(store, plan, headings) as bars:
            return run_here(
                store,
                plan.runs,
                plan.findings,
                tell=bars.tell,
                checkpoint_every_s=checkpoint_every_s,
                go_on_after=EmptySideError,
            )
    finally:
        refresh_if_possible(store)


def _exit_if(failed: Sequence[Failure]) -> None:
    """Say which folds could not be trained.

    Raises:
        TfserError: if there are any.
    """
    if failed:
        left = f" (and {len(failed) - 1} more like it)" if len(failed) > 1 else ""
        raise TfserError(f"{failed[0].reason}{left}; the other folds are done")


@app.command()
def scores(
    experiment: Annotated[
        str | None, typer.Argument(help="Only experiments whose id begins so, or holds this piece (the hash is enough).")
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="WHAT", help="A row a seed, fold, class, speaker or session, not an experiment.")
    ] = None,
    only: Annotated[str | None, typer.Option("--experiment", metavar="ID", help="As the argument.")] = None,
    corpus: Annotated[str | None, typer.Option("--corpus", metavar="NAME", help="Only runs on this corpus.")] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", metavar="NAME", help="Only runs under this protocol.")] = None,
    head: Annotated[str | None, typer.Option("--head", metavar="NAME", help="Only this head.")] = None,
    features: Annotated[str | None, typer.Option("--features", metavar="NAME", help="Only runs on these features.")] = None,
    selection: Annotated[
        str | None, typer.Option("--selection", metavar="NAME", help="last, val, test-oracle ...; all if left out.")
    ] = None,
    segments: Annotated[bool, typer.Option("--segments", help="Segment level, too.")] = False,
    clusters: Clusters = None,
    cache: CacheDir = None,
    format: TableFormat = None,
    output: OutputFile = None,
) -> None:
    """List scores over folds and seeds, with intervals over speakers; or by seed, fold, class, speaker, session."""
    from tfser.heads.commands.score_report import markdown, print_table
    from tfser.heads.results.score_tables import Wanted, table, whole_utterances
    from tfser.heads.runs.names import meant_by
    from tfser.manifests.catalogue.reading import open_catalogue
    from tfser.manifests.display import terminal_width

    kind = _kind_of(format, output)

    if experiment and only:
        raise UsageError("--experiment goes without the argument: both name experiments")
    text = experiment or only
    wanted = Wanted(
        experiment=None if text is None else meant_by(Cache(cache), text),
        corpus=corpus,
        protocol=protocol,
        head=head,
        features=features,
        selection=selection,
        segments=segments,
    )
    with open_catalogue(Cache(cache)) as connection:
        found = table(connection, wanted, by=by, clusters=clusters)
        once = sorted(whole_utterances(connection, [row["experiment"] for row in found])) if segments else []
    as_markdown = markdown(found, by, once) if kind is SqlOutput.markdown else None
    _deliver(found, kind, output, lambda: print_table(found, by, terminal_width(), once), as_markdown=as_markdown)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="An experiment: its id, or enough of it; or a run.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The one to compare it with.")],
    metric: Annotated[str, typer.Option("--metric", help="UA, WA, WF1 or macro_F1: what is tested.")] = "UA",
    selection: Annotated[str, typer.Option("--selection", metavar="NAME", help="How the epochs were chosen.")] = "last",
    level: Annotated[str, typer.Option("--level", help="utterance or segment.")] = "utterance",
    common: Annotated[
        bool, typer.Option("--common", help="Compare what both tested under the same label, where they differ in that.")
    ] = False,
    clusters: Clusters = None,
    cache: CacheDir = None,
    format: TableFormat = None,
    output: OutputFile = None,
) -> None:
    """Compare two experiments on the same test utterances: difference with interval, tests, wins by fold and speaker."""
    from tfser.heads.commands.compare_table import print_comparison
    from tfser.heads.results.compare import compare as run_compare
    from tfser.heads.results.outcomes import find, read_outcome
    from tfser.heads.runs.names import meant_by
    from tfser.manifests.catalogue.reading import open_catalogue

    kind = _kind_of(format, output)
    with open_catalogue(Cache(cache)) as connection:
        subjects = [find(connection, meant_by(Cache(cache), name)) for name in (a, b)]
        sides = [read_outcome(connection, subject, selection=selection, level=level) for subject in subjects]
    found = run_compare(sides[0], sides[1], metric=metric, clusters=clusters, common=common)
    _deliver(found.rows(), kind, output, lambda: print_comparison(found), as_json=found.to_dict())


def _deliver(
    found: Sequence[dict[str, Any]],
    kind: SqlOutput,
    output: Path | None,
    for_people: Callable[[], None],
    *,
    as_json: Any = None,
    as_markdown: Sequence[str] | None = None,
) -> None:
    """Write rows as asked: `for_people` prints the table; `as_json` and `as_markdown`, if given, stand for the rows in those."""
    if kind is SqlOutput.parquet and output is not None:
        import pyarrow as pa

        write_parquet(output, pa.Table.from_pylist(list(found)))
    else:
        with output_to(output):
            if kind is SqlOutput.table:
                for_people()
            elif kind is SqlOutput.json and as_json is not None:
                print_json(as_json)
            elif kind is SqlOutput.markdown:
                show(*(markdown_lines(found) if as_markdown is None else as_markdown))
            else:
                print_rows(found, Output(kind.value))
    if output is not None:
        say(f"{count(len(found), 'row')} written to {output}")


def _kind_of(format: SqlOutput | None, output: Path | None) -> SqlOutput:
    """Return how to write: as asked, else by the output's suffix (.txt: a table), else a table; and look at the output."""
    check_output(output)
    suffix = None if format or output is None else format_of(output, ("csv", "json", "md", "parquet", "txt"))
    named = {"txt": SqlOutput.table, "md": SqlOutput.markdown}
    kind = format or (SqlOutput.table if suffix is None else named.get(suffix) or SqlOutput(suffix))
    if kind is SqlOutput.parquet and output is None:
        raise UsageError("--format parquet needs --output FILE")
    return kind


from tfser.heads.commands.exporting import export  # noqa: E402
from tfser.heads.commands.predicting import predict  # noqa: E402
from tfser.heads.commands.run_lists import diff_runs, list_runs, name_run, show_run  # noqa: E402

app.command("predict")(opened(predict))
runs_app.command("ls")(opened(list_runs))
runs_app.command("show")(opened(show_run))
runs_app.command("diff")(opened(diff_runs))
runs_app.command("name")(opened(name_run))
app.command("export")(opened(export))


@app.command()
def profile(
    head: Annotated[
        list[str] | None, typer.Option("--head", metavar="NAME", help="What to measure, may be repeated; all if left out.")
    ] = None,
    preset: Annotated[
        list[str] | None, typer.Option("--preset", metavar="NAME", help="Variants, may be repeated; all if left out.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, metavar="N", help="Utterances.")] = 1,
    frames: Annotated[int, typer.Option("--frames", min=1, metavar="L", help="Frames of each utterance.")] = 326,
    width: Annotated[
        int | None, typer.Option("--width", min=1, metavar="D", help="Of the features; what each head is made for if left out.")
    ] = None,
    classes: Annotated[int, typer.Option("--classes", min=2, metavar="K", help="How many to tell apart.")] = 4,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    precision: Annotated[str, typer.Option("--precision", help="float32 or bfloat16 (autocast).")] = "float32",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; torch's choice if left out.")] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, metavar="N", help="Timed calls, of which the median counts.")] = 10,
    keep_memory: Annotated[
        bool, typer.Option("--keep-memory/--no-keep-memory", help="On Linux CPUs: keep freed memory, as `train` does.")
    ] = True,
    format: Format = Output.table,
) -> None:
    """Measure what heads cost, all under the same conditions: parameters, multiply-accumulates, time, memory."""
    from tfser.heads.machine.memory import keep_freed_memory

    kept = keep_memory and not device.startswith("cuda") and keep_freed_memory()  # before torch allocates anything
    import torch

    from tfser.heads.commands.cost_table import print_profiles
    from tfser.heads.machine.cost import Conditions, select
    from tfser.heads.machine.cost import profile as run_profile

    if threads is not None:
        torch.set_num_threads(threads)
    chosen = select(head or (), preset or ())
    conditions = Conditions(
        batch_size=batch_size,
        frames=frames,
        width=width,
        classes=classes,
        device=device,
        precision=precision,
        repeats=repeats,
    )
    with bar("measuring", len(chosen) * (1 + repeats)) as update:
        found = run_profile(chosen, conditions, advance=lambda: update(advance=1))
    if format is Output.table:
        print_profiles(found)
    else:
        print_rows([{**of.to_dict(), "kept_memory": kept} for of in found], format)


@app.command()
def doctor(cache: CacheDir = None, format: Format = Output.table) -> None:
    """Say what works on this machine, and why something does not. Exits with 1 if there is a problem."""
    from tfser.heads.machine.doctor import examine, problems

    checks = examine(cache)
    print_rows([check.to_dict() for check in checks], format)
    if wrong := problems(checks):
        say(f"{count(wrong, 'problem')}; what to do stands beside it")
        raise typer.Exit(1)


@app.command()
def demo(
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="For TF-Transformer.")] = 10,
    cache: CacheDir = None,
) -> None:
    """Go the whole way on the built-in synthetic corpus: generate, extract, audit, train two heads, print the scores."""
    import time

    from tfser.heads.runs.experiment import Request
    from tfser.manifests.cache import default_cache_root
    from tfser.manifests.catalogue.views import TAKEN_FOR

    start = time.monotonic()
    store = Cache(cache or default_cache_root() / "demo")
    here = f"--cache {store.root}"
    say(f"$ tfser extract --corpus synthetic {here}")
    extract("synthetic", cache=store.root)
    say("", f"$ tfser audit {here}")
    audit(cache=store.root)
    for name, more in (("mean_pool", None), ("tf_transformer", epochs)):
        say("", f"$ tfser train --head {name} --fold all" + (f" --epochs {more} {here}" if more else f" {here}"))
        _prepare_torch("auto", None, keep_memory=True)
        _train(store, Request(head=name, epochs=more, corpus="synthetic"), Output.table)
    say("", f"$ tfser scores {here}")
    scores(cache=store.root)
    say(
        "",
        f"done in {time.monotonic() - start:.0f} s; everything lies in {store.root}. These sounds are "
        "made up: the scores say that the machinery works, nothing about speech. Go on with",
        f"  tfser sql '{TAKEN_FOR}' {here}",
        "  tfser extract --corpus emodb --root FOLDER",
    )


# -- manifests ---------------------------------------------------------------------------------------------------------------


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT, a file that holds it, or - (or nothing) for standard input.")] = "-",
    format: Annotated[
        SqlOutput | None, typer.Option("--format", help="How to write the result; by the output's suffix if left out.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Write there instead of standard output.")
    ] = None,
    cache: CacheDir = None,
) -> None:
    """Ask the catalogue; tables and columns are in docs/schema.md (`tfser manifest schema`)."""
    from tfser.manifests.catalogue.reading import open_catalogue
    from tfser.manifests.catalogue.statements import select, select_arrow

    kind = _kind_of(format, output)
    text = _query_text(query)
    with open_catalogue(Cache(cache)) as connection:
        if kind is SqlOutput.parquet and output is not None:
            table = select_arrow(connection, text)
            write_parquet(output, table)
            say(f"{count(table.num_rows, 'row')} written to {output}")
            return
        found = select(connection, text)
    names = _distinct(found.names)
    rows: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in found.rows]
    if found.is_plan and kind is SqlOutput.table:  # a drawing, whose lines are lines
        rows = [{name: Lines(str(value).split("\n")) for name, value in row.items()} for row in rows]
    with output_to(output):
        if kind is SqlOutput.markdown:
            show(*markdown_lines(rows, names))
        else:
            print_rows(rows, Output(kind.value), names)
    if output is not None:
        say(f"{count(len(rows), 'row')} written to {output}")


def _query_text(query: str) -> str:
    """Return the statement of the argument: itself, or what the file of that name or standard input holds."""
    if query == "-":
        if sys.stdin.isatty():
            raise UsageError("give a SELECT, a file that holds one, or send one to standard input")
        return standard_input()
    if is_file(query):
        from tfser.manifests.texts import read_text

        return read_text(Path(query), query)
    if query.endswith(".sql") and len(query.split()) == 1:
        raise UsageError(f"{query}: no such file")
    return query


def _distinct(names: Sequence[str]) -> list[str]:
    """Number columns that share a name, so that none hides another."""
    result: list[str] = []
    for name in names:
        unique, n = name, 1
        while unique in result:
            n += 1
            unique = f"{name}_{n}"
        result.append(unique)
    return result


@app.command()
def audit(
    corpus: Corpus = None,
    protocol: ProtocolName = None,
    labels: Labels = None,
    validation: Validation = None,
    features: Annotated[
        list[str] | None,
        typer.Option("--features", metavar="NAME", help="Feature sets that must be complete; else those that hold any."),
    ] = None,
    fold: Annotated[int | None, typer.Option("--fold", min=0, help="Only findings of this fold (and of all folds).")] = None,
    all_protocols: Annotated[bool, typer.Option("--all", help="All protocols that the cache knows for the corpus.")] = False,
    split: Annotated[
        list[Path] | None,
        typer.Option("--split", metavar="FILE", help="A split that others publish: csv, json, jsonl or a folder; repeat."),
    ] = None,
    claims: Annotated[
        str | None, typer.Option("--claims", metavar="COLUMNS", help="What it must keep apart (default: speaker).")
    ] = None,
    audits: Annotated[
        Path | None, typer.Option("--audits", metavar="DIR", help="A folder of your own .sql audits, run beside the others.")
    ] = None,
    near_duplicates: Annotated[
        bool, typer.Option("--near-duplicates", help="First look for copies that were re-encoded, trimmed or made louder.")
    ] = False,
    format: Annotated[AuditOutput, typer.Option("--format", help="How to print the findings.")] = AuditOutput.table,
    cache: CacheDir = None,
) -> None:
    """Check a protocol, or a split of others, for leaks: who and what stands on both sides. Exits with 1 on an error."""
    from tfser.manifests.audits import report as audit_report
    from tfser.manifests.audits.foreign import read_split
    from tfser.manifests.audits.participation import definition, participation
    from tfser.manifests.audits.run import audits_in, packaged_audits
    from tfser.manifests.catalogue.reading import open_catalogue, rows
    from tfser.manifests.splits.choose import choose_corpus

    store = Cache(cache)
    if split and (protocol or labels or validation or all_protocols or features):
        raise UsageError("--split goes without --protocol, --labels, --validation, --features and --all")
    if claims is not None and not split:
        raise UsageError("--claims goes with --split; a protocol says by itself what it keeps apart")
    if all_protocols and protocol:
        raise UsageError("--all goes without --protocol")
    foreign, apart = read_split(split) if split else None, audit_report.parse_claims(claims)
    chosen, name = choose_corpus(store, corpus) if split or all_protocols else None, None
    if chosen is None:
        chosen, name = _corpus_and_protocol(store, corpus, protocol, labels, validation)
    wanted = [*packaged_audits(), *(audits_in(audits) if audits else ())]
    if near_duplicates:
        _find_near_duplicates(store, chosen)
    with open_catalogue(store) as connection:
        known = [row["feature_set"] for row in rows(connection, "SELECT feature_set FROM feature_sets")]
        for feature_set in features or ():
            if feature_set not in known:
                raise unknown("feature set", feature_set, known)
        if foreign is not None:
            found = [audit_report.split_report(connection, split=foreign, corpus=chosen, claims=apart, audits=wanted)]
        else:
            of_corpus = "SELECT DISTINCT protocol FROM protocols WHERE corpora = ? ORDER BY protocol"
            names = [name] if name else [row["protocol"] for row in rows(connection, of_corpus, [chosen])]
            found = [
                audit_report.protocol_report(
                    connection,
                    protocol=each,
                    corpus=chosen,
                    feature_sets=features,
                    audits=wanted,
                    every=format is AuditOutput.markdown,
                ).counted(participation(connection, protocol=each, corpus=chosen, defined=definition(store, each)))
                for each in names
            ]
    for note in foreign.notes if foreign else ():
        say(note)
    found = audit_report.in_fold(found, fold)
    _print_reports(found, format)
    for report in found:
        forbid = "; what to do stands beside them" if report.errors else ""
        say(audit_report.summary(report) + forbid)
    if any(report.errors for report in found):
        raise typer.Exit(1)


def _find_near_duplicates(store: Cache, corpora: str) -> None:
    """Bring fingerprints and pairs of each corpus up to date, and say what was found."""
    from tfser.manifests.protocols.protocol import JOINED_BY
    from tfser.pipeline.copies.fingerprints import update_fingerprints
    from tfser.pipeline.copies.search import search
    from tfser.pipeline.scan_report import skipped_lines

    for corpus in corpora.split(JOINED_BY):
        with utterance_bar(f"fingerprints of {corpus}") as begin:
            report = update_fingerprints(store, corpus, begin=lambda files: begin(files, 0.0), on_wait=say)
        for line in skipped_lines(corpus, report.failed, "could not be compared"):
            say(line)
    for corpus in corpora.split(JOINED_BY):
        found = search(store, corpus)
        short = f", {found.too_short:,} too short" if found.too_short else ""
        others = f" with one another and {found.others:,} of other corpora" if found.others else ""
        pairs = count(found.pairs, "pair")
        say(f"{corpus}: {count(found.compared, 'fingerprint')} compared{others}{short}; {pairs} of near-duplicates")


def _print_reports(reports: Sequence[AuditReport], format: AuditOutput) -> None:
    """Print findings; in a table, those of one audit and level share a line, and speakers on both sides follow."""
    from tfser.manifests.audits import report as audit_report

    findings = [f for report in reports for f in report.findings]
    if format is AuditOutput.markdown:
        command = " ".join(["tfser", *sys.argv[1:]])
        text = "\n\n".join(audit_report.markdown(report, command, __version__) for report in reports)
        show(*text.split("\n"))
    elif format is not AuditOutput.table:
        print_rows([f.to_dict() for f in findings], Output(format.value), audit_report.COLUMNS)
    else:
        several = len(reports) > 1
        name = [{"protocol": report.protocol} if several else {} for report in reports]
        lines = [of | line for of, r in zip(name, reports, strict=True) for line in audit_report.table(r.findings)]
        print_rows(lines, Output.table)
        for report in reports:
            if report.matched is not None and (who := audit_report.leaks(report.findings)):
                show("", f"speakers on both sides of {report.protocol}:")
                print_rows(who, Output.table)


def _corpus_and_protocol(
    store: Cache, corpus: str | None, protocol: str | None, labels: str | None, validation: str | None
) -> tuple[str, str]:
    from tfser.manifests.splits.choose import choose_protocol

    return choose_protocol(store, corpus, protocol, labels=labels, validation=validation)


@protocol_app.command("ls")
def protocol_ls(cache: CacheDir = None, format: Format = Output.table) -> None:
    """List the named and generic protocols."""
    from tfser.manifests.protocols.own import damaged_own
    from tfser.manifests.splits.show import listed

    rows = listed()
    for reason in damaged_own(Cache(cache)).values():
        say(reason)
    print_rows(rows, format, ["protocol", "corpora", "about"] if format is Output.table else None)


@protocol_app.command("show")
def protocol_show(
    protocol: Annotated[str | None, typer.Argument(help="Its name; the corpus's default if left out.")] = None,
    corpus: Corpus = None,
    labels: Labels = None,
    validation: Validation = None,
    cache: CacheDir = None,
    format: Format = Output.table,
) -> None:
    """Print what a protocol is, who uses it, and its counts by fold, role and class."""
    from tfser.manifests.catalogue.reading import open_catalogue
    from tfser.manifests.splits.show import describe, headline

    store = Cache(cache)
    chosen, name = _corpus_and_protocol(store, corpus, protocol, labels, validation)
    with open_catalogue(store) as connection:
        about = describe(connection, name, chosen)
    if format is Output.json:
        print_json(about)
        return
    for line in headline(about):
        say(line)
    print_rows(about["counts"], format)


@protocol_app.command("export")
def protocol_export(
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="Where to; of audformat, a folder.")],
    protocol: Annotated[str | None, typer.Argument(help="Its name; the corpus's default if left out.")] = None,
    format: Annotated[
        str | None, typer.Option("--format", help="csv, json or audformat; by the output's suffix if left out.")
    ] = None,
    corpus: Corpus = None,
    labels: Labels = None,
    validation: Validation = None,
    cache: CacheDir = None,
) -> None:
    """Write who is in which fold and role, for other tools."""
    from tfser.manifests.catalogue.reading import open_catalogue
    from tfser.manifests.splits.export import export

    store = Cache(cache)
    chosen, name = _corpus_and_protocol(store, corpus, protocol, labels, validation)
    with open_catalogue(store) as connection:
        written = export(connection, name, chosen, output, format)
    say(f"{name} on {chosen}: {count(written, 'row')} written to {output}")


@manifest_app.command("rebuild")
def manifest_rebuild(cache: CacheDir = None) -> None:
    """Build the catalogue anew from the cache's files."""
    from tfser.manifests.catalogue.reading import refresh

    store = Cache(cache).require()
    refresh(store, rebuild=True)
    say(f"rebuilt {store.catalogue}")


@manifest_app.command("path")
def manifest_path(cache: CacheDir = None) -> None:
    """Print where the catalogue lies, brought up to date."""
    from tfser.manifests.catalogue.reading import refresh

    store = Cache(cache).require()
    refresh(store)  # and not a private copy of it, which would have no path
    show(str(store.catalogue))


@manifest_app.command("schema")
def manifest_schema(
    format: Annotated[str, typer.Option("--format", help="markdown or json.")] = "markdown",
) -> None:
    """Print the catalogue's tables and columns."""
    from tfser.manifests.catalogue import schema

    if format == "json":
        tables = [
            {"table": t.name, "view": t.view, "summary": t.summary}
            | {"columns": [{"name": n, "type": k, "meaning": m} for n, k, m in t.columns]}
            for t in schema.TABLES
        ]
        print_json(tables)
    elif format == "markdown":
        print(schema.markdown(), end="")
    else:
        raise UsageError(f"--format {format}: markdown or json")


@cache_app.command("ls")
def cache_ls(cache: CacheDir = None, format: Format = Output.table) -> None:
    """List the feature sets by corpus; `stale` rows fit no utterance any more."""
    import dataclasses

    from tfser.pipeline.inventory import list_features, size_of

    store = Cache(cache)
    entries = [dataclasses.asdict(e) for e in list_features(store)]
    if format is Output.table:
        for entry in entries:
            entry["size"] = size(entry.pop("bytes"))
    print_rows(entries, format)
    if store.removed.is_dir():
        say(f"{size(size_of(store.removed))} that were damaged lie in removed/; `tfser cache rm --removed` empties it")


@cache_app.command("du")
def cache_du(cache: CacheDir = None, format: Format = Output.table) -> None:
    """Print the room that each part of the cache takes."""
    from tfser.pipeline.inventory import usage

    store = Cache(cache).require()
    parts = usage(store)
    rows: list[dict[str, Any]] = [{"part": name, "bytes": size} for name, size in parts.items()]
    rows.append({"part": "all", "bytes": sum(parts.values())})
    if format is Output.table:
        rows = [{"part": row["part"], "size": size(row["bytes"])} for row in rows]
    print_rows(rows, format)


@cache_app.command("verify")
def cache_verify(
    cache: CacheDir = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Move what is damaged or left over to removed/, so that it can be made again.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --repair: do not ask.")] = False,
    format: Format = Output.table,
) -> None:
    """Read every file and compare it with its digest. Exits with 1 if something is damaged, missing or could not be checked."""
    from tfser.pipeline.verify import repair as move_away
    from tfser.pipeline.verify import verify

    store = Cache(cache)
    problems = verify(store)
    if format is Output.table:
        show(*(problem.line for problem in problems))
    else:
        print_rows([problem.to_dict() for problem in problems], format, ["path", "problem", "reason", "way_out"])
    movable = [problem for problem in problems if problem.moves]
    if not problems:
        say("the cache is whole")
    elif not repair:
        advice = "; `tfser cache verify --repair` moves what is damaged or left over away" if movable else ""
        say(f"{count(len(problems), 'problem')}{advice}")
        raise typer.Exit(1)
    elif movable:
        for path in dict.fromkeys(path for problem in movable for path in problem.moves):
            say(f"  {store.place(path)}")
        _confirm(yes, "moving needs a yes: add --yes", f"move these to {store.removed}?")
        for line in move_away(store, movable, say):
            say(line)
    if len(problems) > len(movable):
        say(f"{count(len(problems) - len(movable), 'problem')} left, which --repair does not touch")
        raise typer.Exit(1)


def _confirm(yes: bool, refusal: str, question: str) -> None:
    """Ask before something is taken away, unless that was answered; without a terminal there is nobody to ask."""
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageError(refusal)
        typer.confirm(question, abort=True, err=True)


@cache_app.command("rm")
def cache_rm(
    features: Annotated[str | None, typer.Option("--features", metavar="NAME", help="A feature set.")] = None,
    corpus: Annotated[str | None, typer.Option("--corpus", metavar="NAME", help="A corpus: its rows and features.")] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="ID", help="A run, or an experiment with all its runs.")] = None,
    stale: Annotated[bool, typer.Option("--stale", help="Shards that no utterance needs, and outdated feature sets.")] = False,
    removed: Annotated[bool, typer.Option("--removed", help="What `cache verify --repair` moved away.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    cache: CacheDir = None,
) -> None:
    """Remove a part of the cache."""
    from tfser.pipeline.inventory import delete, doomed, size_of

    store = Cache(cache)
    paths = doomed(store, features=features, corpus=corpus, run=run, stale=stale, removed=removed)
    if not paths:
        say("nothing to remove")
        return
    for path in paths:
        say(f"  {path.relative_to(store.root)}  {size(size_of(path)) if path.exists() else 'not there'}")
    _confirm(yes, "removing needs a yes: add --yes", "remove these?")
    say(f"{size(delete(store, paths))} are free again")


@cache_app.command("collapse")
def cache_collapse(
    run: Annotated[str | None, typer.Option("--run", metavar="ID", help="A run whose learned layer mix to write.")] = None,
    selection: Annotated[str, typer.Option("--selection", help="With --run: last or val: the epoch of the weights.")] = "last",
    features: Annotated[str | None, typer.Option("--features", metavar="NAME", help="Or: a feature set of all layers.")] = None,
    layer: Annotated[str | None, typer.Option("--layer", metavar="K", help="With --features: a number, last or mean.")] = None,
    corpus: Annotated[str | None, typer.Option("--corpus", metavar="NAME", help="With --features: only of this corpus.")] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="What to call it.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="Storage: float32 or float16; as stored if left out.")] = None,
    cache: CacheDir = None,
) -> None:
    """Make an ordinary feature set of stored layers: the mix that a run learned (it belongs to that run's fold), or one layer."""
    from tfser.manifests.catalogue.reading import refresh
    from tfser.pipeline.collapse import collapse
    from tfser.pipeline.features.stacks import layer_cut, layered

    store = Cache(cache)
    corpora: list[str] | None
    if run is not None and features is None and layer is None and corpus is None:
        from tfser.heads.runs.learned_mix import mix_of_run

        source, target, corpora = mix_of_run(store, run, selection=selection, dtype=dtype, name=name)
    elif run is None and features is not None and layer is not None and selection == "last":
        source, corpora = layered(store, features)[0], [corpus] if corpus else None
        target = layer_cut(source, layer, dtype=dtype, name=name)
    else:
        raise UsageError("say what to collapse: --run ID [--selection last|val], or --features NAME --layer K [--corpus NAME]")
    with utterance_bar(f"collapsing to {target.name}") as begin:
        reports = collapse(store, source, target, corpora, begin=begin, on_wait=say)
    refresh(store)
    for report in reports:
        for line in report.repaired:
            say(f"repaired: {line}")
        say(f"{report.corpus} / {target.name}: {count(report.written, 'utterance')} written, {report.before:,} were there")
    if owner := target.config.get("belongs_to"):
        say(f"it belongs to {owner['protocol']} fold {owner['fold']}: other folds and protocols are refused (`tfser audit`)")


def main() -> None:
    """Run the program."""
    make_ready()
    app()


if __name__ == "__main__":
    main()
