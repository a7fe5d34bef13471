"""What an encoder has heard: a card for each encoder that is known, as the audit `encoder_saw_corpus` reads it.

`encoders.json` says of each encoder (its id on the hub) on what it was trained, whether that list is complete, which part of
it was (an encoder may be frozen below a classifier that saw the corpus), and where this was read. `emobox` stands for every
corpus of EmoBox's published splits. Of encoders without a card, a corpus's name in the encoder's own is a hint, and no more.

Nothing here looks at weights: a folder that is called otherwise than on the hub has no card.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

from tfser.manifests.connections import quote
from tfser.manifests.protocols.listed import published_lists
from tfser.manifests.texts import packaged


@dataclass(frozen=True, kw_only=True)
class EncoderCard:
    """What one encoder was trained on. `trained_on` names corpora as tfser's readers do, others as their publishers."""

    encoder: str
    trained_on: tuple[str, ...]
    complete: bool
    part: str
    source: str


@functools.cache
def encoder_cards() -> tuple[EncoderCard, ...]:
    """Return the cards, in the order of the file; `emobox` is spelled out as its corpora."""
    corpora = sorted({split.corpus for name, split in published_lists().items() if name.startswith("emobox:")})
    cards = []
    for card in _file()["cards"]:
        names = [corpus for name in card["trained_on"] for corpus in (corpora if name == "emobox" else [name])]
        cards.append(EncoderCard(**{**card, "trained_on": tuple(names)}))
    return tuple(cards)


def _file() -> dict[str, Any]:
    cards: dict[str, Any] = json.loads(packaged("manifests.audits", "encoders.json"))
    return cards


@functools.cache
def cards_query() -> str:
    """Return the SQL of the view `encoder_cards`: a row an encoder and corpus that it saw; null: its data are not all listed."""
    rows: list[tuple[str | None, ...]] = []
    rows += [(c.encoder, corpus, c.part, c.source) for c in encoder_cards() for corpus in c.trained_on]
    rows += [(c.encoder, None, c.part, c.source) for c in encoder_cards() if not c.complete]
    values = ", ".join(f"({', '.join('NULL' if value is None else quote(value) for value in row)})" for row in rows)
    return f"SELECT * FROM (VALUES {values}) AS cards(encoder, heard, part, source)"


@functools.cache
def names_query() -> str:
    """Return the SQL of the view `encoder_names`: what in an encoder's name hints at which corpus."""
    values = ", ".join(f"({quote(word)}, {quote(str(corpus))})" for word, corpus in dict(_file()["in_names"]).items())
    return f"SELECT * FROM (VALUES {values}) AS names(word, heard)"
