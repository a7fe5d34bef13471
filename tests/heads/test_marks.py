"""Scores whose test speakers are, or may be, heard in training: judged for every run, marked in every table, no interval."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stored_runs as stored

from tfser.heads.commands.ablation_table import print_ablation
from tfser.heads.commands.compare_table import print_comparison
from tfser.heads.commands.score_report import below, grouped
from tfser.heads.commands.sweep_table import latex_lines, legend, readable
from tfser.heads.results.compare import compare, notes
from tfser.heads.results.marks import HEARD, LEAK, TEST_SIDE, explain_marks, is_independent, mark, of_runs, standing
from tfser.heads.results.outcomes import find, read_outcome
from tfser.heads.results.papers import readable as reproduced
from tfser.heads.results.score_tables import BY, Wanted, table
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.build import create
from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, rows
from tfser.manifests.connections import open_memory
from tfser.manifests.display import Output, markdown_lines
from tfser.manifests.errors import UsageError
from tfser.manifests.notes import forget
from tfser.manifests.protocols.independence import NOT_INDEPENDENT

UTTERANCES = stored.make_utterances(speakers=6)


def put(cache: Cache, name: str, protocol: str, **more: Any) -> None:
    """Store runs that were made of a protocol's rows as they are now; older than the column unless something else is said."""
    ensure_protocol(cache, "toy", protocol)
    with open_catalogue(cache) as connection:
        (about,) = rows(connection, "SELECT hash, folds FROM protocols WHERE protocol = ?", [protocol])
        folds = dict(
            connection.execute("SELECT utterance_id, fold FROM folds WHERE protocol = ? AND role = 'test'", [protocol]).fetchall()
        )
    more = {"speakers_kept": None, "folds": folds, "protocol_hash": about["hash"], **more}
    stored.put_experiment(cache, name, UTTERANCES, protocol=protocol, **more)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """One experiment of new speakers, one whose test speakers are heard in training, one of an overridden audit."""
    cache = Cache(tmp_path_factory.mktemp("marks") / "cache")
    stored.put_utterances(cache, UTTERANCES, rated=True)
    put(cache, "svm-clean-1", "loso-speaker", seeds=(0, 1))
    put(cache, "svm-heard-2", "random-kfold:3")
    put(cache, "svm-heard-3", "random-kfold:3", right=0.8)
    put(cache, "svm-leak-4", "loso-speaker", audit="overridden")
    return cache


def verdicts(cache: Cache, view: str = "runs") -> dict[str, str]:
    with open_catalogue(cache) as connection:
        return dict(connection.execute(f"SELECT DISTINCT experiment, speakers_kept FROM {view} ORDER BY ALL").fetchall())


# -- what is judged, and when ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("view", ["runs", "scores", "results"])
def test_old_runs_are_judged_by_the_rows_that_they_were_made_of(filled: Cache, view: str) -> None:
    expected = {"svm-clean-1": "kept", "svm-heard-2": "broken", "svm-heard-3": "broken", "svm-leak-4": "kept"}
    assert verdicts(filled, view) == expected
    assert "speakers_kept" not in filled.read_json(filled.runs / "svm-clean-1-f1-s0" / "run.json")


def test_what_a_scan_learns_of_speakers_counts_at_once(filled: Cache, tmp_path: Path) -> None:
    cache = Cache(shutil.copytree(filled.root, tmp_path / "cache"))
    assert verdicts(cache)["svm-heard-2"] == "broken"
    stored.put_utterances(cache, [replace(of, speaker=None) for of in UTTERANCES])
    found = verdicts(cache)
    assert found["svm-heard-2"] == "unknown"  # the same rows, and nobody knows who speaks
    assert found["svm-clean-1"] == "unknown"  # its protocol has no rows any more, and the run says nothing


@pytest.mark.few(1)
@pytest.mark.parametrize(("said", "expected"), [("kept", "kept"), ("broken", "broken"), (None, "unknown"), ("fine", "unknown")])
def test_of_rows_that_are_no_longer_there_the_run_s_own_word_stands(cache: Cache, said: str | None, expected: str) -> None:
    stored.put_utterances(cache, UTTERANCES)
    put(cache, "a", "loso-speaker", speakers_kept=said, protocol_hash="of other rows")
    assert verdicts(cache) == {"a": expected}
    path = cache.runs / "a-f1-s0" / "run.json"
    cache.write_json(path, {**cache.read_json(path), "speakers_kept": "broken"})
    assert verdicts(cache, "scores") == {"a": "broken"}  # the worst of the folds


