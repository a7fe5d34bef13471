"""Each audit on a corpus planted to violate it, and on a clean one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tfser.manifests.audits import run as run_module
from tfser.manifests.audits.run import Audit, Finding, blocking, packaged_audits, parse_audit, run_audits
from tfser.manifests.catalogue.build import build
from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, refresh, rows
from tfser.manifests.errors import TfserError
from tfser.manifests.files import read_json, write_json, write_table
from tfser.manifests.protocols.folds import install
from tfser.manifests.protocols.names import parse
from tfser.manifests.utterances import Skipped, Utterance, skipped_table

from ..conftest import memory_catalogue

NAMES = {
    *("speaker_overlap", "speaker_spelling", "speaker_unknown", "speaker_confound", "speaker_attribution"),
    *("session_overlap", "dialogue_overlap", "neighbours_split", "sentence_overlap", "corpus_overlap", "validation_speakers"),
    *("duplicate_audio", "near_duplicates", "near_duplicates_unsearched", "features_missing", "mix_of_other_fold"),
    *("class_missing", "class_collapsed", "label_shift", "duration_leak", "level_leak", "recording_leak", "flags_by_class"),
    *("utterance_in_no_fold", "utterance_in_two", "published_counts", "split_unmatched", "split_twice", "split_labels"),
    *("audio_unreadable", "duplicates_in_corpus", "near_duplicate_labels", "speaker_genders", "encoder_saw_corpus", "scale_left"),
    *("rater_constant", "rater_off_scale", "left_out_of_fold"),
}


def corpus() -> list[Utterance]:
    """Four speakers in two sessions, a dialogue each, two classes, a split by session: nothing to find."""
    return [
        Utterance(
            utterance_id=f"s{s}_{i}",
            path=f"s{s}_{i}.wav",
            speaker=f"s{s}",
            session=f"S{(s - 1) // 2}",
            dialogue=f"d{s}",
            sentence=f"{s}{i}",
            label=("anger", "neutral")[i % 2],
            split="train" if s <= 2 else "test",
        )
        for s in range(1, 5)
        for i in range(4)
    ]


def changed(change: dict[str, Any], *ids: str) -> list[Utterance]:
    return [replace(u, **change) if u.utterance_id in ids else u for u in corpus()]


PACKAGED = {audit.name: audit for audit in packaged_audits()}


def audit(cache, spec: str, *only: str, corpus: str = "toy", **options: Any) -> list[Finding]:
    """Audit a protocol with all audits, or with those named, over an index in memory: a file for each case takes longer."""
    protocol = parse(spec)
    with memory_catalogue() as connection:
        build(cache, connection, {}, cache.sources(), fresh=True, is_created=True)
        known = "SELECT 1 FROM protocols WHERE protocol = ? AND corpora = ?"
        if not connection.execute(known, [protocol.name, corpus]).fetchone():
            install(connection, corpus, protocol)
        options = {"audits": [PACKAGED[name] for name in only]} | options if only else options
        return run_audits(connection, protocol=protocol.name, corpus=corpus, **options)


def found(findings: list[Finding]) -> dict[str, str]:
    return {f.audit: f.level for f in findings if f.level != "ok"}


def test_packaged():
    assert {a.name for a in packaged_audits()} == NAMES


@pytest.mark.few(1)
@pytest.mark.parametrize("spec", ["loso-session", "official-split", "group-kfold:2:session"])
def test_clean(cache, put_corpus, put_features, spec):
    put_corpus(cache, corpus())
    put_features(cache, [u.utterance_id for u in corpus()])
    name = ensure_protocol(cache, "toy", spec)
    with open_catalogue(cache) as connection:  # the whole way, as a command goes it
        findings = run_audits(connection, protocol=name, corpus="toy")
    assert found(findings) == {}
    assert {f.audit for f in findings} == NAMES
    assert {(f.fold, f.rows, f.examples) for f in findings} == {(None, 0, ())}


def test_speakers(cache, put_corpus):
    put_corpus(cache, changed({"speaker": "s1"}, "s4_0", "s4_1"))  # one voice in both sessions
    findings = audit(cache, "loso-session")
    assert found(findings) == {"speaker_overlap": "error"}
    assert [(f.fold, f.rows) for f in findings if f.level == "error"] == [(1, 1), (2, 1)]
    assert findings[0].examples == ({"speaker": "s1", "test_utterances": 4, "train_utterances": 2, "val_utterances": 0},)
    assert found(audit(cache, "official-split")) == {"speaker_overlap": "warning"}  # promises nothing about speakers
    random = found(audit(cache, "random-kfold:2", "speaker_overlap", "session_overlap", "dialogue_overlap"))
    assert (random["speaker_overlap"], random["session_overlap"], random["dialogue_overlap"]) == ("warning",) * 3


def test_every_speaker_on_both_sides(cache, put_corpus):
    rows = [replace(u, speaker=f"p{i % 2}") for i, u in enumerate(corpus())]  # a column that names something else
    put_corpus(cache, rows)
    (overlap,) = [f for f in audit(cache, "loso-session", "speaker_overlap") if f.fold == 1]
    assert (overlap.level, overlap.rows) == ("error", 2)


@pytest.mark.slow
def test_sessions_and_dialogues(cache, put_corpus):
    put_corpus(cache, corpus())
    assert found(audit(cache, "loso-speaker")) == {"session_overlap": "warning"}
    assert found(audit(cache, "group-kfold:4:dialogue", "session_overlap"))["session_overlap"] == "warning"
    put_corpus(cache, changed({"dialogue": "d4"}, "s1_0"))
    assert found(audit(cache, "loso-speaker")) == {
        "session_overlap": "warning",
        "dialogue_overlap": "warning",
        "neighbours_split": "warning",
    }
    session = changed({"session": "S1"}, "s1_0")
    put_corpus(cache, session, corpus="iemocap", adapter="iemocap")
    of_iemocap = found(audit(cache, "iemocap4-session@anger,neutral", corpus="iemocap"))
    assert of_iemocap == {"speaker_overlap": "error", "dialogue_overlap": "error", "neighbours_split": "error"}


def test_validation_is_compared_too(cache, put_corpus):
    splits = {"s1": "train", "s2": "train", "s3": "val", "s4": "test"}
    rows = [replace(u, split=splits[u.speaker or ""], speaker="x" if u.speaker in ("s3", "s4") else "y") for u in corpus()]
    put_corpus(cache, rows)
    assert found(audit(cache, "official-split", "speaker_overlap")) == {"speaker_overlap": "warning"}


@pytest.mark.slow
def test_duplicate_audio(cache, put_corpus):
    put_corpus(cache, corpus(), hashes={"s1_0": "same", "s1_1": "same", "s3_0": "same", "s4_0": None, "s2_0": None})
    findings = audit(cache, "loso-session")
    whole = {"duplicates_in_corpus": "warning", "audio_unreadable": "warning"}
    assert found(findings) == {"duplicate_audio": "error"} | whole
    in_fold = {f.fold: f for f in findings if f.audit == "duplicate_audio"}
    assert in_fold[2].examples == ({"test_utterance": "s3_0", "other_role": "train", "other_utterance": "s1_0", "copies": 2},)
    assert in_fold[1].rows == 2
    assert found(audit(cache, "loso-speaker", "duplicate_audio"))["duplicate_audio"] == "error"  # an error for any protocol


@pytest.mark.slow
def test_classes(cache, put_corpus):
    put_corpus(cache, [u for u in corpus() if not (u.session == "S1" and u.label == "anger")])
    findings = [f for f in audit(cache, "loso-session", "class_missing") if f.level != "ok"]
    assert [(f.fold, f.level, f.examples[0]) for f in findings] == [
        (1, "error", {"role": "train", "class": "anger"}),
        (2, "warning", {"role": "test", "class": "anger"}),
    ]
    lacking = audit(cache, "loso-session@neutral,fear", "class_missing")
    assert {(f.fold, f.level) for f in lacking if f.audit == "class_missing"} == {
        (k, level) for k in (1, 2) for level in ("error", "warning")
    }
    splits = {"s1": "train", "s2": "train", "s3": "val", "s4": "test"}
    put_corpus(cache, [replace(u, split=splits[u.speaker or ""]) for u in corpus() if u.utterance_id not in ("s3_0", "s3_2")])
    (val,) = audit(cache, "official-split", "class_missing")
    assert (val.level, val.examples) == ("warning", ({"role": "val", "class": "anger"},))


@pytest.mark.slow
def test_sides_that_nobody_stands_on(cache, put_corpus):
    unread = [(u.utterance_id, "scan") for u in corpus() if u.speaker == "s2"]
    put_corpus(cache, corpus(), skipped=unread)
    findings = audit(cache, "loso-speaker/next-group", "class_missing")
    assert {(f.fold, f.level, e["role"], e["class"]) for f in findings for e in f.examples} == {
        (fold, "warning", role, label) for fold, role in ((1, "val"), (2, "test")) for label in ("anger", "neutral")
    }
    splits = {"s1": "train", "s2": "val", "s3": "train", "s4": "test"}
    put_corpus(cache, [replace(u, split=splits[u.speaker or ""]) for u in corpus()], skipped=unread)
    (finding,) = audit(cache, "official-split", "class_missing")
    assert (finding.level, [e["role"] for e in finding.examples]) == ("warning", ["val", "val"])


@pytest.mark.slow
def test_speakers_that_are_spelt_in_two_ways(cache, put_corpus):
    put_corpus(cache, [*changed({"speaker": "S 1"}, "s4_0", "s4_1")])
    findings = [f for f in audit(cache, "loso-session") if f.level != "ok"]
    assert {(f.audit, f.level, f.fold) for f in findings} == {("speaker_spelling", "warning", k) for k in (1, 2)}
    assert findings[0].examples == ({"speaker": "s1", "test_utterances": 4, "other_spelling": "S 1", "other_utterances": 2},)
    put_corpus(cache, changed({"speaker": "S1"}, "s1_0", "s1_1"))  # both on one side: nothing leaks
    assert found(audit(cache, "loso-session")) == {}
    assert "speaker_spelling" in found(audit(cache, "loso-speaker", "speaker_spelling"))


@pytest.mark.slow
def test_in_no_fold_and_unknown_speakers(cache, put_corpus):
    put_corpus(cache, changed({"speaker": None}, "s1_0"))
    assert found(audit(cache, "loso-speaker")) == {"session_overlap": "warning", "utterance_in_no_fold": "error"}
    assert found(audit(cache, "loso-session")) == {"speaker_unknown": "error"}  # keeps speakers apart, cannot be checked
    assert found(audit(cache, "official-split")) == {}
    put_corpus(cache, changed({"split": "extra"}, "s1_0"))
    (finding,) = [f for f in audit(cache, "official-split") if f.level == "error"]
    assert finding.examples == ({"utterance_id": "s1_0", "grouped_as": "extra", "grouped_by": "split"},)
    assert finding.fold is None


def test_in_two(cache, put_corpus):
    twice = replace(corpus()[0], speaker="s4", session="S1", split="test")
    put_corpus(cache, [*corpus(), twice])  # what a scan would refuse
    (finding,) = audit(cache, "official-split", "utterance_in_two")
    assert finding.level == "error" and finding.examples == ({"utterance_id": "s1_0", "found": "test, train"},)
    whole = [f for f in audit(cache, "loso-session", "utterance_in_two") if f.fold is None]
    assert whole[0].examples == ({"utterance_id": "s1_0", "found": "test in folds 1, 2"},)


@pytest.mark.slow
def test_features(cache, put_corpus, put_features):
    ids = [u.utterance_id for u in corpus()]
    put_corpus(cache, corpus(), hashes={"s1_0": "changed since"})
    assert found(audit(cache, "loso-session")) == {}  # no features at all: nothing claims to be complete
    put_features(cache, ids[:-1])
    (finding,) = [f for f in audit(cache, "loso-session") if f.level != "ok"]
    assert (finding.audit, finding.level, finding.fold, finding.rows) == ("features_missing", "error", None, 2)
    assert {e["utterance_id"] for e in finding.examples} == {"s1_0", "s4_3"}
    assert found(audit(cache, "loso-session", feature_sets=[])) == {}
    assert audit(cache, "loso-session", "features_missing", feature_sets=["it's"])[0].rows == 16
    put_corpus(cache, corpus(), skipped=[("s4_3", "extract:logmel")])
    assert found(audit(cache, "loso-session")) == {}


@pytest.mark.slow
def test_what_another_feature_set_skipped_is_missing_in_this_one(cache, put_corpus, put_features):
    """Neither another set's skips, nor those of a file that changed, nor those of an outdated set of the name excuse anything."""
    ids = [u.utterance_id for u in corpus()]
    stages = ("extract:wavlm", "extract:logmel@abcdef01", "changed:logmel", "run")
    put_corpus(cache, corpus(), skipped=[("s4_3", stage) for stage in stages])
    put_features(cache, ids[:-1])
    put_features(cache, ids[:-1], name="wavlm")
    for sets in (None, ["logmel"], ["logmel", "wavlm"]):
        (finding,) = [f for f in audit(cache, "loso-session", "features_missing", feature_sets=sets) if f.level != "ok"]
        assert (finding.audit, finding.rows) == ("features_missing", 1)
        assert finding.examples == ({"feature_set": "logmel", "utterance_id": "s4_3"},)
    assert found(audit(cache, "loso-session", "features_missing", feature_sets=["wavlm"])) == {}


