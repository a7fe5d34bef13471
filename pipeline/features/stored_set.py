"""What a stored feature set says of itself, wherever that stands: in the catalogue, or in an exported folder.

What comes in: a row of the table `feature_sets`, or a dict. What goes out: `StoredSet`, from which
`tfser.pipeline.front_end` makes what computes the same frames of new audio. Nothing is read here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StoredSet:
    """What a feature set says of itself, out of the catalogue or out of an exported folder.

    Attributes:
        name: for people.
        fingerprint: of everything that changes the numbers.
        kind: front-end or encoder family.
        config: what the fingerprint is taken of.
        dim: numbers in a frame, of all layers together.
        dtype: of storage.
        hop_s: seconds between frames.
        source: where an encoder's weights were, and their commit.
        parts: what it is made of: the sets that stand side by side in it, or the stack that a mix is taken of.
    """

    name: str
    fingerprint: str
    kind: str
    config: Mapping[str, Any]
    dim: int
    dtype: str
    hop_s: float
    source: Mapping[str, Any]
    parts: tuple[StoredSet, ...] = ()

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> StoredSet:
        """Return what a row of the catalogue's table `feature_sets` says."""
        return cls(
            name=row["feature_set"],
            fingerprint=row["fingerprint"],
            kind=row["kind"],
            config=json.loads(row["config"]),
            dim=row["dim"],
            dtype=row["dtype"],
            hop_s=row["hop_s"],
            source=json.loads(row["source"] or "{}"),
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StoredSet:
        """Return what `to_dict` was of.

        Raises:
            TypeError: if a field is missing, or is none of a feature set.
        """
        parts = tuple(cls.from_dict(part) for part in values.get("parts", ()))
        return cls(**{**values, "parts": parts})

    @property
    def layers(self) -> int:
        """Layers that a frame holds side by side."""
        return int(self.config.get("layers", 1))

    @property
    def is_encoder(self) -> bool:
        """Whether an encoder's weights are needed."""
        return self.config.get("kind") == "encoder"

    @property
    def encoders(self) -> tuple[StoredSet, ...]:
        """The sets of encoders in it: itself, or those among its parts and theirs."""
        return (self,) if self.is_encoder else tuple(of for part in self.parts for of in part.encoders)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them; parts stand there only where there are some."""
        values = {of.name: dict(v) if isinstance(v := getattr(self, of.name), Mapping) else v for of in fields(self)}
        del values["parts"]
        return values | ({"parts": [part.to_dict() for part in self.parts]} if self.parts else {})
