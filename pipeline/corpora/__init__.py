"""The corpora that tfser knows: one file each, and one line each here."""

from __future__ import annotations

from tfser.manifests.errors import unknown
from tfser.pipeline.corpora import emodb, iemocap, synthetic, table
from tfser.pipeline.corpora.base import CorpusReader

CORPORA: dict[str, CorpusReader] = {
    "emodb": emodb.READER,
    "iemocap": iemocap.READER,
    "synthetic": synthetic.READER,
    "table": table.READER,
}


def corpus_reader(name: str) -> CorpusReader:
    """Return the reader of that name.

    Raises:
        UsageError: if there is none; it lists the known ones.
    """
    if name not in CORPORA:
        raise unknown("corpus", name, list(CORPORA))
    return CORPORA[name]
