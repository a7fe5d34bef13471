"""`tfser audit` over protocols and over splits of others, through the runner: what it prints, and how it exits."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tfser.manifests.cache import Cache
from tfser.manifests.utterances import Utterance

from .conftest import run


@pytest.fixture
def here(cache: Cache, put_corpus) -> tuple[str, ...]:
    """The options that name a cache with one corpus of three speakers in two sessions."""
    rows = [
        Utterance(
            utterance_id=f"{s}_{i}",
            path=f"{s}/{i}.wav",
            speaker=s,
            session="A" if s == "anna" else "B",
            label=("anger", "sadness")[i % 2],
        )
        for s in ("anna", "bert", "carl")
        for i in range(4)
    ]
    put_corpus(cache, rows, default_protocol="loso-speaker")
    return ("--cache", str(cache.root))


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    lines = [f"{s}_{i},{'test' if i > 1 else 'train'}" for s in ("anna", "bert", "carl") for i in range(4)]
    path = tmp_path / "theirs.csv"
    path.write_text("\n".join(["id,split", *lines]) + "\n")
    return path


def test_a_leaking_split_exits_with_1_and_names_the_speakers(here, leaky):
    result = run("audit", "--split", leaky, *here)
    assert result.exit_code == 1
    assert "speakers on both sides of split:theirs.csv:" in result.stdout
    for speaker in ("anna", "bert", "carl"):
        assert f"{speaker}     1                    2                 2               0" in result.stdout
    assert "judged as keeping speakers apart: 1 finding that forbids training" in result.stderr
    assert run("audit", "--split", leaky, "--claims", "none", *here).exit_code == 0


@pytest.mark.slow
def test_formats(here, leaky):
    found = json.loads(run("audit", "--split", leaky, "--format", "json", *here).stdout)
    (overlap,) = [f for f in found if f["audit"] == "speaker_overlap"]
    assert (overlap["protocol"], overlap["corpus"], overlap["level"], overlap["rows"]) == ("split:theirs.csv", "toy", "error", 3)
    assert overlap["examples"][0] == {"speaker": "anna", "test_utterances": 2, "train_utterances": 2, "val_utterances": 0}
    rows = list(csv.DictReader(io.StringIO(run("audit", "--split", leaky, "--format", "csv", *here).stdout)))
    assert {r["audit"] for r in rows} == {f["audit"] for f in found}
    text = run("audit", "--split", leaky, "--format", "markdown", *here).stdout
    assert text.startswith("## Split audit: `split:theirs.csv` of toy fails") and "| anna | 1 | 2 | 2 | 0 |" in text
    own = run("audit", "--format", "markdown", *here)
    assert own.exit_code == 0 and own.stdout.startswith("## Split audit: `loso-speaker` of toy passes")


@pytest.mark.slow
def test_several_files_and_a_folder(here, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "train.txt").write_text("\n".join(f"x\\{s}_{i}.wav" for s in ("anna", "bert") for i in range(4)))
    (folder / "test.txt").write_text("\n".join(f"x/carl_{i}.wav" for i in range(4)) + "\nnobody\n")
    by_name = run("audit", "--split", folder / "train.txt", "--split", folder / "test.txt", *here)
    whole = run("audit", "--split", folder, *here)
    assert (by_name.exit_code, whole.exit_code) == (0, 0)
    assert "split:train.txt + test.txt: 13 rows, 12 utterances in 1 fold, 1 unknown" in by_name.stderr
    assert "split_unmatched" in whole.stdout and "nobody" in whole.stdout
    assert run("audit", "--split", folder, "--claims", "session", *here).exit_code == 1  # bert and carl share one


@pytest.mark.slow
def test_all_protocols(here):
    run("audit", "--protocol", "random-kfold:2", *here)
    result = run("audit", "--all", *here)
    assert result.exit_code == 0
    for name in ("loso-speaker", "loso-session", "random-kfold:2"):
        assert f"toy / {name}: all 12 utterances take part; no errors" in result.stderr
    assert result.stdout.startswith("protocol ")
    found = json.loads(run("audit", "--all", "--format", "json", *here).stdout)
    warned = {f["protocol"] for f in found if (f["audit"], f["level"]) == ("speaker_overlap", "warning")}
    assert warned == {"random-kfold:2"}


@pytest.mark.slow
def test_audits_of_ones_own(here, tmp_path):
    folder = tmp_path / "audits"
    folder.mkdir()
    (folder / "no_bert.sql").write_text(
        "-- title: bert is there\n-- level: error\n-- explanation: we leave bert out\n-- action: take bert out\n"
        "SELECT protocol, corpus, NULL::INTEGER AS fold, 'error' AS level, count(*) AS utterances FROM members "
        "WHERE speaker = 'bert' GROUP BY ALL\n"
    )
    result = run("audit", "--audits", folder, *here)
    assert result.exit_code == 1
    assert "no_bert" in result.stdout and "utterances 4" in result.stdout and "take bert out" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--split", "{leaky}", "--protocol", "loso-speaker"), "--split goes without --protocol"),
        (("--split", "{leaky}", "--all"), "--split goes without --protocol"),
        (("--claims", "none"), "--claims goes with --split"),
        (("--split", "{leaky}", "--claims", "voices"), "unknown claim (--claims) 'voices'"),
        (("--split", "nowhere.csv"), "--split nowhere.csv: no such file or folder"),
        (("--all", "--protocol", "loso-speaker"), "--all goes without --protocol"),
        (("--audits", "nowhere"), "--audits nowhere: no such folder"),
        (("--split", "{leaky}", "--corpus", "toi"), "did you mean 'toy'?"),
    ],
)
def test_requests_that_are_off(here, leaky, words, message):
    result = run("audit", *(leaky if word == "{leaky}" else word for word in words), *here)
    assert result.exit_code == 2
    assert message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
def test_near_duplicates_are_looked_for_on_demand(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c", "d"):
        t = np.arange(32000) / 16000
        swells = [np.interp(t, np.linspace(0, 2, 16), rng.uniform(0.01, 1, 16)) for _ in range(24)]
        sound = 0.02 * sum(swell * np.sin(2 * np.pi * 150 * (k + 1) * t) for k, swell in enumerate(swells))
        soundfile.write(tmp_path / f"{name}.wav", sound, 16000)
        if name == "a":
            soundfile.write(tmp_path / "a2.ogg", 0.4 * sound, 16000)
    lines = ["a.wav,sad,s1", "b.wav,angry,s1", "c.wav,sad,s2", "d.wav,angry,s2", "a2.ogg,sad,s2"]
    (tmp_path / "toy.csv").write_text("\n".join(["path,label,speaker", *lines]) + "\n")
    cache = ("--cache", tmp_path / "cache")
    assert run("scan", "--corpus", "table", "--table", tmp_path / "toy.csv", *cache).exit_code == 0
    assert run("audit", *cache).exit_code == 0
    result = run("audit", "--near-duplicates", *cache)
    assert result.exit_code == 1 and "toy: 5 fingerprints compared; 1 pair of near-duplicates" in result.stderr
    again = run("audit", *cache)  # what was found is remembered
    assert again.exit_code == 1 and "near_duplicates" in again.stdout


@pytest.mark.slow
def test_the_last_line_says_what_a_score_is_not(here):
    result = run("audit", "--protocol", "random-kfold:2", *here)
    assert result.exit_code == 0  # it claims nothing
    last = result.stderr.splitlines()[-1]
    assert "a score on it is not speaker-independent: test speakers are heard in training" in last and "(folds 1-2)" in last
    assert run("audit", *here).stderr.splitlines()[-1] == "toy / loso-speaker: all 12 utterances take part; no errors"


@pytest.mark.slow
def test_a_fold_that_is_not_there(here):
    result = run("audit", "--fold", "99", *here)
    assert result.exit_code == 2
    assert "--fold 99: there is no such fold; loso-speaker has 1-3" in result.stderr
    assert run("audit", "--fold", "2", *here).exit_code == 0


def test_a_split_whose_folds_cannot_be_told_is_a_usage_error(here, tmp_path):
    for name in ("train_1", "train_2", "test"):
        (tmp_path / "theirs" / f"{name}.txt").parent.mkdir(exist_ok=True)
        (tmp_path / "theirs" / f"{name}.txt").write_text("anna_0\n")
    result = run("audit", "--split", tmp_path / "theirs", *here)
    assert result.exit_code == 2
    assert "theirs/train_1.txt, theirs/train_2.txt all say train" in result.stderr
