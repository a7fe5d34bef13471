"""Papers' tables: the numbers that are carried, what can be run of them, and what is printed beside them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tfser.heads import HEADS, TABLE_ONE, head
from tfser.heads.commands import sweeps
from tfser.heads.commands.sweeps import _numbered, _print_cells, _print_notes
from tfser.heads.results import papers as reproducing
from tfser.heads.results.published import PAPERS, Paper, paper
from tfser.heads.runs.in_turn import run_here
from tfser.heads.runs.request import Training
from tfser.manifests import display
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import refresh
from tfser.manifests.display import TableOutput
from tfser.manifests.errors import UsageError
from tfser.manifests.files import read_table
from tfser.manifests.protocols.known import PROTOCOLS
from tfser.manifests.utterances import Utterance
from tfser.pipeline.commands.extract import extract_synthetic
from tfser.pipeline.corpora import locate
from tfser.pipeline.extraction.extract import extract
from tfser.pipeline.features.registry import feature_set
from tfser.pipeline.scanning.scan import scan

from ..conftest import run


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, iemocap_tree: ModuleType, write_wav: Any) -> Cache:
    """IEMOCAP's layout with 40 utterances of two sessions, log-Mel features, and the same under the name of WavLM-Large's."""
    above = tmp_path_factory.mktemp("reproduce")
    turns = [
        iemocap_tree.Turn(f"Ses0{session}F_impro0{1 + i % 3}_{who}{i:03d}", label)
        for session in range(1, 6)
        for who in "FM"
        for i, label in enumerate(("ang", "hap", "neu", "sad"))
    ]
    iemocap_tree.make_tree(above / "iemocap", turns, write_wav(above / "one.wav", 0.05))
    for seed, path in enumerate(sorted((above / "iemocap").glob("Session*/sentences/wav/*/Ses*.wav"))):
        path.unlink()
        write_wav(path, 0.2, seed=seed)
    cache = Cache(above / "cache")
    found = locate(cache, "iemocap", root=above / "iemocap")
    scan(cache, found.reader, corpus="iemocap", root=found.root, options=found.options)
    extract(cache, "iemocap", feature_set("logmel", {"n_mels": "16"}))
    (folder,) = cache.feature_root.glob("logmel*")
    about = cache.read_json(folder / "feature_set.json")
    twin = cache.feature_root / f"wavlm-large-12-{about['fingerprint'][::-1]}"
    shutil.copytree(folder, twin)
    cache.write_json(twin / "feature_set.json", about | {"name": "wavlm-large", "fingerprint": about["fingerprint"][::-1]})
    for path in twin.rglob("*.parquet"):  # sealed for the place where they lie now
        cache.write_table(path, read_table(path).replace_schema_metadata(None))
    refresh(cache)
    return cache


def rows(of: Paper, number: str) -> dict[str, dict[str, float]]:
    (table,) = reproducing.choose_tables(of, [number])
    return {row.name: dict(row.printed) for row in table.rows}


def test_the_numbers_are_the_papers() -> None:
    mamba, transformer = paper("tf-mamba"), paper("tf-transformer")
    one, two, three = (rows(mamba, number) for number in ("I", "II", "III"))
    assert (len(one), len(two), len(three)) == (12, 8, 6)
    full = {"iemocap WA": 75.3, "iemocap UA": 75.7, "meld WF1": 48.5}
    assert one["TF-Mamba (ours)"] == two["WavLM-large"] == three["+ CMDT Loss (Full model)"] == full
    assert one["ShiftFormer"] == {"iemocap WA": 72.1, "iemocap UA": 72.8, "meld WF1": 45.6}
    assert two["Whisper-base"] == {"iemocap WA": 62.8, "iemocap UA": 61.0, "meld WF1": 34.3}
    four, five = rows(transformer, "4"), rows(transformer, "5")
    assert (len(four), len(five)) == (12, 4)
    assert (
        four["TF-Transformer (ours)"]
        == five["T+F+TF"]
        == {
            "iemocap WA": 74.43,
            "iemocap UA": 62.90,
            "casia WA": 53.17,
            "casia UA": 53.17,
        }
    )
    assert four["ATFNN"] == {"casia WA": 48.75, "casia UA": 48.75}


def test_table_one_is_the_one_of_the_paper(shared: Path) -> None:
    """Each row that the paper's text has whole; the last one it has in Table III, too."""
    text = (shared / "papers" / "tf-mamba.md").read_text(encoding="utf-8")
    cells = [[cell.strip() for cell in line.strip(" |").split("|")] for line in text.splitlines() if line.startswith("|")]
    in_print = {row[0].split("*")[0].split(" [")[0]: tuple(map(float, row[-3:])) for row in cells if is_scored(row)}
    ours = {name: tuple(printed.values()) for name, printed in rows(paper("tf-mamba"), "I").items()}
    last = ours.pop("TF-Mamba (ours)")
    assert len(ours) == 11 and {name: in_print.get(name) for name in ours} == ours
    assert in_print["+ CMDT Loss (Full model)"] == last


