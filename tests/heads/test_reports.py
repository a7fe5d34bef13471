"""Reports: every number that is drawn is what its SQL gives; other people's text does no harm; pages repeat themselves."""

from __future__ import annotations

import gc
import html
import io
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stored_runs as stored
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import font_manager
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.figure import Figure

from tfser.heads.reports import (
    corpus_data,
    drawing,
    epochs_data,
    failing_data,
    letters,
    page,
    report_tables,
    scores_data,
    style,
    trust_data,
)
from tfser.heads.reports.contender_names import contender_names
from tfser.heads.reports.figure_data import FigureData, Numbers
from tfser.heads.reports.material import Material, read_material, spoken
from tfser.heads.reports.published_data import published_tables
from tfser.heads.reports.recordings import Heard, Players
from tfser.heads.reports.templates import cell
from tfser.heads.results.calibration import calibration
from tfser.heads.results.reference_numbers import GROUPS, published_beside
from tfser.manifests import notes
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, open_catalogue
from tfser.manifests.catalogue.statements import select
from tfser.manifests.errors import UsageError
from tfser.manifests.garbage import rarely_collected

HOSTILE = '<script>alert(1)</script> & "so" \u202ereversed\x07 $x_1$'


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    cache = Cache(tmp_path_factory.mktemp("reports") / "cache")
    utterances = [
        replace(
            of,
            transcript=HOSTILE,
            gender="FM"[int(str(of.speaker)) % 2],
            sentence=f"s{i % 3}",
            extra={"rater_agreement": 0.5 + (i % 7) / 14},
        )
        for i, of in enumerate(stored.make_utterances(speakers=6))
    ]
    stored.put_utterances(cache, utterances)
    # What the last epoch scored stands in the metrics, which the catalogue compares; here it is left out of the history.
    known = [{"epoch": n + 1, "loss": 1.0 / (n + 1), "test_UA": 0.4 + n / 20, "val_UA": 0.3 + n / 30} for n in range(5)]
    epochs = [{**row, "test_UA": None} if row["epoch"] == 5 else row for row in known]
    both = ("last", "test-oracle")
    stored.put_experiment(cache, "mean_pool-a", utterances, right=0.9, seeds=(0, 1), selections=both, history=epochs)
    stored.put_experiment(cache, "svm-b", utterances, right=0.85)
    stored.put_experiment(cache, "mean_pool-leaky", utterances, right=0.8, audit="overridden", speakers_kept="broken")
    stored.put_experiment(cache, "tf_mamba-part", utterances, right=0.6, only_folds=(1, 2))
    (cache.runs / "tf_mamba-begun-f1-s0").mkdir()
    return cache


@pytest.fixture(scope="module")
def connection(cache: Cache) -> Iterator[Connection]:
    with open_catalogue(cache) as connection:
        yield connection


@pytest.fixture(scope="module")
def material(cache: Cache, connection: Connection) -> Material:
    return read_material(cache, connection, ["mean_pool-a", "svm-b", "mean_pool-leaky", "tf_mamba-part"])


def _every_figure(connection: Connection, material: Material) -> list[FigureData]:
    found = [scores_data.forest(group) for group in material.groups]
    for one in material.members:
        sure = trust_data.read_sureness(connection, one)
        found += [scores_data.speakers(connection, one), scores_data.confusion(one)]
        found += [trust_data.reliability(one, sure), trust_data.risk(one, sure), trust_data.entropy(one, sure)]
        found += [trust_data.mistakes(connection, one), failing_data.failing(one, spoken(connection, [one.experiment]))]
    members = {one.experiment: one for one in material.members}
    found.append(epochs_data.curves(connection, members["mean_pool-a"]))
    found.append(scores_data.confusion_difference(members["mean_pool-a"], members["svm-b"]))
    lengths = corpus_data.durations(connection, material.groups[0])
    return found + ([lengths] if lengths else [])


