"""`tfser ui`: who is let in, what is shown is what the cache holds, and what cannot be shown is one line."""

from __future__ import annotations

import importlib.util
import io
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import pytest
import soundfile
import stored_runs as stored
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="the extra [ui] is not installed")
from starlette.testclient import TestClient

from tfser.heads.reports.ui.app import PAGES, build_app
from tfser.heads.reports.ui.library import Library
from tfser.heads.results.outcomes import find, read_outcome
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh, rows
from tfser.manifests.connections import open_memory
from tfser.manifests.errors import UsageError
from tfser.manifests.utterances import Utterance

from ..conftest import fill_with_tones, run

TOKEN = "the-key"
HOSTILE = "<script>alert(1)</script>\u202e"
TESTED = "svm-b"


def _fill(root: Path) -> Cache:
    """Fill a cache with tones of three speakers, and with runs of three experiments on them, one of another protocol."""
    cache = Cache(root / "cache")
    fill_with_tones(cache, root / "audio", each=(5, 4, 4), seconds=0.2)
    with open_catalogue(cache) as connection:
        found = rows(connection, "SELECT utterance_id, path, speaker, label FROM utterances ORDER BY ALL")
    tested = [Utterance(**{key: row[key] for key in ("utterance_id", "path", "speaker", "label")}) for row in found]
    folds = {u.utterance_id: "abc".index(str(u.speaker)) + 1 for u in tested}
    some = {"folds": folds, "classes": ("anger", "sadness"), "corpus": "toy"}
    stored.put_experiment(cache, TESTED, tested, right=0.8, **some)
    stored.put_experiment(cache, "mean_pool-a", tested, right=0.9, selections=("last", "test-oracle"), **some)
    stored.put_experiment(cache, "svm-other", tested, protocol="group-kfold:3", **{**some, "folds": dict.fromkeys(folds, 1)})
    return cache


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return _fill(tmp_path_factory.mktemp("ui"))


@pytest.fixture
def own_cache(cache: Cache, tmp_path: Path) -> Cache:
    """A copy that a test may spoil."""
    shutil.copytree(cache.root, tmp_path / "cache")
    return Cache(tmp_path / "cache")


def _client(cache: Cache, *folders: Path, patience_s: float = 20.0) -> TestClient:
    return TestClient(build_app(Library(cache, folders, patience_s), TOKEN), base_url="http://127.0.0.1:8000")


@pytest.fixture(scope="module")
def client(cache: Cache) -> Iterator[TestClient]:
    with _client(cache) as client:
        yield client


def _get(client: TestClient, page: str, /, **query: str) -> Any:
    return client.get(f"/{TOKEN}/{page}?{urlencode(query)}" if query else f"/{TOKEN}/{page}")


def _problem(answer: Any) -> str:
    found = re.search(r'<p class="problem"[^>]*>(.*?)</p>', answer.text, re.S)
    assert found is not None, answer.text
    return unescape(found[1])


def _ids(text: str) -> list[str]:
    """Return the utterances that a list shows, in its order."""
    return [unescape(found) for found in re.findall(r'<th scope="row"><a href="utterance\?[^"]*">(.*?)</a></th>', text)]


# Who is let in.