def is_scored(row: list[str]) -> bool:
    """Tell whether the last three cells of a row are numbers with one decimal."""
    return len(row) > 3 and all(re.fullmatch(r"\d\d\.\d", cell) for cell in row[-3:])


@pytest.mark.parametrize("of", PAPERS.values(), ids=lambda of: of.name)
def test_a_paper_s_rows_exist_here(of: Paper) -> None:
    spec = head(of.head)
    assert of.head in HEADS and of.recipe in spec.recipes and of.features in spec.features
    for corpus, protocol in of.protocols.items():
        assert PROTOCOLS[protocol].corpora == (corpus,)
    for table in of.tables():
        for row in table.rows:
            assert {name.split()[0] for name in row.printed} <= set(of.protocols)
            assert {name.split()[1] for name in row.printed} <= {"UA", "WA", "WF1"}
            of_row = head(row.head or of.head)
            assert row.preset is None or row.preset in of_row.presets
            assert row.recipe is None or row.recipe in of_row.recipes


@pytest.mark.slow
def test_every_cell_runs_or_says_why_not(cache: Cache) -> None:
    of = reproducing.prepare(cache, paper("tf-mamba"), Training(device="cpu"))
    references = [cell for cell in of.cells if cell.row.endswith("(reference)")]
    assert len(of.cells) - len(references) == (12 + 8 + 6) * 3
    assert len(references) == 3 * 2 * 2 * 2 and {cell.corpus for cell in references} == {"iemocap"}  # tables, sets, UA and WA
    sets = {name: [cell for cell in references if f" on {name} " in cell.row] for name in ("wavlm-large", "egemaps")}
    assert {name: len({cell.row for cell in cells}) for name, cells in sets.items()} == {"wavlm-large": 2, "egemaps": 2}
    assert {cell.paper for cell in references} == {None} and len({cell.experiment for cell in sets["wavlm-large"]} - {None}) == 2
    way_out = "`tfser extract --corpus iemocap --features egemaps` adds them"
    assert all(way_out in (cell.reason or "") for cell in sets["egemaps"])
    assert all((cell.experiment is None) != (cell.reason is None) for cell in of.cells)
    reasons = {(cell.table, cell.row, cell.corpus): cell.reason for cell in of.cells}
    assert "tfser cache join --features logmel+mfcc+wav2vec2-base" in (reasons["I", "CA-MSER", "iemocap"] or "")
    assert reasons["I", "TENT", "iemocap"] is None
    assert reasons["II", "HuBERT-base", "iemocap"] == (
        "no hubert-base features of iemocap: run `tfser extract --corpus iemocap --features hubert-base`"
    )
    assert reasons["III", "Baseline", "meld"] == (
        "meld is not in the cache: run `tfser extract --corpus meld --features wavlm-large --root FOLDER`"
    )
    assert of.plan is not None
    same = {cell.experiment for cell in of.cells if cell.row in ("TF-Mamba (ours)", "WavLM-large", "+ CMDT Loss (Full model)")}
    networks = [entry for entry in of.plan.entries if entry.experiment.spec.name == "tf_mamba"]
    assert len(same - {None}) == 1 and len(networks) == 6 and len(of.plan.runs) == 30 + 10 + 50  # trained once
    compared = [entry.experiment for entry in of.plan.entries if entry.experiment.spec.name in TABLE_ONE]
    assert len(compared) == len(TABLE_ONE) - 1 and {of.recipe.batch_size for of in compared} == {32}
    assert {entry.experiment.protocol for entry in of.plan.entries} == {"iemocap4-session"}
    assert {entry.experiment.recipe.epochs for entry in networks} == {100}


