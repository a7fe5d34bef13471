"""What a published split is worth: the clean split of the same sizes, and the difference on the same test utterances."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfser.heads.commands.worth import WorthRequest, _command
from tfser.heads.results.intervals import count, difference
from tfser.heads.results.moments import gathered, rating_difference
from tfser.heads.results.outcomes import Outcome, Subject
from tfser.heads.results.rating_outcomes import RatedOutcome
from tfser.heads.results.worth import SplitCell, WorthPlan, clean_splits, in_one_line, measure, own_of_split, sizes_of
from tfser.heads.results.worth_ratings import measure_ratings
from tfser.manifests.cache import Cache
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.splits.split import Split

from ..conftest import fill_with_tones, run

CLASSES = ("anger", "neutral")


def make_cells(speakers: int, each: int, folds: int) -> list[SplitCell]:
    """Return a split that deals every speaker's utterances into all folds: each is tested once."""
    return [
        SplitCell(
            fold=fold,
            role="test" if i % folds + 1 == fold else "train",
            utterance=f"s{s}u{i}",
            label=CLASSES[i % 2],
            said=CLASSES[i % 2],
            speaker=f"s{s}",
        )
        for fold in range(1, folds + 1)
        for s in range(speakers)
        for i in range(each)
    ]


@given(st.integers(2, 9), st.integers(4, 9), st.integers(2, 4), st.integers(1, 3))
def test_the_clean_split_tests_everybody_once_and_shares_nobody(speakers: int, each: int, folds: int, draws: int) -> None:
    cells = make_cells(speakers, each, folds)
    drawn, notes = clean_splits(cells, "theirs", "toy", draws)
    assert len(drawn) == draws and bool(notes) == (speakers < folds)
    for own in drawn:
        of = own.protocol
        assert of.keeps_apart == ("speaker",) and of.groups is not None and len(of.groups) == min(folds, speakers)
        everyone = [name for fold in of.groups for name in fold]
        assert sorted(everyone) == sorted({cell.utterance for cell in cells})
        spoken = [{name.partition("u")[0] for name in fold} for fold in of.groups]
        assert sum(map(len, spoken)) == len(set().union(*spoken)) == speakers
    again, _ = clean_splits(cells, "theirs", "toy", draws)
    assert [own.text for own in again] == [own.text for own in drawn]


def test_a_foreign_split_becomes_protocols_that_say_the_same() -> None:
    cells = make_cells(3, 6, 3)
    (once,) = own_of_split(cells, "theirs", "toy")
    assert once.protocol.groups is not None and [len(fold) for fold in once.protocol.groups] == [6, 6, 6]
    assert once.protocol.keeps_apart == ()
    fewer = [cell for cell in cells if (cell.fold, cell.role, cell.utterance) != (1, "train", "s0u1")]
    parts = own_of_split(fewer, "theirs", "toy")
    assert len(parts) == 3 and all(part.protocol.sides for part in parts)
    twice = [*cells, replace(cells[0], role="train" if cells[0].role == "test" else "test")]
    with pytest.raises(UsageError, match="stand in train and in test of fold 1"):
        own_of_split(twice, "theirs", "toy")
    with pytest.raises(TfserError, match="one speaker alone"):
        clean_splits(make_cells(1, 6, 3), "theirs", "toy", 1)


def outcome(name: str, keys: list[str], predicted: list[list[str]]) -> Outcome:
    n = len(keys)
    return Outcome(
        subject=Subject(experiment=name),
        selection="last",
        level="utterance",
        audit="passed",
        speakers_kept="kept",
        seeds=tuple(range(len(predicted))),
        dropped=(),
        keys=tuple(("toy", key, None) for key in keys),
        folds=(1,) * n,
        labels=tuple(CLASSES[int(key.partition("u")[2]) % 2] for key in keys),
        predicted=tuple(tuple(row) for row in predicted),
        who={"speaker": tuple(key.partition("u")[0] for key in keys), "session": (None,) * n, "dialogue": (None,) * n},
    )