@pytest.mark.parametrize("path", ["/", "/utterances", "/the-keyy/", "/the-ke/", "/%00/", "/the-ke%79%F0/", "/x/the-key/"])
def test_nobody_without_the_token(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 403
    assert answer.text == "403: this address lacks the token; open the one that `tfser ui` printed\n"


def test_the_token_alone_opens_every_page(client: TestClient) -> None:
    for address, _ in PAGES:
        if address == "report":
            continue
        answer = _get(client, address)
        assert answer.status_code == 200, (address, answer.text)
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "<script" not in answer.text


@pytest.mark.slow
def test_the_report_is_that_of_tfser_report(cache: Cache, client: TestClient, tmp_path: Path) -> None:
    answer = _get(client, "report", e=TESTED)
    assert answer.status_code == 200
    assert "script-src 'sha256-" in answer.text, "its own policy"
    done = run("report", TESTED, "--output", tmp_path / "report.html", "--cache", cache.root)
    assert done.exit_code == 0, done.stderr
    assert answer.text == (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("host", "status"), [("evil.example", 400), ("127.0.0.1.evil.example", 400), ("localhost:9", 200)])
def test_other_names_are_refused(client: TestClient, host: str, status: int) -> None:
    """A page of another site can give its name this machine's address; the browser then sends that name."""
    assert client.get(f"/{TOKEN}/", headers={"host": host}).status_code == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_is_written(client: TestClient, method: str) -> None:
    assert client.request(method, f"/{TOKEN}/utterances").status_code == 405
    assert client.request(method, "/utterances").status_code == 403


def test_a_page_that_is_not_there(client: TestClient) -> None:
    answer = _get(client, "etc/passwd")
    assert answer.status_code == 404
    assert _problem(answer) == "there is no such page"


# The list.


def test_every_utterance_stands_on_one_page_of_the_list(cache: Cache, client: TestClient) -> None:
    with open_catalogue(cache) as connection:
        every = [row["utterance_id"] for row in rows(connection, "SELECT utterance_id FROM utterances ORDER BY 1")]
    assert len(every) == 26
    first, second = (_get(client, "utterances", size="25", page=str(n)) for n in (1, 2))
    assert _ids(first.text) + _ids(second.text) == every
    assert "page 1 of 2" in first.text
    assert 'rel="next"' in first.text and 'rel="next"' not in second.text
    assert _ids(_get(client, "utterances", size="25", page="99").text) == _ids(second.text), "the last page stands for later ones"
    assert first.text.count("<audio") == 25


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("asked", "condition"),
    [
        ({"where": "duration_s > 0.25 -- long ones"}, "duration_s > 0.25"),
        ({"label": "anger", "speaker": "b"}, "label = 'anger' AND speaker = 'b'"),
        ({"text": "SADNESS1"}, "utterance_id LIKE '%sadness1%'"),
        ({"where": "label = 'anger' OR speaker = 'a'", "corpus": "toy"}, "label = 'anger' OR speaker = 'a'"),
        ({"where": "rms_db > (SELECT avg(rms_db) FROM utterances)"}, "rms_db > (SELECT avg(rms_db) FROM utterances)"),
        ({"experiment": TESTED, "outcome": "wrong"},
         f"utterance_id IN (SELECT utterance_id FROM result_predictions WHERE experiment = '{TESTED}' AND NOT hit)"),
    ],
)  # fmt: skip
def test_a_list_holds_what_its_condition_holds(cache: Cache, client: TestClient, asked: dict[str, str], condition: str) -> None:
    with open_catalogue(cache) as connection:
        wanted = rows(connection, f"SELECT utterance_id FROM utterances WHERE {condition} ORDER BY 1")
    answer = _get(client, "utterances", size="200", **asked)
    assert _ids(answer.text) == [row["utterance_id"] for row in wanted]
    assert 0 < len(wanted) < 26
    statement = re.search(r'<code class="sql">(.*?)</code>', answer.text, re.S)
    assert statement is not None
    with open_catalogue(cache) as connection:  # what stands on the page is what gives the list
        assert [row["utterance_id"] for row in rows(connection, unescape(statement[1]))] == _ids(answer.text)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("1=1); DROP TABLE utterances; --", "SQL"),
        ("1=1; DROP TABLE utterances", "SQL"),
        ("utterance_id IN (SELECT content FROM read_text('/etc/passwd'))", "no file, no address"),
        ("nothing = 1", "nothing"),
        ("label =", "SQL"),
        ("getenv('HOME') = ''", "SQL"),
    ],
)
def test_a_condition_reads_the_catalogue_and_nothing_else(client: TestClient, where: str, message: str) -> None:
    answer = _get(client, "utterances", where=where)
    assert answer.status_code == 400
    assert message in _problem(answer)


@pytest.mark.parametrize("asked", [{"page": "0"}, {"page": "x"}, {"size": "7"}, {"order": "id; x"}, {"taken_for": "anger"}])
def test_a_form_that_is_off(client: TestClient, asked: dict[str, str]) -> None:
    answer = _get(client, "utterances", **asked)
    assert answer.status_code == 400
    assert "\n" not in _problem(answer)


