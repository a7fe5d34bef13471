"""`tfser demo`: the whole way from sound to scores, on a corpus that needs no download."""

from __future__ import annotations

import time
from typing import Annotated

from tfser.heads.commands.scores import show_scores
from tfser.heads.results.score_tables import Wanted
from tfser.heads.runs.request import Request
from tfser.heads.runs.running import Running
from tfser.manifests.cache import Cache, default_cache_root
from tfser.manifests.catalogue.views import TAKEN_FOR
from tfser.manifests.commands.printing import InCache, Writing
from tfser.manifests.display import Output, say
from tfser.manifests.options import Option
from tfser.manifests.splits.split import Split
from tfser.pipeline.commands.audit import AuditOutput, AuditRequest, audited, print_reports
from tfser.pipeline.commands.extract import extract_synthetic


def demo(
    *,
    epochs: Annotated[int, Option("For TF-Transformer.", minimum=1)] = 10,
    place: InCache,
) -> None:
    """Go the whole way on the built-in synthetic corpus: generate, extract, audit, train two heads, print the scores.

    Example:
        tfser demo --epochs 3
    """
    start = time.monotonic()
    store = Cache(place.cache or default_cache_root() / "demo")
    here = f"--cache {store.root}"
    say(f"$ tfser extract --corpus synthetic {here}")
    extract_synthetic(store)
    say("", f"$ tfser audit {here}")
    print_reports(audited(store, Split(), AuditRequest()), AuditOutput.table)
    running = Running()
    running.prepare("auto")
    from tfser.heads.commands.training import show_training

    for name, more in (("mean_pool", None), ("tf_transformer", epochs)):
        say("", f"$ tfser train --head {name} --fold all" + (f" --epochs {more} {here}" if more else f" {here}"))
        show_training(store, [Request(head=name, epochs=more, corpus="synthetic")], running, Output.table)
    say("", f"$ tfser scores {here}")
    show_scores(Wanted(), Writing(cache=store.root))
    say(
        "",
        f"done in {time.monotonic() - start:.0f} s; everything lies in {store.root}. These sounds are "
        "made up: the scores say that the machinery works, nothing about speech. Go on with",
        f"  tfser sql '{TAKEN_FOR}' {here}",
        "  tfser extract --corpus emodb --root FOLDER",
    )
