"""Feature sets to rows: which there are, how each is called, and where the frames of each utterance lie.

In: the files below `features/`. Out: the tables `feature_sets` and `features`, and the rows of `skipped` that extractions left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfser.manifests.cache import Cache, Stamp
from tfser.manifests.catalogue.filling import LeftOut, insert, registered
from tfser.manifests.catalogue.stored import FEATURE_SET, SKIPPED, read_feature_set, read_skipped
from tfser.manifests.connections import Connection
from tfser.manifests.errors import DamagedError, UnknownContentError, UnreadableError

if TYPE_CHECKING:
    import pyarrow as pa


def read_features(cache: Cache, connection: Connection, sources: Mapping[str, Stamp], left_out: LeftOut) -> None:
    """Read all that lies below `features/` into empty tables: feature sets, their shards, what extractions passed over."""
    for (corpus,) in connection.execute("SELECT corpus FROM corpora ORDER BY corpus").fetchall():
        # A corpus whose list of what was passed over cannot be read is not in the table `corpora`.
        insert(connection, "skipped", read_skipped(cache, cache.corpus(corpus) / SKIPPED))
    sets: list[tuple[Path, dict[str, Any]]] = []
    for place in sorted(p for p in sources if p.startswith("features/") and p.endswith(f"/{FEATURE_SET}")):
        folder = (cache.root / place).parent
        try:
            sets.append((folder, read_feature_set(cache, folder)))
        except (DamagedError, UnreadableError) as error:
            left_out.note("features", None, folder / FEATURE_SET, error)
    names = _set_names([description for _, description in sets])
    lists = [cache.root / p for p in sorted(sources) if p.startswith("features/") and p.endswith(f"/{SKIPPED}")]
    shards = [cache.root / p for p in sorted(sources) if p.endswith(".rows.parquet")]
    for folder, description in sets:
        name = names[description["name"], description["fingerprint"]]
        keys = ("fingerprint", "kind", "dim", "dtype", "hop_s", "created_at")
        source = json.dumps(description["source"]) if "source" in description else None
        connection.execute(
            "INSERT INTO feature_sets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [name, *(description[key] for key in keys), json.dumps(description["config"]), source, cache.place(folder)],
        )
        for path in (path for path in lists if path.parent.parent == folder):
            try:
                table = read_skipped(cache, path)
            except (DamagedError, UnreadableError) as error:
                left_out.note("features", path.parent.name, path, error)
                continue
            with registered(connection, table):  # an outdated set's stages bear its whole name, see the table `feature_sets`
                connection.execute(
                    "INSERT INTO skipped BY NAME SELECT * REPLACE (split_part(stage, ':', 1) || ':' || ? AS stage) FROM incoming",
                    [name],
                )
        own = [path for path in shards if path.parent.parent == folder]
        _insert_features(cache, connection, folder, name, description["dim"], own, left_out)


_SHARD_COLUMNS = ("utterance_id", "content_hash", "shard", "first_frame", "frames", "dim", "checksum")


def _insert_features(
    cache: Cache, connection: Connection, folder: Path, name: str, dim: int, shards: Sequence[Path], left_out: LeftOut
) -> None:
    """Insert where the frames of one feature set lie, of all utterances that still have the content they were made of."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # DuckDB is handed the tables that were checked, never a path: between a check and a second reading another
    # file may lie there.
    tables: list[pa.Table] = []
    for path in shards:
        corpus = path.parent.name
        try:
            table = cache.read_table(path).replace_schema_metadata(None)
            if missing := set(_SHARD_COLUMNS) - set(table.column_names):
                raise UnknownContentError(f"cannot be understood (it has no column {min(missing)})", at=path)
            if pc.any(pc.not_equal(table["dim"], dim)).as_py():
                raise DamagedError(f"its frames are not {dim} numbers wide, as those of {name} are", at=path)
        except (DamagedError, UnreadableError) as error:
            left_out.note("features", corpus, path, error)
            continue
        tables.append(table.select(_SHARD_COLUMNS).append_column("corpus", pa.array([corpus] * table.num_rows, pa.string())))
    if not tables:
        return
    # The join by content hash is what keeps a stale feature from being served; of frames that two shards have,
    # the first by name counts, so that the same cache gives the same rows.
    with registered(connection, pa.concat_tables(tables)):
        connection.execute(
            """
            INSERT INTO features
            SELECT ? AS feature_set, r.corpus, r.utterance_id, ? || '/' || r.corpus || '/' || r.shard AS shard,
              r.first_frame, r.frames, r.dim, r.checksum
            FROM incoming r
            JOIN utterances u
              ON u.corpus = r.corpus AND u.utterance_id = r.utterance_id AND u.content_hash = r.content_hash
            QUALIFY row_number() OVER (PARTITION BY r.corpus, r.utterance_id ORDER BY r.shard) = 1
            """,
            [name, cache.place(folder)],
        )


def _set_names(sets: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """Return the name of each feature set, by what its folder is called after: its own, or with the fingerprint behind an @.

    The newest configuration of a front-end or encoder has the name, older ones are outdated. Two encoders of one name (two
    folders called alike) are no versions of each other: then nobody has the name alone, and whoever asks for it has to choose.
    What was extracted twice in one way, under names of the user's own, has one fingerprint and two names.
    """
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for stored in sorted(sets, key=lambda each: str(each["created_at"])):
        by_name.setdefault(stored["name"], []).append(stored)
    names = {}
    for name, versions in by_name.items():
        newest = versions[-1]
        is_one = not any(other_encoder(stored, newest) for stored in versions)
        for stored in versions:
            names[name, stored["fingerprint"]] = name if is_one and stored is newest else f"{name}@{stored['fingerprint'][:8]}"
    return names


def other_encoder(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Tell whether two feature sets are of two encoders: other weights from another place.

    Other weights from the same place are a new version of it, and the same weights at another place are a copy.
    """
    places = [(about.get("source") or {}).get("weights") for about in (a, b)]
    weights = [(about.get("config") or {}).get("weights") for about in (a, b)]
    return None not in (*places, *weights) and places[0] != places[1] and weights[0] != weights[1]