@settings(max_examples=12)
@given(st.dictionaries(st.sampled_from(["text", "where", "corpus", "label", "experiment", "page"]), st.text(max_size=20)))
def test_no_input_gives_more_than_a_line(client: TestClient, asked: dict[str, str]) -> None:
    hostile = {name: HOSTILE + value if name != "page" else value for name, value in asked.items()}
    answer = client.get(f"/{TOKEN}/utterances?" + "&".join(f"{k}={quote(v, errors='replace')}" for k, v in hostile.items()))
    assert answer.status_code in (200, 400)
    assert "<script" not in answer.text
    fields = r"<textarea[^>]*>.*?</textarea>|<input[^>]*>|<pre.*?</pre>|href=\"[^\"]*\""  # where a text is as it was typed
    assert "\u202e" not in re.sub(fields, "", answer.text, flags=re.S)
    assert "Traceback" not in answer.text


# One utterance.


def test_an_utterance_can_be_seen_and_heard(cache: Cache, client: TestClient, tmp_path: Path) -> None:
    answer = _get(client, "utterance", corpus="toy", id="a/anger0")
    assert answer.status_code == 200
    assert answer.text.count("<svg") == 1
    assert "data:image/png;base64" in answer.text, "the spectrogram"
    address = re.search(r'<audio class="listen"[^>]* src="(.*?)"', answer.text)
    assert address is not None
    sound = client.get(f"/{TOKEN}/{unescape(address[1])}")
    assert sound.headers["content-type"] == "audio/flac"
    heard, rate = soundfile.read(io.BytesIO(sound.content))
    with open_catalogue(cache) as connection:
        (row,) = rows(connection, "SELECT root, path FROM utterances JOIN corpora USING (corpus) WHERE utterance_id = 'a/anger0'")
    written, _ = soundfile.read(Path(row["root"]) / row["path"])
    assert rate == 16000
    np.testing.assert_allclose(heard, written, atol=2**-15)
    assert all(name in answer.text for name in (TESTED, "mean_pool-a", "loso-speaker"))
    stored = _get(client, "utterance", corpus="toy", id="a/anger0", features="logmel")
    assert "frames of logmel as they are stored" in stored.text
    assert "there is no utterance 'nobody'" in _problem(_get(client, "utterance", id="nobody"))


def test_a_player_may_ask_for_a_part(client: TestClient) -> None:
    path = f"/{TOKEN}/sound?corpus=toy&id=a%2Fanger0"
    whole = client.get(path).content
    part = client.get(path, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole)}"
    assert client.get(path, headers={"range": f"bytes={len(whole)}-"}).status_code == 416
    assert client.get(path, headers={"range": "lines=1-2"}).content == whole
    assert client.head(path).status_code == 200


def _with_paths(cache: Cache, paths: dict[str, str]) -> None:
    """Let rows of the corpus name other files, as a table of somebody else may do."""
    file = cache.corpus("toy") / "utterances.parquet"
    table = cache.read_table(file)
    new = [paths.get(name, path) for name, path in zip(table["utterance_id"].to_pylist(), table["path"].to_pylist(), strict=True)]
    import pyarrow as pa

    cache.write_table(file, table.set_column(table.column_names.index("path"), "path", pa.array(new, pa.string())))