def _check(connection: Connection, numbers: Numbers) -> None:
    """Run the statement that stands beneath a figure, and compare what it gives with what is drawn."""
    answer = select(connection, numbers.sql)
    given_rows = [dict(zip(answer.names, row, strict=True)) for row in answer.rows]
    assert len(given_rows) == len(numbers.rows), numbers.title
    for of_sql, drawn in zip(given_rows, numbers.rows, strict=True):
        for column in numbers.checked:
            a, b = of_sql[column], drawn[column]
            if a is None or b is None or isinstance(a, (str, bool, dict)):
                assert a == b, (numbers.title, column, of_sql, drawn)
            else:
                assert float(a) == pytest.approx(float(b), abs=1e-9), (numbers.title, column, of_sql, drawn)


@pytest.mark.slow
def test_every_statement_gives_the_numbers_that_are_drawn(connection: Connection, material: Material) -> None:
    figures = _every_figure(connection, material)
    assert {of.kind for of in figures} >= {"forest", "speakers", "confusion", "difference", "curves", "reliability", "risk",
                                           "entropy", "failing", "mistakes"}  # fmt: skip
    for of in figures:
        for numbers in of.numbers:
            assert numbers.checked
            _check(connection, numbers)


def test_other_selections_have_statements_too(cache: Cache, connection: Connection) -> None:
    oracle = read_material(cache, connection, ["mean_pool-a"], selection="test-oracle")
    one = oracle.members[0]
    assert one.mark == "†"
    sure = trust_data.read_sureness(connection, one)
    for of in (scores_data.forest(oracle.groups[0]), scores_data.speakers(connection, one), scores_data.confusion(one),
               trust_data.reliability(one, sure)):  # fmt: skip
        for numbers in of.numbers:
            _check(connection, numbers)


def test_what_is_drawn_is_the_data(connection: Connection, material: Material) -> None:
    """The marks and texts of the figures are at the numbers."""
    one = next(of for of in material.members if of.experiment == "svm-b")
    forest, speakers, confusion = (
        scores_data.forest(material.groups[0]), scores_data.speakers(connection, one), scores_data.confusion(one),
    )  # fmt: skip
    with style.house_style():
        ax = drawing.draw(forest, 7.0).axes[0]
        dots = sorted((y, x) for line in ax.lines if line.get_marker() == "o" for x, y in line.get_xydata())
        assert dots == [(y, pytest.approx(100 * row["pooled_UA"])) for y, row in enumerate(forest.rows)]
        ax = drawing.draw(speakers, 3.5).axes[0]
        of_speakers = {int(y): x for line in ax.lines if line.get_linestyle() == "None"
                       for x, y in zip(*line.get_data(), strict=True)}  # fmt: skip
        assert [of_speakers[y] for y in range(len(speakers.rows))] == pytest.approx([100 * row["UA"] for row in speakers.rows])
        ax = drawing.draw(confusion, 7.0).axes[0]
        said = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in ax.texts}
    K = len(one.classes)
    for i, row in enumerate(confusion.rows):
        wanted = f"{row['n']:.0f}\n{100 * row['share']:.0f} %" if row["n"] else None
        assert said.get(divmod(i, K)) == wanted


def test_labels_of_a_page_stand_clear(connection: Connection, material: Material) -> None:
    """Beside and below the names of classes, and within the figure; and garbage is looked for as before."""
    one = next(of for of in material.members if of.experiment == "svm-b")
    with style.house_style(), rarely_collected():
        figure = drawing.draw(scores_data.confusion(one), 5.2)
        text = style.inline_svg(figure, "k", "t", "d")
        assert text == style.inline_svg(drawing.draw(scores_data.confusion(one), 5.2), "k", "t", "d")
        renderer = RendererSVG(5.2 * 72, 300, io.StringIO(), image_dpi=72)
        ax = figure.axes[0]
        beside, below = (axis.label.get_window_extent(renderer) for axis in (ax.yaxis, ax.xaxis))
        classes = [[name.get_window_extent(renderer) for name in axis.get_ticklabels()] for axis in (ax.yaxis, ax.xaxis)]
    assert beside.x0 >= 0 and beside.x1 <= min(box.x0 for box in classes[0])
    assert below.y0 >= 0 and below.y1 <= min(box.y0 for box in classes[1])
    assert gc.get_threshold()[0] < 200_000


