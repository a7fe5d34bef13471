"""`tfser corpora` and `tfser features`: what can be scanned, and what can be extracted."""

from __future__ import annotations

from typing import Any

from tfser.manifests import plugins
from tfser.manifests.commands.printing import Format, Printing
from tfser.manifests.display import Lines, Output, print_rows, say
from tfser.manifests.plugins import with_origins
from tfser.pipeline.corpora import CORPORA, remembered
from tfser.pipeline.features.encoders.families import FAMILIES
from tfser.pipeline.features.registry import UPSTREAMS


def corpora(*, printing: Printing) -> None:
    """List the corpora that are known, and those in the cache.

    Example:
        tfser corpora --format csv
    """
    scanned = remembered(printing.store)
    rows = []
    for name, reader in CORPORA.items():
        here = [corpus for corpus, about in scanned.items() if about["adapter"] == name]
        protocol = reader.default_protocol or ", ".join(sorted({scanned[c]["default_protocol"] or "-" for c in here}))
        row: dict[str, Any] = {"corpus": name, "default_protocol": protocol, "in_cache_as": ", ".join(here)}
        row["about"] = reader.summary
        if printing.format is Output.table:  # a second line, since three more columns would be too wide to read
            row["about"] = Lines((reader.summary, f"{reader.licence}; {reader.page}"))
        else:
            row |= {"licence": reader.licence, "page": reader.page, "source": reader.source}
        rows.append(row)
    always = printing.format is not Output.table
    print_rows(with_origins(rows, "corpus", plugins.CORPORA, always=always), printing.format)


def features(*, format: Format = Output.table) -> None:
    """List the feature sets that `extract` can make.

    Example:
        tfser features --format json
    """
    rows: list[dict[str, Any]] = []
    for name, upstream in UPSTREAMS.items():
        row: dict[str, Any] = {"features": name, "settings": ", ".join(upstream.options), "about": upstream.summary}
        if upstream.hub is not None:
            facts: dict[str, Any] = {"hub": upstream.hub, "licence": upstream.licence}
            words = Lines((upstream.summary, f"{upstream.hub}; {upstream.licence}"))
            row |= {"about": words} if format is Output.table else facts
        rows.append(row)
    print_rows(with_origins(rows, "features", plugins.UPSTREAMS, always=format is not Output.table), format)
    titles = [family.title for family in FAMILIES.values()]
    say(f"and any {', '.join(titles[:-1])} or {titles[-1]} by its hub id or folder: --features organisation/name")