@pytest.mark.slow
def test_what_an_outdated_feature_set_skipped_excuses_nothing(cache, put_corpus, put_features):
    ids = [u.utterance_id for u in corpus()]
    put_corpus(cache, corpus())
    put_features(cache, ids[:-1])
    listed = [Skipped(corpus="toy", utterance_id="s4_3", path=None, stage="extract:logmel", reason="short")]
    current, outdated = cache.feature_root / "logmel-abcdef012345", cache.feature_root / "logmel-fedcba543210"
    about = read_json(current / "feature_set.json")
    write_json(outdated / "feature_set.json", about | {"fingerprint": "fedcba543210", "created_at": "2024-01-01T00:00:00"})
    write_table(outdated / "toy" / "skipped.parquet", skipped_table(listed))
    assert found(audit(cache, "loso-session")) == {"features_missing": "error"}
    with open_catalogue(cache) as connection:
        assert rows(connection, "SELECT stage FROM skipped") == [{"stage": "extract:logmel@fedcba54"}]
    write_table(current / "toy" / "skipped.parquet", skipped_table(listed))
    assert found(audit(cache, "loso-session")) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("scan", {"split": "?", "label": "joy"}),
        ("extract:logmel", {"session": None, "label": "joy"}),
    ],
)
def test_skipped_utterances_fail_no_audit_of_what_is_heard(cache, put_corpus, put_features, stage, change):
    put_corpus(cache, changed(change, "s1_0"), skipped=[("s1_0", stage)], hashes={"s1_0": "hash of s4_0"})
    put_features(cache, [u.utterance_id for u in corpus()[1:]])
    labels = "@anger,neutral"
    for spec in ("loso-session", "loso-speaker", "official-split"):
        assert "error" not in found(audit(cache, spec + labels)).values(), spec


