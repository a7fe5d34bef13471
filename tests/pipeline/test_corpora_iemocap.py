"""IEMOCAP's reader on a folder with the real ids and labels and every quirk; its protocol; its audit."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from tfser.manifests.audits.run import run_audits
from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, rows
from tfser.manifests.errors import TfserError
from tfser.manifests.labels import LABELS
from tfser.pipeline.corpora.base import Reading
from tfser.pipeline.corpora.iemocap import READER, read
from tfser.pipeline.scanning.scan import ScanOptions, scan

LABELS_OF_ALL = {
    "anger": 1103,
    "happiness": 595,
    "excitement": 1041,
    "sadness": 1084,
    "neutral": 1708,
    "frustration": 1849,
    "fear": 40,
    "surprise": 107,
    "disgust": 2,
    "other": 3,
    "undecided": 2507,
}
FOUR = ("anger", "happiness", "excitement", "neutral", "sadness")


@pytest.fixture(scope="module")
def tree(tmp_path_factory, shared, iemocap_tree, write_wav) -> Path:
    listing = shared / "metadata" / "iemocap_utterances.tsv"
    if not listing.is_file():
        pytest.skip(f"IEMOCAP's list of ids is not here: {listing}")
    root = tmp_path_factory.mktemp("above") / "IEMOCAP_full_release"
    real = iemocap_tree.real_turns(listing)
    iemocap_tree.make_tree(root, real + iemocap_tree.made_up_turns(real), write_wav(root.parent / "one.wav", 0.05))
    return root


@pytest.fixture(scope="module")
def reading(tree) -> Reading:
    return read(tree, {})


def small_tree(root: Path, iemocap_tree: ModuleType, write_wav, *turns: tuple[str, str]) -> Path:
    wav = write_wav(root.parent / "one.wav", 0.1)
    iemocap_tree.make_tree(root, [iemocap_tree.Turn(*turn) for turn in turns], wav)
    return root


@pytest.mark.slow
def test_counts_of_all_labels(reading):
    assert Counter(u.label for u in reading.utterances) == LABELS_OF_ALL
    assert len(reading.utterances) == 10_039
    assert len({u.utterance_id for u in reading.utterances}) == 10_039
    assert not reading.skipped  # neither files of macOS nor single ratings got in


def test_all_labels_are_the_fields_words(reading):
    assert {u.label for u in reading.utterances} <= set(LABELS)
    written = {"ang", "hap", "exc", "sad", "neu", "fru", "fea", "sur", "dis", "oth", "xxx"}
    assert {u.raw_label for u in reading.utterances} == written


def test_counts_per_session_of_the_four_classes(reading):
    four = [u for u in reading.utterances if u.label in FOUR]
    sessions = Counter(u.session for u in four)
    assert [sessions[f"Ses0{i}"] for i in range(1, 6)] == [1085, 1023, 1151, 1031, 1241]


def test_the_speaker_is_the_letter_before_the_number(reading):
    four = [u for u in reading.utterances if u.label in FOUR]
    assert sum(u.speaker != u.utterance_id[:6] for u in four) == 2750
    assert {u.speaker for u in reading.utterances} == {f"Ses0{i}{g}" for i in range(1, 6) for g in "FM"}
    assert all(u.gender == u.speaker[-1] for u in reading.utterances)
    one = next(u for u in reading.utterances if u.utterance_id == "Ses01F_impro01_M011")
    assert (one.speaker, one.session, one.gender) == ("Ses01M", "Ses01", "M")


def test_improvised_alone(reading):
    improvised = Counter(u.label for u in reading.utterances if u.scenario == "improvised")
    assert {label: improvised[label] for label in ("anger", "happiness", "neutral", "sadness")} == {
        "anger": 289,
        "happiness": 284,
        "neutral": 1099,
        "sadness": 608,
    }


def test_scenario_dialogue_and_sentence(reading):
    by_id = {u.utterance_id: u for u in reading.utterances}
    scripted = next(u for u in reading.utterances if u.dialogue == "Ses05M_script01_1b")
    assert (scripted.scenario, scripted.sentence, scripted.session) == ("scripted", "script01_1b", "Ses05")
    improvised = by_id["Ses01F_impro01_F000"]
    assert (improvised.scenario, improvised.sentence, improvised.dialogue) == ("improvised", None, "Ses01F_impro01")
    overlapping = [u for u in reading.utterances if "XX" in u.utterance_id]
    assert len(overlapping) > 300
    assert {u.gender for u in overlapping} == {"F", "M"}


def test_ratings_times_and_words(reading):
    u = next(u for u in reading.utterances if u.utterance_id == "Ses01F_impro01_F000")
    assert u.path == "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"
    assert u.label == "neutral"  # not what Categorical or the ._ file say
    assert (u.valence, u.arousal, u.dominance) == (2.5, 1.0, 3.3333)
    assert u.extra == {"turn_start_s": 0.2901, "turn_end_s": 1.2357}
    assert (u.start_s, u.end_s) == (None, None)  # its file is the turn alone
    assert u.transcript == "Well… café, number 0."  # byte 0x85 of Windows ends no line
    assert all(u.transcript for u in reading.utterances)


@pytest.mark.slow
def test_root_one_level_above(tree, reading):
    above = read(tree.parent, {})
    assert len(above.utterances) == len(reading.utterances)
    assert above.utterances[0].path.startswith("IEMOCAP_full_release/Session1/")


def test_one_session_alone(tree):
    reading = read(tree / "Session5", {})
    assert {u.session for u in reading.utterances} == {"Ses05"}
    assert sum(u.label in FOUR for u in reading.utterances) == 1241


def test_default_protocol_and_its_audit(cache, put_corpus, reading):
    put_corpus(cache, reading.utterances, corpus="iemocap", adapter="iemocap", default_protocol=READER.default_protocol)
    name = ensure_protocol(cache, "iemocap", "iemocap4-session")
    with open_catalogue(cache) as connection:
        counts = rows(
            connection,
            "SELECT fold, role, count(*) AS n FROM folds WHERE protocol = ? GROUP BY ALL ORDER BY ALL",
            [name],
        )
        tests = [row["n"] for row in counts if row["role"] == "test"]
        trains = [row["n"] for row in counts if row["role"] == "train"]
        assert tests == [1085, 1023, 1151, 1031, 1241]
        assert trains == [5531 - n for n in tests]
        classes = rows(connection, "SELECT label, count(*) AS n FROM assignments WHERE protocol = ? GROUP BY ALL", [name])
        assert {row["label"]: row["n"] for row in classes} == {
            "anger": 1103,
            "happiness": 1636,
            "neutral": 1708,
            "sadness": 1084,
        }
        assert rows(connection, "SELECT classes FROM protocols WHERE protocol = ?", [name]) == [
            {"classes": ["anger", "happiness", "neutral", "sadness"]}
        ]
        findings = run_audits(connection, protocol=name, corpus="iemocap")
        assert [(f.audit, f.level) for f in findings if f.level == "error"] == []
        assert {f.audit for f in findings if f.level == "info"} == {"sentence_overlap"}  # the scripts recur
        by_speaker = run_audits(connection, protocol="loso-speaker", corpus="iemocap")
        warned = {f.audit for f in by_speaker if f.level == "warning"}
        assert {"session_overlap", "dialogue_overlap"} <= warned  # speaker folds share sessions


def test_missing_wav_and_wav_without_label(tmp_path, cache, iemocap_tree, write_wav):
    root = small_tree(
        tmp_path / "iemocap",
        iemocap_tree,
        write_wav,
        ("Ses01F_impro01_F000", "neu"),
        ("Ses01F_impro01_M000", "ang"),
        ("Ses02F_impro01_M000", "ang"),
    )
    folder = root / "Session1/sentences/wav/Ses01F_impro01"
    (folder / "Ses01F_impro01_F000.wav").unlink()
    shutil.copyfile(folder / "Ses01F_impro01_M000.wav", folder / "Ses01F_impro01_F777.wav")
    report = scan(cache, READER, corpus="iemocap", root=root, how=ScanOptions(workers=1))
    assert report.utterances == 3
    assert {(s.utterance_id, s.stage) for s in report.skipped} == {
        ("Ses01F_impro01_F000", "scan"),
        ("Ses01F_impro01_F777", "read"),
    }
    assert next(s for s in report.skipped if s.stage == "read").reason == "no consensus label in dialog/EmoEvaluation"


def test_session_without_audio_or_transcripts(tmp_path, iemocap_tree, write_wav):
    root = small_tree(tmp_path / "iemocap", iemocap_tree, write_wav, ("Ses01F_impro01_F000", "neu"))
    shutil.rmtree(root / "Session1" / "sentences")
    shutil.rmtree(root / "Session1" / "dialog" / "transcriptions")
    (only,) = read(root, {}).utterances
    assert only.path == "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"
    assert only.transcript is None


def test_odd_label_lines(tmp_path, iemocap_tree, write_wav):
    root = small_tree(tmp_path / "iemocap", iemocap_tree, write_wav, ("Ses01F_impro01_F000", "neu"))
    with (root / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt").open("a", encoding="utf-8") as file:
        file.write("\n[6.2901 - 8.2357]\tSes01F_impro01_F001\tHap\n")  # no ratings, a capital
        file.write("[6.2901 - 8.2357]\tSes01F_impro01_F000\tang\t[1, 2, 3]\n")  # a second time
        file.write("[6.2901 - 8.2357]\tSes01F_nonsense\tang\t[1, 2, 3]\n")
        file.write("[6.2901 - ]\tSes01F_impro01_F002\tang\t[1, 2, 3]\n")
    reading = read(root, {})
    assert [(u.utterance_id, u.label, u.valence) for u in reading.utterances] == [
        ("Ses01F_impro01_F000", "neutral", 2.5),
        ("Ses01F_impro01_F001", "happiness", None),
    ]
    assert {(name, reason.split(";")[0]) for name, _, reason in reading.skipped} == {
        ("Ses01F_impro01_F000", "labelled a second time"),
        ("Ses01F_nonsense", "the id is not session, dialogue and speaker with a number"),
    }


@pytest.mark.parametrize("folder", ["Session1/sentences/wav", "something"])
def test_not_iemocap(tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(TfserError, match=r"does not look like iemocap: .*Expected: ROOT/Session1/sentences"):
        read(tmp_path, {})
