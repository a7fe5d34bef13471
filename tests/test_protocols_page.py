"""The examples of docs/protocols.md, run on two small corpora; and the same commands through the runner.

`TFSER_WRITE_DOCS=1` writes what the commands print into the page instead of comparing.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
from pathlib import Path

import pytest

from tfser.manifests.cache import Cache
from tfser.manifests.utterances import Utterance

from .conftest import run

PAGE = Path(__file__).parents[1] / "docs" / "protocols.md"
WRONG = 'name = "mine"\ngroup_by = "speaker"\n'


def corpus(name: str, speakers: int, labels: tuple[str, ...]) -> list[Utterance]:
    return [
        Utterance(
            utterance_id=f"s{s}_{i}",
            path=f"{name}/s{s}_{i}.wav",
            speaker=f"s{s}",
            session=f"day{(s + 1) // 2}",
            sentence=f"t{i % 4}",
            label=labels[i % len(labels)],
        )
        for s in range(1, speakers + 1)
        for i in range(10 + s)
    ]


@pytest.fixture(autouse=True)
def _here(cache: Cache, put_corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studio = corpus("studio", 4, ("anger", "neutral", "happiness", "sadness", "excitement"))
    put_corpus(cache, studio, corpus="studio", default_protocol="loso-speaker")
    phone = corpus("phone", 3, ("anger", "neutral", "happiness", "boredom"))
    own = {u.utterance_id: f"phone {u.utterance_id}" for u in phone}
    put_corpus(cache, phone, corpus="phone", default_protocol="loso-speaker", hashes=own)
    monkeypatch.setenv("TFSER_CACHE", str(cache.root))
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S):  # each says what it is called
        (tmp_path / re.findall(r"^# (\w+\.toml)$", block, re.M)[0]).write_text(block)
    (tmp_path / "wrong.toml").write_text(WRONG)


@pytest.mark.slow
def test_the_page_s_examples() -> None:
    def printed(block: re.Match[str]) -> str:
        lines = []
        for line in re.findall(r"^\$ (.*)$", block[1], re.M):
            result = run(*shlex.split(line)[1:])
            assert result.exit_code in (0, 2) and not isinstance(result.exception, Exception), (line, result.output)
            lines += [f"$ {line}", *(text.rstrip() for text in result.output.splitlines())]
        return "```console\n" + "\n".join(lines) + "\n```"

    page = PAGE.read_text(encoding="utf-8")
    made = re.sub(r"```console\n(.*?)```", printed, page, flags=re.S)
    if os.environ.get("TFSER_WRITE_DOCS"):
        PAGE.write_text(made, encoding="utf-8")
    assert made == PAGE.read_text(encoding="utf-8"), "run: TFSER_WRITE_DOCS=1 pytest tests/test_protocols_page.py"
    assert page.count("$ tfser") >= 7


@pytest.mark.slow
def test_show_as_json_tells_everything() -> None:
    shown = run("protocol", "show", "cross:studio:phone@common4/speakers:2", "--format", "json")
    about = json.loads(shown.stdout)
    assert (about["corpora"], about["validation"], about["folds"]) == ("phone+studio", "speakers:2", 1)
    assert {(c["role"], c["speakers"]) for c in about["counts"]} == {("train", 2), ("val", 2), ("test", 3)}
    table = run("protocol", "show", "cross:studio:phone@common4/speakers:2", "--format", "csv")
    assert [int(r["all"]) for r in csv.DictReader(table.stdout.splitlines())] == [c["all"] for c in about["counts"]]


def test_a_list_as_json_names_who_uses_each() -> None:
    listed = {row["protocol"]: row for row in json.loads(run("protocol", "ls", "--format", "json").stdout)}
    assert {"iemocap4-improvised-speaker", "meld7-official", "cross:TRAIN:TEST", "loco:A,B,...", "group-kfold:K"} <= set(listed)
    assert any("SUPERB" in who for who in listed["iemocap4-session"]["used_by"])
    assert max(len(line.rstrip()) for line in run("protocol", "ls").stdout.splitlines()) <= 120  # a wide terminal


@pytest.mark.slow
def test_own_protocols_everywhere(tmp_path: Path) -> None:
    audit = run("audit", "--protocol", "my.toml", "--format", "json")
    assert audit.exit_code in (0, 1), audit.stderr
    assert {row["protocol"].partition(".")[0] for row in json.loads(audit.stdout)} == {"two-rooms"}
    exported = run("protocol", "export", "my.toml", "--output", "split.json", "--format", "json")
    assert exported.exit_code == 0, exported.stderr
    assert json.loads((tmp_path / "split.json").read_text(encoding="utf-8"))["corpora"] == "phone+studio"


REFUSED = [
    (("protocol", "export"), "--output"),
    (("protocol", "export", "--corpus", "studio", "--output", "x", "--format", "xml"), "unknown format 'xml'"),
    (("protocol", "show", "nowhere.toml"), "protocol file nowhere.toml: cannot be read"),
    (("protocol", "show", "wrong.toml"), "wrong.toml: group_by: there is no such key; did you mean 'grouped_by'"),
    (("protocol", "show", "cross:studio:phone", "--corpus", "phone"), "leave --corpus out"),
    (("audit", "--protocol", "loco:studio,radio"), "corpus radio is not in"),
    (("train", "--head", "mean_pool", "--protocol", "cross:studio:phone"), "no features of phone in the cache"),
]


@pytest.mark.slow
def test_wrong_requests() -> None:
    for words, expected in REFUSED:
        result = run(*words)
        assert result.exit_code == 2 and expected in result.stderr, result.stderr
        assert "Traceback" not in result.stderr and result.stdout == "", words