def test_calibration_by_hand(connection: Connection, material: Material) -> None:
    """Probabilities are 0.8 for what is said and 0.1 for the two others, so both scores follow from the share that is right."""
    one = next(of for of in material.members if of.experiment == "svm-b")
    sure = trust_data.read_sureness(connection, one)
    share = float(np.mean([a == b for a, b in zip(one.outcome.labels, one.outcome.predicted[0], strict=True)]))
    found = trust_data.reliability(one, sure).details
    assert found["ECE"] == pytest.approx(abs(share - 0.8), abs=1e-6)
    assert found["Brier"] == pytest.approx(share * (0.04 + 0.02) + (1 - share) * (0.64 + 0.81 + 0.01), abs=1e-6)
    (measured,) = calibration(connection, [one.experiment], "last")
    totals = trust_data.reliability(one, sure).numbers[1].rows[0]
    assert totals == {name: pytest.approx(measured[name]) for name in totals}, "as `tfser scores --by calibration` has it"
    assert totals["Brier_low"] < totals["Brier"] < totals["Brier_high"]
    last = trust_data.risk(one, sure).rows[-1]
    assert last["coverage"] == 1
    assert last["risk"] == pytest.approx(1 - share)


def _some_pairs(n: int) -> st.SearchStrategy[tuple[int, set[tuple[int, int]]]]:
    places = st.integers(0, n - 1)
    return st.sets(st.tuples(places, places)).map(lambda of: (n, of))


@settings(max_examples=15)
@given(st.integers(2, 7).flatmap(_some_pairs))
def test_sets_that_are_not_told_apart(drawn: tuple[int, set[tuple[int, int]]]) -> None:
    n, ends = drawn
    pairs = {(min(a, b), max(a, b)) for a, b in ends if a != b}
    sets = scores_data._largest_sets(n, pairs)
    inside = {(a, b) for of in sets for a in of for b in of if a < b}
    assert inside == pairs
    for of in sets:  # none can take another one in
        assert not any(all((min(o, m), max(o, m)) in pairs for m in of) for o in range(n) if o not in of)


def test_calibration_of_several_seeds(connection: Connection, material: Material) -> None:
    """Scores are means over the seeds, not those of all seeds' predictions together."""
    one = next(of for of in material.members if of.experiment == "mean_pool-a")
    (measured,) = calibration(connection, [one.experiment], "last")
    found = trust_data.reliability(one, trust_data.read_sureness(connection, one)).details
    assert len(measured["seeds"]) == 2
    assert (found["ECE"], found["Brier"]) == (pytest.approx(measured["ECE"]), pytest.approx(measured["Brier"]))


def test_published_numbers_stand_by_themselves(connection: Connection, material: Material) -> None:
    """Three groups, each number as the file has it, marked where speakers are shared; none where nobody printed any."""
    group = material.groups[0]
    assert published_tables(connection, group) == []
    emodb = replace(group, corpus="emodb", protocols=("loso-speaker",), classes=tuple("abcdefg"))
    (shared,) = published_tables(connection, emodb)
    theirs = published_beside("emodb", "loso-speaker", 7)
    assert "speakers shared" in shared.title
    assert 0 < len(shared.rows) <= len(theirs)
    for row, of in zip(shared.rows, theirs, strict=False):
        cells = dict(zip(shared.columns, row, strict=True))
        assert cells["UA"] == f"{100 * of['UA']:.1f}§"
        assert cells["encoder"] == of["encoder"]
    assert any("speakers shared" in note and theirs[0]["source"] in note for note in shared.notes), "of all rows, said once"
    iemocap = replace(group, corpus="iemocap", protocols=("iemocap4-session",), classes=tuple("abcd"))
    titles = [table.title for table in published_tables(connection, iemocap)]
    assert [next(kind for kind in (*GROUPS, "papers") if kind in title) for title in titles] == [*GROUPS[:2], "papers"]


