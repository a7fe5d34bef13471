"""Published splits that ship as data: whole, judged as their file names say, and folds of a corpus that has those files."""

from __future__ import annotations

from importlib import resources

import pytest

from tfser.manifests.audits.participation import NOT_LISTED, participation, unmatched
from tfser.manifests.audits.report import protocol_report
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.protocols.independence import fold_independence
from tfser.manifests.protocols.listed import ORIGINS, published_lists
from tfser.manifests.protocols.names import parse
from tfser.manifests.protocols.own import parse_own
from tfser.manifests.utterances import Utterance

LISTS = published_lists()
WORDS = {"W": "anger", "L": "boredom", "E": "disgust", "A": "fear", "F": "happiness", "N": "neutral", "T": "sadness"}


def emodb(leave_out: int = 0) -> list[Utterance]:
    """Return the corpus's utterances as its reader names them, but for the first few."""
    names = [name.removeprefix("wav/").removesuffix(".wav") for name, _ in LISTS["emobox:emodb"].places()]
    return [
        Utterance(utterance_id=n, path=f"emodb/wav/{n}.wav", speaker=n[:2], sentence=n[2:5], label=WORDS[n[5]])
        for n in names[leave_out:]
    ]


@pytest.mark.parametrize("name", sorted(LISTS))
def test_a_list_is_whole_and_judged_as_its_names_say(name: str) -> None:
    of = LISTS[name]
    places = of.places()
    assert len(places) == len({file for file, _ in places}) == of.rows
    told = {place for _, place in places}
    assert told == ({str(k) for k in range(1, of.folds + 1)} if of.folds > 1 else {"train", "test"})
    assert of.source.startswith("github.com/") and of.licence and of.read and name.partition(":")[0] in ORIGINS
    if of.speaker_in_name is None:
        assert of.shared_speakers is None and of.independence == "unknown"
        return
    shared = []
    for fold in sorted(told) if of.folds > 1 else ["test"]:
        test = {of.speaker(file) for file, place in places if place == fold} - {None}
        train = {of.speaker(file) for file, place in places if place != fold} - {None}
        shared.append((len(test & train), len(test)))
    assert tuple(shared) == of.shared_speakers
    assert sum(of.speaker(file) is None for file, _ in places) <= 0.02 * len(places)


def test_the_verdicts_that_the_field_should_know() -> None:
    broken = {name for name, of in LISTS.items() if of.independence == "broken"}
    assert {f"emobox:{c}" for c in ("emodb", "crema_d", "shemo", "oreau", "emov_db", "turev_db", "tess", "urdu")} <= broken
    kept = {"iemocap", "ravdess", "casia", "savee", "emovo", "cafe", "subesco", "jl_corpus", "polish"}
    assert {name.partition(":")[2] for name, of in LISTS.items() if of.independence == "kept"} == kept | {"crema_d"}
    assert LISTS["emobox:emodb"].verdict == "10 of 10 test speakers train in each of 5 folds"
    assert parse("emobox:emodb").summary.endswith("10 of 10 test speakers train")
    assert parse("emobox:emodb").keeps_apart == () and parse("s3prl:iemocap").keeps_apart == ("speaker",)


def test_all_lists_together_are_small() -> None:
    folder = resources.files("tfser.manifests.protocols").joinpath("lists")
    files = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    assert len(files) == len(LISTS) + 1 and sum(len(entry.read_bytes()) for entry in files) < 300_000


def test_names_of_lists() -> None:
    assert parse("emobox:cremad").name == "emobox:crema_d"
    assert parse("emosuperb:crema_d").validation == "next-group"
    assert parse("emobox:iemocap@anger,neutral/next-group").name == "emobox:iemocap@anger,neutral/next-group"
    for text in ("emobox", "emobox:meld", "emobox:emodb:5", "s3prl:emodb"):
        with pytest.raises(UsageError):
            parse(text)


@pytest.mark.slow
def test_folds_of_a_corpus_that_has_the_files(cache, put_corpus, installed) -> None:
    put_corpus(cache, emodb(), corpus="emodb", adapter="emodb")
    connection = installed("emodb", "emobox:emodb")
    sizes = connection.execute("SELECT fold, count(*) FROM folds WHERE role = 'test' GROUP BY 1 ORDER BY 1").fetchall()
    assert sizes == [(k, 107) for k in range(1, 6)]
    assert set(fold_independence(connection, "emobox:emodb", "emodb").values()) == {"broken"}
    (found,) = unmatched(connection, protocol="emobox:emodb", corpus="emodb")
    assert (found.level, found.rows) == ("ok", 0)
    report = protocol_report(connection, protocol="emobox:emodb", corpus="emodb")
    assert report.errors == 0 and set(report.independence.values()) == {"broken"}


def test_what_is_missing_on_either_side_is_counted(cache, put_corpus, installed) -> None:
    more = Utterance(utterance_id="99x", path="99x.wav", speaker="99", label="anger")
    put_corpus(cache, [*emodb(leave_out=7), more], corpus="mine")
    connection = installed("mine", "emobox:emodb")
    (found,) = unmatched(connection, protocol="emobox:emodb", corpus="mine")
    assert (found.level, found.rows, found.examples[0]["listed"]) == ("warning", 7, 535)
    assert unmatched(connection, protocol="loso-speaker", corpus="mine") == []
    tally = participation(connection, protocol="emobox:emodb", corpus="mine", defined=parse("emobox:emodb"))
    assert tally.to_dict() == {"given": 529, "used": 528, "left_out": {NOT_LISTED: 1}}
    with pytest.raises(TfserError, match="none of the 480 files"):
        installed("mine", "emobox:savee")


@pytest.mark.slow
def test_speakers_and_sentences_can_be_kept_apart_at_once(cache, put_corpus, installed) -> None:
    put_corpus(cache, emodb(), corpus="emodb", adapter="emodb")
    low, high = ["03", "08", "09", "10", "11"], ["12", "13", "14", "15", "16"]
    text = f'name = "both"\ngrouped_by = "speaker"\nfolds = [{low}, {high}]\nkeeps_apart = ["speaker", "sentence"]\n'
    strict = "where = \"(speaker <= '11') = (sentence < 'b00')\"\n"
    own = {name: parse_own(body, name).protocol for name, body in (("a", text), ("b", text + strict))}
    for key, errors in (("a", {"sentence_overlap"}), ("b", set())):
        name = own[key].name
        connection = installed("emodb", name, own={name: own[key]})
        report = protocol_report(connection, protocol=name, corpus="emodb")
        assert {f.audit for f in report.findings if f.level == "error" and f.kind == "leak"} == errors, key
        ways = [f.action for f in report.findings if f.audit == "sentence_overlap" and f.level == "error"]
        assert all("group by them" in way for way in ways), "an error says what to do, not that nothing is wrong"
    assert parse("group-kfold:5:sentence").keeps_apart == ("sentence",)