@pytest.mark.slow
def test_tf_transformer_s_protocol_is_the_improvised_part_by_speaker(cache: Cache) -> None:
    of = reproducing.prepare(cache, paper("tf-transformer"), Training(device="cpu"), tables=["5"])
    assert of.plan is None  # log-Mel of 16 bands is not the paper's
    assert {cell.reason for cell in of.cells if cell.corpus == "iemocap"} == {
        "no logmel features of iemocap: run `tfser extract --corpus iemocap --features logmel`"
    }


def test_what_does_not_fit_a_corpus_is_said_in_its_cells(cache: Cache) -> None:
    of = reproducing.prepare(cache, paper("tf-mamba"), Training(folds="9", device="cpu"), tables=["III"])
    assert of.plan is None
    assert all("has folds 1 to 5" in (cell.reason or "") for cell in of.cells if cell.corpus == "iemocap")


@pytest.mark.slow
def test_unknown_tables_and_papers_are_refused(cache: Cache) -> None:
    with pytest.raises(UsageError, match="unknown table of tf-mamba '4'; Known: I, II, III"):
        reproducing.prepare(cache, paper("tf-mamba"), tables=["4"])
    for settings, wanted in (
        ({"ca_mser.image": "64,96"}, "unknown head of these rows 'ca_mser'"),
        ({"tf_mamba.widht": "32"}, "unknown setting of tf_mamba 'widht'; did you mean 'width'"),
        ({"image": "64,96"}, "unknown setting of these rows 'image'"),
    ):
        with pytest.raises(UsageError, match=wanted):
            reproducing.prepare(cache, paper("tf-mamba"), tables=["III"], settings=settings)
    with pytest.raises(UsageError, match="did you mean 'tf-mamba'"):
        paper("tf-mambo")
    of = reproducing.prepare(cache, paper("tf-mamba"), Training(device="cpu"), tables=["III"])
    with pytest.raises(UsageError, match="unknown selection 'best'"):
        reproducing.check("best", of)
    with pytest.raises(UsageError, match="validation"):
        reproducing.check("val", of)


def test_a_setting_is_refused_before_the_synthetic_corpus_is_made(tmp_path: Path) -> None:
    refused = run("reproduce", "tf-mamba", "--table", "I", "--set", "banana=3", "--cache", str(tmp_path))
    assert refused.exit_code == 2 and "unknown setting of these rows 'banana'" in refused.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ours_stand_beside_the_paper_s(cache: Cache, tmp_path: Path) -> None:
    here = Cache(shutil.copytree(cache.root, tmp_path / "cache"))
    of = reproducing.prepare(here, paper("tf-mamba"), Training(epochs=1, folds="1-2", device="cpu"), tables=["II"])
    assert of.plan is not None and len(of.plan.runs) == 3 * 2
    before = reproducing.compare(here, of)
    assert next(row for row in before if row["row"] == "WavLM-large")["reason"] == "no run of it has the selection last yet"
    assert run_here(here, of.plan.runs, of.plan.findings, tell=lambda event: None) == []
    table = reproducing.compare(here, of)
    ours = {row["metric"]: row for row in table if row["row"] == "WavLM-large" and row["corpus"] == "iemocap"}
    assert len(list(here.runs.glob("*/run.json"))) == 6 and ours["UA"]["reason"] is None
    assert ours["UA"]["difference"] == pytest.approx(ours["UA"]["ours"] - 75.7, abs=1e-3)
    assert ours["WA"]["difference"] == pytest.approx(ours["WA"]["ours"] - 75.3, abs=1e-3)
    assert 0 <= ours["UA"]["ours"] <= 100 and ours["UA"]["folds"] == [1, 2]
    said = " ".join(reproducing.notes(of, table))
    assert "Not all folds were run" in said and "not as long as the paper" in said and "SYNTHETIC" not in said
    oracle = reproducing.compare(here, of, "test-oracle")
    line = next(line for line in reproducing.readable(oracle) if line["row"] == "WavLM-large" and line["metric"] == "UA")
    assert line["ours"].endswith("†") and line["difference"].endswith("†") and line["paper"] == "75.7"


