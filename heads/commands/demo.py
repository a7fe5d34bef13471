"""`tfser demo`: the whole way from sound to scores and a page, on a corpus that needs no download."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated

from tfser.heads.commands.layers import show_layers
from tfser.heads.commands.report import report_here
from tfser.heads.commands.scores import show_scores
from tfser.heads.results.score_tables import Wanted
from tfser.heads.runs.request import LayerRequest, Request
from tfser.heads.runs.running import Running, RunningMany
from tfser.manifests.cache import Cache, default_cache_root
from tfser.manifests.catalogue.views import TAKEN_FOR
from tfser.manifests.commands.printing import InCache, Writing
from tfser.manifests.display import Output, TableOutput, say
from tfser.manifests.errors import UsageError
from tfser.manifests.options import Option
from tfser.manifests.splits.split import Split
from tfser.pipeline.commands.audit import AuditOutput, AuditRequest, audited, print_reports
from tfser.pipeline.commands.extract import extract_synthetic, show_extraction
from tfser.pipeline.features.engine import Computing
from tfser.pipeline.features.registry import UPSTREAMS, FeatureRequest, feature_pass
from tfser.pipeline.scanning.source import Source


def demo(
    *,
    epochs: Annotated[int | None, Option("For mean_pool; the recipe's number if left out.", minimum=1)] = None,
    features: Annotated[
        str, Option("logmel, or an encoder (whisper-base): all of its layers, in half precision.", metavar="NAME")
    ] = "logmel",
    weights: Annotated[
        str | None, Option("With an encoder: its weights, a hub id or folder instead of its own.", metavar="ID|DIR")
    ] = None,
    place: InCache,
) -> None:
    """Go the whole way on the built-in synthetic corpus: generate, extract, audit, train two heads, print and draw the scores.

    With an encoder, its layers are scored instead, and a head is trained on their learned mix.

    Example:
        tfser demo --epochs 3
        tfser demo --features whisper-base --weights ~/weights/whisper-base
    """
    start = time.monotonic()
    store = Cache(place.cache or default_cache_root() / "demo")
    in_cache = f"--cache {store.root}"
    if features == "logmel":
        if weights is not None:
            raise UsageError("--weights goes with the features of an encoder: --features whisper-base")
        _from_log_mel(store, epochs, in_cache)
    else:
        _from_an_encoder(store, features, weights, epochs, in_cache)
    say("", f"$ tfser scores {in_cache}")
    show_scores(Wanted(), Writing(cache=store.root))
    page = store.root / "report.html"
    say("", f"$ tfser report --output {page} {in_cache}")
    report_here(store, page)
    say(
        "",
        f"done in {time.monotonic() - start:.0f} s; everything lies in {store.root}. These sounds are "
        "made up: the scores say that the machinery works, nothing about speech. Go on with",
        f"  tfser sql '{TAKEN_FOR}' {in_cache}",
        "  tfser extract --corpus emodb --root FOLDER",
    )


def _from_log_mel(store: Cache, epochs: int | None, in_cache: str) -> None:
    """Extract, audit, train two heads, and compare them."""
    say(f"$ tfser extract --corpus synthetic {in_cache}")
    extract_synthetic(store)
    _audit(store, in_cache)
    running = Running()
    running.prepare("auto")
    from tfser.heads.commands.training import show_training

    # These voices differ more than their emotions. Hearing each against its own mean is the best of eight settings that were
    # tried on this corpus (docs/log.md), about 20 points above plain mean_pool: it shows the machinery, and is no result.
    plain = Request(head="logreg", corpus="synthetic", features="logmel")
    by_speaker = replace(plain, head="mean_pool", epochs=epochs, settings={"normalise": "speaker"})
    for request in (plain, by_speaker):
        more = "" if request.epochs is None else f" --epochs {request.epochs}"
        more += "".join(f" --set {key}={value}" for key, value in request.settings.items())
        say("", f"$ tfser train --head {request.head} --fold all{more} {in_cache}")
        show_training(store, [request], running, Output.table)
    say(
        "",
        "normalise=speaker hears each speaker against that speaker's own mean and deviation. It is transductive: it takes a test "
        "speaker's other recordings, though never their labels. It was picked for this demo as the best of eight settings on "
        "these very sounds, so its lead is no finding.",
        f"is it better, or luck? tfser compare mean_pool logreg {in_cache}",
    )


def _from_an_encoder(store: Cache, features: str, weights: str | None, epochs: int | None, in_cache: str) -> None:
    """Extract all layers in one pass, audit, ask which layer, and train on a mix of them."""
    own = UPSTREAMS[features].options if features in UPSTREAMS else ()
    settings = {"window": "clip"} if "window" in own else {}  # Whisper: 30 s of silence behind each sound would take minutes
    asked = FeatureRequest(layer="all", weights=weights, settings=settings, dtype="float16", memo=store.root / "weights.json")
    wanted = feature_pass(features, asked)
    if not wanted.is_encoder:
        raise UsageError(f"--features {features}: the demo takes logmel or an encoder")
    (name,) = (of.name for of in wanted.sets)
    more = f" --weights {weights}" if weights else ""
    more += "".join(f" --set {key}={value}" for key, value in settings.items())
    say(f"$ tfser extract --corpus synthetic --features {features} --layer all --dtype float16{more} {in_cache}")
    compute = Computing().settled(features, is_encoder=True, tell=say)
    show_extraction(store, Source(corpus="synthetic"), wanted, compute)
    _audit(store, in_cache)
    running = RunningMany()
    running.prepare("auto")
    from tfser.heads.commands.training import show_training

    # The corpus has two sessions, so that there is no third group to validate on: one training speaker of each fold is.
    held = "speakers:1"
    say("", f"$ tfser layers --features {name} --mix none --validation {held} {in_cache}")
    asked_layers = LayerRequest(features=name, mix="none", corpus="synthetic", validation=held)
    show_layers(store, asked_layers, running, TableOutput.table)
    more = "" if epochs is None else f" --epochs {epochs}"
    say("", f"$ tfser train --head mean_pool --fold all --features {name}{more} {in_cache}")
    request = Request(head="mean_pool", corpus="synthetic", features=name, epochs=epochs)
    show_training(store, [request], running, Output.table)


def _audit(store: Cache, here: str) -> None:
    say("", f"$ tfser audit {here}")
    print_reports(audited(store, Split(), AuditRequest()), AuditOutput.table)
