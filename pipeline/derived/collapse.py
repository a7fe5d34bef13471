"""Collapsing the layers of an encoder: a feature set that holds all of them becomes an ordinary one of the width of one.

What comes in: a feature set of several layers, and what to make of it (`tfser.pipeline.features.stacks`). What goes out: shards
of the other feature set, written as an extraction writes its own (`tfser.pipeline.extraction.new_shards`), in the order of the
stored ones, so that a collapse that was killed goes on where it was. No audio is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, open_catalogue, rows
from tfser.manifests.catalogue.stored import SKIPPED, read_skipped, skipped_rows
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.utterances import Skipped, skipped_table
from tfser.pipeline.extraction.new_shards import AS_USUAL, OpenShards, Row, ShardWriting, Written, write_lacking
from tfser.pipeline.features.feature_set import Described
from tfser.pipeline.features.stacks import Collapsed
from tfser.pipeline.shards.writer import Array


def stored_frames(connection: Connection, feature_set: str) -> list[dict[str, Any]]:
    """Return where the frames of a feature set lie, shard by shard: rows of `features`, with each utterance's `content_hash`."""
    return rows(
        connection,
        "SELECT f.*, u.content_hash FROM features f JOIN utterances u USING (corpus, utterance_id) WHERE f.feature_set = ? "
        "ORDER BY f.corpus, f.shard, f.first_frame",
        [feature_set],
    )


def collapse(
    cache: Cache,
    source: Mapping[str, Any],
    target: Collapsed,
    corpora: Sequence[str] | None = None,
    how: ShardWriting = AS_USUAL,
) -> list[Written]:
    """Write what a feature set lacks of another one's utterances, collapsed; its shards have the format of the source's.

    Args:
        cache: the cache.
        source: the row of the table `feature_sets`, see `layered`.
        target: what to make.
        corpora: of which; None: all that the source has utterances of.
        how: sizes of shards, and who is told.

    Raises:
        UsageError: if the source has no utterances of a corpus, or another feature set has the target's name.
        TfserError: if a shard is damaged, the disk is or would be full, or values do not fit the dtype. What was finished stays.
    """
    with open_catalogue(cache) as connection:
        stored = stored_frames(connection, source["feature_set"])
        named = {row["feature_set"]: row["fingerprint"] for row in rows(connection, "FROM feature_sets")}
    # A name stands for one fingerprint in a cache: the same name for other numbers would be found by every
    # command that asks by name.
    if named.get(target.name, target.fingerprint) != target.fingerprint:
        raise UsageError(f"{target.name} is another feature set in this cache; choose another --name, or remove that one first")
    have = sorted({row["corpus"] for row in stored})
    for corpus in corpora or ():
        if corpus not in have:
            raise unknown(f"corpus of {source['feature_set']}", corpus, have)

    def combined(shards: OpenShards, row: Row) -> Array:
        return target.combine(shards.frames_of(row))

    def excuse(folder: Path) -> None:
        copy_excuses(cache, target, [cache.root / source["folder"]], folder)

    return [
        write_lacking(cache, target, corpus, [row for row in stored if row["corpus"] == corpus], combined, how, excuse)
        for corpus in corpora or have
    ]


def copy_excuses(cache: Cache, target: Described, sources: Sequence[Path], folder: Path) -> None:
    """Excuse whom the extractions of the sources excuse by now, such as those too short, beside whom the target's own does.

    The catalogue calls the feature set of such a list by its folder. A file that had changed excuses nobody, and is not copied:
    the source's next extraction takes it out of its own list alone.

    Args:
        cache: the cache.
        target: what is made of the sources.
        sources: the folders of their feature sets.
        folder: of the target, and of a corpus in it.
    """
    before = read_skipped(cache, folder / SKIPPED)
    own = [row for row in skipped_rows(before) if row.stage.partition(":")[2] == target.name]
    theirs = (row for source in sources for row in skipped_rows(read_skipped(cache, source / folder.name / SKIPPED)))
    excused: dict[tuple[str | None, str | None], Skipped] = {}
    for row in (*own, *(row for row in theirs if not row.stage.startswith("changed:"))):
        excused.setdefault((row.utterance_id, row.path), row)
    table = skipped_table(list(excused.values()))
    if not table.equals(before):
        cache.write_table(folder / SKIPPED, table)
