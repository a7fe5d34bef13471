"""The corpora that tfser knows: one file each, and one line each here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfser.manifests.cache import Cache, check_name
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.files import read_json
from tfser.pipeline.corpora import emodb, iemocap, synthetic
from tfser.pipeline.corpora import table as user_table
from tfser.pipeline.corpora.base import CorpusReader, find_root

CORPORA: dict[str, CorpusReader] = {
    "emodb": emodb.READER,
    "iemocap": iemocap.READER,
    "synthetic": synthetic.READER,
    "table": user_table.READER,
}


@dataclass(frozen=True, kw_only=True)
class Located:
    """A corpus that is about to be scanned: its name in the cache, its reader, its folder and the reader's options."""

    corpus: str
    reader: CorpusReader
    root: Path
    options: Mapping[str, Any]


def locate(
    cache: Cache,
    corpus: str,
    *,
    name: str | None = None,
    root: Path | None = None,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
    delimiter: str | None = None,
) -> Located:
    """Find out what is to be scanned from what was said, and for the rest from the last scan.

    Args:
        cache: remembers root and options of earlier scans.
        corpus: a known corpus, or the name of one that was scanned.
        name: the name it gets in the cache; None: its own (for `table`, the table's).
        root: its folder.
        table: the file of `table`.
        columns: of `table`: what its columns are called.
        delimiter: of `table`.

    Raises:
        UsageError: if the corpus is unknown, or its folder or table is nowhere to be found.
    """
    remembered = {known: read_json(cache.corpus(known) / "corpus.json") for known in cache.corpora()}
    if corpus in CORPORA:
        reader = CORPORA[corpus]
        corpus = name or (_slug(table.stem) if corpus == "table" and table else corpus)
    elif corpus in remembered:
        reader = CORPORA[remembered[corpus]["adapter"]]
        if name not in (None, corpus):
            raise UsageError(f"--name {name}: {corpus} has its name; leave --name out")
    else:
        raise unknown("corpus", corpus, list(dict.fromkeys([*CORPORA, *remembered])))
    if corpus in CORPORA and CORPORA[corpus] is not reader:
        raise UsageError(f"{corpus} is the name of a corpus that tfser knows; give this one another with --name")
    before = remembered.get(corpus, {})
    if reader is not user_table.READER and (table or columns or delimiter):
        raise UsageError(f"--table, --column and --delimiter go with --corpus table, not with {reader.name}")
    options: dict[str, Any] = {}
    if reader is user_table.READER:
        old = before.get("options", {})
        if table is None and "table" not in old:
            known = [c for c, about in remembered.items() if about["adapter"] == "table"]
            also = f", or one that was scanned: --corpus {' or '.join(known)}" if known else ""
            raise UsageError(f"--corpus table: name the file with --table FILE{also}")
        options = {
            "table": str(table.expanduser().absolute()) if table else old["table"],
            "columns": dict(columns) if columns is not None else old.get("columns", {}),
            "delimiter": delimiter or old.get("delimiter"),
        }
        if root is None and "root" not in before:
            root = Path(options["table"]).parent
    if reader.prepare is not None and root is None:
        root = Path(before["root"]) if before else cache.root / reader.name
        root.mkdir(parents=True, exist_ok=True)
    return Located(
        corpus=check_name("corpus", corpus),
        reader=reader,
        root=find_root(reader, root, before.get("root"), corpus),
        options=options,
    )


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._") or "table"