# -- marks and intervals -----------------------------------------------------------------------------------------------------


def test_the_marks_of_a_row() -> None:
    for selection, audit, kept, expected in (
        ("last", "passed", "kept", ""),
        ("test-oracle", "passed", "kept", TEST_SIDE),
        ("val", "overridden", "kept", LEAK),
        ("last", "passed", "unknown", HEARD),
        ("test-WA", "overridden", "broken", TEST_SIDE + LEAK + HEARD),
    ):
        row = {"selection": selection, "audit": audit, "speakers_kept": kept}
        assert mark(row) == expected
        assert is_independent(row) == (expected in ("", TEST_SIDE))
        assert standing(row) == "passed" or kept == "kept" or "(" in standing(row)
        assert len(explain_marks([row])) == len(expected)
    assert of_runs([]) == {"audit": "passed", "speakers_kept": "kept"}
    plain = {"selection": "last", "audit": "passed"}
    both = [{**plain, "speakers_kept": kept, "protocol": kept[0]} for kept in ("broken", "unknown")]
    assert [line[:5] for line in explain_marks(both)] == [f"{HEARD} b: ", f"{HEARD} u: "]
    assert of_runs(both) == {"audit": "passed", "speakers_kept": "broken"}


@pytest.mark.few(3)
@pytest.mark.parametrize("by", [None, *BY])
def test_scores_are_marked_and_have_no_interval_over_speakers(filled: Cache, by: str | None) -> None:
    with open_catalogue(filled) as connection:
        found = table(connection, by=by)
    assert {row["experiment"]: row["speakers_kept"] for row in found} == verdicts(filled)
    shown = [(group, line) for group in grouped(found, by) for line in group.lines]
    assert [group.heading.split(":")[0] for group in grouped(found, by)] == ["toy, loso-speaker", "toy, random-kfold"]
    for group, line in shown:
        signs = HEARD if "random" in group.heading else LEAK if line["experiment"] == "svm-leak-4" else ""
        numbers = [text for name, text in line.items() if name in ("UA", "WA", "F1", "precision") or "[" in name]
        assert numbers and all("".join(c for c in text if c in "†‡§") == signs for text in numbers if text)
        assert not signs or not any("[" in text for text in numbers)
        assert "audit" not in line or line["audit"] != "passed" or not signs
    for row in found if by is None else ():
        assert (row["pooled_UA_low"] is None) == (row["clusters"] is None) == (row["experiment"] != "svm-clean-1")
        assert row["pooled_UA"] is not None
    if by == "class":
        assert {row["experiment"] for row in found if row["recall_low"] is not None} <= {"svm-clean-1"}
    assert sum(line.startswith((HEARD, LEAK)) for line in below(found, by)) == 2


def test_sessions_that_are_asked_for_are_units_all_the_same(filled: Cache) -> None:
    with open_catalogue(filled) as connection:
        found = {row["experiment"]: row for row in table(connection, clusters="session")}
    assert {(row["clustered_by"], row["clusters"]) for row in found.values()} == {("session", 3)}
    assert all(row["pooled_UA_low"] is not None for row in found.values())


