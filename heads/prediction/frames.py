"""Stored frames by utterance, out of memory-mapped shards.

What comes in: a cache, a feature set's name and a corpus. What goes out: a mapping from utterance to its frames (t, dim),
which reads what is asked for and compares it with its checksum the first time. Nothing is copied or written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfser.heads.prediction.python_values import a_text, maybe_text
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.feature_name import meant
from tfser.manifests.splits.choose import choose_corpus
from tfser.pipeline.features.layer_views import layer_views, meant_views, where_of
from tfser.pipeline.shards.packed import FeatureRow
from tfser.pipeline.shards.reader import ShardReader, checksum_of, damaged_frames
from tfser.pipeline.shards.writer import Array


def feature_rows(cache: Cache, feature_set: str, corpus: str | None) -> list[dict[str, Any]]:
    """Return for each utterance that has frames: `utterance_id`, `speaker`, `label` and `where` they lie, in the order of
    the ids.

    Raises:
        UsageError: there is no such feature set or corpus, or the name may mean several.
    """
    feature_set, corpus = a_text("feature_set", feature_set), maybe_text("corpus", corpus)
    chosen = choose_corpus(cache, corpus)
    with open_catalogue(cache) as connection:
        have = [
            row["feature_set"] for row in rows(connection, "SELECT DISTINCT feature_set FROM features WHERE corpus = ?", [chosen])
        ]
        # One layer of a stack is a feature set, too, read where it lies.
        views = {name: of for name, of in layer_views(rows(connection, "FROM feature_sets")).items() if of.stack in have}
        names = meant(feature_set, sorted(have)) or meant_views(feature_set, views.values())
        if not names:
            raise unknown(f"feature set of {chosen}", feature_set, have)
        if len(names) > 1:
            raise UsageError(f"{feature_set} may be {' or '.join(names)}; say which")
        view = None if names[0] in have else views[names[0]]
        stored = rows(
            connection,
            "SELECT f.*, u.speaker, u.label FROM features f JOIN utterances u USING (corpus, utterance_id) "
            "WHERE f.feature_set = ? AND f.corpus = ? ORDER BY f.utterance_id",
            [names[0] if view is None else view.stack, chosen],
        )
    return [
        {key: row[key] for key in ("corpus", "utterance_id", "speaker", "label")}
        | {"feature_set": names[0], "where": where_of(cache.root, row, view)}
        for row in stored
    ]


class StoredFrames(Mapping[str, Array]):
    """The frames of many utterances: {utterance_id: (t, dim) array}, read when they are asked for."""

    def __init__(self, cache: Cache, found: Sequence[Mapping[str, Any]]) -> None:
        self._where: dict[str, FeatureRow] = {row["utterance_id"]: row["where"] for row in found}
        self._verify = cache.verify
        self._readers: dict[Path, ShardReader] = {}
        self._compared: set[str] = set()

    def __getitem__(self, utterance_id: str) -> Array:
        """Return the frames of an utterance, a read-only view.

        Raises:
            KeyError: there is no such utterance.
            ShardError: they are not those that were written.
        """
        row = self._where[utterance_id]
        reader = self._readers.get(row.path)
        if reader is None:
            reader = self._readers[row.path] = ShardReader(row.path)
        frames = reader.frames_of(row.first_frame, row.frames)
        if self._verify == "once" and row.checksum is not None and utterance_id not in self._compared:
            if checksum_of(frames) != row.checksum:
                raise damaged_frames(row.path, [utterance_id])
            self._compared.add(utterance_id)
        return frames if row.first_column is None else frames[:, row.first_column : row.first_column + row.dim]

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def __repr__(self) -> str:
        return f"<frames of {len(self)} utterances>"