_OF_RUNS = st.fixed_dictionaries(
    {name: st.sampled_from(["a", "a+b", "b+a", "a+b+c", ""]) for name in ("head", "preset", "recipe", "protocol", "differs")}
)


@given(st.lists(_OF_RUNS, min_size=1, max_size=8))
def test_no_two_experiments_share_a_name(found: list[dict[str, str]]) -> None:
    plain = {"feature_set": "logmel", "corpus": "toy"}
    rows = [{**row, **plain, "experiment": f"e-{i:010x}"} for i, row in enumerate(found)]
    names = contender_names(rows)
    assert len(set(names.values())) == len(rows)
    assert all(names[row["experiment"]].startswith(row["head"]) for row in rows)


def test_what_every_row_says_is_said_once() -> None:
    table = report_tables.ReportTable(title="t", columns=("a", "b", "c"), rows=(("1", "x", "y"), ("2", "x", "")))
    found = report_tables.without_shared(table, ("a", "b", "c"))
    assert (found.columns, found.rows, found.notes) == (("a", "c"), (("1", "y"), ("2", "")), ("All rows: b x.",))
    assert report_tables.without_shared(replace(table, rows=table.rows[:1]), ("b",)).columns == table.columns


def test_what_is_left_out_is_counted(cache: Cache, connection: Connection, material: Material) -> None:
    every = read_material(cache, connection)
    scores = [one.row["pooled_UA"] for one in every.groups[0].members]
    assert scores == sorted(scores, reverse=True)
    reasons = dict(every.left_out)
    assert "only begun" in reasons["tf_mamba-begun-f1-s0"]
    assert len(every.members) + sum(not what.endswith("-s0") for what in reasons) == 4
    with pytest.raises(UsageError, match="unknown experiment"):
        read_material(cache, connection, ["nobody"])
    with pytest.raises(UsageError, match="no predictions of the selection val"):
        read_material(cache, connection, ["svm-b"], selection="val")


