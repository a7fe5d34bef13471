"""One row a rating: who gave an utterance which label, or which values of valence, arousal and dominance.

`Annotation` is what a corpus reader, or a table of the user's own, yields; `annotation_table` gives the Parquet table that lies
beside a corpus's utterances and is the truth behind the catalogue's `annotations`. What follows from ratings (distributions,
agreement) are views of the catalogue (`tfser.manifests.catalogue.rater_views`). Nothing here reads a corpus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfser.manifests.dimensions import DIMENSIONS

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """One rating of one utterance.

    `rater` is None where the corpus counts votes and does not say whose they are. A rater who gives several labels has a row for
    each. `setting` is what the rater was given or who it is (voice, face, multimodal, self); `counts` says whether the rating is
    part of distributions and agreement: of CREMA-D those of the voice alone, of IEMOCAP those of the listeners and not the
    actors' own. `label` is the field's word.
    """

    utterance_id: str
    rater: str | None = None
    label: str | None = None
    valence: float | None = None
    arousal: float | None = None
    dominance: float | None = None
    setting: str | None = None
    counts: bool = True


def annotation_schema() -> pa.Schema:
    """Return the columns of a corpus's annotations, in their order and types."""
    import pyarrow as pa

    texts = [pa.field(name, pa.string()) for name in ("corpus", "utterance_id", "rater", "label")]
    numbers = [pa.field(name, pa.float64()) for name in DIMENSIONS]
    return pa.schema([*texts, *numbers, pa.field("setting", pa.string()), pa.field("counts", pa.bool_())])


def annotation_table(corpus: str, annotations: Sequence[Annotation]) -> pa.Table:
    """Return ratings as a table, in an order that does not depend on the one in which files were read."""
    import pyarrow as pa

    schema = annotation_schema()
    rows = sorted(annotations, key=_order)
    columns = [[corpus] * len(rows) if name == "corpus" else [getattr(row, name) for row in rows] for name in schema.names]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _order(row: Annotation) -> tuple[str, ...]:
    values = (row.utterance_id, row.setting, row.rater, row.label, row.valence, row.arousal, row.dominance)
    return tuple("" if value is None else str(value) for value in values)