@pytest.mark.few(1)
@pytest.mark.parametrize("stage", ["scan", "extract:logmel"])
def test_who_speaks_is_judged_whatever_can_be_heard(cache, put_corpus, put_features, stage):
    put_corpus(cache, changed({"speaker": "s4", "session": "S1", "dialogue": "d4"}, "s1_0", "s2_0"), skipped=[("s1_0", stage)])
    put_features(cache, [u.utterance_id for u in corpus()[1:]])
    (overlap,) = [f for f in audit(cache, "loso-speaker", "session_overlap") if f.fold == 1]
    assert sum(e["test_utterances"] for e in overlap.examples) == 3
    put_corpus(cache, changed({"speaker": "s4"}, "s1_0"), skipped=[("s1_0", stage)])
    assert found(audit(cache, "loso-session", "speaker_overlap")) == {"speaker_overlap": "error"}
    put_corpus(cache, changed({"speaker": None}, "s1_0"), skipped=[("s1_0", stage)])
    assert found(audit(cache, "loso-session", "speaker_unknown")) == {"speaker_unknown": "error"}


@pytest.mark.slow
def test_nothing_can_be_read(cache, put_corpus):
    """Nobody stands on no side: the classes of all rows are there, and the one thing that is said is that none can be heard."""
    rows = changed({"speaker": "s1"}, "s4_0")
    put_corpus(cache, rows, skipped=[(u.utterance_id, "scan") for u in rows], hashes={u.utterance_id: None for u in rows})
    findings = audit(cache, "loso-session")
    assert found(findings) == {"speaker_overlap": "error", "audio_unreadable": "error"}
    (unread,) = [f for f in findings if f.audit == "audio_unreadable"]
    assert unread.examples == ({"unreadable": 16, "of_utterances": 16, "example": "s1_0"},)


