"""From runs of a cache to a folder that can be handed on.

What comes in: a run or an experiment, and where to. What goes out: the folder of `tfser.heads.prediction.folder`,
complete or not at all, with a card of what the cache knows about it. The cache is only read; no speaker's name and no
utterance leaves it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfser.heads.prediction.card import CardFacts, card
from tfser.heads.prediction.folder import CARD, ENCODER, check_target, new_folder, write_description, write_weights
from tfser.heads.prediction.onnx_graph import check_graph, need_onnx, write_onnx
from tfser.heads.prediction.trained import TrainedHead, choose_runs, ears, trained_head
from tfser.heads.results.score_tables import Wanted, table
from tfser.heads.results.scores import selections_of
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.protocols.protocol import JOINED_BY
from tfser.pipeline.corpora import CORPORA
from tfser.pipeline.features.encoders.weights import CONFIG, PREPROCESSOR, PROCESSOR, find, is_folder
from tfser.pipeline.shards.packed import FeatureRow, PackedFeatures, load_packed

CHECKED = 16
"""Utterances that an ONNX graph is compared on."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """How to export."""

    ensemble: bool = False
    selection: str = "last"
    onnx: bool = False
    encoder: bool | None = None
    """Whether the encoder's files travel along; None: where they came from a folder, which nobody else has."""
    weights: str | None = None
    """Where the encoder is, if not where it was."""


def export(
    cache: Cache, text: str, folder: Path, wish: Wish | None = None, *, tell: Callable[[str], None] = lambda line: None
) -> list[TrainedHead]:
    """Write what a text names (a run, an experiment) into a new folder; return the heads that are in it.

    Raises:
        UsageError: there is no such run or it leaves a choice; the folder is there already; a head has no graph.
        TfserError: weights are damaged, the encoder that is to travel is not here, or the disk is full. Nothing is left
            then.
    """
    wish = wish or Wish()
    check_target(folder)
    runs = choose_runs(cache, text, ensemble=wish.ensemble)
    heads = [trained_head(cache, run, selection=wish.selection) for run in runs]
    # All that can be refused is refused before the folder is begun.
    if heads[0].features.config.get("layer") == "mix":
        raise UsageError(
            f"{heads[0].name}: its features are the mix of layers that {heads[0].features.config['belongs_to']['run_id']} "
            "learned; export that run, which holds the mix itself"
        )
    if wish.onnx:
        need_onnx()
        if len(heads) > 1:
            raise UsageError("--onnx writes one head, not an ensemble: export a run")
        check_graph(heads[0])
    with new_folder(folder) as aside:
        write_weights(aside, heads)
        travels = _copy_encoder(cache, heads[0], wish, aside, tell)
        compared = None
        if wish.onnx:
            compared = write_onnx(heads[0], aside / "model.onnx", some_utterances(cache, heads[0]))
        facts = gathered(cache, heads, compared, travels)
        (aside / CARD).write_text(card(facts, folder.name), encoding="utf-8")
        write_description(aside, heads, {"scores": _plain(facts.scores), "onnx": compared})
    return heads


def gathered(cache: Cache, heads: Sequence[TrainedHead], onnx: dict[str, Any] | None, encoder: bool) -> CardFacts:
    """Return what the cache knows of trained heads, as their card says it."""
    about = heads[0].about
    names = str(about["corpus"]).split(JOINED_BY)
    with open_catalogue(cache) as connection:
        corpora = rows(
            connection,
            "SELECT u.corpus, any_value(c.adapter) AS adapter, count(*) AS utterances, "
            "count(DISTINCT u.speaker) AS speakers, round(sum(u.duration_s) / 60, 1) AS minutes FROM assignments a "
            "JOIN utterances u ON u.corpus = a.corpus AND u.utterance_id = a.utterance_id "
            "JOIN corpora c ON c.corpus = u.corpus "
            "WHERE a.protocol = ? AND list_contains(?, a.corpus) AND a.fold IS NOT NULL GROUP BY u.corpus ORDER BY u.corpus",
            [about["protocol"], names],
        )
        protocol = rows(
            connection, "SELECT * FROM protocols WHERE protocol = ? AND corpora = ?", [about["protocol"], about["corpus"]]
        )
        tested = selections_of(connection, [about["experiment"]])
        scores = table(connection, Wanted(experiment=about["experiment"])) if tested else []
    for row in corpora:
        reader = CORPORA.get(row.pop("adapter"))
        row |= {"licence": reader.licence if reader else "", "page": reader.page if reader else ""}
    wanted = (about["experiment"], heads[0].selection, "utterance")
    found = [row for row in scores if (row["experiment"], row["selection"], row["level"]) == wanted]
    return CardFacts(
        heads=tuple(heads),
        corpora=corpora,
        protocol=protocol[0] if protocol else None,
        scores=found[0] if found else None,
        onnx=onnx,
        encoder=encoder,
    )


