"""A cache in a notebook: SQL, utterances, folds, features in the shapes that people use, training and its scores.

What comes in: a cache's folder. What goes out: Arrow tables, pandas frames, NumPy arrays, torch and Hugging Face data
sets, trained heads. This is `tfser.Cache` of the Python surface (docs/python.md): what stands here is stable. Everything
is computed where the command line computes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from tfser.heads.prediction.exchange import as_hugging_face
from tfser.heads.prediction.frames import StoredFrames, feature_rows
from tfser.heads.prediction.python_values import a_text, maybe_text, seeds_of, texts, training_request
from tfser.heads.results.dimension_tables import table_beside
from tfser.heads.results.rater_scores import label_maps
from tfser.heads.results.score_tables import Wanted, table
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.catalogue.statements import select_arrow
from tfser.manifests.connections import quote
from tfser.manifests.errors import UsageError
from tfser.manifests.experiment_names import meant_by
from tfser.manifests.splits.choose import choose_corpus, choose_protocol
from tfser.pipeline.shards.packed import PackedFeatures, load_packed

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from tfser.heads.prediction.datasets import UtteranceFrames
    from tfser.heads.prediction.notebook_models import TrainedExperiment, TrainedModel


class TrainingOptions(TypedDict, total=False):
    """What `Cache.train` can be asked beside the head: fields of the command line's own `Request`, under the same names."""

    features: str | None
    """A feature set; the head's favourite if left out."""
    corpus: str | None
    """May be left out if there is one."""
    protocol: str | None
    """The corpus's default if left out."""
    folds: str | int | Sequence[int]
    """A number, a list (1,3), a range (2-4), all, or none: one model on all utterances. All if left out."""
    preset: str | None
    """Variant of the head."""
    recipe: str | None
    """Way of training."""
    epochs: int | None
    """Instead of the recipe's number."""
    width: int | None
    """Of the network, for heads that have one."""
    target: str | Sequence[str]
    """Dimensions to learn instead of classes: valence, arousal, dominance."""
    labels: str | None
    """A label map."""
    labels_from: str | None
    """Label, or distribution: train to the raters' votes."""
    validation: str | None
    """Who validates."""
    device: str
    """Auto, cpu, cuda ..."""
    stack: bool
    """On a GPU: train folds and seeds together; runs of their own."""
    again: bool
    """Train again what is finished; the old run stays until then."""
    allow_leaks: bool
    """Train a fold in which the audit finds leaks; the run says so."""
    allow_gaps: bool
    """Train a fold that lacks something; the run says so."""