@pytest.mark.slow
def test_numbers_of_the_synthetic_corpus_are_set_against_none_of_the_paper_s(
    tmp_path: Path, put_corpus: Any, put_features: Any
) -> None:
    here = Cache(tmp_path / "cache")
    utterances = [
        Utterance(utterance_id=f"u{i}", path=f"{i}.wav", speaker=f"s{i % 4}", session=f"x{i % 2}", label=label, raw_label=label)
        for i, label in enumerate(("anger",) * 8 + ("sadness",) * 8)
    ]
    put_corpus(here, utterances, corpus="synthetic", default_protocol="loso-session")
    put_features(here, [u.utterance_id for u in utterances], corpus="synthetic")
    assert not reproducing.has_a_corpus(here, paper("tf-mamba"))
    of = reproducing.prepare(here, paper("tf-mamba"), Training(device="cpu"), on_synthetic=True)
    assert of.plan is not None and {entry.experiment.recipe.epochs for entry in of.plan.entries} == {1, 2}
    assert {cell.corpus for cell in of.cells} == {"synthetic"} and {cell.paper for cell in of.cells} == {None}
    ran = {cell.row for cell in of.cells if cell.reason is None}
    assert {"TF-Mamba (ours)", "Baseline", "Dual Temporal-Domain Mamba", "TENT", "DWFormer"} <= ran
    assert "CA-MSER" not in ran  # its features are not joined here
    assert not ran & {"WavLM-base", "Whisper-large"}  # encoders have to be extracted
    table = reproducing.compare(here, of)
    assert any("say nothing about the paper" in note for note in reproducing.notes(of, table))
    # What the paper prints stands there with its corpus, so that nobody takes it for one of these sounds.
    number = next(n for n, line in enumerate(table) if (line["row"], line["metric"]) == ("DWFormer", "WF1"))
    assert table[number]["printed"] == 46.7 and table[number]["printed_on"] == "meld" and table[number]["difference"] is None
    assert reproducing.readable(table)[number]["paper"] == "46.7 meld"


@pytest.mark.parametrize(
    ("name", "tables", "names"),
    [
        ("tf-mamba", ["I"], ["logmel", "logmel+mfcc+logmel+hop_s=0.02"]),
        ("tf-mamba", ["II"], ["logmel"]),
        ("tf-transformer", [], ["logmel"]),
    ],
)
def test_the_synthetic_corpus_needs_no_weights(name: str, tables: list[str], names: list[str]) -> None:
    assert reproducing.synthetic_features(paper(name), tables) == names