@pytest.mark.slow
def test_what_a_reader_passed_over_excuses_nothing(cache, put_corpus, put_features):
    """A second file of an utterance is listed under the utterance's id; the utterance itself is there, and audited."""
    put_corpus(cache, changed({"speaker": "s1"}, "s4_0"), skipped=[(u.utterance_id, "read") for u in corpus()])
    put_features(cache, [u.utterance_id for u in corpus()[1:]])
    assert found(audit(cache, "loso-session")) == {"speaker_overlap": "error", "features_missing": "error"}


@pytest.mark.slow
def test_skipped_in_another_feature_set_but_used_here(cache, put_corpus, put_features):
    put_corpus(cache, changed({"speaker": "s1"}, "s4_0"), skipped=[("s4_0", "extract:wavlm")])
    put_features(cache, [u.utterance_id for u in corpus()])
    assert found(audit(cache, "loso-session", feature_sets=["logmel"])) == {"speaker_overlap": "error"}
    put_features(cache, ["s1_0"], name="wavlm", shard="1")
    assert "features_missing" in found(audit(cache, "loso-session", "features_missing", feature_sets=["wavlm"]))


@pytest.mark.slow
def test_sentences_are_information(cache, put_corpus):
    put_corpus(cache, [replace(u, sentence=u.utterance_id[-1]) for u in corpus()])
    findings = audit(cache, "loso-session")
    assert found(findings) == {"sentence_overlap": "info"}
    assert findings[0].examples == ({"sentences": 4, "test_utterances": 8, "share_of_test": 1.0},)