def test_the_difference_is_that_of_the_same_utterances() -> None:
    rng = np.random.default_rng(0)
    cells = make_cells(6, 8, 4)
    keys = sorted({cell.utterance for cell in cells})
    theirs, ours = ([[str(rng.choice(CLASSES)) for _ in keys] for _ in range(2)] for _ in range(2))
    made, _ = clean_splits(cells, "theirs", "toy", 1)
    plan = WorthPlan(
        corpus="toy",
        called="theirs",
        published=(("theirs", None),),
        clean=tuple((own.protocol.name, own) for own in made),
        sizes=(sizes_of(cells), sizes_of(cells)),
    )
    places = rng.permutation(len(keys))
    shuffled = outcome("clean", [keys[i] for i in places], [[row[i] for i in places] for row in ours])
    found = measure(plan, [outcome("theirs", keys, theirs)], [shuffled], head="logreg", features="logmel", metric="UA")
    who = [key.partition("u")[0] for key in keys]
    labels = [CLASSES[int(key.partition("u")[2]) % 2] for key in keys]
    by_hand = difference(count(who, labels, theirs, CLASSES), count(who, labels, ours, CLASSES), "UA")
    assert found.difference == by_hand and found.utterances == 48
    assert in_one_line(found).startswith("this split is worth ") and "points of UA [" in in_one_line(found)
    some = outcome("clean", keys[1:], [row[1:] for row in ours])
    with pytest.raises(TfserError, match="no clean prediction"):
        measure(plan, [outcome("theirs", keys, theirs)], [some], head="logreg", features="logmel", metric="UA")


def test_sizes_count_who_is_heard() -> None:
    found = sizes_of(make_cells(3, 6, 3))
    assert (found.folds, found.train, found.test, found.shared, found.speakers) == (3, 12.0, 6.0, 3, 3)


def test_the_command_says_all_that_makes_the_number() -> None:
    asked = WorthRequest(
        head="mean_pool",
        recipe="robust",
        settings={"lr": "1e-3"},
        seeds=(0, 1),
        epochs=3,
        metric="WA",
        selection="val",
        published=("my split.csv",),
        draws=2,
    )
    assert _command(asked, Split(corpus="emodb")) == (
        "tfser worth --corpus emodb --head mean_pool --recipe robust --epochs 3 --seeds 0,1 --metric WA --selection val "
        "--split 'my split.csv' --set lr=1e-3 --draws 2"
    )


