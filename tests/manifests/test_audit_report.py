"""What an audit says in the end: how it ended, what could not be read, and what a score is not."""

from __future__ import annotations

import duckdb
import pytest

from tfser.manifests.audits.foreign import read_split
from tfser.manifests.audits.report import in_fold, protocol_report, split_report, summary, table
from tfser.manifests.audits.run import parse_audit, run_audits
from tfser.manifests.catalogue.build import Connection
from tfser.manifests.catalogue.reading import open_catalogue
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.utterances import Utterance


def corpus(speakers: tuple[str | None, ...] = ("s1", "s2", "s3")) -> list[Utterance]:
    return [
        Utterance(utterance_id=f"u{i:02d}", path=f"u{i:02d}.wav", speaker=speakers[i % 3], label=("anger", "neutral")[i // 3 % 2])
        for i in range(24)
    ]


def ended(connection: Connection, spec: str) -> str:
    return summary(protocol_report(connection, protocol=spec, corpus="toy"))


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("speakers", "spec", "expected"),
    [
        (("s1", "s2", "s3"), "loso-speaker", "toy / loso-speaker: no errors"),
        (
            ("s1", "s2", "s3"),
            "random-kfold:2",
            "toy / random-kfold:2: no errors; a score on it is not speaker-independent: test speakers are heard in training or "
            "validation (folds 1-2)",
        ),
        (
            (None, None, None),
            "random-kfold:2",
            "toy / random-kfold:2: no errors; a score on it cannot be called speaker-independent: who speaks cannot be told for "
            "every utterance (folds 1-2)",
        ),
        (
            ("s1", "s2", "unknown"),
            "loso-speaker",
            "toy / loso-speaker: 3 findings that forbid training; a score on it cannot be called speaker-independent: who speaks "
            "cannot be told for every utterance (folds 1-3)",
        ),
    ],
)
def test_the_last_line(cache, put_corpus, installed, speakers, spec, expected):
    put_corpus(cache, corpus(speakers))
    assert ended(installed("toy", spec), spec) == expected


@pytest.mark.slow
def test_what_cannot_be_read_is_counted(cache, put_corpus, installed):
    """The audio of most is not there: who leaks is told of all of them all the same."""
    lost = [u.utterance_id for u in corpus()[:22]]
    put_corpus(cache, corpus(), hashes=dict.fromkeys(lost), skipped=[(name, "scan") for name in lost])
    connection = installed("toy", "random-kfold:2")
    report = protocol_report(connection, protocol="random-kfold:2", corpus="toy")
    assert "; 22 of 24 utterances have no readable audio; a score on it is not" in summary(report)
    (overlap, _) = [f for f in report.findings if f.audit == "speaker_overlap"]
    assert overlap.rows == 3


@pytest.mark.slow
def test_a_split_of_a_corpus_without_audio(cache, put_corpus, tmp_path):
    names = [u.utterance_id for u in corpus()]
    put_corpus(cache, corpus(), hashes=dict.fromkeys(names), skipped=[(name, "scan") for name in names])
    path = tmp_path / "dealt.csv"
    path.write_text("id,split\n" + "".join(f"{u.utterance_id},{'test' if i % 5 else 'train'}\n" for i, u in enumerate(corpus())))
    with open_catalogue(cache) as connection:
        report = split_report(connection, split=read_split([path]), corpus="toy", claims=("speaker",))
    found = {f.audit: (f.level, f.rows) for f in report.findings if f.level != "ok"}
    assert found["speaker_overlap"] == ("error", 3)
    assert found["audio_unreadable"] == ("warning", 1)
    assert "class_missing" not in found


@pytest.mark.slow
def test_one_fold(cache, put_corpus, installed):
    put_corpus(cache, corpus())
    report = protocol_report(installed("toy", "random-kfold:3"), protocol="random-kfold:3", corpus="toy")
    (second,) = in_fold([report], 2)
    assert {f.fold for f in second.findings} == {None, 2}
    assert "(folds" not in summary(second) and "not speaker-independent" in summary(second)
    assert in_fold([report], None) == [report]
    with pytest.raises(UsageError, match=r"--fold 99: there is no such fold; random-kfold:3 has 1-3"):
        in_fold([report], 99)
    with pytest.raises(UsageError, match=r"--fold 0"):
        in_fold([report], 0)


@pytest.mark.slow
def test_folds_keep_their_numbers(cache, put_corpus, tmp_path):
    put_corpus(cache, corpus())
    for role, keep in (("train", lambda i: i % 3), ("test", lambda i: not i % 3 or i == 1)):
        path = tmp_path / "theirs" / "fold_2" / f"{role}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("id\n" + "".join(f"u{i:02d}\n" for i in range(24) if keep(i)))
    with open_catalogue(cache) as connection:
        report = split_report(connection, split=read_split([tmp_path / "theirs"]), corpus="toy", claims=("speaker",))
    assert {f.fold for f in report.findings} == {None, 2}
    (line,) = [line for line in table(report.findings) if line["audit"] == "speaker_overlap"]
    assert line["folds"] == "2"
    assert [f.audit for f in report.findings if f.audit == "class_missing" and f.level != "ok"] == []  # fold 1 is not missing


@pytest.mark.slow
def test_two_spellings_are_no_agreement(cache, put_corpus, installed):
    put_corpus(cache, corpus(("001", "1", "Jos\u00e9")))
    connection = installed("toy", "loso-speaker")
    report = protocol_report(connection, protocol="loso-speaker", corpus="toy")
    assert [(f.audit, f.fold) for f in report.findings if f.level != "ok"] == [("speaker_spelling", 1), ("speaker_spelling", 2)]
    assert "cannot be called speaker-independent" in summary(report)


@pytest.mark.slow
def test_the_views_are_gone_afterwards(cache, put_corpus, installed):
    put_corpus(cache, corpus(("s1", "s2", "unknown")))
    connection = installed("toy", "loso-speaker")
    run_audits(connection, protocol="loso-speaker", corpus="toy")
    assert connection.execute("SELECT count(DISTINCT speaker) FROM utterances").fetchone() == (3,)
    for view in ("all_assignments", "voices", "members"):
        with pytest.raises(duckdb.CatalogException):
            connection.execute(f"FROM {view}")


def test_kinds():
    header = "-- title: t\n-- level: error\n-- explanation: e\n-- action: a\n"
    assert parse_audit("x", header + "SELECT 1").kind == "leak"
    assert parse_audit("x", header + "-- kind: gap\nSELECT 1").kind == "gap"
    with pytest.raises(TfserError, match="kind 'hole' is none of leak, gap"):
        parse_audit("x", header + "-- kind: hole\nSELECT 1")
    assert parse_audit("x", header.replace("title: t", "title: t\u2028u") + "SELECT 1").title == "t\u2028u"