@pytest.mark.slow
def test_sound_from_elsewhere_is_refused(own_cache: Cache, cache: Cache, tmp_path: Path) -> None:
    """Whatever a table says: absolute paths, ways up, links."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    soundfile.write(elsewhere / "secret.wav", np.zeros(1600), 16000)
    with open_catalogue(cache) as connection:
        (row,) = rows(connection, "SELECT root FROM corpora")
    up = Path("../" * len(Path(row["root"]).parts)) / (elsewhere / "secret.wav").relative_to("/")
    link = Path(row["root"]) / "link.wav"
    link.symlink_to(elsewhere / "secret.wav")
    _with_paths(own_cache, {"a/anger0": str(elsewhere / "secret.wav"), "a/anger1": str(up), "a/anger2": "link.wav",
                            "a/anger3": "/dev/zero", "a/anger4": "a/\x00"})  # fmt: skip
    try:
        with _client(own_cache) as client:
            for i in range(5):
                answer = _get(client, "sound", corpus="toy", id=f"a/anger{i}")
                assert answer.status_code == 404, i
                assert answer.headers["content-type"].startswith("text/plain")
                assert answer.text.count("\n") == 1
                assert "No sound" in _problem(_get(client, "utterance", corpus="toy", id=f"a/anger{i}"))
            assert "lies outside of the folder of toy" in _get(client, "sound", corpus="toy", id="a/anger2").text
        with _client(own_cache, elsewhere) as client:
            for i in range(3):
                assert _get(client, "sound", corpus="toy", id=f"a/anger{i}").status_code == 200
    finally:
        link.unlink()


@pytest.mark.slow
def test_sound_that_is_gone_or_broken_is_one_line(own_cache: Cache, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    with open_catalogue(own_cache) as connection:
        (row,) = rows(connection, "SELECT root FROM corpora")
    shutil.copytree(row["root"], folder)
    about = own_cache.read_json(own_cache.corpus("toy") / "corpus.json")
    own_cache.write_json(own_cache.corpus("toy") / "corpus.json", {**about, "root": str(folder)})
    (folder / "a" / "anger0.wav").unlink()
    (folder / "a" / "anger1.wav").write_bytes(b"no sound at all" * 100)
    soundfile.write(folder / "a" / "anger2.wav", np.zeros(4000), 16000)
    with _client(own_cache) as client:
        for name, message in (("a/anger0", "is not in the folder"), ("a/anger1", "No sound")):
            page = _get(client, "utterance", corpus="toy", id=name)
            assert page.status_code == 200
            assert message in "".join(re.findall(r'<p class="problem".*?</p>', page.text, re.S))
            assert _get(client, "sound", corpus="toy", id=name).status_code == 404
        assert "was changed since the scan" in _get(client, "utterance", corpus="toy", id="a/anger2").text


# Results.


@pytest.mark.slow
def test_a_cell_of_the_confusion_leads_to_its_utterances(cache: Cache, client: TestClient) -> None:
    page = _get(client, "experiment", id=TESTED)
    assert page.status_code == 200
    links = r'<a href="(utterances\?[^"]*)" aria-label="(\w+) taken for (\w+): (\d+) utterances?"'
    cells = sorted(set(re.findall(links, page.text)))
    with open_catalogue(cache) as connection:
        outcome = read_outcome(connection, find(connection, TESTED))
    counted = sum(int(number) for *_, number in cells)
    assert counted == len(outcome.keys) == 26
    for address, truly, taken_for, number in cells:
        ids = _ids(client.get(f"/{TOKEN}/{unescape(address)}").text)
        pairs = zip(outcome.keys, outcome.labels, outcome.predicted[0], strict=True)
        assert ids == sorted(key[1] for key, a, b in pairs if (a, b) == (truly, taken_for))
        assert len(ids) == int(number)
    assert "<audio" in page.text, "confident mistakes can be heard"
    oracle = _get(client, "experiment", id="mean_pool-a", selection="test-oracle")
    assert "upper bound" in oracle.text


@pytest.mark.slow
def test_comparing(client: TestClient) -> None:
    lists = _get(client, "experiments").text
    boxes = re.findall(r'<input type="checkbox" name="e" value="(.*?)"', lists)
    assert sorted(boxes) == sorted([TESTED, "mean_pool-a", "svm-other"])
    two = client.get(f"/{TOKEN}/compare?e={TESTED}&e=mean_pool-a")
    assert two.status_code == 200
    assert "permutation test of UA" in two.text
    assert two.text.count("<svg") == 2
    for names, message in ((f"e={TESTED}", "tick two"), (f"e={TESTED}&e=svm-other", "do not compare"),
                           (f"e={TESTED}&e=nobody", "unknown experiment")):  # fmt: skip
        answer = client.get(f"/{TOKEN}/compare?{names}")
        assert answer.status_code == 400
        assert message in _problem(answer)


@pytest.mark.slow
def test_three_are_compared_at_once(own_cache: Cache) -> None:
    shutil.rmtree(own_cache.runs / "svm-other-f1-s0")
    with open_catalogue(own_cache) as connection:
        found = rows(connection, "SELECT utterance_id, path, speaker, label FROM utterances ORDER BY ALL")
    tested = [Utterance(**row) for row in found]
    folds = {u.utterance_id: "abc".index(str(u.speaker)) + 1 for u in tested}
    stored.put_experiment(own_cache, "logreg-c", tested, right=0.5, folds=folds, classes=("anger", "sadness"))
    with _client(own_cache) as client:
        page = client.get(f"/{TOKEN}/compare?e={TESTED}&e=mean_pool-a&e=logreg-c")
    assert page.status_code == 200, _problem(page)
    assert "S1 - S2" in page.text


@pytest.mark.slow
def test_audits_are_run(client: TestClient) -> None:
    page = _get(client, "audits")
    link = re.search(r'<a href="(audits\?[^"]*)"', page.text)
    assert link is not None
    found = client.get(f"/{TOKEN}/{unescape(link[1])}")
    assert found.status_code == 200
    assert "utterances take part" in found.text
    assert "no protocol" in _problem(_get(client, "audits", corpus="toy", protocol="none"))


def test_statements(client: TestClient) -> None:
    page = _get(client, "sql", q="SELECT corpus, utterance_id, label FROM utterances ORDER BY 2;")
    assert len(_ids(page.text)) == 0, "the first column is no utterance here"
    assert page.text.count('href="utterance?') == 26
    many = _get(client, "sql", q="SELECT range AS n FROM range(250)", page="3")
    assert "rows 201 to 250" in many.text
    assert 'rel="next"' not in many.text
    plan = _get(client, "sql", q="EXPLAIN SELECT 1")
    assert plan.status_code == 200
    for query, message in (("DROP TABLE utterances", "not DROP"), ("SELECT 1; SELECT 2", "one statement"),
                           ("FROM read_csv('/etc/passwd')", "no file"), ("SELECT", "SQL")):  # fmt: skip
        refused = _get(client, "sql", q=query)
        assert refused.status_code == 400
        assert message in _problem(refused)
    twice = _get(client, "sql", q="SELECT 1 AS x, 2 AS x")
    assert twice.status_code == 200


def test_a_question_that_takes_too_long_is_ended(cache: Cache) -> None:
    with _client(cache, patience_s=0.3) as client:
        many = "range(100000000)"
        answer = _get(client, "sql", q=f"SELECT count(*) FROM {many} a, {many} b WHERE a.range % 7 = b.range % 5")
    assert answer.status_code == 400
    assert "took longer than 0.3 s" in _problem(answer)


# The cache beneath.


@pytest.mark.slow
def test_an_empty_cache(tmp_path: Path) -> None:
    empty = Cache(tmp_path / "cache")
    empty.make()
    refresh(empty)
    with _client(empty) as client:
        assert "holds no corpus yet" in _problem(_get(client, ""))
        for address, _ in PAGES:
            assert _get(client, address).status_code == (400 if address == "report" else 200), address
        assert "nothing to report" in _problem(_get(client, "report"))
        shutil.rmtree(empty.root)
        gone = _get(client, "utterances")
        assert gone.status_code == 400
        assert str(empty.root) in _problem(gone)


@pytest.mark.slow
def test_a_cache_that_is_written_meanwhile(own_cache: Cache) -> None:
    """Runs come and go, and one is damaged: each page shows the cache as it is, and what it does without."""
    with _client(own_cache) as client:
        assert "svm-other" in _get(client, "experiments").text
        shutil.rmtree(own_cache.runs / "svm-other-f1-s0")
        assert "svm-other" not in _get(client, "experiments").text
        damaged = own_cache.runs / f"{TESTED}-f1-s0" / "run.json"
        damaged.write_bytes(damaged.read_bytes()[:-30])
        overview = _get(client, "")
        assert "left out of the catalogue" in overview.text
        assert f"{TESTED}-f1-s0" in overview.text
        assert "2/3" in _get(client, "experiments").text


def test_what_nobody_foresaw_is_one_line(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("of a test\nand more")

    monkeypatch.setattr("tfser.heads.reports.ui.results_pages.overview", fail)
    answer = _get(client, "")
    assert answer.status_code == 500
    assert _problem(answer) == "this page could not be made (ZeroDivisionError: of a test)"


def test_other_errors_of_a_connection_stay_what_they_are(cache: Cache) -> None:
    with pytest.raises(UsageError, match="as it was"), Library(cache).reading() as connection:
        assert type(connection) is type(open_memory())
        raise UsageError("as it was")


# The command.


def test_what_the_command_refuses(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("ui", "--port", port, "--cache", cache.root)
    assert (done.exit_code, f"--port {port}" in done.stderr) == (2, True), done.stderr
    assert run("ui", "--cache", tmp_path / "none").exit_code == 2
    assert "no such folder" in run("ui", "--cache", cache.root, "--allow-audio", tmp_path / "none").stderr
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    lacking = run("ui", "--cache", cache.root)
    assert lacking.exit_code == 2
    assert lacking.stderr == "tfser: tfser ui needs starlette and uvicorn: pip install 'tfser[ui]'\n"


def _started(cache: Cache) -> tuple[subprocess.Popen[str], str]:
    words = [sys.executable, "-m", "tfser.cli", "ui", "--cache", str(cache.root)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def _asked(address: str) -> bytes:
    """Return a page; the server begins to listen just after it says where."""
    for _ in range(200):
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                return bytes(answer.read())
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError(f"{address} does not answer")


def test_it_serves_this_machine_until_ctrl_c(cache: Cache) -> None:
    process, address = _started(cache)
    try:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", address)
        assert b"26" in _asked(address)
    finally:
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert out == ""
    assert said.rstrip().endswith("stopped")
    assert "Traceback" not in said


# In a browser.


def _chromium() -> str | None:
    return next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("no browser test: playwright is not installed")
    if _chromium() is None:
        pytest.skip("no browser test: no chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"], timeout=120_000)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(cache: Cache) -> Iterator[str]:
    process, address = _started(cache)
    _asked(address)
    yield address
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


_HEARD = """() => new Promise((done, failed) => {
    const player = document.querySelector('audio');
    player.onerror = () => failed(new Error('no sound'));
    player.onloadedmetadata = () => done(player.duration);
    if (player.readyState) done(player.duration);
})"""
"""Waits for a player's duration. `wait_for_function` would evaluate text within the page, whose policy rightly forbids that."""


