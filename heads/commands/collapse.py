"""`tfser cache collapse`: one layer of a stack, or the mix that a run learned, written as an ordinary feature set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import refresh
from tfser.manifests.commands.printing import InCache
from tfser.manifests.display import say, utterance_bar
from tfser.manifests.errors import UsageError
from tfser.manifests.options import Option
from tfser.pipeline.derived.collapse import collapse
from tfser.pipeline.extraction.new_shards import ShardWriting
from tfser.pipeline.features.stacks import Collapsed, layer_cut, layered


@dataclass(frozen=True, kw_only=True)
class CollapseRequest:
    """What is collapsed: the layers that a run learned to mix, or one layer of a feature set."""

    run: Annotated[str | None, Option("A run whose learned layer mix to write.", metavar="ID")] = None
    selection: Annotated[str, Option("With --run: last or val: the epoch of the weights.")] = "last"
    features: Annotated[str | None, Option("Or: a feature set of all layers.", metavar="NAME")] = None
    layer: Annotated[str | None, Option("With --features: a number, last or mean.", metavar="K")] = None
    corpus: Annotated[str | None, Option("With --features: only of this corpus.", metavar="NAME")] = None
    name: Annotated[str | None, Option("What to call it.", metavar="NAME")] = None
    dtype: Annotated[str | None, Option("Storage: float32 or float16; as stored if left out.")] = None

    def source(self, store: Cache) -> tuple[dict[str, Any], Collapsed, list[str] | None]:
        """Return the feature set to read, what to make of it, and for which corpora (None: for all that have it).

        Raises:
            UsageError: if there is no such run or feature set, or neither or both were named.
        """
        if self.run is not None and self.features is None and self.layer is None and self.corpus is None:
            from tfser.heads.runs.learned_mix import mix_of_run  # with torch

            return mix_of_run(store, self.run, selection=self.selection, dtype=self.dtype, name=self.name)
        if self.run is None and self.features is not None and self.layer is not None and self.selection == "last":
            stack = layered(store, self.features)[0]
            target = layer_cut(stack, self.layer, dtype=self.dtype, name=self.name)
            return stack, target, [self.corpus] if self.corpus else None
        raise UsageError("say what to collapse: --run ID [--selection last|val], or --features NAME --layer K [--corpus NAME]")


def cache_collapse(*, request: CollapseRequest, place: InCache) -> None:
    """Make an ordinary feature set of stored layers: the mix that a run learned (it belongs to that run's fold), or one layer.

    Raises:
        UsageError: if the request is off.

    Example:
        tfser cache collapse --features whisper-base/all --layer 6
    """
    store = place.store
    source, target, corpora = request.source(store)
    with utterance_bar(f"collapsing to {target.name}") as begin:
        reports = collapse(store, source, target, corpora, ShardWriting(begin=begin, on_wait=say))
    refresh(store)
    for report in reports:
        for line in report.lines(target):
            say(line)
    for line in target.bound_to():
        say(line)