class _Reader(HTMLParser):
    """What a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.headings: list[int] = []
        self.addresses: list[str] = []
        self.headers_without_scope = 0
        self.scripts = 0
        self.figures: list[Mapping[str, str | None]] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        if of.get("id"):
            self.ids.append(str(of["id"]))
        self.handlers += [name for name in of if name.startswith("on")]
        for name in ("href", "src", "xlink:href"):
            if (where := of.get(name)) is not None:
                (self.targets if where.startswith("#") else self.addresses).append(where)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.headers_without_scope += tag == "th" and of.get("scope") not in ("col", "row")
        self.scripts += tag == "script"
        if tag == "svg":
            self.figures.append(of)


def _page(connection: Connection, material: Material) -> str:
    wishes = page.Wishes(experiments=("mean_pool-a",), command="tfser report", title=HOSTILE)
    return page.write_page(connection, material, wishes)


@pytest.fixture(scope="module")
def written(connection: Connection, material: Material) -> str:
    return _page(connection, material)


def test_the_page(written: str) -> None:
    text = written
    reader = _Reader()
    reader.feed(text)
    assert len(reader.ids) == len(set(reader.ids)), "an id stands twice"
    assert {target.removeprefix("#") for target in reader.targets} <= set(reader.ids), "a link leads nowhere"
    assert not reader.addresses, "the page asks for something outside of it"
    assert reader.scripts == 1
    assert not reader.handlers
    assert reader.headings[0] == 1
    assert all(b - a <= 1 for a, b in zip(reader.headings, reader.headings[1:], strict=False)), "a level of headings is left out"
    assert not reader.headers_without_scope
    assert len(reader.figures) >= 9
    for of in reader.figures:
        names = str(of["aria-labelledby"]).split()
        assert of["role"] in ("img", "group")
        assert set(names) <= set(reader.ids)
    assert "<script>alert" not in text
    assert "\u202e" not in text
    assert "\x07" not in text
    assert "test speakers in training" in text
    assert "upper bound, and no result" in text
    assert len(text.encode()) < 2_000_000
    assert text.count("cell-") > 10


def test_sound_takes_no_room_from_the_utterances_of_a_page() -> None:
    """What two experiments are wrong about is embedded once, and what none is wrong about never; it is counted so."""
    one, other = "data:audio/flac;base64,AAAA", "data:audio/flac;base64,BB"
    addresses = {("c", "a"): one, ("c", "b"): other}
    players = Players(Heard(addresses=addresses, files={}, missing={("c", "x"): "no file"}, megabytes=0.1))
    text = "".join(cell(players.cell("c", name)) for name in ("a", "a", "x", "a"))
    assert text.count(one) == 1 and text.count('href="#sound-1"') == 2 and "no file" in text
    assert page.sound_bytes(text, [one, other, one]) == len(one)
    beside = Players(Heard(addresses={("c", "a"): "page-audio/0001.flac"}, files={}, missing={}, megabytes=0.1))
    assert [cell(beside.cell("c", "a")).count("<audio") for _ in range(2)] == [1, 1], "a file is named wherever it is heard"


def test_a_page_is_kept_small_and_says_what_it_has_no_room_for(
    connection: Connection, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Experiments that do not fit are in the tables, and not in detail; long tables end, and say where the rest is."""
    monkeypatch.setattr(page, "_MOST_BYTES", 1)
    monkeypatch.setattr(page, "_MOST_ROWS", 2)
    monkeypatch.setattr(page, "DETAILED", 1)
    named = tuple(one.experiment for one in material.members[:2])
    text = page.write_page(connection, material, page.Wishes(experiments=named, command="tfser report"))
    assert 'id="e' in text and "1 of them in detail" in text
    assert f"tfser report {named[1]}" in text, "the way to what is not there"
    assert len(re.findall(r'<h2 id="e\d+">', text)) == 1
    assert "The first 2 of 6 rows; the SQL below gives all." in text


def test_a_cell_is_one_stop_of_the_keyboard(written: str) -> None:
    """A cell and the lines of its text all lead to its utterances; Tab and a screen reader meet it once."""
    links = re.findall(r'<a href="#(e[0-9]+-cell-[0-9-]+)"([^>]*)>', "".join(re.findall(r"<svg.*?</svg>", written, re.S)))
    named = [where for where, more in links if "aria-label" in more]
    assert len(named) == len(set(named)) > 5
    assert {where for where, _ in links} == set(named)
    assert all('tabindex="-1"' in more for _, more in links if "aria-label" not in more)


@pytest.mark.slow
def test_statements_on_the_page_run(connection: Connection, written: str) -> None:
    found = [html.unescape(of) for of in re.findall(r'<code class="sql">(.*?)</code>', written, re.S)]
    assert len(found) > 15
    for sql in found:
        select(connection, sql)


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes(cache: Cache, connection: Connection, material: Material) -> None:
    pages = {_page(connection, read_material(cache, connection, ["svm-b"])) for _ in range(2)}
    assert len(pages) == 1
    data = scores_data.forest(material.groups[0])
    with style.house_style():
        for kind in style.FILE_KINDS:
            assert style.as_bytes(drawing.draw(data, 3.5), kind) == style.as_bytes(drawing.draw(data, 3.5), kind), kind


def _titled(title: str) -> Figure:
    figure = style.new_figure(3.5, 2.0)
    figure.subplots().set_title(title)
    return figure