@pytest.mark.slow
def test_order_and_blocking(cache, put_corpus):
    put_corpus(cache, changed({"speaker": "s1"}, "s4_0"), hashes={"s1_0": "a", "s3_0": "a"})
    findings = audit(cache, "loso-session", examples=0)
    assert [f.level for f in findings] == sorted((f.level for f in findings), key=("error", "warning", "info", "ok").index)
    assert {(f.audit, f.fold) for f in blocking(findings, 1)} == {("duplicate_audio", 1), ("speaker_overlap", 1)}
    put_corpus(cache, changed({"speaker": None}, "s1_0"))
    by_speaker = audit(cache, "loso-speaker", "utterance_in_no_fold", "speaker_overlap")
    assert [(f.audit, f.fold) for f in blocking(by_speaker, 3)] == [("utterance_in_no_fold", None)]  # of all folds


@pytest.mark.slow
def test_another_corpus_and_protocol_do_not_matter(cache, put_corpus):
    put_corpus(cache, corpus())
    put_corpus(cache, changed({"speaker": "s1"}, "s4_0"), corpus="other", skipped=[("s1_0", "scan")])
    ensure_protocol(cache, "other", "random-kfold:2")
    assert found(audit(cache, "loso-session")) == {}


@pytest.mark.slow
def test_names_with_quotes(cache, put_corpus):
    put_corpus(cache, [replace(u, label=f"o'{u.label}") for u in corpus()])
    spec = "loso-session@o'anger,x\"y:o'neutral"
    findings = audit(cache, spec)
    assert found(findings) == {} and {f.protocol for f in findings} == {spec}


def test_to_json_and_sentence(cache, put_corpus):
    put_corpus(cache, changed({"speaker": "s1"}, "s4_0"))
    findings = audit(cache, "loso-session")
    first = json.loads(json.dumps([f.to_dict() for f in findings], default=str))[0]
    assert {k: first[k] for k in ("audit", "protocol", "fold", "level", "rows")} == {
        "audit": "speaker_overlap",
        "protocol": "loso-session",
        "fold": 1,
        "level": "error",
        "rows": 1,
    }
    assert findings[0].sentence() == (
        "speakers on both sides (fold 1, 1 row; for instance speaker s1, test_utterances 4, train_utterances 1, val_utterances 0)"
    )


