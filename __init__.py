"""tfser: speech emotion recognition from cached features.

Corpus folder -> utterance rows -> features -> shards -> batches -> head -> predictions and scores, with a DuckDB
catalogue over all of it. Start at the README; the house and its rules are in docs/design.md.

The names below are the Python surface (docs/python.md). They are loaded when they are first asked for, so that `import tfser` is
instant; what is not among them may change.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfser.heads.prediction.datasets import collate
    from tfser.heads.prediction.exchange import audit
    from tfser.heads.prediction.notebook import NotebookCache as Cache
    from tfser.heads.prediction.notebook_models import load
    from tfser.heads.prediction.own_heads import register_head
    from tfser.heads.spec.recipes import Recipe
    from tfser.manifests.errors import TfserError, UsageError

__version__ = "0.1.0"

__all__ = ["Cache", "Recipe", "TfserError", "UsageError", "__version__", "audit", "collate", "load", "register_head"]

_PLACES = {
    "Cache": "tfser.heads.prediction.notebook:NotebookCache",
    "Recipe": "tfser.heads.spec.recipes:Recipe",
    "TfserError": "tfser.manifests.errors:TfserError",
    "UsageError": "tfser.manifests.errors:UsageError",
    "audit": "tfser.heads.prediction.exchange:audit",
    "collate": "tfser.heads.prediction.datasets:collate",
    "load": "tfser.heads.prediction.notebook_models:load",
    "register_head": "tfser.heads.prediction.own_heads:register_head",
}


def __getattr__(name: str) -> Any:
    """Return a name of the surface, loaded now."""
    if name not in _PLACES:
        raise AttributeError(f"module 'tfser' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    found = globals()[name] = getattr(import_module(module), attribute)
    return found


def __dir__() -> list[str]:
    """Return the surface."""
    return sorted({*globals(), *__all__})
