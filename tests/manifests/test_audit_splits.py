"""Foreign splits, audited: who leaks is named, a clean split passes without noise, IEMOCAP's well-known mistake fails."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from tfser.manifests.audits.foreign import read_split
from tfser.manifests.audits.report import AuditReport, leaks, markdown, parse_claims, split_report, summary, table
from tfser.manifests.audits.run import audits_in, packaged_audits
from tfser.manifests.catalogue.reading import open_catalogue
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.utterances import Utterance

WORDS = {"ang": "anger", "hap": "happiness", "exc": "excitement", "sad": "sadness", "neu": "neutral"}


@pytest.fixture
def check(cache):
    def check(path: Path | list[Path], corpus: str = "toy", *, claims: str | None = None, audits=None) -> AuditReport:
        with open_catalogue(cache) as connection:
            split = read_split(path if isinstance(path, list) else [path])
            return split_report(connection, split=split, corpus=corpus, claims=parse_claims(claims), audits=audits)

    return check


def found(report: AuditReport) -> dict[str, str]:
    return {f.audit: f.level for f in report.findings if f.level != "ok"}


def toy() -> list[Utterance]:
    return [
        Utterance(
            utterance_id=f"{s}-{i:02d}",
            path=f"{s}/{i:02d}.wav",
            speaker=s,
            session=s,
            label=("anger", "sadness")[i % 2],
            raw_label=("A", "S")[i % 2],
        )
        for s in ("anna", "bert", "carl")
        for i in range(8)
    ]


def write(path: Path, rows: list[str], header: str = "path,split") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_split_over_utterances_names_every_speaker(cache, put_corpus, check, tmp_path):
    put_corpus(cache, toy())
    leaky = write(tmp_path / "random.csv", [f"D:\\x\\{u.path},{'test' if i % 8 < 2 else 'train'}" for i, u in enumerate(toy())])
    report = check(leaky)
    assert found(report) == {"speaker_overlap": "error", "session_overlap": "warning"}
    assert leaks(report.findings) == [
        {"speaker": s, "folds": "1", "test_utterances": 2, "train_utterances": 6, "val_utterances": 0}
        for s in ("anna", "bert", "carl")
    ]
    assert summary(report) == (
        "toy / split:random.csv: 24 rows, 24 utterances in 1 fold; judged as keeping speakers apart: "
        "1 finding that forbids training; a score on it is not speaker-independent: test speakers are heard in training or "
        "validation"
    )
    assert found(check(leaky, claims="none")) == {"speaker_overlap": "warning", "session_overlap": "warning"}
    assert found(check(leaky, claims="speaker,session")) == {"speaker_overlap": "error", "session_overlap": "error"}
    with pytest.raises(UsageError, match=r"unknown claim \(--claims\) 'speakers'; did you mean 'speaker'\?"):
        parse_claims("speakers")


def test_who_trains_and_validates_is_said_of_a_published_split_too(cache, put_corpus, check, tmp_path):
    put_corpus(cache, toy())
    sides = {"anna": ("train", "val"), "bert": ("train", "train"), "carl": ("test", "test")}
    split = write(tmp_path / "three.csv", [f"{u.path},{sides[u.speaker or ''][i % 8 < 4]}" for i, u in enumerate(toy())])
    (audit,) = [audit for audit in packaged_audits() if audit.name == "validation_speakers"]
    report = check(split, audits=[audit])
    assert found(report) == {"validation_speakers": "warning"}
    assert report.findings[0].examples == ({"speakers": 1, "val_utterances": 4, "for_instance": "anna"},)


@pytest.mark.slow
def test_a_clean_split_passes_without_noise(cache, put_corpus, check, tmp_path):
    put_corpus(cache, toy())
    put_corpus(cache, toy(), corpus="other")
    clean = write(tmp_path / "clean.csv", [f"/y/{u.path},{'test' if u.speaker == 'carl' else 'train'}" for u in toy()])
    assert found(check(clean)) == {}
    assert table(check(clean).findings) == [
        {
            "level": "ok",
            "audit": f"{len(packaged_audits())} audits",
            "folds": "all",
            "rows": 0,
            "example": "",
            "action": "they found nothing",
        }
    ]
    folds = write(tmp_path / "folds.csv", [f"{u.utterance_id},{u.speaker}" for u in toy()], "id,fold")
    assert found(check(folds)) == {}
    by_number = write(tmp_path / "bad.csv", [f"{u.utterance_id},{i % 3}" for i, u in enumerate(toy())], "id,fold")
    report = check(by_number)
    assert report.matched is not None and report.matched.folds == 3
    assert [(row["speaker"], row["folds"]) for row in leaks(report.findings)] == [(s, "0-2") for s in ("anna", "bert", "carl")]


def test_rows_that_are_nobody_or_several_or_twice(cache, put_corpus, check, tmp_path):
    put_corpus(cache, toy())
    rows = [f"{u.path},{'test' if u.speaker == 'carl' else 'train'}" for u in toy()]
    more = ["nobody.wav,train", "00.wav,train", "x/00.flac,train", rows[0], "carl/00.wav,train"]
    odd = write(tmp_path / "odd.csv", [*rows, *more])
    report = check(odd)
    assert report.matched is not None
    assert (report.matched.unknown, report.matched.ambiguous, report.matched.left_out) == (1, 2, 0)
    by_name = {f.audit: f for f in report.findings}
    assert [(e["fits"], e["written"], e["line"]) for e in by_name["split_unmatched"].examples] == [
        ("none", "nobody.wav", 26),
        ("several", "00.wav", 27),
        ("several", "x/00.flac", 28),
    ]
    assert by_name["split_twice"].examples == (
        {"utterance_id": "anna-00", "role": "train", "rows_of_split": 2, "written": "anna/00.wav", "files": f"{odd}:2, {odd}:29"},
    )
    assert by_name["utterance_in_two"].examples == ({"utterance_id": "carl-00", "found": "test, train"},)
    with pytest.raises(TfserError, match="none of its 2 rows is an utterance of toy"):
        check(write(tmp_path / "alien.csv", ["q1,train", "q2,test"]))
    with pytest.raises(UsageError, match="corpus nope is not in this cache"):
        check(odd, "nope")


@pytest.mark.slow
def test_labels_are_compared_but_maps_are_no_mismatch(cache, put_corpus, check, tmp_path):
    put_corpus(cache, toy())

    def split(name: str, says) -> Path:
        rows = [f"{u.utterance_id},{'test' if u.speaker == 'carl' else 'train'},{says(u)}" for u in toy()]
        return write(tmp_path / name, rows, "id,split,emotion")

    one = [a for a in packaged_audits() if a.name == "split_labels"]
    for says in (lambda u: u.label, lambda u: u.raw_label, lambda u: "x", lambda u: ""):  # as it is, letters, merged, none
        assert found(check(split("same.csv", says), audits=one)) == {}
    report = check(split("wrong.csv", lambda u: "sadness" if u.utterance_id in ("anna-00", "carl-02") else u.label), audits=one)
    assert [e for f in report.findings for e in f.examples] == [
        {"utterance_id": i, "corpus_says": "anger", "split_says": "sadness"} for i in ("anna-00", "carl-02")
    ]
    swapped = check(split("swapped.csv", lambda u: "sadness" if u.label == "anger" else "anger"), audits=one)
    assert [(f.level, f.rows) for f in swapped.findings] == [("warning", 24)]


def test_speakers_under_other_names(cache, put_corpus, check, tmp_path):
    put_corpus(cache, toy())
    number = {"anna": "1", "bert": "2", "carl": "3"}

    def split(name: str, said) -> Path:
        rows = [f"{u.utterance_id},{'test' if u.speaker == 'carl' else 'train'},{said(u)}" for u in toy()]
        return write(tmp_path / name, rows, "id,split,speaker")

    assert found(check(split("numbers.csv", lambda u: number[u.speaker]))) == {}
    report = check(split("wrong.csv", lambda u: "1" if u.utterance_id == "bert-03" else number[u.speaker]))
    assert found(report) == {"speaker_attribution": "warning"}
    (wrong,) = [f for f in report.findings if f.audit == "speaker_attribution"]
    assert wrong.examples == (
        {"wrong": 1, "utterances": 24, "said_to_be": "1", "spoken_by": "bert", "of_these": 1, "example": "bert-03"},
    )


@pytest.mark.slow
def test_markdown(cache, put_corpus, check, tmp_path):
    put_corpus(cache, toy())
    leaky = write(tmp_path / "a|b.csv", [f"{u.path},{'test' if i % 8 < 2 else 'train'}" for i, u in enumerate(toy())])
    text = markdown(check(leaky), "tfser audit --split x", "1.2.3")
    assert text.startswith("## Split audit: `split:a|b.csv` of toy fails\n")
    assert "### Speakers on both sides: 3" in text and "| anna | 1 | 2 | 6 | 0 |" in text
    assert re.search(r"\* \*\*speakers on both sides\*\*: .* What to do: group the folds by speaker", text)
    assert text.endswith("Made by tfser 1.2.3: `tfser audit --split x`")
    for line in text.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 6, line
    clean = write(tmp_path / "clean.csv", [f"{u.path},{'test' if u.speaker == 'carl' else 'train'}" for u in toy()])
    assert "passes" in markdown(check(clean), "tfser", "1").splitlines()[0]


def test_a_folder_of_audits_of_ones_own(cache, put_corpus, check, tmp_path):
    put_corpus(cache, toy())
    clean = write(tmp_path / "clean.csv", [f"{u.path},{'test' if u.speaker == 'carl' else 'train'}" for u in toy()])
    folder = tmp_path / "mine"
    with pytest.raises(UsageError, match="no such folder"):
        audits_in(folder)
    folder.mkdir()
    with pytest.raises(UsageError, match=r"no \.sql file in it"):
        audits_in(folder)
    header = "-- title: t\n-- level: error\n-- explanation: e\n-- action: a\n"
    query = "SELECT protocol, corpus, fold, 'error' AS level, utterance_id FROM folds WHERE utterance_id = 'carl-01'"
    (folder / "no_carl.sql").write_text(header + query)
    assert found(check(clean, audits=audits_in(folder))) == {"no_carl": "error"}
    (folder / "speaker_overlap.sql").write_text(header + query)
    with pytest.raises(UsageError, match=r"speaker_overlap\.sql has the name of an audit that comes with tfser"):
        audits_in(folder)


@pytest.fixture
def iemocap(cache, put_corpus, shared, iemocap_tree) -> list[Utterance]:
    """The real ids and labels of the four classes."""
    turns = iemocap_tree.real_turns(shared / "metadata" / "iemocap_utterances.tsv")
    rows = [
        Utterance(
            utterance_id=t.utterance_id,
            path=f"Session{t.session}/sentences/wav/{t.dialogue}/{t.utterance_id}.wav",
            speaker=t.utterance_id[:5] + re.sub(r".*_([FM])\w+$", r"\1", t.utterance_id),
            session=t.utterance_id[:5],
            dialogue=t.dialogue,
            label=WORDS[t.label],
            raw_label=t.label,
        )
        for t in turns
    ]
    put_corpus(cache, rows, corpus="iemocap", adapter="iemocap")
    return rows


def s3prl(folder: Path, rows: list[Utterance]) -> Path:
    """Session folders as s3prl has them: the speaker is the prefix of the dialogue, excitement is happy."""
    for k in range(1, 6):
        for role in ("train", "test"):
            of = [u for u in rows if (u.session == f"Ses0{k}") == (role == "test")]
            said = {u.utterance_id: "hap" if u.raw_label == "exc" else u.raw_label for u in of}
            data = [{"path": u.path, "label": said[u.utterance_id], "speaker": u.utterance_id[:6]} for u in of]
            path = folder / f"Session{k}" / f"{role}_meta_data.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"labels": {"neu": 0, "hap": 1, "ang": 2, "sad": 3}, "meta_data": data}))
    return folder


@pytest.mark.slow
def test_iemocap_by_session_passes(iemocap, check, tmp_path):
    report = check(s3prl(tmp_path / "s3prl", iemocap), "iemocap", claims="speaker,session,dialogue")
    assert (report.errors, report.matched and report.matched.rows) == (0, 5 * 5531)
    assert {a: level for a, level in found(report).items() if level == "warning"} == {"speaker_attribution": "warning"}
    (wrong,) = [f for f in report.findings if f.audit == "speaker_attribution"]
    assert (wrong.examples[0]["wrong"], wrong.examples[0]["utterances"]) == (2750, 5531)  # the column is wrong, the folds are not


@pytest.mark.few(1)
@pytest.mark.parametrize("has_speakers", [True, False], ids=["speaker column", "ids alone"])
def test_iemocap_by_the_prefix_fails(iemocap, check, tmp_path, has_speakers):
    rows = [f"{u.utterance_id},{u.utterance_id[:6]},{u.utterance_id[:6] if has_speakers else ''}" for u in iemocap]
    report = check(write(tmp_path / "ten.csv", rows, "id,fold,speaker"), "iemocap")
    assert {a for a, level in found(report).items() if level == "error"} == {"speaker_overlap", "speaker_attribution"}
    (wrong,) = [f for f in report.findings if f.audit == "speaker_attribution"]
    assert (wrong.examples[0]["wrong"], wrong.examples[0]["utterances"], wrong.rows) == (2750, 5531, 10)
    assert {(e["said_to_be"], e["spoken_by"]) for e in wrong.examples} >= {("Ses01F", "Ses01M"), ("Ses05M", "Ses05F")}
    assert [row["speaker"] for row in leaks(report.findings)] == [f"Ses0{k}{s}" for k in range(1, 6) for s in "FM"]


@pytest.mark.slow
def test_iemocap_by_the_true_speaker_passes(iemocap, check, tmp_path):
    rows = [f"{u.utterance_id},{u.speaker},{u.speaker}" for u in iemocap]
    report = check(write(tmp_path / "ten.csv", rows, "id,fold,spk"), "iemocap")
    assert report.errors == 0
    assert {"session_overlap", "dialogue_overlap", "neighbours_split"} <= found(report).keys()  # as warnings
    assert "speaker_attribution" not in found(report)


@pytest.mark.slow
def test_emodb_by_chance_fails_by_name(cache, shared, check, tmp_path, put_corpus):
    names = sorted(p.stem for p in (shared / "corpora" / "emodb" / "wav").glob("*.flac"))
    rows = [Utterance(utterance_id=n, path=f"wav/{n}.flac", speaker=n[:2], sentence=n[2:5], label=n[5]) for n in names]
    put_corpus(cache, rows, corpus="emodb", adapter="emodb")
    random.Random(0).shuffle(names)
    for role, of in (("train", names[:400]), ("dev", names[400:460]), ("test", names[460:])):
        lines = [json.dumps({"key": f"emodb-{n}", "wav": f"downloads/emodb/wav/{n}.wav", "emo": n[5]}) for n in of]
        (tmp_path / f"emodb_{role}_fold_1.jsonl").write_text("\n".join(lines))
    report = check(tmp_path, "emodb")
    who = leaks(report.findings)
    assert [row["speaker"] for row in who] == ["03", "08", "09", "10", "11", "12", "13", "14", "15", "16"]
    assert (sum(row["test_utterances"] for row in who), sum(row["train_utterances"] for row in who)) == (75, 400)
    assert [f.audit for f in report.findings if f.level == "error"] == ["speaker_overlap"]
    for role in ("train", "test"):
        lines = [n for n in sorted(names) if (n[:2] in ("03", "08")) == (role == "test")]
        (tmp_path / "good").mkdir(exist_ok=True)
        (tmp_path / "good" / f"{role}.txt").write_text("\n".join(f"/somewhere/{n}.wav" for n in lines))
    assert check(tmp_path / "good", "emodb").errors == 0
