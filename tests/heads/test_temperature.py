"""Temperature scaling: the number, where it is stored, and what `scores --by calibration` says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tfser.heads.results.calibration import bound_note
from tfser.heads.spec.recipes import Recipe
from tfser.heads.training.temperature import LEAST, MOST, fit_temperature, scaled
from tfser.manifests.cache import Cache

from ..conftest import fill_with_tones, run


def test_it_undoes_what_made_a_head_too_sure():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3))
    true = torch.softmax(torch.from_numpy(logits), dim=1).numpy()
    labels = np.array([rng.choice(3, p=row) for row in true])
    sure = torch.softmax(torch.from_numpy(3 * logits), dim=1).numpy()
    temperature = fit_temperature(sure, labels)
    assert temperature == pytest.approx(3, rel=0.1)
    np.testing.assert_allclose(scaled(sure, 3.0), true, atol=1e-6)
    assert (scaled(sure, temperature).argmax(axis=1) == sure.argmax(axis=1)).all()
    best = -np.log(scaled(sure, temperature)[np.arange(4000), labels]).mean()
    others = [-np.log(scaled(sure, t)[np.arange(4000), labels]).mean() for t in (temperature * 0.97, temperature * 1.03)]
    assert best < min(others)


def test_it_stays_in_its_bounds():
    right, wrong = np.array([[0.9, 0.1]] * 5), np.array([[0.1, 0.9]] * 5)
    labels = np.zeros(5, dtype=np.int64)
    assert LEAST <= fit_temperature(right, labels) < 0.1
    assert MOST * 0.99 < fit_temperature(wrong, labels) <= MOST
    with pytest.raises(ValueError, match="no utterances"):
        fit_temperature(np.empty((0, 2)), np.empty(0, dtype=np.int64))
    assert "temperature" not in Recipe().identity()


@pytest.mark.slow
def test_from_the_option_to_the_scores(tmp_path):
    cache = Cache(tmp_path / "cache")
    fill_with_tones(cache, tmp_path, each=(3, 3, 3), noise=0.3)
    words = ("train", "--corpus", "toy", "--head", "mean_pool", "--epochs", "2", "--threads", "1", "--cache", cache.root)
    refused = run(*words, "--set", "temperature=true")
    assert refused.exit_code == 2 and "--validation" in refused.output
    options = ("--validation", "next-group")
    for more in ((), ("--set", "temperature=true")):
        found = run(*words, *options, *more)
        assert found.exit_code == 0, found.output
    about = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(cache.runs.glob("*/run.json"))]
    of = {run_["config"]["recipe_config"]["temperature"]: run_["temperature"] for run_ in about}
    assert of[False] is None and of[True].keys() == {"last", "val", "test-oracle"}
    table = json.loads(run("scores", "--by", "calibration", "--format", "json", "--cache", cache.root).stdout)
    rows = {(row["recipe"].endswith("temperature=True"), row["selection"]): row for row in table}
    with_it, without = rows[True, "last"], rows[False, "last"]
    # The same training and the same predictions; only what is said beside them differs.
    assert [with_it[name] for name in ("NLL", "Brier", "ECE")] == [without[name] for name in ("NLL", "Brier", "ECE")]
    assert without["temperature"] is None and without["NLL_scaled"] is None
    query = (
        "SELECT p.run_id, label, probabilities, r.temperature FROM predictions p JOIN runs r USING (run_id) "
        "WHERE r.temperature IS NOT NULL AND p.selection = 'last' AND p.level = 'utterance'"
    )
    told = json.loads(run("sql", query, "--format", "json", "--cache", cache.root).stdout)
    losses = []
    for row in told:
        at = json.loads(row["temperature"])["last"]
        values = scaled([list(row["probabilities"].values())], at)[0]
        losses.append(-np.log(dict(zip(row["probabilities"], values, strict=True))[row["label"]]))
    assert with_it["NLL_scaled"] == pytest.approx(np.mean(losses), abs=1e-5)
    # Three utterances validate: where they are all right, no temperature follows, and that is said.
    bounds = [json.loads(row["temperature"])["last"] for row in told]
    at_ends = {row["run_id"] for row, t in zip(told, bounds, strict=True) if t < 1.01 * LEAST or t > 0.99 * MOST}
    assert without["notes"] == [] and bool(with_it["notes"]) == bool(at_ends)
    assert bound_note(9, 2, 1).startswith("2 of 9 runs at T = 0.05 (those validating were all right), 1 of 9 runs at T = 20 (")
    shown = run("scores", "--by", "calibration", "--cache", cache.root)
    assert {"NLL", "at", "T"} <= {*shown.stdout.split()}  # in how many lines depends on the width
    tested = {row["run_id"] for row in told_of(cache)}
    hears_it(cache, next(run_["run_id"] for run_ in about if run_["run_id"] in tested), tmp_path)
    without = next(run_["run_id"] for run_ in about if run_["run_id"] not in tested)
    refused = run("predict", without, tmp_path / "a", "--calibrated", "--cache", cache.root)
    assert refused.exit_code == 2 and "--set temperature=true" in refused.stderr


def told_of(cache: Cache) -> list[dict[str, Any]]:
    """Return the stored test predictions of the runs that have a temperature."""
    query = (
        "SELECT p.run_id, p.utterance_id, p.probabilities, r.temperature FROM predictions p JOIN runs r USING (run_id) "
        "WHERE r.temperature IS NOT NULL AND p.selection = 'last' AND p.level = 'utterance'"
    )
    return list(json.loads(run("sql", query, "--format", "json", "--cache", cache.root).stdout))


def hears_it(cache: Cache, run_id: str, folder: Path) -> None:
    """Check that new audio is predicted as it was stored, or at the run's temperature where that is asked for."""
    stored = [row for row in told_of(cache) if row["run_id"] == run_id]
    speaker = stored[0]["utterance_id"].split("/")[0]
    assert run("export", run_id, folder / "model", "--cache", cache.root).exit_code == 0
    assert "with `--calibrated`" in (folder / "model" / "README.md").read_text(encoding="utf-8")
    for model in (run_id, folder / "model"):
        words = ("predict", model, folder / speaker, "--cache", cache.root, "--format", "json")
        plain, calibrated = (json.loads(run(*words, *more).stdout) for more in ((), ("--calibrated",)))
        assert calibrated["temperature"] == {run_id: json.loads(stored[0]["temperature"])["last"]} and "temperature" not in plain
        for row in stored:
            key = "/".join(row["utterance_id"].removesuffix(".wav").split("/")[-2:])
            raw, sure = ({Path(of["input"]).stem: of["probabilities"] for of in found["predictions"]}[Path(key).name]
                         for found in (plain, calibrated))  # fmt: skip
            assert raw == pytest.approx(row["probabilities"], abs=1e-6)
            wanted = scaled([list(raw.values())], calibrated["temperature"][run_id])[0]
            assert list(sure.values()) == pytest.approx(list(wanted), abs=1e-6)