@pytest.mark.slow
@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (420, "dark")])
def test_the_pages_in_a_browser(browser: Any, address: str, width: int, scheme: str, scripts: bool) -> None:
    """By links and forms alone, from the overview to an utterance that is heard, and to a comparison; nothing is too wide."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts)
    shown = context.new_page()
    shown.set_default_timeout(120_000)
    said: list[str] = []
    shown.on("console", lambda message: said.append(message.text))

    def check() -> None:
        assert not said
        if scripts:
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.locator("h1").count() == 1

    shown.goto(address)
    check()
    shown.get_by_role("link", name="Utterances", exact=True).click()
    shown.get_by_label("SQL condition").fill("label = 'anger' AND speaker = 'b'")
    shown.get_by_role("button", name="Show").click()
    check()
    assert shown.locator("tbody tr").count() == 4
    shown.get_by_role("link", name="b/anger1").click()
    check()
    assert shown.locator("svg.figure").count() == 1
    if scripts:
        assert shown.evaluate(_HEARD) > 0.1, "the sound was fetched and decoded"
    shown.keyboard.press("Tab")
    assert shown.locator(".skip:focus").count() == 1, "the first key leads past the navigation"
    shown.get_by_role("link", name="Experiments", exact=True).click()
    shown.get_by_label(f"compare {TESTED}").check()
    shown.get_by_label("compare mean_pool-a").check()
    shown.get_by_role("button", name="Compare the ticked").click()
    check()
    assert shown.locator("svg.figure").count() == 2
    for name in ("Audits", "Report", "SQL"):
        shown.goto(address)
        shown.get_by_role("link", name=name, exact=True).click()
        check()
    context.close()