@pytest.mark.slow
def test_every_row_of_table_one_is_planned_on_the_synthetic_corpus(tmp_path: Path) -> None:
    """CA-MSER's, too, whose frames are joined; programs get one list of what can be trained and of what cannot."""
    asked = ("reproduce", "tf-mamba", "--table", "I,II", "--dry-run", "--device", "cpu", "--cache", tmp_path)
    assert "without --dry-run its rows are trained on the built-in synthetic corpus" in run(*asked).stderr
    store = Cache(tmp_path / "demo")
    extract_synthetic(store, reproducing.synthetic_features(paper("tf-mamba"), ["I"]))
    result = run(*asked, "--format", "json")
    assert result.exit_code == 0 and "SYNTHETIC" in result.stderr
    listed = json.loads(result.stdout)
    assert len({tuple(row) for row in listed}) == 1  # one set of columns
    assert {row["reference"] for row in listed if row["head"] in ("logreg", "svm")} == {True}
    assert f"--features wavlm-large --cache {store.root}`" in str(listed)
    small = run(*asked, "--format", "json", "--set", "width=32", "--set", "dst.width=24", "--set", "ca_mser.image=64,96")
    recipes = {row["head"]: row["recipe"].split("+") for row in json.loads(small.stdout) if row["head"]}
    assert "image=[64, 96]" in recipes["ca_mser"] and "width=32" not in recipes["ca_mser"] and recipes["logreg"] == ["default"]
    assert "width=24" in recipes["dst"] and "width=32" in recipes["ent"]
    assert {row["head"] for row in listed if row["to_do"]} == {*TABLE_ONE, "tf_mamba", "logreg", "svm"}
    lacking = [row for row in listed if row["note"] and row["table"] == "I"]
    assert {row["row"] for row in lacking} == {f"{name} on egemaps (reference)" for name in ("logreg", "svm")}
    assert all("`pip install '.[opensmile]'`, and the same command" in row["note"] for row in lacking)
    (joined,) = {row["features"] for row in listed if row["head"] == "ca_mser"}
    assert joined == "logmel+mfcc+logmel+hop_s=0.02" and {row["epochs"] for row in listed if row["head"] == "dst"} == {2}


def test_reasons_are_printed_once() -> None:
    lines, reasons = _numbered([{"row": "a", "note": "x"}, {"row": "b", "note": ""}, {"row": "c", "note": "x"}])
    assert [line["note"] for line in lines] == ["(1)", "", "(1)"] and reasons == ["(1) x"]


@pytest.mark.parametrize("paper_s", [True, False], ids=["the paper's", "synthetic"])
def test_a_narrow_terminal_has_one_table_and_not_a_record_a_cell(
    paper_s: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "logreg on wavlm-large (reference)" if paper_s else "logreg on logmel+mfcc+logmel+hop_s=0.02 (reference)"
    line = {"table": "I", "row": name, "corpus": "iemocap" if paper_s else "synthetic", "metric": "UA"}
    line |= {"ours": "75.3 ± 12.1", "note": "", "paper": "75.7" * paper_s, "pooled": "74.0", "difference": "-10.4†" * paper_s}
    for module in (sweeps, display):
        monkeypatch.setattr(module, "terminal_width", lambda: 80)
    other = {"row": "CA-MSER", "corpus": "meld", "note": "too long a reason", "paper": "42.2", "difference": "+0.1"}
    _print_cells([line, line | (other if paper_s else {})], list(line), TableOutput.table)
    printed = capsys.readouterr()
    first = printed.out.splitlines()[0]
    assert first.split()[:2] == ["row", "corpus" if paper_s else "metric"] and first.count("ours") == 1
    assert printed.out.count("UA") == 2 and "In all rows: table I" in printed.err
    assert max(map(len, printed.out.splitlines())) <= 80


def test_notes_stand_where_the_table_goes(capsys: pytest.CaptureFixture[str]) -> None:
    for format, start in ((TableOutput.markdown, "\nSYNTHETIC: 5 %"), (TableOutput.latex, r"\par\smallskip SYNTHETIC: 5 \%")):
        _print_notes(["SYNTHETIC: 5 %", "† no result"], format)
        printed = capsys.readouterr()
        assert printed.out.startswith(start) and printed.err == "" and len(printed.out.split("\n")) >= 3
    _print_notes(["SYNTHETIC: 5 %"], TableOutput.json)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "SYNTHETIC: 5 %\n")
    _print_cells([{"row": "T+F", "note": "run `x_y` at 5 %"}], ("row", "note"), TableOutput.latex)
    assert r"\par\smallskip (1) run `x\_y` at 5 \%" in capsys.readouterr().out
