"""The corpora that tfser knows: one file each, and one line each here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfser.manifests.cache import Cache, check_name
from tfser.manifests.catalogue.stored import read_about
from tfser.manifests.dimensions import parse_scale
from tfser.manifests.errors import DamagedError, UnreadableError, UsageError, unknown
from tfser.manifests.notes import note
from tfser.manifests.plugins import CORPORA as PLUGGED
from tfser.manifests.plugins import add_loaded
from tfser.pipeline.corpora import audformat_db, casia, crema_d, emodb, iemocap, meld, ravdess, synthetic
from tfser.pipeline.corpora import table as user_table
from tfser.pipeline.corpora.audformat_files import header_of
from tfser.pipeline.corpora.base import CorpusReader, absolute, find_root
from tfser.pipeline.corpora.label_tables import LABEL_TABLES
from tfser.pipeline.corpora.patterns import PATTERNS

CORPORA: dict[str, CorpusReader] = {
    "audformat": audformat_db.READER,
    "casia": casia.READER,
    "crema_d": crema_d.READER,
    "emodb": emodb.READER,
    "iemocap": iemocap.READER,
    "meld": meld.READER,
    "ravdess": ravdess.READER,
    "synthetic": synthetic.READER,
    "table": user_table.READER,
    **{name: corpus.reader() for name, corpus in PATTERNS.items()},
    **{name: corpus.reader() for name, corpus in LABEL_TABLES.items()},
}
add_loaded(PLUGGED, CorpusReader, CORPORA)


@dataclass(frozen=True, kw_only=True)
class Located:
    """A corpus that is about to be scanned: its name in the cache, its reader, its folder and the reader's options."""

    corpus: str
    reader: CorpusReader
    root: Path
    options: Mapping[str, Any]


def remembered(cache: Cache) -> dict[str, dict[str, Any]]:
    """Return what `corpus.json` says of each corpus in the cache; one whose file is damaged or cannot be read costs none of the
    others, and a note names it."""
    corpora = {}
    for name in cache.corpora():
        try:
            corpora[name] = read_about(cache, name)
            if corpora[name]["adapter"] not in CORPORA:
                adapter = corpora.pop(name)["adapter"]
                note(f"{name} is left out: it was scanned as {adapter!r}, which this version does not know")
        except (DamagedError, UnreadableError) as error:
            note(f"{error}; {name} is left out")
    return corpora


def locate(
    cache: Cache,
    corpus: str,
    *,
    name: str | None = None,
    root: Path | None = None,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
    delimiter: str | None = None,
    scale: str | None = None,
) -> Located:
    """Find out what is to be scanned from what was said, and for the rest from the last scan.

    Args:
        cache: remembers root and options of earlier scans.
        corpus: a known corpus, or the name of one that was scanned.
        name: the name it gets in the cache; None: its own (for `table`, the table's; for `audformat`, the database's).
        root: its folder.
        table: the file of `table`.
        columns: of `table` and `audformat`: what its columns are called.
        delimiter: of `table`.
        scale: that its dimensions are rated on, as `tfser.manifests.dimensions.parse_scale` reads it.

    Raises:
        UsageError: if the corpus is unknown, the scale is none, or its folder or table is nowhere to be found.
    """
    scanned = remembered(cache)
    own_name = name or (_own_name(corpus, root, table) if corpus in CORPORA else corpus)
    corpus, reader = _chosen(cache, corpus, name, own_name, scanned)
    before = scanned.get(corpus, {})
    if reader is not user_table.READER and (table or delimiter or (columns and "columns" not in reader.options)):
        raise UsageError(f"--table, --column and --delimiter go with --corpus table, not with {reader.name}")
    old = before.get("options", {})
    if reader is audformat_db.READER and root is None and not before:
        raise UsageError(f"--corpus audformat: name the database's folder with --root FOLDER{_scanned_as(reader, scanned)}")
    if reader is user_table.READER and table is None and "table" not in old:
        raise UsageError(f"--corpus table: name the file with --table FILE{_scanned_as(reader, scanned)}")
    options = _options(reader, old, table, columns, delimiter) | _scale(old, scale)
    if reader is user_table.READER and root is None and "root" not in before:
        root = Path(options["table"]).parent
    # A corpus that is made has a folder of its own in the cache; any other has to be somewhere.
    if reader.prepare is not None and root is None:
        root = Path(before["root"]) if before else cache.root / reader.name
        root.mkdir(parents=True, exist_ok=True)
    return Located(
        corpus=check_name("corpus", corpus),
        reader=reader,
        root=find_root(reader, root, before.get("root"), corpus),
        options=options,
    )