@pytest.mark.parametrize(("title", "script"), [("\u6124\u6012", "Noto Sans CJK"), ("\u0e42", "Thai"), ("\u0433 e", None)])
def test_letters_that_become_boxes_are_said(
    title: str, script: str | None, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which they are, and what to install, where no font of the machine has them."""
    notes.forget()
    monkeypatch.setattr(style, "families_with", lambda characters: [])
    with style.house_style():
        style.as_bytes(_titled(title), "png")
    assert ("boxes" in "\n".join(logged)) == (script is not None)
    assert script is None or (script in "\n".join(logged) and title[0] in "\n".join(logged))


def test_letters_that_another_font_has_are_drawn_with_it(
    tmp_path: Path, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A font that was installed after Matplotlib wrote its list of fonts is found all the same."""
    notes.forget()
    square = TTGlyphPen(None)
    for i, place in enumerate([(0, 0), (0, 800), (900, 800), (900, 0)]):
        (square.lineTo if i else square.moveTo)(place)
    square.closePath()
    built = FontBuilder(1000, isTTF=True)
    built.setupGlyphOrder([".notdef", "ire"])
    built.setupCharacterMap({0x6124: "ire"})
    built.setupGlyf({".notdef": square.glyph(), "ire": square.glyph()})
    built.setupHorizontalMetrics({".notdef": (1000, 0), "ire": (1000, 0)})
    built.setupHorizontalHeader(ascent=800, descent=-200)
    built.setupNameTable({"familyName": "Tfser Sans", "styleName": "Regular", "psName": "TfserSans"})
    built.setupOS2()
    built.setupPost()
    built.save(tmp_path / "made.ttf")
    known = [of for of in font_manager.fontManager.ttflist if of.name == letters.HOUSE_FONT]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", known)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(tmp_path / "made.ttf"), str(tmp_path / "gone.ttf")])
    with style.house_style():
        drawn = style.as_bytes(_titled("anger \u6124"), "svg")
        again = style.as_bytes(_titled("anger \u6124"), "svg")
        plain = style.as_bytes(_titled("anger"), "svg")
    font_manager.fontManager._findfont_cached.cache_clear()
    assert b"TfserSans" in drawn and b"DejaVuSans" in drawn
    assert drawn == again and b"Tfser" not in plain
    assert "boxes" not in "\n".join(logged)


def test_files_for_papers(connection: Connection, material: Material) -> None:
    """A PDF is as wide as a column, and its letters are letters of an embedded TrueType font."""
    with style.house_style():
        pdf = style.as_bytes(drawing.draw(scores_data.confusion(material.members[0]), style.COLUMN_INCHES["one"]), "pdf")
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert re.search(rb"/MediaBox \[ ?0 0 252 ", pdf)
    assert b"CreationDate" not in pdf


def _tables(connection: Connection, material: Material) -> list[report_tables.ReportTable]:
    one = material.members[0]
    tables = [report_tables.score_table(material, material.groups[0]), report_tables.recall_table(scores_data.confusion(one))]
    tables.append(report_tables.speaker_table(scores_data.speakers(connection, one)))
    tables.append(report_tables.failing_table(failing_data.failing(one, spoken(connection, [one.experiment]))))
    return [*tables, report_tables.table_of(HOSTILE, [{"what \\ #": "a & b_c % {} ~ ^ | < >", "x": 1.5}])]


def test_markdown_tables_have_as_many_cells_as_columns(connection: Connection, material: Material) -> None:
    tables = _tables(connection, material)
    lines = report_tables.markdown_of(tables)
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == sum(len(of.rows) + 2 for of in tables)
    cells = [len(re.findall(r"(?<!\\)\|", line)) - 1 for line in rows]
    assert cells == [len(of.columns) for of in tables for _ in range(len(of.rows) + 2)]
    assert "<script>" not in "\n".join(lines)


def test_latex_tables_are_whole(connection: Connection, material: Material, tmp_path: Path) -> None:
    tables = _tables(connection, material)
    lines = report_tables.latex_of(tables)
    open_ones: list[str] = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", "\n".join(lines)):
        if what == "begin":
            open_ones.append(name)
        else:
            assert open_ones.pop() == name
    assert not open_ones
    shrunk = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
    assert lines.count(shrunk) == lines.count(r"\end{tabular}}") > 2
    for line in (line for line in lines if line not in (shrunk, r"\end{tabular}}")):
        plain = re.sub(r"\\[\\{}&%$#_]|\$\\?[\w^{}\\]*-?\$", "", line)
        assert plain.count("{") == plain.count("}"), line
        if not line.startswith("%"):
            assert not set("%#_") & set(plain), line
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here: the tables were checked for balance and escaping, not compiled")
    document = [r"\documentclass{article}", r"\usepackage[T1]{fontenc}", r"\usepackage{booktabs,graphicx}", r"\begin{document}"]
    (tmp_path / "t.tex").write_text("\n".join([*document, *lines, r"\end{document}"]), encoding="utf-8")
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True,
                          timeout=120, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert b"Overfull" not in done.stdout, "a table is wider than its line"


ODD = ["a--b ``c'' ?` !` << >> ,,", r"_ & % # ~ ^ \ { } $ | * [x]", '"', "†‡§ ± − … é ß Ł ő", "* begins", "[0.5] begins", "-"]


def _compile(engine: str, lines: list[str], preamble: list[str], folder: Path) -> None:
    """Compile lines as a document."""
    if shutil.which(engine) is None:
        pytest.skip(f"no {engine} here")
    document = [
        r"\documentclass{article}",
        *preamble,
        r"\usepackage{booktabs,graphicx}",
        r"\begin{document}",
        *lines,
        r"\end{document}",
    ]
    (folder / "t.tex").write_text("\n".join(document), encoding="utf-8")
    done = subprocess.run([engine, "-interaction=nonstopmode", "-halt-on-error", "t.tex"], cwd=folder, capture_output=True,
                          timeout=300, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


def test_odd_texts_compile(tmp_path: Path) -> None:
    """Whatever stands in labels and names, first in a row, too; and of more tables than LaTeX keeps at a time, all."""
    rows = [{"name": text, "again": text} for text in ODD]
    lines = report_tables.latex_of([report_tables.table_of(text, rows) for text in ODD * 10])
    assert lines[0] == r"% needs \usepackage{booktabs,graphicx} and \usepackage[T1]{fontenc}"
    assert "a-{}-b" in "\n".join(lines) and r"{*} begins & {*} begins" in "\n".join(lines)
    _compile("pdflatex", lines, [r"\usepackage[T1]{fontenc}"], tmp_path)


CHINESE = [report_tables.table_of("愤怒", [{"label": "愤怒", "speaker": "غضب"}])]


def test_other_scripts_say_which_engine_they_need() -> None:
    lines = report_tables.latex_of(CHINESE)
    assert lines[0].startswith("% compile with lualatex or xelatex: pdflatex knows no") and "愤" in lines[0]
    assert "fontspec" in lines[1] and "愤怒 & غضب" in "".join(lines)


@pytest.mark.slow
def test_other_scripts_compile(tmp_path: Path) -> None:
    _compile("lualatex", report_tables.latex_of(CHINESE), [], tmp_path)  # its fonts lack the letters, which is a warning


def test_commands_say_every_setting() -> None:
    config: dict[str, Any] = {
        "head_config": {"hidden": [8, 4]},
        "recipe_config": {"summary": "s", "lr": 0.1, "cut_frames": None, "jitter": True, "validation": None},
    }
    row = {"head": "mean_pool", "preset": "mlp", "recipe": "default", "corpus": "toy", "protocol": "loso-speaker",
           "feature_set": "logmel", "seed": 1, "fold": 2, "device": "cpu", "audit": "gaps"}  # fmt: skip
    (command,) = corpus_data.commands_of([row, {**row, "fold": 1}], config)
    assert "--fold 1,2" in command
    assert "--set hidden=8,4 --set lr=0.1 --set cut_frames=none --set jitter=true" in command
    assert command.endswith("--allow-gaps")
