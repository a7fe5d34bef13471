"""`tfser report` and `tfser plot` through the runner; and the page in a browser, where there is one."""

from __future__ import annotations

import base64
import importlib.util
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tfser.heads.reports import page
from tfser.heads.reports.recordings import listen
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue

from .conftest import fill_with_tones, run


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tones that were scanned and extracted, with runs of logreg trained on them."""
    root = tmp_path_factory.mktemp("report")
    fill_with_tones(Cache(root / "cache"), root / "audio", each=(3, 3, 3), seconds=0.2, noise=0.5)
    trained = run("train", "--head", "logreg", "--cache", root / "cache")
    assert trained.exit_code == 0, trained.stderr
    return root / "cache"


@pytest.fixture(autouse=True)
def _in_the_cache(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFSER_CACHE", str(filled))


def test_report_writes_a_page_with_sound(tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    done = run("report", "--output", target, "--audio")
    assert done.exit_code == 0, done.stderr
    assert "page.html" in done.stderr
    text = target.read_text(encoding="utf-8")
    assert "tfser report --output page.html --audio" in text
    command = re.search(r'<pre class="wrapped" tabindex="0"><code>(tfser train .*?)</code>', text)
    assert command is not None
    again = run(*command[1].replace("&#39;", "'").replace("'", "").split()[1:])
    assert again.exit_code == 0, again.stderr
    assert "found" in again.stderr or "finished" in again.stderr, again.stderr


def test_names_that_were_given_mean_experiments(tmp_path: Path, filled: Path) -> None:
    """As in `scores`, `compare` and `predict`; and the page and the tables call an experiment so."""
    with open_catalogue(Cache(filled)) as connection:
        experiment = str(connection.execute("SELECT any_value(experiment) FROM runs").fetchall()[0][0])
    assert run("runs", "name", "mine", experiment).exit_code == 0
    try:
        tables, figure = tmp_path / "tables.md", tmp_path / "confusion.svg"
        written = run("report", "mine", "--output", tables)
        assert written.exit_code == 0, written.stderr
        assert "mine (logreg)" in tables.read_text(encoding="utf-8")
        drawn = run("plot", "confusion", "mine", "--output", figure)
        assert drawn.exit_code == 0, drawn.stderr
    finally:
        assert run("runs", "name", "mine", "--remove").exit_code == 0
    lost = run("plot", "confusion", "mine", "--output", figure)
    assert lost.exit_code == 2 and "mine" in lost.stderr


@pytest.mark.slow
def test_sound_beside_the_page(tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    within = run("report", "--output", target, "--audio")
    assert within.exit_code == 0, within.stderr
    has_sound = "<audio" in target.read_text(encoding="utf-8")
    beside = run("report", "--output", target, "--audio", "--audio-mb", "0")
    assert beside.exit_code == 0, beside.stderr
    named = re.findall(r'src="(page-audio/\d+\.flac)"', target.read_text(encoding="utf-8"))
    assert all((tmp_path / name).is_file() for name in named)
    assert bool(named) == has_sound


def test_recordings_are_part_of_the_page_or_beside_it(filled: Path) -> None:
    key, other = ("toy", "a/anger0"), ("toy", "nobody")
    with open_catalogue(Cache(filled)) as connection:
        ids = [row[0] for row in connection.execute("SELECT utterance_id FROM utterances ORDER BY 1").fetchall()]
        key = ("toy", ids[0])
        inside = listen(connection, [key, other], "page-audio")
        outside = listen(connection, [key], "page-audio", 0.0)
    assert list(inside.missing) == [other]
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(inside.addresses[key].partition(",")[2])))
    assert rate == 16000
    assert len(samples) > 1000
    assert outside.addresses[key] == "page-audio/0001.flac"
    assert list(outside.files) == ["page-audio/0001.flac"]
    assert not inside.files


def test_tables_for_manuscripts(tmp_path: Path) -> None:
    tex = tmp_path / "tables.tex"
    assert run("report", "--output", tex).exit_code == 0
    assert tex.read_text(encoding="utf-8").count(r"\toprule") >= 4
    printed = run("report", "--format", "markdown")
    assert printed.exit_code == 0
    assert "| experiment | selection | pooled UA" in printed.stdout


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "nobody"], "unknown experiment"),
        (["report", "--format", "latex", "--audio"], "--audio goes with a page"),
        (["report", "--output", "report.docx"], "name it .html, .htm, .md or .tex"),
        (["plot", "forrest", "-o", "x.svg"], "did you mean 'forest'"),
        (["plot", "forest", "-o", "x.gif"], "name it .svg, .pdf or .png"),
        (["plot", "forest", "-o", "x.svg", "--width", "three"], "unknown width"),
        (["plot", "tokens", "-o", "x.svg"], "name one experiment of tf_mamba"),
        (["plot", "attention", "logreg", "-o", "x.svg"], "this figure looks inside of tf_transformer"),
        (["plot", "curves", "-o", "x.svg"], "no epochs to draw"),
        (["plot", "difference", "logreg", "-o", "x.svg"], "name two experiments"),
        (["plot", "embedding", "--method", "som", "-o", "x.svg"], "unknown method"),
        (["plot", "features", "nobody", "-o", "x.svg"], "unknown utterance"),
        (["plot", "cost", "-o", "x.svg"], "no head to time"),
    ],
)
def test_what_cannot_be_drawn_is_said(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*words)
    assert done.exit_code == 2, done.stderr
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("words", [["embedding", "--method", "pca"], ["features", "UTTERANCE"], ["failing"], ["forest"]])
def test_plots(words: list[str], filled: Path, tmp_path: Path) -> None:
    with open_catalogue(Cache(filled)) as connection:
        first = connection.execute("SELECT min(utterance_id) FROM utterances").fetchone()
    assert first is not None
    words = [str(first[0]) if word == "UTTERANCE" else word for word in words]
    for name in ("x.svg", "x.png"):
        done = run("plot", *words, "--output", tmp_path / name, "--width", "one")
        assert done.exit_code == 0, done.stderr
    assert (tmp_path / "x.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


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


@pytest.mark.slow
@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 420])
def test_the_page_in_a_browser(browser: Any, width: int, scheme: str, scripts: bool, tmp_path: Path) -> None:
    """Nothing is wider than the window, nothing is refused or fetched, and a cell of the confusion leads to its utterances."""
    target = tmp_path / "page.html"
    assert run("report", "--output", target).exit_code == 0
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts)
    shown = context.new_page()
    shown.set_default_timeout(120_000)
    said: list[str] = []
    asked: list[str] = []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto(target.as_uri())
    assert not said
    assert asked == [target.as_uri()]
    if scripts:
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
    link = shown.locator("svg.figure a").first
    where = link.get_attribute("href")
    assert where is not None
    link.focus()
    shown.keyboard.press("Enter")
    shown.wait_for_timeout(500)
    assert shown.locator(f"[id='{where.removeprefix('#')}']").is_visible()
    context.close()


@pytest.mark.slow
def test_scripts_put_players_where_links_lead_to_one(browser: Any, tmp_path: Path) -> None:
    """The sound stands in the page once; with scripts every mistake has a player, without them a link to it."""
    body = '<audio id="sound-1" controls src="data:audio/flac;base64,AA" aria-label="u1"></audio>'
    body += f'<p><a class="same" href="#sound-1">player above</a></p><script>{page._SCRIPT}</script>'
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html><title>t</title>{body}", encoding="utf-8")
    counts = []
    for scripts in (True, False):
        shown = browser.new_context(java_script_enabled=scripts).new_page()
        shown.goto((tmp_path / "page.html").as_uri())
        counts.append((shown.locator("audio[src]").count(), shown.locator("a.same").count(), shown.locator("#sound-1").count()))
    assert counts == [(2, 0, 1), (1, 1, 1)]
