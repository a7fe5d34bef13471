"""What stands in a table without being asked for: the reference rows on functionals, and the head where none is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tfser.heads import REFERENCE_FEATURES, REFERENCE_HEADS, TABLE_ONE, head
from tfser.heads.runs import references as module
from tfser.heads.runs.experiment import resolve
from tfser.heads.runs.head_choice import with_head
from tfser.heads.runs.plan import plan_sweep
from tfser.heads.runs.references import reference_features
from tfser.heads.runs.request import HeadBlock, Request, SweepRequest
from tfser.manifests.cache import Cache
from tfser.manifests.errors import UsageError
from tfser.manifests.utterances import Utterance

IDS = [f"u{i:02d}" for i in range(12)]
ON_FRAMES = SweepRequest(heads=(HeadBlock(name="mean_pool"),), features=("enc/3",), device="cpu")

Put = Callable[..., None]


@pytest.fixture
def put(cache: Cache, put_corpus: Any, put_stack: Any) -> Put:
    """Put features of three speakers' utterances into a cache: a frame each if they are functionals, else five."""
    put_corpus(
        cache,
        [Utterance(utterance_id=i, path=f"{i}.wav", speaker=f"s{n % 3}", label="ab"[n // 3 % 2]) for n, i in enumerate(IDS)],
        default_protocol="loso-speaker",
    )

    def put_set(name: str, ids: list[str] = IDS, *, layers: int = 1, functionals: bool = False) -> None:
        rng = np.random.default_rng(1)
        t = 1 if functionals else 5
        config = {"per": "utterance", "name": name} if functionals else {"name": name}
        frames = {i: rng.standard_normal((t, 4 * layers)).astype(np.float32) for i in ids}
        put_stack(cache, frames, layers, name=name, config=config)

    return put_set


@pytest.mark.slow
def test_reference_rows_stand_on_functionals_where_every_utterance_has_them(cache: Cache, put: Put) -> None:
    put("enc/3")
    put(REFERENCE_FEATURES, functionals=True)
    assert reference_features(cache, "toy").name == REFERENCE_FEATURES
    plan = plan_sweep(cache, ON_FRAMES)
    rows = {(entry.experiment.spec.name, entry.experiment.feature_set) for entry in plan.entries}
    references = {(name, features) for name in REFERENCE_HEADS for features in ("enc/3", REFERENCE_FEATURES)}
    assert rows == {("mean_pool", "enc/3")} | references
    assert plan.references and plan.lacking is None
    bare = plan_sweep(cache, replace(ON_FRAMES, reference=False))
    assert [entry.experiment.spec.name for entry in bare.entries] == ["mean_pool"] and bare.lacking is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (HeadBlock(name="logreg", recipes=("speaker",)), {("logreg", "speaker", 0), ("logreg", "default", 0)}),
        (HeadBlock(name="logreg", seeds=(3,)), {("logreg", "default", 3)}),
    ],
)
def test_a_reference_head_asked_for_in_another_way_has_its_plain_row_too(
    cache: Cache, put: Put, block: HeadBlock, expected: set[tuple[str, str, int]]
) -> None:
    """Found on EmoDB: a sweep of `logreg` by speaker alone had nothing plain to be compared with."""
    put("enc/3")
    plan = plan_sweep(cache, SweepRequest(heads=(block,), features=("enc/3",), device="cpu"))
    assert {(of.experiment.spec.name, of.experiment.recipe_name, of.experiment.seed) for of in plan.entries} == {
        *expected,
        ("svm", "default", 0),
    }
    asked = [entry for entry in plan.entries if not entry.reference]
    assert [of.experiment.spec.name for of in asked] == ["logreg"] and plan.references


@pytest.mark.slow
@pytest.mark.parametrize(("have", "words"), [(0, "the utterances of toy have no"), (11, "some utterances of toy have no")])
@pytest.mark.parametrize("installed", [True, False])
def test_a_table_without_them_says_what_is_missing_and_how_it_is_had(
    cache: Cache, put: Put, monkeypatch: pytest.MonkeyPatch, have: int, words: str, installed: bool
) -> None:
    """One utterance without them is enough: the rows would stand on others than the rest of the table."""
    put("enc/3")
    if have:
        put(REFERENCE_FEATURES, IDS[:have], functionals=True)
    monkeypatch.setattr(module, "is_installed", lambda: installed)
    plan = plan_sweep(cache, ON_FRAMES)
    assert {entry.experiment.feature_set for entry in plan.entries} == {"enc/3"}
    assert plan.lacking is not None and words in plan.lacking
    assert f"`tfser extract --corpus toy --features {REFERENCE_FEATURES}`" in plan.lacking
    assert ("`pip install '.[opensmile]'`" in plan.lacking) == (not installed)


def test_one_corpus_of_two_that_lacks_them_is_named_alone(cache: Cache, put: Put, put_corpus: Any, put_stack: Any) -> None:
    put(REFERENCE_FEATURES, functionals=True)
    put_corpus(cache, [Utterance(utterance_id="v", path="v.wav", speaker="t", label="a")], corpus="other")
    put_stack(cache, {"v": np.ones((5, 4), np.float32)}, 1, name="enc/3", corpus="other", config={"name": "enc/3"})
    found = reference_features(cache, "toy+other")
    assert found.name is None and found.lacking is not None
    assert "--corpus other" in found.lacking and "--corpus toy" not in found.lacking


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("features", "layers", "functionals", "chosen", "words"),
    [
        ("enc/3", 1, False, "probe", "the default for frames"),
        ("enc/all", 3, False, "probe", "the default for 3 layers side by side"),
        ("egemaps", 1, True, "logreg", "the default for one vector an utterance"),
    ],
)
def test_the_head_where_none_is_named_follows_from_the_kind_of_features(
    cache: Cache, put: Put, features: str, layers: int, functionals: bool, chosen: str, words: str
) -> None:
    put(features, layers=layers, functionals=functionals)
    request, why = with_head(cache, Request(device="cpu"))
    assert request.head == chosen and why is not None and f"head {chosen}" in why and words in why
    experiment = resolve(cache, Request(device="cpu"))
    assert experiment.spec.name == chosen and why in experiment.chosen
    # It is the very experiment of whoever names the head.
    named = resolve(cache, Request(head=chosen, device="cpu"))
    assert named.name == experiment.name and why not in named.chosen


def test_a_named_head_is_taken_and_several_feature_sets_are_asked_back_about(cache: Cache, put: Put) -> None:
    put("enc/3")
    put("other/5")
    assert with_head(cache, Request(head="svm"))[1] is None
    with pytest.raises(UsageError, match=r"enc/3.*other/5"):
        with_head(cache, Request())
    assert with_head(cache, Request(features="other/5"))[0].head == "probe"


@pytest.mark.slow
def test_heads_that_look_along_time_refuse_one_vector_an_utterance(cache: Cache, put: Put) -> None:
    put("egemaps", functionals=True)
    for name in (name for name in TABLE_ONE if not head(name).reads):
        with pytest.raises(UsageError, match=rf"egemaps.*{name}|{name}.*egemaps"):
            resolve(cache, Request(head=name, features="egemaps", device="cpu"))
