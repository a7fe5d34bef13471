"""`tfser cache collapse` through the runner: train on all layers, write the mix, use it where it belongs and nowhere else."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tfser.manifests.cache import Cache
from tfser.manifests.utterances import Utterance

from .conftest import run

FAST = ("--epochs", "1", "--device", "cpu", "--threads", "1", "--no-keep-memory")


@pytest.fixture(autouse=True)
def _filled(cache: Cache, put_corpus: Any, put_stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two speakers of two classes, three layers of the width 4."""
    names = [f"{speaker}{i}" for speaker in "ab" for i in range(4)]
    put_corpus(
        cache,
        [Utterance(utterance_id=n, path=f"{n}.wav", speaker=n[0], label=("anger", "fear")[int(n[1]) % 2]) for n in names],
        default_protocol="loso-speaker",
    )
    rng = np.random.default_rng(0)
    put_stack(cache, {n: rng.standard_normal((6, 12)).astype(np.float32) for n in names}, 3)
    monkeypatch.setenv("TFSER_CACHE", str(cache.root))


@pytest.mark.slow
def test_a_run_s_mix_is_written_audited_and_held_to_its_fold(cache: Cache) -> None:
    result = run("train", "--head", "mean_pool", "--fold", "1", *FAST, "--format", "json")
    assert result.exit_code == 0, result.stderr
    run_id = json.loads(result.stdout)[0]["run_id"]

    weights = run("sql", "SELECT layer_weights->>'$.last[0]' AS first FROM runs", "--format", "json")
    assert weights.exit_code == 0, weights.stderr
    assert 0.2 < float(json.loads(weights.stdout)[0]["first"]) < 0.5

    done = run("cache", "collapse", "--run", run_id)
    assert done.exit_code == 0, done.stderr
    assert "8 utterances written, 0 were there" in done.stderr and "it belongs to loso-speaker fold 1" in done.stderr
    again = run("cache", "collapse", "--run", run_id)
    assert "0 utterances written, 8 were there" in again.stderr
    name = done.stderr.partition("toy / ")[2].partition(":")[0]
    listed = json.loads(run("cache", "ls", "--format", "json").stdout)
    assert {(e["feature_set"], e["dim"], e["live"]) for e in listed} == {("enc/all", 12, 8), (name, 4, 8)}

    assert run("audit").exit_code == 0  # a mix concerns nobody who does not use it
    audit = run("audit", "--features", name)
    assert audit.exit_code == 1 and "mix_of_other_fold" in audit.stdout
    own = run("train", "--head", "mean_pool", "--features", name, "--fold", "1", *FAST)
    assert own.exit_code == 0, own.stderr
    other = run("train", "--head", "mean_pool", "--features", name, "--fold", "2", *FAST)
    assert other.exit_code == 1 and "layer mix learned in another fold" in other.stderr
    assert "collapse a run of this very fold" in other.stderr
    allowed = run("train", "--head", "mean_pool", "--features", name, "--fold", "2", "--allow-leaks", *FAST)
    assert allowed.exit_code == 0, allowed.stderr


@pytest.mark.slow
def test_a_layer_is_bound_to_no_fold() -> None:
    done = run("cache", "collapse", "--features", "enc/all", "--layer", "2", "--corpus", "toy", "--dtype", "float16")
    assert done.exit_code == 0, done.stderr
    assert "toy / enc/2+float16: 8 utterances written" in done.stderr and "belongs" not in done.stderr
    result = run("train", "--head", "mean_pool", "--features", "enc/2+float16", *FAST)
    assert result.exit_code == 0, result.stderr


REFUSED = [
    ((), "say what to collapse"),
    (("--run", "x", "--features", "enc/all"), "say what to collapse"),
    (("--features", "enc/all"), "say what to collapse"),
    (("--features", "enc/all", "--layer", "3"), "--layer 3: a number from 0 to 2, last or mean"),
    (("--features", "enc/al", "--layer", "1"), "did you mean 'enc/all'?"),
    (("--run", "x"), "none that learned a layer mix"),
]


def test_wrong_requests_get_one_line_and_exit_2() -> None:
    for words, said in REFUSED:
        result = run("cache", "collapse", *words)
        assert result.exit_code == 2, result.stderr
        assert said in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_layer_of_a_stack_is_audited_and_trained_on_by_its_name() -> None:
    audit = run("audit", "--features", "enc/1")
    assert audit.exit_code == 0, audit.stderr
    assert run("audit", "--features", "enc/7").exit_code == 2
    trained = run("train", "--head", "logreg", "--features", "enc/each", "--fold", "1", *FAST, "--format", "json")
    assert trained.exit_code == 0, trained.stderr
    shown = run("sql", "SELECT feature_set FROM runs ORDER BY 1", "--format", "csv")
    assert shown.stdout.split() == ["feature_set", "enc/0", "enc/1", "enc/2"]
    listed = json.loads(run("cache", "ls", "--format", "json").stdout)
    assert [e["feature_set"] for e in listed] == ["enc/all"]  # and nothing was stored for it
