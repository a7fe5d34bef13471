"""Corpora whose file names say everything, as `file_names.toml` declares them: one block there makes another.

What comes in: that file. What goes out: a `FileNames` each, by name; what that is, and how it is read, stands in `filenames`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from tfser.manifests.texts import packaged
from tfser.pipeline.corpora.base import Expected
from tfser.pipeline.corpora.filenames import Blocks, FileNames, Transcripts
from tfser.pipeline.sound.audio import KNOWN_SUFFIXES


def _declared(name: str, block: Mapping[str, Any]) -> FileNames:
    """Return the corpus that a block of the file declares."""
    given = dict(block)
    more = given.pop("more_suffixes", [])
    # The file groups codes by what they mean, since many mean the same; a name is looked up by its code.
    derived = {
        column: (derivation["group"], {code: value for value, codes in derivation["values"].items() for code in codes})
        for column, derivation in given.pop("derived", {}).items()
    }
    if (transcripts := given.pop("transcripts", None)) is not None and "line" in transcripts:
        transcripts["line"] = "".join(transcripts["line"])
    blocks, expected = given.pop("blocks", None), given.pop("expected", None)
    return FileNames(
        name=name,
        pattern="".join(given.pop("pattern")),
        emotions={code: (raw, label) for code, (raw, label) in given.pop("emotions").items()},
        derived=derived,
        upper=tuple(given.pop("upper", ())),
        lower=tuple(given.pop("lower", ())),
        blocks=None if blocks is None else Blocks(**{**blocks, "emotions": tuple(blocks["emotions"])}),
        transcripts=None if transcripts is None else Transcripts(**transcripts),
        suffixes=KNOWN_SUFFIXES | set(more),
        expected=None if expected is None else Expected(**expected),
        notes=tuple(given.pop("notes", ())),
        **given,
    )


PATTERNS = {
    name: _declared(name, block) for name, block in tomllib.loads(packaged("pipeline.corpora", "file_names.toml")).items()
}
"""The corpora that are declared, by name, in the order of the file."""