def _scanned_as(reader: CorpusReader, scanned: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the other way out, for errors: the corpora that this reader has scanned before; nothing if there is none."""
    names = [name for name, corpus_json in scanned.items() if corpus_json["adapter"] == reader.name]
    return f", or one that was scanned: --corpus {' or '.join(names)}" if names else ""


def with_annotations(cache: Cache, located: Located, file: Path | None, columns: Mapping[str, str] | None) -> Located:
    """Return a located corpus with the table of its single ratings; what was not said now is as it was at the last scan.

    Raises:
        UsageError: if columns of a table are named, and none is.
    """
    about = read_about(cache, located.corpus) if located.corpus in remembered(cache) else {"options": {}}
    kept = {name: about["options"][name] for name in ("annotations", "annotation_columns") if name in about["options"]}
    if file is not None:  # another file may have other columns; none goes back to what the corpus itself has
        kept = {} if str(file) == "none" else {"annotations": str(absolute(file))}
    if columns is not None and "annotations" not in kept:
        raise UsageError("--annotation-column goes with --annotations FILE")
    kept |= {} if columns is None else {"annotation_columns": dict(columns)}
    return replace(located, options={**located.options, **kept})


def _options(
    reader: CorpusReader,
    old: Mapping[str, Any],
    table: Path | None,
    columns: Mapping[str, str] | None,
    delimiter: str | None,
) -> dict[str, Any]:
    """Return a reader's options; what was not said now is as it was at the last scan."""
    if reader is not audformat_db.READER and reader is not user_table.READER:
        return {}
    options: dict[str, Any] = {"columns": dict(columns) if columns is not None else old.get("columns", {})}
    if reader is audformat_db.READER:
        return options
    path = str(absolute(table)) if table else old["table"]
    return {"table": path, **options, "delimiter": delimiter or old.get("delimiter")}


def _scale(old: Mapping[str, Any], said: str | None) -> dict[str, str]:
    """Return the scale that is declared now or was at the last scan, as an option; nothing where none is."""
    if said is not None:
        return {"scale": str(parse_scale(said))}
    return {"scale": old["scale"]} if "scale" in old else {}


def _chosen(
    cache: Cache, asked: str, name: str | None, own_name: str, scanned: Mapping[str, Mapping[str, Any]]
) -> tuple[str, CorpusReader]:
    """Return the name of the corpus that is asked for in the cache, and its reader.

    Raises:
        UsageError: it is unknown, or its name is another corpus's.
    """
    corpus = asked
    if asked in CORPORA:
        corpus, reader = own_name, CORPORA[asked]
    elif asked in scanned:
        reader = CORPORA[scanned[asked]["adapter"]]
        if name not in (None, asked):
            raise UsageError(f"--name {name}: {asked} has its name; leave --name out")
    else:
        if asked in cache.corpora():
            read_about(cache, asked)  # says why nothing of it is remembered
        raise unknown("corpus", asked, list(dict.fromkeys([*CORPORA, *scanned])))
    if corpus in CORPORA and CORPORA[corpus] is not reader:
        raise UsageError(f"{corpus} is the name of a corpus that tfser knows; give this one another with --name")
    return corpus, reader


def _own_name(corpus: str, root: Path | None, table: Path | None) -> str:
    """Return the name that a corpus has where none is given: a table's and a database's are their own."""
    if corpus == "table" and table is not None:
        return _slug(table.stem)
    if corpus == "audformat" and root is not None:
        slug = _slug(str(header_of(root.expanduser())["name"]))
        return f"{slug}-audformat" if slug in CORPORA else slug
    return corpus


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._") or "table"