HEADER = "-- title: t\n-- level: error\n-- explanation: e\n-- action: a: b\n"


def test_parse_audit():
    assert parse_audit("x", HEADER + "SELECT 1") == Audit(
        name="x", title="t", level="error", explanation="e", action="a: b", query=HEADER + "SELECT 1"
    )
    assert parse_audit("x", HEADER.replace("\n", "\r\n") + "SELECT 1").title == "t"
    for key in ("title", "level", "explanation", "action"):
        with pytest.raises(TfserError, match=rf"audit x\.sql: the header lacks `-- {key}: \.\.\.`"):
            parse_audit("x", HEADER.replace(f"-- {key}:", "-- other:"))
        with pytest.raises(TfserError, match=f"lacks `-- {key}"):
            parse_audit("x", "\n".join(f"-- {k}: {'' if k == key else 'v'}" for k in ("title", "level", "explanation", "action")))
    with pytest.raises(TfserError, match="lacks `-- title"):
        parse_audit("x", "SELECT 1\n" + HEADER)


@pytest.mark.slow
def test_an_audit_of_ones_own(cache, put_corpus):
    put_corpus(cache, corpus())
    refresh(cache)
    query = (
        "SELECT protocol, corpus, fold, 'info' AS level, utterance_id FROM fold_utterances WHERE role = 'test' "
        "ORDER BY utterance_id DESC; "
    )
    one = parse_audit("mine", HEADER + query)
    findings = audit(cache, "loso-session", audits=[one], examples=2)
    assert [(f.audit, f.fold, f.level, f.rows) for f in findings] == [("mine", 1, "info", 8), ("mine", 2, "info", 8)]
    assert [e["utterance_id"] for e in findings[0].examples] == ["s2_3", "s2_2"]  # the query's own order
    with pytest.raises(TfserError, match=r"audit mine: .*no_such_table"):
        audit(cache, "loso-session", audits=[parse_audit("mine", HEADER + "FROM no_such_table")])
    with pytest.raises(TfserError, match=r"audit mine: level 'fatal' is none of error, warning, info, ok"):
        audit(cache, "loso-session", audits=[parse_audit("mine", HEADER + query.replace("info", "fatal"))])


@pytest.mark.slow
def test_few_and_many_violations_are_counted_alike(cache, put_corpus, monkeypatch):
    """Few are counted in Python, many in the database: findings, counts and examples are the same."""
    everybody = [replace(u, speaker=f"s{i % 2}", dialogue=f"d{i % 3}") for i, u in enumerate(corpus())]
    put_corpus(cache, everybody)
    few = audit(cache, "loso-session", examples=1)
    monkeypatch.setattr(run_module, "_FEW", 0)
    assert audit(cache, "loso-session", examples=1) == few
    assert any(finding.rows > 1 == len(finding.examples) for finding in few)


@pytest.mark.slow
def test_an_audit_by_itself_finds_what_it_finds_among_all(cache, put_corpus, put_features):
    """Though only what it reads is made for it."""
    put_corpus(cache, changed({"speaker": "s1", "label": "joy", "sentence": "all"}, "s4_0", "s3_1", "s2_2"))
    put_features(cache, [u.utterance_id for u in corpus()][1:])
    for spec in ("loso-session", "random-kfold:3", "official-split"):
        alone = [finding for name in PACKAGED for finding in audit(cache, spec, name)]
        assert {repr(finding) for finding in alone} == {repr(finding) for finding in audit(cache, spec)}
        assert len(found(alone)) > 2


def test_a_protocol_over_ratings_has_no_class_that_collapses(cache, put_corpus):
    put_corpus(cache, [replace(u, valence=float(i % 5)) for i, u in enumerate(corpus())])
    assert found(audit(cache, "loso-session@rated:valence", "class_collapsed", "class_missing", "label_shift")) == {}