class NotebookCache(Cache):
    """A cache folder, as `tfser.Cache`: `tfser.Cache()` is the one that the command line takes, `tfser.Cache("folder")`
    another."""

    def __init__(self, root: str | Path | None = None) -> None:
        super().__init__(None if root is None else Path(root))

    # What is known.

    def sql(self, query: str) -> pa.Table:
        """Return the answer to one SELECT over the catalogue (docs/schema.md) as an Arrow table.

        Raises:
            UsageError: it is no SELECT, or names what is not there.
        """
        statement = a_text("sql", query)
        with open_catalogue(self) as connection:
            return select_arrow(connection, statement)

    def pandas(self, query: str) -> pd.DataFrame:
        """Return the answer to one SELECT as a pandas DataFrame.

        Raises:
            UsageError: as `sql`; pandas is not installed.
        """
        table = self.sql(query)
        try:
            return table.to_pandas()
        except ImportError as error:
            raise UsageError("pandas is not installed: pip install pandas, or take sql(), which gives an Arrow table") from error

    def utterances(self, corpus: str | None = None) -> pa.Table:
        """Return the rows of a corpus, or of all: who speaks, what is labelled, where the audio is, how long it is."""
        where = "" if corpus is None else f" WHERE corpus = {quote(choose_corpus(self, a_text('corpus', corpus)))}"
        return self.sql(f"SELECT * FROM utterances{where} ORDER BY corpus, utterance_id")

    def folds(
        self,
        protocol: str | None = None,
        corpus: str | None = None,
        *,
        labels: str | None = None,
        validation: str | None = None,
    ) -> pa.Table:
        """Return who is in which fold of a protocol: fold, role, corpus, utterance_id, label, speaker.

        Args:
            protocol: a name or a file my.toml; the corpus's default if left out.
            corpus: may be left out if there is one.
            labels: a label map, such as `common4`.
            validation: who validates, such as `next-group`.
        """
        chosen, name = choose_protocol(
            self,
            maybe_text("corpus", corpus),
            maybe_text("protocol", protocol),
            labels=maybe_text("labels", labels),
            validation=maybe_text("validation", validation),
        )
        several = ", ".join(quote(part) for part in chosen.split("+"))
        return self.sql(
            "SELECT fold, role, corpus, utterance_id, label, speaker FROM fold_utterances "
            f"WHERE protocol = {quote(name)} AND corpus IN ({several}) ORDER BY fold, role, corpus, utterance_id"
        )

    # Features.

    def features(self, feature_set: str, corpus: str | None = None) -> StoredFrames:
        """Return the frames of a feature set as a mapping {utterance_id: (frames, dim) array}, memory-mapped.

        Nothing is read before it is asked for; each utterance is compared with its checksum then. Arrays are read-only
        views.
        """
        return StoredFrames(self, feature_rows(self, feature_set, corpus))

    def packed(self, feature_set: str, corpus: str | None = None, utterances: Sequence[str] | None = None) -> PackedFeatures:
        """Return all frames as one array: `frames` (sum of frames, dim), `offsets` (n + 1,), `utterance_ids`.

        Args:
            feature_set: a name, or enough of one.
            corpus: may be left out if there is one.
            utterances: only these, in this order.
        """
        wanted = None if utterances is None else texts("utterances", utterances)
        found = {row["utterance_id"]: row["where"] for row in feature_rows(self, feature_set, corpus)}
        names = list(found) if wanted is None else wanted
        if missing := [name for name in names if name not in found]:
            raise UsageError(f"{feature_set} has no frames of {', '.join(missing[:3])}")
        return load_packed([found[name] for name in names], verify=self.verify)

    def dataset(
        self,
        feature_set: str,
        corpus: str | None = None,
        *,
        protocol: str | None = None,
        fold: int | None = None,
        role: str | None = None,
    ) -> UtteranceFrames:
        """Return a `torch.utils.data.Dataset` of utterances; `tfser.collate` makes batches of what it gives.

        Args:
            feature_set: a name, or enough of one.
            corpus: may be left out if there is one.
            protocol: whose classes the labels are; left out, the corpus's own labels.
            fold: with a protocol: only this fold ...
            role: ... and only its train, val or test side.
        """
        from tfser.heads.prediction.datasets import UtteranceFrames

        members = None
        if protocol is not None or fold is not None or role is not None:
            members = self._members(protocol, corpus, fold, role)
        return UtteranceFrames(self, feature_rows(self, feature_set, corpus), members)

    def _members(self, protocol: str | None, corpus: str | None, fold: int | None, role: str | None) -> dict[str, str]:
        """Return the label of each utterance of a side of a fold."""
        table = self.folds(protocol, corpus).to_pylist()
        chosen = [row for row in table if fold in (None, row["fold"]) and role in (None, row["role"])]
        if not chosen:
            raise UsageError(f"no utterance is in fold {fold}, role {role}")
        return {row["utterance_id"]: row["label"] for row in chosen}

    def hugging_face(self, feature_set: str, corpus: str | None = None) -> Any:
        """Return a Hugging Face `datasets.Dataset`: utterance_id, speaker, label, features (frames, dim).

        Raises:
            UsageError: `datasets` is not installed.
        """
        return as_hugging_face(self, feature_set, corpus)

    # Training, and what came of it.

    def train(
        self,
        head: str,
        *,
        settings: Mapping[str, object] | None = None,
        seeds: int | str | Sequence[int] = (0,),
        **asked: Unpack[TrainingOptions],
    ) -> TrainedExperiment:
        """Train a head under a protocol, as `tfser train` does: audited, found again if it is finished, resumed if it was
        killed.

        Args:
            head: a name of `tfser heads`, or one of `tfser.register_head`.
            settings: of the head or the recipe, by name.
            seeds: each trains the folds anew; a number, several, or a text such as "0-4".
            asked: the options of `tfser train`, by the names of `TrainingOptions`; what is left out is chosen as there.

        Raises:
            UsageError: a name is unknown, or the cache leaves a choice.
            TfserError: an audit forbids a fold.
        """
        from tfser.heads.prediction.notebook_models import train_experiment

        return train_experiment(self, training_request(head, settings, asked), seeds_of(seeds))

    def scores(self, experiment: str | None = None, *, by: str | None = None) -> list[dict[str, Any]]:
        """Return scores over folds and seeds with intervals over speakers: the rows of `tfser scores --format json`.

        Those of dimensions come behind those of classes, a row a dimension.

        Args:
            experiment: an id, a name, or a piece of it; all if left out.
            by: seed, fold, class, speaker, session, calibration, agreement or raters: a row each, instead of a row an experiment.
        """
        named = maybe_text("experiment", experiment)
        with open_catalogue(self) as connection:
            wanted = Wanted(experiment=None if named is None else meant_by(self, named))
            found = table(connection, wanted, by=by, maps=label_maps(self, connection) if by == "raters" else None)
            return found + table_beside(connection, found, wanted, by=by)

    def model(
        self,
        name: str,
        *,
        ensemble: bool = False,
        selection: str = "last",
        weights: str | None = None,
        calibrated: bool = False,
        device: str = "cpu",
    ) -> TrainedModel:
        """Return a trained head that can be called on a waveform; see `tfser.load`."""
        from tfser.heads.prediction.notebook_models import load

        return load(
            name, cache=self, ensemble=ensemble, selection=selection, weights=weights, calibrated=calibrated, device=device
        )

    def feature_sets(self) -> list[str]:
        """Return the names of the feature sets in this cache."""
        with open_catalogue(self) as connection:
            return [row["feature_set"] for row in rows(connection, "SELECT feature_set FROM feature_sets ORDER BY 1")]
