"""Figures of a run on one layer read it out of the stored stack, as training did."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tfser.heads.reports import inside_data, paper_data
from tfser.heads.reports.corpus_data import how_made
from tfser.heads.reports.material import read_material
from tfser.heads.reports.stored_frames import feature_sets
from tfser.heads.results.papers import missing
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue
from tfser.manifests.errors import TfserError, UsageError

from .. import stored_runs as stored

M, D, RUN = 3, 4, "mean_pool-layer"


@pytest.fixture
def frames(cache: Cache, put_corpus: Any, put_stack: Any) -> dict[str, np.ndarray]:
    """A stack alone in the cache, and an experiment on its layer 1; frames (5, M*D) of each utterance."""
    utterances = stored.make_utterances(speakers=2)
    put_corpus(cache, utterances)
    rng = np.random.default_rng(0)
    made = {u.utterance_id: rng.standard_normal((5, M * D)).astype(np.float32) for u in utterances}
    put_stack(cache, made, M)
    with open_catalogue(cache) as connection:
        layer = feature_sets(connection)["enc/1"]
    stored.put_experiment(cache, RUN, utterances, feature_set="enc/1", fingerprint=layer.row["fingerprint"])
    return made


def test_every_figure_of_frames_reads_the_layer_out_of_its_stack(cache: Cache, frames: dict[str, np.ndarray]) -> None:
    name, ours = "s0u00", slice(D, 2 * D)
    with open_catalogue(cache) as connection:
        (one,) = read_material(cache, connection, [RUN]).members
        # Of the inside of a head.
        fingerprint = feature_sets(connection)["enc/1"].row["fingerprint"]
        run = {"run_id": "r", "feature_set": "enc/1", "fingerprint": fingerprint}
        packed, hop_s = inside_data._features(cache, connection, run, {"corpus": "toy", "utterance_id": name})
        assert np.array_equal(packed.frames, frames[name][:, ours]) and hop_s == 0.02
        # Of an embedding: the run's own layer, or one that is named.
        for asked, columns in ((None, ours), ("enc/2", slice(2 * D, 3 * D))):
            called, means, keys = paper_data._mean_frames(cache, connection, one, asked)
            assert called == (asked or "enc/1") and len(keys) == len(frames)
            assert means == pytest.approx(np.stack([frames[u][:, columns].mean(axis=0) for _, u in keys]), abs=1e-6)
        assert paper_data.embed(cache, connection, one, "pca").feature_set == "enc/1"
        # Of one utterance.
        view = paper_data.features_of(cache, connection, name, feature_sets=("enc/1",), has_sound=False)
        assert np.array_equal(view.frames["enc/1"][0], frames[name][:, ours])
        with pytest.raises(UsageError, match="enc/7"):
            paper_data.features_of(cache, connection, name, feature_sets=("enc/7",), has_sound=False)


def test_a_paper_s_layer_is_there_where_its_stack_is(cache: Cache, frames: dict[str, np.ndarray]) -> None:
    assert missing(cache, "toy", "enc/1") is None and missing(cache, "toy", "enc/last") is None
    assert "tfser extract --corpus toy --features enc/7" in str(missing(cache, "toy", "enc/7"))


def test_the_foot_of_a_report_says_which_encoder_a_layer_is_of(cache: Cache, put_stack: Any) -> None:
    utterances = stored.make_utterances(speakers=2)
    stored.put_utterances(cache, utterances)
    some = {u.utterance_id: np.zeros((2, M * D), dtype=np.float32) for u in utterances}
    put_stack(cache, some, M, config={"weights": "0123456789abcdef"})
    with open_catalogue(cache) as connection:
        fingerprint = feature_sets(connection)["enc/1"].row["fingerprint"]
    stored.put_experiment(cache, RUN, utterances, feature_set="enc/1", fingerprint=fingerprint)
    with open_catalogue(cache) as connection:
        (one,) = read_material(cache, connection, [RUN]).members
        assert "0123456789abcdef" in str(how_made(connection, one))


def test_a_set_that_bears_the_name_by_now_never_stands_in(cache: Cache, frames: dict[str, np.ndarray], put_stack: Any) -> None:
    """A newer `enc/1` of other numbers is not what the run was trained on: it is drawn when it is asked for by name alone."""
    other = {name: np.zeros((5, D), dtype=np.float32) for name in frames}
    put_stack(cache, other, 1, name="enc/1", config={"layer": "1", "weights": "others"})
    with open_catalogue(cache) as connection:
        (one,) = read_material(cache, connection, [RUN]).members
        with pytest.raises(UsageError, match="no enc/1 frames with the fingerprint"):
            paper_data._mean_frames(cache, connection, one, None)
        assert paper_data._mean_frames(cache, connection, one, "enc/1")[1].max() == 0
        with pytest.raises(TfserError, match="no longer in the cache"):
            inside_data._features(cache, connection, {"run_id": "r", "feature_set": "enc/1", "fingerprint": "gone"},
                                  {"corpus": "toy", "utterance_id": "s0u00"})  # fmt: skip
