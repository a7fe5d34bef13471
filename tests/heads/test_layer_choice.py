"""Which layer: the choice is nested, its score is that of the chosen heads, and `tfser layers` prints and draws it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfser.heads.results.layer_choice import _composite, _Read
from tfser.heads.results.outcomes import CLUSTERS, Outcome, Subject
from tfser.heads.runs.layer_plan import plan_layers
from tfser.heads.runs.request import LayerRequest
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import UsageError
from tfser.manifests.utterances import Utterance

from ..conftest import run

M, D = 3, 4
NAMES = [f"{speaker}{i:02d}" for speaker in "abcd" for i in range(12)]
FAST = ("--device", "cpu", "--threads", "1", "--no-keep-memory")


@pytest.fixture(autouse=True)
def filled(cache: Cache, put_corpus: Any, put_stack: Any, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """Four speakers of two classes: layer 1 tells the classes apart, layer 2 hardly, layer 0 not at all."""
    emotions = ("anger", "fear")
    put_corpus(
        cache,
        [
            Utterance(utterance_id=n, path=f"{n}.wav", speaker=n[0], label=emotions[i % 2], arousal=1 + i % 2 + i / 12)
            for n in NAMES
            for i in (int(n[1:]),)
        ],
        adapter="synthetic",  # whose scale is known
        default_protocol="loso-speaker",
    )
    rng = np.random.default_rng(0)
    frames = {n: rng.standard_normal((5, M * D)).astype(np.float32) for n in NAMES}
    for n, of in frames.items():
        of[:, D : 2 * D] += 0.8 * (int(n[1:]) % 2)
        of[:, 2 * D :] += 0.2 * (int(n[1:]) % 2)
    put_stack(cache, frames, M, name="enc/all+float16", dtype="float16")
    monkeypatch.setenv("TFSER_CACHE", str(cache.root))
    return cache


def layers(*more: str) -> tuple[list[dict[str, Any]], Any]:
    result = run("layers", "--features", "enc/all", "--format", "json", *FAST, *more)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout), result


def test_the_chosen_layer_is_that_of_validation_and_its_score_that_of_its_heads(filled: Cache, tmp_path: Path) -> None:
    early = run("plot", "layers", "--features", "enc/all", "--output", str(tmp_path / "none.svg"))
    assert early.exit_code == 2 and "of logreg on" in early.stderr and "`tfser layers --features enc` trains them" in early.stderr
    found, _ = layers("--mix", "none", "--output", str(tmp_path / "layers.svg"))
    assert [row["what"] for row in found] == ["layer 0", "layer 1", "layer 2", "all side by side", "chosen"]
    assert {row["validation"] for row in found} == {"next-group"}
    with open_catalogue(filled) as connection:
        validated = rows(
            connection,
            "SELECT r.fold, r.feature_set, h.val_UA FROM runs r JOIN history h USING (run_id) "
            "WHERE feature_set <> 'enc/all+float16'",
        )
        said = rows(connection, "SELECT feature_set, fold, label, hit FROM test_predictions JOIN runs USING (run_id, fold)")
    folds = sorted({row["fold"] for row in validated})
    assert len(validated) == len(folds) * M
    best = {fold: min((-row["val_UA"], row["feature_set"]) for row in validated if row["fold"] == fold)[1] for fold in folds}
    for row in found[:M]:
        assert row["chosen_in"] == sum(name == row["features"] for name in best.values())
        own = [of["val_UA"] for of in validated if of["feature_set"] == row["features"]]
        assert row["validation_UA"] == pytest.approx(np.mean(own))
    hits = [row for row in said if best[row["fold"]] == row["feature_set"]]
    recalls = [np.mean([row["hit"] for row in hits if row["label"] == label]) for label in ("anger", "fear")]
    assert found[-1]["pooled_UA"] == pytest.approx(np.mean(recalls)) and found[-1]["chosen_in"] == len(folds)
    assert found[1]["pooled_UA"] > found[0]["pooled_UA"] + 0.2 and found[1]["chosen_in"] >= 3
    assert found[1]["pooled_UA_low"] < found[1]["pooled_UA"] < found[1]["pooled_UA_high"]

    # Once more, for people: nothing is trained twice, and the drawing has the same bytes.
    first = (tmp_path / "layers.svg").read_bytes()
    words = ("--features", "enc", "--mix", "none", "--format", "markdown", "--output", str(tmp_path / "layers.svg"))
    result = run("layers", *words, *FAST)
    assert result.exit_code == 0 and "found finished" in result.stderr, result.stderr
    assert (tmp_path / "layers.svg").read_bytes() == first and b"<svg" in first
    assert "| layer | head | validation UA | chosen |" in result.stdout and "| chosen |" in result.stdout
    assert "layer 1 does best on the validation speakers of all 4 folds (next-group): --features enc/1+float16" in result.stderr
    assert "chosen against the last layer (2), the same speakers: UA +" in result.stderr


@pytest.mark.slow
def test_layers_are_chosen_by_dimensions_too(filled: Cache) -> None:
    """By the mean CCC of ridge on the validation speakers; the choice is scored over the speakers as each layer is."""
    found, _ = layers("--mix", "none", "--target", "arousal")
    assert [row["what"] for row in found] == ["layer 0", "layer 1", "layer 2", "all side by side", "chosen"]
    assert {row["head"] for row in found[:M]} == {"ridge"} and found[-1]["chosen_in"] == 4
    assert found[1]["pooled_CCC"] > found[0]["pooled_CCC"] and found[1]["chosen_in"] >= 3
    assert all(row["pooled_CCC_low"] < row["pooled_CCC"] < row["pooled_CCC_high"] for row in found)


@pytest.mark.slow
def test_a_mix_stands_beside_the_layers_and_says_their_weights() -> None:
    found, _ = layers("--epochs", "1", "--fold", "1,2")
    by = {row["what"]: row for row in found}
    assert by["learned mix"]["head"] == "mean_pool" and by["all side by side"]["head"] == "logreg"
    assert sum(row["mix_weight"] for row in found[:M]) == pytest.approx(1, abs=1e-6)
    assert {row["runs"] for row in found} == {2}


@pytest.mark.slow
def test_without_validation_nothing_is_chosen() -> None:
    found, _ = layers("--validation", "none", "--mix", "none", "--fold", "1")
    assert [row["what"] for row in found] == ["layer 0", "layer 1", "layer 2", "all side by side"]
    assert all(row["chosen_in"] is None and row["validation_UA"] is None for row in found)


REFUSED = [
    (("--features", "enc/1"), "this is one layer; name all of them: enc/all"),
    (("--features", "other"), "no layers of other of toy in the cache; `tfser extract --corpus toy"),
    (("--features", "enc", "--mix", "svm"), "--mix svm: it is fitted at once and learns no mix"),
    (("--output", "layers.docx"), "name a file that ends in .png, .svg, .pdf"),
    (("--selection", "test-oracle"), "it looked at the test side"),
    (("--selection", "best"), "best"),
    (("--selection", "val", "--validation", "none"), "needs validation utterances"),
]
"""What is asked wrongly, and what the line says."""


@pytest.mark.slow
def test_wrong_requests_get_one_line_and_exit_2(filled: Cache) -> None:
    for words, said in REFUSED:
        result = run("layers", *FAST, *words)
        assert result.exit_code == 2 and said in result.stderr, result.stderr
        assert not list(filled.runs.glob("*")), "what is refused is refused before anything is trained"


@pytest.mark.slow
def test_the_only_stack_need_not_be_named(filled: Cache) -> None:
    plan = plan_layers(filled, LayerRequest(device="cpu", mix="none"))
    assert sorted(plan.layers) == [0, 1, 2] and plan.of.stored == "enc/all+float16"
    with pytest.raises(UsageError, match="unknown head 'no'"):
        plan_layers(filled, LayerRequest(head="no", device="cpu"))


def test_one_layer_s_leak_is_one_of_the_layers_that_folds_chose() -> None:
    def read(layer: int, **standing: str) -> _Read:
        outcome = Outcome(
            subject=Subject(experiment=f"of layer {layer}"),
            selection="last",
            level="utterance",
            **standing,
            seeds=(0,),
            dropped=(),
            keys=(("toy", "a", None), ("toy", "b", None)),
            folds=(1, 2),
            labels=("anger", "fear"),
            predicted=(("anger", "anger"),),
            who=dict.fromkeys(CLUSTERS, ("x", "y")),
        )
        entry: Any = None  # what was trained is not asked for
        return _Read(layer=layer, words="", entry=entry, selection="last", scores={}, outcome=outcome)

    layers = {1: read(1, audit="passed", speakers_kept="kept"), 2: read(2, audit="gaps", speakers_kept="broken")}
    chosen = _composite(layers, {1: 1, 2: 2}).outcome
    assert (chosen.audit, chosen.speakers_kept) == ("gaps", "broken")