def test_a_comparison_of_heard_speakers_has_no_p_value_over_them(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    with open_catalogue(filled) as connection:
        a, b = (read_outcome(connection, find(connection, name)) for name in ("svm-heard-2", "svm-heard-3"))
    found = compare(a, b)
    assert (found.permutation, found.clustered_by, found.clusters, found.speakers) == (None, None, None, ())
    said = found.to_dict()
    assert (said["permutation"], said["a"]["speakers_kept"], said["scores"][0]["difference"]["low"]) == (None, "broken", None)
    assert all(row["p_permutation"] is None and row["speakers_kept_b"] == "broken" for row in found.rows())
    assert "no permutation test" in notes(found)[0]
    print_comparison(found)
    text = capsys.readouterr().out
    assert "audit passed)" not in text and "audit passed (test speakers in training)" in text
    assert "permutation test of" not in text
    assert all(HEARD in line for line in text.splitlines() if line.startswith(("UA", "WA", "anger", "neutral")))
    with pytest.raises(UsageError, match=r"speakers are no units; --clusters session or --clusters dialogue takes others"):
        compare(a, b, clusters="speaker")
    assert compare(a, b, clusters="session").permutation is not None


SWEPT = {
    "head": "mean_pool", "preset": "mlp", "recipe": "default", "features": "logmel", "parameters": 10, "seeds": [0], "folds": [1],
    "of_folds": 3, "runs": 1, "of_runs": 1, "failed": 0, "selection": "last", "looked_at_test": False, "audit": "passed",
    "reference": False, "corpus": "toy", "protocol": "random-kfold:3", "validation": "none", "seconds": 1.0, "pooled_folds": 1,
    "clustered_by": None, "clusters": None, "pooled_UA": 0.5, "pooled_WA": 0.5, "pooled_UA_low": None, "pooled_UA_high": None,
    **{f"{name}{more}": value for name in ("UA", "WA", "WF1") for more, value in (("", 0.5), ("_std", 0.1), ("_runs", 1))},
}  # fmt: skip


@pytest.mark.parametrize(("kept", "words"), [("broken", "test speakers are heard"), ("unknown", "who speaks cannot be told")])
def test_tables_of_sweeps_are_marked_in_every_format(kept: str, words: str) -> None:
    lines, said = readable([SWEPT | {"speakers_kept": kept}]), legend([SWEPT | {"speakers_kept": kept}], True)
    scores = ("UA", "WA", "WF1", "pooled UA", "pooled WA")
    assert all(lines[0][name].endswith(HEARD) for name in scores) and "95 %" not in lines[0]
    assert sum(words in note for note in said) == 1 and not any("are unknown" in note for note in said)
    assert markdown_lines(lines)[-1].count(HEARD) == len(scores)
    assert "\n".join(latex_lines(lines, said)).count(r"$^{\S}$") == len(scores) + 1
    clean = readable([SWEPT | {"speakers_kept": "kept"}])
    assert HEARD not in str(clean)


def test_tables_of_papers_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    cell = {
        "table": "I", "row": "x", "corpus": "toy", "metric": "UA", "paper": 60.0, "ours": 61.0, "ours_std": 1.0, "pooled": 61.5,
        "difference": 1.0, "reason": None, "selection": "last", "audit": "passed", "speakers_kept": "broken",
    }  # fmt: skip
    (line,) = reproduced([cell])
    assert all(line[name].endswith(HEARD) for name in ("ours", "pooled", "difference")) and line["paper"] == "60.0"
    nothing = {**cell, **dict.fromkeys(("ours", "pooled", "difference", "selection", "audit", "speakers_kept"))}
    assert HEARD not in str(reproduced([nothing]))

    row = {
        "row": "Baseline", "parameters": 10, "parameters_typical": 10, "paper_parameters": None, "UA": 0.5, "UA_std": 0.1,
        "WA": 0.5, "WA_std": 0.1, "WF1": 0.5, "UA_gain": 0.01, "UA_gain_std": None, "folds_won": None, "folds": 3, "paper": {},
        "selection": "last", "audit": "passed", "speakers_kept": "broken", "protocol": "random-kfold:3",
    }  # fmt: skip

    class Experiment:
        corpus, feature_set, protocol, seed = "toy", "logmel", "random-kfold:3", 0

        class spec:  # noqa: N801
            typical_dim, source = 80, "nobody"

    print_ablation(Experiment, [row], Output.table)  # type: ignore[arg-type]
    out = capsys.readouterr()
    assert out.out.count(HEARD) == 4 and f"{HEARD} {NOT_INDEPENDENT['broken']}; no interval" in out.err
    assert "test speakers are heard in training" in NOT_INDEPENDENT["broken"]


# -- what a table is of ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_scores_can_be_restricted(cache: Cache) -> None:
    stored.put_utterances(cache, UTTERANCES)
    of = {"head": "svm", "feature_set": "whisper-base/all+float16", "classes": ("anger", "neutral")}
    stored.put_experiment(cache, "svm-plain-default-toy-0123456789", UTTERANCES, **of, protocol="loso-speaker@two")
    stored.put_experiment(cache, "mean_pool-mlp-default-toy-abcdef0123", UTTERANCES, protocol="loso-speaker@two/next-group")
    stored.put_experiment(cache, "mean_pool-mlp-default-toy-bbcdef0123", UTTERANCES)
    with open_catalogue(cache) as connection:

        def heads(**asked: Any) -> list[str]:
            return [row["experiment"][-10:] for row in table(connection, Wanted(**asked))]

        assert heads(head="svm") == heads(features="whisper-base/all") == heads(experiment="0123456789") == ["0123456789"]
        assert heads(protocol="loso-speaker") == ["bbcdef0123"]
        assert heads(protocol="loso-speaker@two") == ["0123456789"]
        assert len(heads(corpus="toy")) == 3 and heads(head="mean_pool", protocol="loso-speaker@two/next-group") == ["abcdef0123"]
        for asked, text in (
            ({"head": "svn"}, "unknown head of these runs 'svn'; did you mean 'svm'"),
            ({"corpus": "toys"}, "did you mean 'toy'"),
            ({"features": "mel"}, "unknown features of these runs 'mel'"),
            ({"head": "svm", "features": "logmel"}, "no run is all of what is asked for"),
        ):
            with pytest.raises(UsageError, match=text):
                heads(**asked)


@pytest.mark.slow
def test_two_classes_never_stand_among_three(cache: Cache) -> None:
    stored.put_utterances(cache, UTTERANCES)
    stored.put_experiment(cache, "svm-a", UTTERANCES)
    stored.put_experiment(cache, "svm-b", UTTERANCES, classes=("anger", "neutral"))
    with open_catalogue(cache) as connection:
        groups = grouped(table(connection))
    assert [(group.heading, [line["experiment"] for line in group.lines]) for group in groups] == [
        ("toy, loso-speaker: 3 classes (anger, happiness, neutral)", ["svm-a"]),
        ("toy, loso-speaker: 2 classes (anger, neutral)", ["svm-b"]),
    ]


@pytest.mark.slow
def test_namesakes_say_in_what_they_differ(cache: Cache) -> None:
    stored.put_utterances(cache, UTTERANCES)
    for n, config in enumerate(({"device": "cpu", "head_config": {"width": 8}}, {"device": "cuda", "head_config": {"width": 8}})):
        stored.put_experiment(cache, f"svm-a-{n}", UTTERANCES, config={**config, "data_hash": f"{n}" * 16})
    with open_catalogue(cache) as connection:
        ((group),) = grouped(table(connection))
    assert [line["differs"] for line in group.lines] == ["device=cpu, data_hash=000000", "device=cuda, data_hash=111111"]


@pytest.mark.slow
def test_a_run_that_cannot_be_read_is_named(cache: Cache, logged: list[str]) -> None:
    stored.put_utterances(cache, UTTERANCES)
    stored.put_experiment(cache, "svm-a", UTTERANCES)
    for fold in (2, 5):
        (cache.runs / f"svm-a-f{fold}-s0" / "metrics.parquet").write_bytes(b"broken")
    forget()
    with open_catalogue(cache) as connection:
        (row,) = table(connection)
        (score,) = rows(connection, "SELECT folds, pooled_folds FROM scores WHERE level = 'utterance'")
    assert (row["folds"], row["UA_runs"], row["pooled_folds"], *score.values()) == (4, 4, 4, 4, 4)
    (line,) = logged
    assert line == (
        f"left out of {cache.root}: runs/svm-a-f2-s0 (metrics.parquet: its content is not what was written there), "
        "runs/svm-a-f5-s0 (metrics.parquet: its content is not what was written there); `tfser cache verify` says what to do"
    )


@pytest.mark.slow
def test_folds_are_counted_from_what_is_there(cache: Cache) -> None:
    """Whatever became of the rows of one run: what is missing of which score is said. From files, none of this gets in."""
    stored.put_utterances(cache, UTTERANCES)
    stored.put_experiment(cache, "svm-a", UTTERANCES)
    with contextlib.closing(open_memory()) as connection:
        create(connection)
        with open_catalogue(cache) as held:
            for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
                incoming = held.sql(f"FROM {name}").to_arrow_table()
                connection.register("incoming", incoming)
                connection.execute(f"INSERT INTO {name} BY NAME FROM incoming")
                connection.unregister("incoming")
        (whole,) = table(connection)
        connection.execute("DELETE FROM metrics WHERE run_id = 'svm-a-f2-s0' AND metric = 'WF1'")
        for name in ("predictions", "confusion"):
            connection.execute(f"DELETE FROM {name} WHERE run_id = 'svm-a-f2-s0'")
        (row,) = table(connection)
        (score,) = rows(connection, "SELECT folds, pooled_folds FROM scores WHERE level = 'utterance'")
    counts = ("folds", "UA_runs", "WF1_runs", "pooled_folds")
    assert [whole[name] for name in counts] == [6, 6, 6, 6]
    assert [row[name] for name in counts] == [6, 6, 5, 5]
    assert row["notes"][:2] == [
        "WF1 is of 5 of its 6 runs: the others have none",
        "pooled scores are of 5 of its 6 folds: the others have no predictions",
    ]
    assert (score["folds"], score["pooled_folds"]) == (6, 5)
