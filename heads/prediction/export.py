"""From runs of a cache to a folder that can be handed on.

What comes in: a run or an experiment, and where to. What goes out: the folder of `tfser.heads.prediction.folder`,
complete or not at all, with a card of what the cache knows about it. The cache is only read; no speaker's name and no
utterance leaves it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfser.heads.prediction.card import CardFacts, card
from tfser.heads.prediction.folder import CARD, ENCODER, check_target, left_of, new_folder, write_description, write_weights
from tfser.heads.prediction.fused import voice
from tfser.heads.prediction.makers import makers, view_of
from tfser.heads.prediction.onnx_graph import check_graph, need_onnx, write_onnx
from tfser.heads.prediction.trained import TrainedHead, choose_runs
from tfser.heads.results.dimension_tables import dimension_table
from tfser.heads.results.moments import RATED_METRICS
from tfser.heads.results.score_tables import Wanted, table
from tfser.heads.results.scores import selections_of
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.protocols.protocol import JOINED_BY
from tfser.pipeline.corpora import CORPORA
from tfser.pipeline.features.encoders.weights import CONFIG, PREPROCESSOR, PROCESSOR, Found, find, is_folder
from tfser.pipeline.front_end import encoder_place
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
    for path in left_of(folder):
        tell(f"{path} is of an export that was killed, or that still runs: remove it once none does")
    runs = choose_runs(cache, text, ensemble=wish.ensemble)
    heads = [_one_head(cache, run, wish.selection) for run in runs]
    # All that can be refused is refused before the folder is begun.
    if wish.onnx:
        need_onnx()
        if len(heads) > 1:
            raise UsageError("--onnx writes one head, not an ensemble: export a run")
        check_graph(heads[0])
    with new_folder(folder) as aside:
        write_weights(aside, heads)
        travels = _copy_encoders(cache, heads[0], wish, aside, tell)
        compared = None
        if wish.onnx:
            compared = write_onnx(heads[0], aside / "model.onnx", some_utterances(cache, heads[0]))
        facts = gathered(cache, heads, compared, travels)
        (aside / CARD).write_text(card(facts, folder.name), encoding="utf-8")
        more = {"encoders": travels} if travels else {}
        write_description(aside, heads, {"scores": _scores(facts), "onnx": compared, **more})
    return heads


def _one_head(cache: Cache, run: str, selection: str) -> TrainedHead:
    """Return the trained head of a run.

    Raises:
        UsageError: the run is a fusion, whose members are several models; or nothing can compute its features.
    """
    found = voice(cache, run, selection=selection)
    if isinstance(found, TrainedHead):
        return found
    members = ", ".join(member.name for member in found.members)
    raise UsageError(
        f"{run} is a fusion: `tfser predict {run}` takes the mean of its members here; a folder holds one model, so export its "
        f"members ({members})"
    )


def gathered(cache: Cache, heads: Sequence[TrainedHead], onnx: dict[str, Any] | None, travels: Mapping[str, str]) -> CardFacts:
    """Return what the cache knows of trained heads, as their card says it."""
    about = heads[0].about
    names = str(about["corpus"]).split(JOINED_BY)
    with open_catalogue(cache) as connection:
        # Of the utterances that the protocol uses, not of the whole corpus: a card says what was learned from.
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
        of = Wanted(experiment=about["experiment"])
        scores = table(connection, of) if tested and heads[0].classes else []
        rated = dimension_table(connection, of) if tested and heads[0].targets else []
    for row in corpora:
        reader = CORPORA.get(row.pop("adapter"))
        row |= {"licence": reader.licence if reader else "", "page": reader.page if reader else ""}
    # Scores of the selection that travels alone: the weights of one epoch must not bear the score of another.
    wanted = (about["experiment"], heads[0].selection, "utterance")
    found, of_dimensions = (
        [row for row in rows_of if (row["experiment"], row["selection"], row["level"]) == wanted] for rows_of in (scores, rated)
    )
    return CardFacts(
        heads=tuple(heads),
        corpora=corpora,
        protocol=protocol[0] if protocol else None,
        scores=found[-1] if found else None,
        dimensions=of_dimensions,
        onnx=onnx,
        travels=travels,
    )


def _scores(facts: CardFacts) -> dict[str, Any] | None:
    """Return those scores that a program reading `tfser.json` may want: of classes, or of the mean over dimensions; of a head of
    both, these as `ratings` of those."""
    rated = _plain(facts.dimensions[-1], ("dimension",), RATED_METRICS) if facts.dimensions else None
    if facts.scores is None:
        return rated
    return _plain(facts.scores, (), ("UA", "WA", "WF1")) | ({} if rated is None else {"ratings": rated})


def _plain(row: Mapping[str, Any], more: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    told = ("experiment", "selection", "folds", "of_folds", "seeds", "clustered_by", "clusters", "utterances", "audit")
    numbers = [f"pooled_{metric}{end}" for metric in metrics for end in ("", "_low", "_high")]
    return {key: row.get(key) for key in (*told, "speakers_kept", *more, *metrics, *numbers)}


def _copy_encoders(cache: Cache, trained: TrainedHead, wish: Wish, folder: Path, tell: Callable[[str], None]) -> dict[str, str]:
    """Copy the files of a head's encoders along where that is wished for; return their folders, by the hash of their
    weights.

    Raises:
        UsageError: they are asked for, and the features have none.
        TfserError: they are not here, or are pickles; or the features cannot be computed of new audio at all.
    """
    features, memo = trained.features, cache.root / "weights.json"
    encoders = {str(of.config["weights"]): of for of in features.encoders}
    if wish.encoder and not encoders:
        raise UsageError(f"--encoder: {features.name} is computed without one")
    names: dict[str, str] = {}
    for key, encoder in encoders.items():
        source = wish.weights or str(encoder.source.get("weights", ""))
        if wish.encoder is False or (wish.encoder is None and not is_folder(source)):
            tell(f"the encoder stays where it is ({source}); --encoder takes its files along")
            continue
        names[key] = ENCODER if not names else f"{ENCODER}-{len(names) + 1}"
        alone = wish.weights if len(encoders) == 1 else None
        _copy_files(find(*encoder_place(encoder, weights=alone, memo=memo)), folder / names[key])
    # Refused now rather than on somebody else's machine: features that nothing computes of new audio. An encoder that
    # stays on a hub is not fetched for that.
    if len(names) == len(encoders):
        makers([features], trained.mixes, weights=wish.weights, memo=memo)
    return names


def _copy_files(found: Found, folder: Path) -> None:
    """Copy the files of an encoder.

    Raises:
        TfserError: its weights are pickles.
    """
    if not found.safetensors:
        raise TfserError(
            f"{found.folder}: its weights are pickles, which no export holds; save them as safetensors, or say --no-encoder"
        )
    folder.mkdir()
    index = list(found.folder.glob("*.safetensors.index.json"))
    beside = [found.folder / name for name in (CONFIG, PREPROCESSOR, PROCESSOR)]
    for path in (*found.files, *index, *(path for path in beside if path.is_file())):
        shutil.copyfile(path, folder / path.name)


def some_utterances(cache: Cache, trained: TrainedHead) -> PackedFeatures:
    """Return the frames of some utterances of a head's own corpus, from its shortest to its longest."""
    about, view = trained.about, view_of(cache, trained.features.fingerprint)
    with open_catalogue(cache) as connection:
        found = rows(
            connection,
            "SELECT f.* FROM features f JOIN assignments a USING (corpus, utterance_id) "
            "JOIN feature_sets s ON s.feature_set = f.feature_set "
            "WHERE a.protocol = ? AND list_contains(?, f.corpus) AND if(? IS NULL, s.fingerprint = ?, s.feature_set = ?) "
            "ORDER BY f.frames, f.corpus, f.utterance_id",
            [
                about["protocol"],
                str(about["corpus"]).split(JOINED_BY),
                view and view.stack,
                trained.features.fingerprint,
                view and view.stack,
            ],
        )
    if not found:
        raise TfserError(f"{trained.name}: no utterance of {trained.features.name} is in the cache to compare the graph on")
    step = max(1, (len(found) - 1) // (CHECKED - 1)) if len(found) > 1 else 1
    chosen = [*found[::step][: CHECKED - 1], found[-1]]
    columns = {} if view is None else {"dim": int(view.row["dim"]), "first_column": view.first_column}
    keys = ("utterance_id", "first_frame", "frames", "dim", "checksum")
    where = [FeatureRow(**{key: row[key] for key in keys} | columns, path=cache.root / row["shard"]) for row in chosen]
    return load_packed(where, verify=cache.verify)