def _plain(row: Any) -> dict[str, Any] | None:
    """Return those scores that a program reading `tfser.json` may want."""
    if row is None:
        return None
    keys = ("experiment", "selection", "folds", "of_folds", "seeds", "clustered_by", "clusters", "utterances", "audit")
    numbers = [f"pooled_{metric}{end}" for metric in ("UA", "WA", "WF1") for end in ("", "_low", "_high")]
    return {key: row.get(key) for key in (*keys, "speakers_kept", "UA", "WA", "WF1", *numbers)}


def _copy_encoder(cache: Cache, trained: TrainedHead, wish: Wish, folder: Path, tell: Callable[[str], None]) -> bool:
    """Copy the encoder's files along where that is wished for; return whether they are there.

    Raises:
        TfserError: they are asked for and not here, or are pickles.
    """
    features = trained.features
    if not features.is_encoder:
        if wish.encoder:
            raise UsageError(f"--encoder: {features.name} is computed without one")
        return False
    source = wish.weights or str(features.source.get("weights", ""))
    if wish.encoder is False or (wish.encoder is None and not is_folder(source)):
        tell(f"the encoder stays where it is ({source}); --encoder takes its files along")
        return False
    ears(cache, features, wish.weights)  # refuses an encoder that is another one, or is not here
    found = find(source, None if is_folder(source) else features.source.get("commit"))
    if not found.safetensors:
        raise TfserError(
            f"{found.folder}: its weights are pickles, which no export holds; save them as safetensors, or say --no-encoder"
        )
    (folder / ENCODER).mkdir()
    index = list(found.folder.glob("*.safetensors.index.json"))
    beside = [found.folder / name for name in (CONFIG, PREPROCESSOR, PROCESSOR)]
    for path in (*found.files, *index, *(path for path in beside if path.is_file())):
        shutil.copyfile(path, folder / ENCODER / path.name)
    return True


def some_utterances(cache: Cache, trained: TrainedHead) -> PackedFeatures:
    """Return the frames of some utterances of a head's own corpus, from its shortest to its longest."""
    about = trained.about
    with open_catalogue(cache) as connection:
        found = rows(
            connection,
            "SELECT f.* FROM features f JOIN assignments a USING (corpus, utterance_id) "
            "JOIN feature_sets s ON s.feature_set = f.feature_set "
            "WHERE a.protocol = ? AND list_contains(?, f.corpus) AND s.fingerprint = ? "
            "ORDER BY f.frames, f.corpus, f.utterance_id",
            [about["protocol"], str(about["corpus"]).split(JOINED_BY), trained.features.fingerprint],
        )
    if not found:
        raise TfserError(f"{trained.name}: no utterance of {trained.features.name} is in the cache to compare the graph on")
    step = max(1, (len(found) - 1) // (CHECKED - 1)) if len(found) > 1 else 1
    keys = ("utterance_id", "first_frame", "frames", "dim", "checksum")
    chosen = [*found[::step][: CHECKED - 1], found[-1]]
    return load_packed(
        [FeatureRow(path=cache.root / row["shard"], **{key: row[key] for key in keys}) for row in chosen], verify=cache.verify
    )
