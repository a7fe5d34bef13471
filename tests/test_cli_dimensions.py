"""Dimensions on the command line: from rated utterances to scores, comparisons, pages and predictions; and what is refused."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from tfser.heads.prediction.notebook_models import load
from tfser.heads.prediction.trackers import finished_runs, score_name
from tfser.heads.reports.ui.results_pages import experiment_lists
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.rating_agreement import check_ratings
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.catalogue.run_files import read_about, tables_of
from tfser.manifests.errors import DamagedError

from .conftest import run

N = 10


def write_corpus(root: Path, folder: str, table: str, *, seed: int = 0) -> Path:
    """Six speakers whose level follows their arousal and whose pitch follows their valence; some lack a label or a rating."""
    lines = ["path,label,speaker,valence,arousal,dominance"]
    for s, speaker in enumerate("abcdef"):
        (root / folder / speaker).mkdir(parents=True)
        for i in range(N):
            rng = np.random.default_rng([s, i, seed])
            valence, arousal = rng.uniform(1, 5, 2)
            t = np.arange(4800) / 16000
            tone = 10 ** ((arousal - 5) / 4) * 0.3 * np.sin(2 * np.pi * (300 + 250 * valence) * t)
            soundfile.write(root / folder / speaker / f"u{i}.wav", tone + 0.01 * rng.standard_normal(len(t)), 16000)
            label = "" if i % 2 else "anger" if arousal > 3 else "sadness"
            rated = "" if i == 0 else f"{arousal:.2f}"
            lines.append(f"{folder}/{speaker}/u{i}.wav,{label},{speaker},{valence:.2f},{rated},")
    (root / table).write_text("\n".join(lines))
    return root / table


def session() -> list[list[str]]:
    """The commands of docs/dimensions.md, word by word."""
    page = (Path(__file__).parents[1] / "docs" / "dimensions.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    return [shlex.split(line)[1:] for line in block.splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpus, and a cache in which two heads were trained as the page does."""
    here = tmp_path_factory.mktemp("dimensions")
    write_corpus(here, "recordings", "mine.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        for words in session()[:3]:
            found = run(*words, "--cache", here / "cache")
            assert found.exit_code == 0, found.output
    return here


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    """A cache of its own."""
    shutil.copytree(made / "cache", tmp_path / "cache")
    return tmp_path / "cache"


def read_json(*words: object) -> list[dict]:
    found = run(*words, "--format", "json")
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


@pytest.mark.slow
def test_the_page_s_session_runs(here: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    for words in session()[3:]:
        found = run(*words, "--cache", here)
        assert found.exit_code == 0, (words, found.output)
        if words[0] == "sweep":  # the reference heads of dimensions, in a table for a paper
            assert "| svr |" in found.stdout and "| ridge |" in found.stdout and "pooled CCC" in found.stdout
    assert (made / "dimensions.html").exists()


@pytest.mark.slow
def test_a_small_head_rates_speakers_that_it_never_heard(made: Path) -> None:
    table = read_json("scores", "--cache", made / "cache", "--selection", "last")
    assert {(row["head"], row["dimension"]) for row in table} == {
        (head, dimension) for head in ("ridge", "mean_pool") for dimension in ("valence", "arousal", "mean")
    }
    for row in table:
        assert row["protocol"] == "loso-speaker@rated:valence+arousal" and row["targets"] == ["valence", "arousal"]
        assert row["CCC"] > 0.5 and row["pooled_CCC"] > 0.5 and row["folds"] == row["of_folds"] == 6
        assert row["pooled_CCC_low"] < row["pooled_CCC"] < row["pooled_CCC_high"] <= 1
        assert row["clusters"] == 6 and row["clustered_by"] == "speaker"
        assert 0 < row["pooled_MAE"] < 1.5  # points of a scale from 1 to 5
        if row["dimension"] != "mean":
            v, u = row["scale_shift"], row["location_shift"]
            assert row["pooled_CCC"] == pytest.approx(row["pooled_pearson"] * 2 / (v + 1 / v + u * u), abs=1e-9)


@pytest.mark.slow
def test_who_is_not_rated_is_counted_with_the_reason(made: Path) -> None:
    rows_of_folds = read_json("train", "--head", "ridge", "--target", "arousal,valence", "--cache", made / "cache")
    assert {row["given"] for row in rows_of_folds} == {6 * N} and {row["used"] for row in rows_of_folds} == {6 * N - 6}
    assert rows_of_folds[0]["left_out"] == {"not rated for the targets": 6}
    assert sum(row["n"] for row in rows_of_folds if row["dimension"] == "valence" and row["level"] == "utterance") == 6 * N - 6


def test_pooled_scores_and_those_of_folds_follow_from_the_stored_ratings(made: Path) -> None:
    (row,) = [
        row
        for row in read_json("scores", "ridge", "--cache", made / "cache")
        if row["dimension"] == "arousal" and row["selection"] == "last"
    ]
    with open_catalogue(Cache(made / "cache")) as connection:
        stored = rows(
            connection,
            "SELECT fold, rating, predicted FROM rated_predictions WHERE run_id LIKE 'ridge%' AND dimension = 'arousal' "
            "AND level = 'utterance' AND selection = 'last'",
        )

    def ccc(of: list[dict]) -> float:
        t, p = (np.array([each[name] for each in of]) for name in ("rating", "predicted"))
        return 2 * np.cov(t, p, bias=True)[0, 1] / (t.var() + p.var() + (t.mean() - p.mean()) ** 2)

    folds = [ccc([each for each in stored if each["fold"] == fold]) for fold in range(1, 7)]
    assert row["pooled_CCC"] == pytest.approx(ccc(stored), abs=1e-9)
    assert row["CCC"] == pytest.approx(np.mean(folds), abs=1e-9)
    assert row["CCC_std"] == pytest.approx(np.std(folds, ddof=1), abs=1e-9)
    assert row["CCC"] != pytest.approx(row["pooled_CCC"], abs=1e-4)
    assert all(1 <= each["predicted"] <= 5 for each in stored)


@pytest.mark.few(1)
@pytest.mark.parametrize("by", ["seed", "fold", "speaker"])
def test_scores_by_parts(made: Path, by: str) -> None:
    table = read_json("scores", "ridge", "--by", by, "--cache", made / "cache")
    assert len(table) == 2 * (1 if by == "seed" else 6) and all(row["CCC"] > 0 for row in table)
    shown = run("scores", "ridge", "--by", by, "--cache", made / "cache").stdout
    assert "CCC" in shown and "UA" not in shown


def test_two_experiments_are_compared_over_speakers(made: Path) -> None:
    found = json.loads(run("compare", "ridge", "mean_pool", "--cache", made / "cache", "--format", "json").stdout)
    assert found["metric"] == "CCC" and found["utterances"] == 6 * N - 6 and found["clustered_by"] == "speaker"
    score = found["scores"][0]
    assert score["difference"]["value"] == pytest.approx(score["a"]["value"] - score["b"]["value"])
    assert score["difference"]["low"] < score["difference"]["value"] < score["difference"]["high"]
    assert found["permutation"]["exact"] and found["permutation"]["draws"] == 64
    assert sum(found["wins"]["speakers"].values()) == sum(found["wins"]["folds"].values()) == 6
    shown = run("compare", "ridge", "mean_pool", "--metric", "MAE", "--cache", made / "cache")
    assert shown.exit_code == 0 and "permutation test of MAE" in shown.stdout


@pytest.mark.slow
def test_runs_and_pages_know_dimensions(made: Path, tmp_path: Path) -> None:
    listed = read_json("runs", "ls", "--cache", made / "cache")
    assert all(row["UA"] is None and row["CCC"] > 0.5 for row in listed)
    page = run("report", "--cache", made / "cache", "--output", tmp_path / "page.html")
    assert page.exit_code == 0, page.output
    text = (tmp_path / "page.html").read_text()
    assert text.count('<svg class="figure"') == 4 or text.count("predicted against rated") >= 4
    assert "--target valence,arousal" in text and "confusion" not in text.lower().split("<main")[1]
    again = run("report", "--cache", made / "cache", "--output", tmp_path / "page.html")
    assert again.exit_code == 0 and (tmp_path / "page.html").read_text() == text
    tables = run("report", "--cache", made / "cache", "--format", "markdown")
    assert tables.exit_code == 0 and "pooled CCC" in tables.stdout
    assert "All rows:" in tables.stdout and "audit passed" in tables.stdout  # columns that are alike do not make it wide


@pytest.mark.slow
def test_predictions_are_on_the_corpus_s_scale_and_those_that_were_stored(made: Path, tmp_path: Path) -> None:
    with open_catalogue(Cache(made / "cache")) as connection:
        stored = rows(
            connection,
            "SELECT run_id, utterance_id, dimension, predicted FROM rated_predictions WHERE run_id LIKE 'mean_pool%' "
            "AND fold = 1 AND level = 'utterance' AND selection = 'last' ORDER BY utterance_id, dimension",
        )
    run_id = stored[0]["run_id"]
    folder = tmp_path / "handed-on"
    assert run("export", run_id, folder, "--cache", made / "cache").exit_code == 0
    card = (folder / "README.md").read_text()
    assert "ratings of valence, arousal, each from 1 to 5" in card and "CCC, valence" in card
    speaker = made / "recordings" / stored[0]["utterance_id"].split("/")[-2]
    for model in (run_id, folder):
        words = ("predict", model, speaker, "--cache", made / "cache", "--format", "json")
        found = json.loads(run(*words).stdout)
        assert found["targets"] == ["valence", "arousal"] and found["scale"] == [1.0, 5.0]
        answers = [(Path(row["input"]).stem, row["ratings"]) for row in found["predictions"]]
        said = {(stem, name): value for stem, rated in answers for name, value in rated.items()}
        for row in stored:
            stem = Path(row["utterance_id"]).stem
            assert said[stem, row["dimension"]] == pytest.approx(row["predicted"], abs=1e-6)
    (tracked,) = finished_runs(Cache(made / "cache"), run_id)
    scores = {score_name(row): row["value"] for row in tracked["scores"]}
    assert scores["last/CCC/arousal"] > 0.5 and {"last/MAE/valence", "upper_bound/test-oracle/CCC/arousal"} <= scores.keys()
    assert "last/UA" not in scores and all(row["test_CCC"] is not None for row in tracked["history"])
    csv = run("predict", run_id, speaker, "--cache", made / "cache", "--format", "csv").stdout.splitlines()
    assert csv[0].startswith("input,seconds,valence,arousal") and len(csv) == N + 1


REFUSED = {
    ("--target", "arousel"): "unknown target 'arousel'; did you mean 'arousal'",
    ("--target", "dominance"): "no utterance of mine is rated for dominance; it has ratings of valence (60), arousal (54)",
    ("--target", "class,valence"): "ridge learns dimensions alone; for --target class,valence take logreg or svm, or a network",
    ("--target", "class,dominance", "--head", "logreg"): "no utterance of mine with a class is rated for dominance",
    ("--target", "class,valence", "--head", "logreg", "--protocol", "loso-speaker@rated:valence"): "has no classes: name dim",
    ("--target", "valence", "--labels", "common4"): "have no classes; leave it out",
    ("--target", "valence", "--head", "logreg"): "logreg learns classes alone; for --target valence take ridge, svr or a network",
    ("--target", "valence", "--protocol", "loso-speaker@rated:arousal"): "its name says @rated:valence, or nothing",
    ("--target", "valence", "--head", "mean_pool", "--set", "class_weights=balanced"): "it is about classes",
    ("--target", "valence", "--head", "mean_pool", "--labels-from", "distribution"): "soft labels are shares of classes",
    ("--target", "valence", "--labels-from", "distribution"): "soft labels are shares of classes",
    ("--target", "valence", "--head", "mean_pool", "--set", "temperature=true"): "it is about classes",
    ("--head", "ridge"): "ridge learns dimensions alone: name them with --target valence",
    ("--head", "logreg", "--protocol", "loso-speaker@rated:valence"): "has no classes: name dimensions alone",
}


@pytest.mark.few(5)
@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_what_cannot_be_learned_is_refused_in_one_line(made: Path, words: tuple[str, ...]) -> None:
    head = () if "--head" in words else ("--head", "ridge")
    found = run("train", *head, *words, "--cache", made / "cache")
    assert found.exit_code in (1, 2) and REFUSED[words] in found.output and "Traceback" not in found.output


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("scores", "--by", "class"), "--by class: of classes alone"),
        (("plot", "confusion", "ridge", "--output", "x.svg"), "learned valence, arousal and no classes"),
        (("fuse", "ridge", "mean_pool"), "learned valence, arousal and no classes"),
        (("compare", "ridge", "mean_pool", "--metric", "UA"), "unknown metric of dimensions 'UA'"),
        (("predict", "ridge", "recordings", "--ensemble", "--timeline", "--format", "rttm"), "names a class"),
    ],
)
def test_commands_of_classes_say_so(made: Path, words: tuple[str, ...], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    found = run(*words, "--cache", made / "cache")
    assert found.exit_code == 2 and why in " ".join(found.output.split()), found.output


@pytest.mark.slow
def test_a_scale_has_to_be_declared_and_what_leaves_it_is_found(here: Path, tmp_path: Path) -> None:
    table = write_corpus(tmp_path, "others", "other.csv", seed=1)
    named = ("--corpus", "table", "--table", table, "--name", "other")
    assert run("extract", *named, "--features", "logmel", "--cache", here).exit_code == 0
    words = ("train", "--head", "ridge", "--target", "valence", "--corpus", "other", "--cache", here)
    found = run(*words)
    assert found.exit_code == 2 and "`tfser scan --corpus other --scale 1-5`" in found.output
    assert run("scan", "--corpus", "other", "--scale", "5-1", "--cache", here).exit_code == 2
    assert run("scan", "--corpus", "other", "--scale", "1-4", "--cache", here).exit_code == 0
    findings = json.loads(run("audit", "--corpus", "other", "--cache", here, "--format", "json").stdout)
    left = [of for of in (findings if isinstance(findings, list) else findings["findings"]) if of["audit"] == "scale_left"]
    assert left[0]["level"] == "warning" and {row["dimension"] for row in left[0]["examples"]} == {"valence", "arousal"}
    # Two corpora, two scales: each is mapped by its own, and that is said.
    both = run("train", "--head", "ridge", "--target", "valence", "--protocol", "cross:mine:other", "--cache", here)
    assert both.exit_code == 0, both.output
    told = " ".join(both.output.split())
    assert "rated on the scales mine 1-5, other 1-4; each is mapped to 0..1 by its own" in told
    assert "rated beyond the scale (mine 1-5, other 1-4), where no head reaches: see the audit scale_left" in told


def test_a_run_whose_ratings_and_scores_differ_is_damaged(made: Path) -> None:
    folder = next((made / "cache" / "runs").glob("ridge*-f1-s0"))
    about = read_about(folder)
    tables = {name: pq.read_table(folder / f"{name}.parquet") for name in tables_of(about)}
    check_ratings(folder, about, tables)
    rated = tables["rated_predictions"]
    column = rated.column_names.index("predicted")
    moved = rated.set_column(column, "predicted", [[value / 2 + 1 for value in rated["predicted"].to_pylist()]])
    for changed, why in ((moved, "by the predictions it is"), (rated.slice(1), "not every utterance is there once")):
        with pytest.raises(DamagedError, match=why):
            check_ratings(folder, about, tables | {"rated_predictions": changed})


@pytest.mark.slow
def test_another_scale_is_another_experiment(here: Path) -> None:
    names = {row["experiment"] for row in read_json("runs", "ls", "--cache", here)}
    assert run("scan", "--corpus", "mine", "--scale", "0-6", "--cache", here).exit_code == 0
    assert run("train", "--head", "ridge", "--target", "arousal,valence", "--fold", 1, "--cache", here).exit_code == 0
    now = {row["experiment"] for row in read_json("runs", "ls", "--cache", here)}
    assert len(now - names) == 1


def test_the_synthetic_corpus_is_rated_as_it_sounds() -> None:
    from tfser.pipeline.corpora import CORPORA

    found = CORPORA["synthetic"].read(Path(), {}).utterances
    for name in ("valence", "arousal", "dominance"):
        values = [getattr(u, name) for u in found]
        assert min(values) >= 1 and max(values) <= 5 and np.std(values) > 0.4
    mean = {label: np.mean([u.arousal for u in found if u.label == label]) for label in ("anger", "sadness")}
    assert mean["anger"] > mean["sadness"] + 1


def test_the_cache_in_a_browser_lists_them(made: Path) -> None:
    with open_catalogue(Cache(made / "cache")) as connection:
        (listed,), _ = experiment_lists(connection, "last")
    assert {row[1] for row in listed.rows} == {"valence", "arousal", "mean"} and len({row[0] for row in listed.rows}) >= 2


@pytest.mark.slow  # what is learned and scored of both: tests/heads/test_both.py
def test_classes_and_dimensions_of_one_run_are_both_scored_and_stored(here: Path, made: Path, tmp_path: Path) -> None:
    found = read_json("train", "--head", "logreg", "--target", "class,arousal", "--fold", "1-2", "--cache", here)
    alone = read_json("train", "--head", "logreg", "--fold", "1-2", "--cache", here)
    of_classes = [row for row in found if row["dimension"] is None]
    assert [row["UA"] for row in of_classes] == [row["UA"] for row in alone], "the protocol and the numbers of classes alone"
    rated = [row for row in found if row["dimension"] == "arousal" and row["level"] == "utterance"]
    assert len(rated) == 2 and all(row["n"] == 4 and row["CCC"] is not None for row in rated)
    folder = next((here / "runs").glob("logreg*-f1-s0"))
    folder = (
        folder
        if read_about(folder).get("targets")
        else next(each for each in (here / "runs").glob("logreg*-f1-s0") if read_about(each).get("targets"))
    )
    about = read_about(folder)
    assert (about["classes"], about["targets"]) == (["anger", "sadness"], ["arousal"])
    assert pq.read_table(folder / "rated_predictions.parquet").num_rows == 2 * 4, "the rated ones alone, at both levels"
    assert pq.read_table(folder / "predictions.parquet").num_rows == 2 * 5
    name = about["experiment"]
    scored = read_json("scores", "--cache", here, "--experiment", name)
    assert {row.get("dimension") for row in scored} == {None, "arousal"} and scored[0]["pooled_UA"] > 0.4
    compared = run("compare", name, "ridge", "--metric", "CCC", "--common", "--cache", here)
    assert compared.exit_code == 0 and "CCC" in compared.stdout, compared.output
    wrong = run("compare", name, "ridge", "--metric", "UA", "--cache", here)
    assert wrong.exit_code == 2 and "unknown metric of dimensions 'UA'" in wrong.output
    tables = run("report", name, "--format", "markdown", "--cache", here)
    assert tables.exit_code == 0 and "| recall" in tables.stdout and "pooled CCC" in tables.stdout, tables.output
    answers_of_both(here, name + "-f1-s0", made / "recordings", tmp_path)


@pytest.mark.slow
def test_the_page_of_classes_has_the_dimensions_beside_them(here: Path, tmp_path: Path) -> None:
    assert run("train", "--head", "logreg", "--target", "class,arousal", "--cache", here).exit_code == 0
    page = run("report", "logreg", "--cache", here, "--output", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert page.exit_code == 0 and "pooled UA" in text and "pooled CCC" in text, page.output
    assert "<h3>Confusion: " in text and "<h3>arousal: predicted against rated" in text
    words = ("plot", "ratings", "--cache", here, "--output", tmp_path / "x.svg")
    assert "name one experiment on dimensions: " in run(*words[:2], *words[2:]).output
    assert run(*words[:2], "ridge", *words[2:]).exit_code == 2, "of valence or of arousal?"
    assert run(*words[:2], "ridge", "--dimension", "valence", *words[2:]).exit_code == 0
    assert run(*words[:2], "logreg", *words[2:]).exit_code == 0 and (tmp_path / "x.svg").exists()


def answers_of_both(cache: Path, run_id: str, recordings: Path, folder: Path) -> None:
    """Check that new audio gets the stored probabilities and ratings, from the run and from what is handed on."""
    with open_catalogue(Cache(cache)) as connection:
        of_run = "FROM {} WHERE run_id = ? AND level = 'utterance' AND selection = 'last'"
        stored = rows(connection, f"SELECT utterance_id, probabilities {of_run.format('predictions')}", [run_id])
        found = rows(connection, f"SELECT utterance_id, predicted {of_run.format('rated_predictions')}", [run_id])
    rated = {row["utterance_id"]: row["predicted"] for row in found}
    assert run("export", run_id, folder / "handed-on", "--cache", cache).exit_code == 0
    card = (folder / "handed-on" / "README.md").read_text()
    assert "one of 2 classes (anger, sadness), and ratings of arousal, each from 1 to 5" in card
    assert "| UA, % |" in card and "| CCC, arousal |" in card and "not calibrated" in card
    scores = json.loads((folder / "handed-on" / "tfser.json").read_text())["scores"]
    assert scores["pooled_UA"] is not None and scores["ratings"]["pooled_CCC"] is not None
    speaker = recordings / stored[0]["utterance_id"].split("/")[-2]
    for model in (run_id, folder / "handed-on"):
        said = json.loads(run("predict", model, speaker, "--cache", cache, "--format", "json").stdout)
        assert (said["classes"], said["targets"], said["scale"]) == (["anger", "sadness"], ["arousal"], [1.0, 5.0])
        by_stem = {Path(row["input"]).stem: row for row in said["predictions"]}
        for row in stored:
            answer = by_stem[Path(row["utterance_id"]).stem]
            assert answer["probabilities"] == pytest.approx(row["probabilities"], abs=1e-6)
            assert answer["ratings"]["arousal"] == pytest.approx(rated.get(row["utterance_id"], answer["ratings"]["arousal"]))
    table = run("predict", run_id, speaker, "--cache", cache, "--format", "csv").stdout.splitlines()
    assert table[0] == "input,seconds,predicted,seen,p_anger,p_sadness,arousal"
    windows = (run_id, next(speaker.glob("*.wav")), "--timeline", "--cache", cache, "--format")
    assert run("predict", *windows, "csv").stdout.startswith("input,start_s,end_s,predicted,reason,p_anger,p_sadness,arousal\n")
    assert run("predict", *windows, "rttm").stdout.startswith("SPEAKER")
    model = load(folder / "handed-on")
    sound, rate = soundfile.read(next(speaker.glob("*.wav")))
    assert set(model(sound, rate)) == {"anger", "sadness"} and (model.targets, model.scale) == (("arousal",), (1.0, 5.0))
    answer = model.answer(sound, rate)
    assert answer["probabilities"] == model(sound, rate) and 1 <= answer["ratings"]["arousal"] <= 5


@pytest.mark.slow
def test_every_command_that_trains_learns_dimensions(here: Path, tmp_path: Path) -> None:
    weighed = ("--protocol", "random-kfold:3", "--target", "arousal", "--head", "ridge", "--draws", "2")
    found = run("worth", "--corpus", "mine", *weighed, "--cache", here, "--format", "json")
    answer = json.loads(found.stdout)
    assert (answer["metric"], answer["targets"], answer["utterances"]) == ("CCC", ["arousal"], 6 * N - 6)
    assert answer["worth"]["value"] == pytest.approx(answer["published"]["value"] - answer["clean"]["value"])
    assert answer["published"]["shared"] and not answer["clean"]["shared"]
    refused = run("worth", "--corpus", "mine", *weighed, "--metric", "UA", "--cache", here)
    assert refused.exit_code == 2 and "Known: CCC, MAE, pearson" in refused.output
    table = read_json("ablate", "--head", "mean_pool", "--target", "arousal", "--epochs", "1", "--fold", "1-2", "--cache", here)
    assert {"ridge (reference)", "svr (reference)"} <= {row["row"] for row in table}
    assert all(row["CCC"] is not None and "UA" not in row for row in table) and table[1]["CCC_gain"] == pytest.approx(
        np.mean([table[1]["CCC_by_fold"][fold] - table[0]["CCC_by_fold"][fold] for fold in ("1", "2")])
    )
    run("train", "--head", "svr", "--target", "arousal,valence", "--cache", here)
    of_both = dict.fromkeys(row["experiment"] for row in read_json("scores", "--cache", here) if len(row["targets"]) == 2)
    assert len(of_both) == 3
    many = json.loads(run("compare", *of_both, "--cache", here, "--format", "json").stdout)
    assert many["metric"] == "CCC" and len(many["pairs"]) == 3 and len(many["systems"]) == 3
    assert all(pair["difference_low"] <= pair["difference_value"] <= pair["difference_high"] for pair in many["pairs"])