@pytest.fixture(scope="module")
def toned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of tones, and files of a split that has all speakers on both sides."""
    folder = tmp_path_factory.mktemp("worth")
    fill_with_tones(Cache(folder / "cache"), folder, each=(3, 3, 3))
    every = [(f"{s}/{label}{i}.wav", label, i) for s in "abc" for label in ("anger", "sadness") for i in range(3)]
    for name, chosen in (("train", [row for row in every if row[2]]), ("test", [row for row in every if not row[2]])):
        (folder / f"{name}.csv").write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label, _ in chosen))
    (folder / "empty_test.csv").write_text("")
    (folder / "alien_test.csv").write_text("path,label\nz.wav,anger\n")
    (folder / "broken_test.json").write_text('{"a": [1,')
    (folder / "words_test.csv").write_text((folder / "test.csv").read_text().replace("sadness\n", "fear\n"))
    (folder / "overlap_test.csv").write_text((folder / "test.csv").read_text() + "a/anger1.wav,anger\n")
    return folder


@pytest.mark.slow
def test_files_are_weighed_from_end_to_end(toned: Path) -> None:
    words = ("worth", "--corpus", "toy", "--head", "logreg", "--draws", "1", "--cache", toned / "cache", "--threads", "1")
    files = ("--split", toned / "train.csv", "--split", toned / "test.csv")
    found = run(*words, *files, "--format", "json")
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert "18 of 18 rows of the split are utterances here" in found.stderr
    assert (told["split"], told["utterances"]) == ("train.csv + test.csv", 6)
    assert [row["speaker"] for row in told["speakers"]] == ["a", "b", "c"]
    assert (told["published"]["shared"], told["clean"]["shared"]) == (3, 0)
    assert told["worth"]["value"] == pytest.approx(told["published"]["value"] - told["clean"]["value"])


@pytest.mark.slow
def test_seeds_of_before_are_no_part_of_the_number(toned: Path) -> None:
    words = ("worth", "--corpus", "toy", "--head", "mean_pool", "--epochs", "1", "--draws", "1", "--set", "lr=0.000001")
    where = ("--protocol", "random-kfold:3", "--allow-leaks", "--cache", toned / "cache", "--threads", "1", "--format", "json")
    first, both, again = (json.loads(run(*words, *where, "--seeds", seeds).stdout) for seeds in ("0", "0,1", "0"))
    assert again == first != both


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("file", "says"),
    [
        (None, "there is no test side"),
        ("empty_test.csv", "no row in it"),
        ("alien_test.csv", "has no test side that is in toy"),
        ("broken_test.json", "this is no JSON"),
        ("nowhere_test.csv", "no such file or folder"),
        ("words_test.csv", "what toy calls sadness is called fear and sadness"),
        ("overlap_test.csv", "stand in train and in test of fold 1 (a/anger1)"),
    ],
)
def test_files_that_are_no_split_cost_one_line(toned: Path, file: str | None, says: str) -> None:
    files = ["--split", toned / "train.csv", *(["--split", toned / file] if file else [])]
    found = run("worth", "--corpus", "toy", "--head", "logreg", *files, "--cache", toned / "cache")
    assert found.exit_code == 2 and says in found.output and found.output.count("\n") <= 3, found.output
    assert found.exception is None or isinstance(found.exception, SystemExit)


def test_of_ratings_the_difference_is_that_of_the_same_utterances() -> None:
    rng = np.random.default_rng(0)
    cells = make_cells(6, 8, 4)
    keys = sorted({cell.utterance for cell in cells})
    n = len(keys)
    true = rng.uniform(0, 1, (n, 1))
    heard, unheard = (np.clip(true + rng.normal(0, noise, (2, n, 1)), 0, 1) for noise in (0.05, 0.3))

    def rated(of: Outcome, predicted: np.ndarray, places: np.ndarray) -> RatedOutcome:
        taken = predicted[:, places]
        return RatedOutcome(of=of, dimensions=("arousal",), true=true[places], predicted=taken, error=abs(taken - true[places]))

    nothing = [["anger"] * n] * 2
    places = rng.permutation(n)
    theirs = rated(outcome("theirs", keys, nothing), heard, np.arange(n))
    ours = rated(outcome("clean", [keys[i] for i in places], nothing), unheard, places)
    plan = WorthPlan(
        corpus="toy", called="theirs", published=(("theirs", None),), clean=(), sizes=(sizes_of(cells), sizes_of(cells))
    )
    found = measure_ratings(plan, [theirs], [ours], head="ridge", features="logmel", metric="CCC")
    who = [key.partition("u")[0] for key in keys]
    a, b = (gathered(who, ["arousal"], true, of, abs(of - true)) for of in (heard, unheard))
    assert found.difference == rating_difference(a, b, "CCC") and found.difference.value > 0.1
    assert in_one_line(found).startswith("this split is worth +0.") and "points" not in in_one_line(found)
    assert len(found.by_draw) == 1 and found.by_draw[0] == pytest.approx(found.clean.value)
    with pytest.raises(TfserError, match="have no clean prediction"):
        measure_ratings(plan, [theirs], [ours.take(range(n - 1))], head="ridge", features="logmel", metric="CCC")
    with pytest.raises(UsageError, match="metric of dimensions"):
        measure_ratings(plan, [theirs], [ours], head="ridge", features="logmel", metric="UA")
