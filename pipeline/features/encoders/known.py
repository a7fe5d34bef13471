"""The encoders that have names of their own: what each is, where its weights are, and under which licence.

What comes in: `known.toml`. What goes out: a `Known` for each, by name; nothing here loads or fetches weights. Any other encoder
of `families.FAMILIES` goes by its hub id or folder.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass

from tfser.manifests.texts import packaged


@dataclass(frozen=True, kw_only=True)
class Known:
    """An encoder with a name of its own.

    Attributes:
        summary: one line about it.
        hub: where its weights are.
        family: transformers' `model_type`.
        licence: of the weights, as their publisher has it.
        layer: taken unless one is asked for; None: the last.
    """

    summary: str
    hub: str
    family: str
    licence: str
    layer: int | None = None


ENCODERS = {name: Known(**block) for name, block in tomllib.loads(packaged("pipeline.features.encoders", "known.toml")).items()}
"""The encoders that have names of their own. Any other of their families goes by its hub id or folder."""
