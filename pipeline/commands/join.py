"""`tfser cache join`: several feature sets side by side, written as one (early fusion)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import refresh
from tfser.manifests.commands.printing import InCache
from tfser.manifests.display import say, utterance_bar
from tfser.manifests.options import Option
from tfser.manifests.wording import count
from tfser.pipeline.derived.join import join, joined
from tfser.pipeline.extraction.new_shards import ShardWriting


@dataclass(frozen=True, kw_only=True)
class JoinRequest:
    """What is joined, and for which corpus."""

    features: Annotated[str, Option("The feature sets, a plus between them; the first sets the pace.", metavar="A+B")]
    corpus: Annotated[str | None, Option("Only of this corpus; all that have every part if left out.", metavar="NAME")] = None


def cache_join(*, request: JoinRequest, place: InCache) -> None:
    """Write the frames of several feature sets side by side as one, which `--features A+B` then trains on.

    Slower sets are repeated and faster ones averaged to the pace of the first. An utterance that a part lacks is left out.

    Raises:
        UsageError: if fewer than two feature sets are named, or one is not in the cache.

    Example:
        tfser cache join --features logmel+wavlm-large/12
    """
    show_join(place.store, request.features, request.corpus)


def show_join(store: Cache, features: str, corpus: str | None) -> None:
    """Join feature sets, named with a plus between them, of one corpus or of all, under a progress bar; say what was done.

    Raises:
        UsageError: if fewer than two are named, or one is not in the cache.
    """
    target = joined(store, features)
    with utterance_bar(f"joining {target.name}") as begin:
        reports = join(store, target, [corpus] if corpus else None, ShardWriting(begin=begin, on_wait=say))
    refresh(store)
    for report in reports:
        for line in report.lines(target):
            say(line)
        for part, number in report.lacking.items():
            say(f"{report.corpus}: {count(number, 'utterance')} left out, which {part} lacks (`tfser audit` names them)")
    for line in (*target.paces(), *target.bound_to()):
        say(line)
