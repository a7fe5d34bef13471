"""`tfser manifest rebuild`, `path` and `schema`: the catalogue itself."""

from __future__ import annotations

from typing import Annotated

from tfser.manifests.catalogue import schema
from tfser.manifests.catalogue.reading import refresh
from tfser.manifests.commands.printing import InCache
from tfser.manifests.display import print_json, say, show
from tfser.manifests.errors import UsageError
from tfser.manifests.options import Option


def manifest_rebuild(*, place: InCache) -> None:
    """Build the catalogue anew from the cache's files.

    Example:
        tfser manifest rebuild
    """
    store = place.store.require()
    refresh(store, rebuild=True)
    say(f"rebuilt {store.catalogue}")


def manifest_path(*, place: InCache) -> None:
    """Print where the catalogue lies, brought up to date.

    Example:
        tfser manifest path
    """
    store = place.store.require()
    refresh(store)  # and not a private copy of it, which would have no path
    show(str(store.catalogue))


def manifest_schema(*, format: Annotated[str, Option("markdown or json.")] = "markdown") -> None:
    """Print the catalogue's tables and columns.

    Example:
        tfser manifest schema --format json
    """
    if format == "json":
        tables = [
            {"table": t.name, "view": t.view, "summary": t.summary}
            | {"columns": [{"name": n, "type": k, "meaning": m} for n, k, m in t.columns]}
            for t in schema.TABLES
        ]
        print_json(tables)
    elif format == "markdown":
        show(*schema.markdown().rstrip("\n").split("\n"))
    else:
        raise UsageError(f"--format {format}: markdown or json")
