"""docs/python.md and docs/own_head.md: their code runs, in one process a page, on the synthetic corpus."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tfser
from tfser.heads import REGISTERED
from tfser.heads.prediction import notebook_models
from tfser.heads.prediction.answers import SpokenAnswer
from tfser.heads.prediction.exchange import audit
from tfser.heads.prediction.inputs import Speech, Unusable
from tfser.heads.prediction.notebook import TrainingOptions
from tfser.heads.prediction.outputs import Outputs
from tfser.heads.prediction.own_code import digest_of
from tfser.heads.prediction.python_values import a_rate
from tfser.heads.runs.request import Request
from tfser.manifests.cache import Cache
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.utterances import Utterance
from tfser.pipeline.corpora import CORPORA
from tfser.pipeline.extraction.extract import extract
from tfser.pipeline.features.registry import feature_set
from tfser.pipeline.scanning.scan import scan

from .conftest import fill_with_tones, run

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that the pages speak of."""
    folder = tmp_path_factory.mktemp("pages")
    cache = Cache(folder / "cache")
    scan(cache, CORPORA["synthetic"], corpus="synthetic", root=folder)
    extract(cache, "synthetic", feature_set("logmel", {}, "float32"))
    return cache.root


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of tones: what comes out of it is asked, not what it says."""
    folder = tmp_path_factory.mktemp("tones")
    fill_with_tones(Cache(folder / "cache"), folder, seconds=0.2, each=(2, 2))
    head, *lines = (folder / "toy.csv").read_text().splitlines()
    rated = [f"{line},{4 + i % 2 if 'anger' in line else 2}" for i, line in enumerate(lines)]
    (folder / "toy.csv").write_text("\n".join([f"{head},arousal", *rated]))
    votes = [f"{line.split(',')[0]},r{i},{name}" for line in lines for i, name in enumerate((line.split(",")[1], "sadness"))]
    (folder / "votes.csv").write_text("\n".join(["id,rater,label", *votes]))
    words = ("--table", folder / "toy.csv", "--scale", "1-5", "--annotations", folder / "votes.csv")
    assert run("scan", "--corpus", "table", *words, "--cache", folder / "cache").exit_code == 0
    return folder / "cache"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["python.md", "own_head.md"])
def test_the_code_of_a_page_runs(root: Path, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file, as a head's source has to be read."""
    script = tmp_path / "page.py"
    script.write_text(blocks(page), encoding="utf-8")
    monkeypatch.setenv("TFSER_CACHE", str(root))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "UA" in done.stdout


def test_what_training_can_be_asked_is_what_the_command_line_can(tmp_path: Path) -> None:
    assert TrainingOptions.__annotations__.keys() <= {field.name for field in fields(Request)} - {"head", "settings", "seed"}
    with pytest.raises(UsageError, match=r"unknown argument of Cache.train 'epoch'; did you mean 'epochs'\?"):
        tfser.Cache(tmp_path).train("mean_pool", epoch=3)


def test_a_head_takes_fewer_than_30_lines() -> None:
    assert len([line for line in blocks("own_head.md").splitlines() if line.strip()]) < 30


def test_every_public_name_is_on_the_page_and_in_the_changelog() -> None:
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    changes = (DOCS.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    for name in set(tfser.__all__) - {"__version__"}:
        assert f"`tfser.{name}`" in page and f"`tfser.{name}`" in changes, name
        assert getattr(tfser, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tfser.nothing  # noqa: B018


@pytest.mark.slow
def test_importing_it_loads_nothing_heavy() -> None:
    code = "import tfser, sys; tfser.Cache; sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'sklearn', 'h5py')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


ROWS = [
    {"utterance_id": f"{speaker}{i}", "speaker": speaker, "label": label, "split": "test" if speaker == "c" else "train"}
    for speaker in "abc"
    for i, label in enumerate(("anger", "sadness", "anger", "sadness"))
]


@pytest.mark.slow
def test_a_sound_split_passes_and_a_leak_is_found() -> None:
    assert audit(ROWS)
    same = [{**ROWS[0], "content_hash": "same"}, *ROWS[1:-1], {**ROWS[-1], "content_hash": "same"}]
    for leaky in ([*ROWS[:-1], {**ROWS[-1], "speaker": "a"}], same):
        found = audit(leaky)
        assert not found and found.errors and str(found).startswith("error")
    import pyarrow as pa

    assert audit(pa.Table.from_pylist(ROWS)) and audit(ROWS, protocol="loso-speaker")


def test_the_number_0_is_a_name_like_others() -> None:
    """It was taken for none, and for another row's number: shuffled rows were refused, as if two had one name."""
    assert audit([{**row, "utterance_id": number} for number, row in zip(range(len(ROWS))[::-1], ROWS, strict=True)])


def test_predictions_stand_in_the_order_in_which_files_were_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the run was tested on is computed first, and stood first; what could not be read stood last."""
    outputs = Outputs(classes=("anger",))
    speech = {name: Speech(name=name, path=Path(name)) for name in ("c.wav", "bad.wav", "a.wav", "odd.wav")}
    said = [
        SpokenAnswer(speech=speech[name], outputs=outputs, members=np.ones((1, 1), np.float32), segments=np.ones((1, 1)))
        for name in ("a.wav", "c.wav")
    ]
    lost = [Unusable(name="bad.wav", reason="bad")]
    monkeypatch.setattr(notebook_models, "measured", lambda named, minimum_s: ([*speech.values()], lost))
    monkeypatch.setattr(
        notebook_models, "answers", lambda *_, **__: iter([said[0], Unusable(name="odd.wav", reason="odd"), said[1]])
    )
    head = SimpleNamespace(name="h", outputs=outputs)
    fronts = SimpleNamespace(of=[SimpleNamespace(sample_rate_hz=16000)], minimum_s=0.02)
    model = notebook_models.TrainedModel(SimpleNamespace(heads=[head], fronts=fronts, known=None))  # type: ignore[arg-type]
    rows = model.predict(*speech)
    assert [row["input"] for row in rows] == [*speech]
    assert [row["reason"] for row in rows] == [None, "bad", None, "odd"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([{"split": "train"}], "unknown column 'label'"),
        ([{"label": "x"}], "unknown column 'split'"),
        ([{"label": "x", "split": "tset"}], "did you mean 'test'"),
        ([ROWS[0], ROWS[0]], "name each utterance once"),
        ("text", "a table is wanted"),
    ],
)
def test_tables_that_are_off(rows: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        audit(rows)


def test_a_registered_head_is_known_by_its_code() -> None:
    pytest.importorskip("torch")

    def one(dim: int, n_classes: int) -> object:
        return (dim, n_classes)

    def two(dim: int, n_classes: int) -> object:
        return (n_classes, dim)

    try:
        codes = {tfser.register_head("mine", build).preset().to_dict()["code"] for build in (one, two, one)}  # type: ignore[arg-type]
        assert len(codes) == 2
        with pytest.raises(UsageError, match="give a version="):
            tfser.register_head("mine", eval("lambda dim, n_classes: None"))
        assert tfser.register_head("mine", eval("lambda d, n: None"), version="1").preset().to_dict()["code"] == "version 1"
        with pytest.raises(UsageError, match="there already"):
            tfser.register_head("svm", one)  # type: ignore[arg-type]
    finally:
        REGISTERED.pop("mine", None)


def _factory(hidden: int, around: object = None) -> Any:
    def build(dim: int, n_classes: int) -> object:
        return (dim, n_classes, hidden, around)

    return build


class _Base:
    WIDE = 3


class _Derived(_Base):
    def __init__(self, dim: int, n_classes: int) -> None:
        self.helped = _helper(dim, n_classes)


def _helper(dim: int, n_classes: int) -> int:
    return dim * n_classes * _Base.WIDE


def test_what_a_head_uses_of_its_own_file_is_its_code_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A factory's values, a function that is called, a class that is inherited from: else old runs were taken for new ones."""
    assert digest_of(_factory(64)) == digest_of(_factory(64)) != digest_of(_factory(128))
    with pytest.raises(UsageError, match=r"the value of 'around' .* give a version="):
        digest_of(_factory(64, object()))
    before = digest_of(_Derived)
    assert before == digest_of(_Derived)

    def other(dim: int, n_classes: int) -> int:
        return dim + n_classes

    monkeypatch.setitem(globals(), "_helper", other)
    assert digest_of(_Derived) != before


def test_values_that_a_head_uses_are_told_apart_in_every_process() -> None:
    """Sets are not written in the order of one process, nor large arrays by their ends; torch's decorators are torch's."""
    torch = pytest.importorskip("torch")
    code = "from tfser.heads.prediction.own_code import _written; print(_written({'a', 'b', 'c', 'd'}))"
    written = {
        subprocess.check_output([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}) for seed in ("1", "2")
    }
    assert len(written) == 1
    for make in (np.zeros, torch.zeros):
        one, other = make(5000), make(5000)
        other[2500] = 1
        assert digest_of(_factory(1, one)) == digest_of(_factory(1, make(5000))) != digest_of(_factory(1, other))

    class Quiet:
        @torch.no_grad()
        def forward(self) -> int:
            return _helper(1, 2)

    assert len(digest_of(Quiet)) == 16


def _lazily(size: int, most: int) -> type:
    class Lazy:
        @functools.cached_property
        def width(self) -> int:
            return size

        @property
        def height(self) -> int:
            return 1

        @height.setter
        def height(self, value: int) -> None:
            self.kept = min(value, most)

    return Lazy


def test_what_cached_properties_and_setters_use_is_part_of_a_head() -> None:
    assert digest_of(_lazily(1, 1)) == digest_of(_lazily(1, 1))
    assert len({digest_of(_lazily(1, 1)), digest_of(_lazily(2, 1)), digest_of(_lazily(1, 2))}) == 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"head": None}, "Cache.train, head: a text is wanted, not None"),
        ({"seeds": -1}, "Cache.train, seeds: -1; write a number"),
        ({"seeds": ["0", "-"]}, "Cache.train, seeds: "),
        ({"seeds": ()}, "Cache.train, seeds: "),
        ({"folds": 1.5}, "Cache.train, folds: 1.5; write a number"),
        ({"epochs": 0}, "Cache.train, epochs: 0; write a whole number"),
        ({"epochs": "3"}, "Cache.train, epochs: '3'; write a whole number"),
        ({"settings": ["lr"]}, "settings: a mapping is wanted"),
        ({"target": 5}, "Cache.train, target: 5; write a name"),
        ({"features": 3}, "Cache.train, features: a text is wanted, not 3"),
        ({"again": "yes"}, "Cache.train, again: 'yes'; write true or false"),
    ],
)
def test_arguments_of_the_wrong_kind_are_one_line(asked: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        tfser.Cache(tmp_path).train(**{"head": "logreg", **asked})


def test_seeds_and_folds_may_be_numbers_or_a_text(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text was once taken letter by letter: a seed called "-" was trained, and the catalogue could not hold its run."""
    asked: list[tuple[str, tuple[int, ...]]] = []
    monkeypatch.setattr(notebook_models, "train_experiment", lambda cache, request, seeds: asked.append((request.folds, seeds)))
    for folds, seeds in ((1, 0), ("1", "0-1"), (np.int64(1), np.arange(2)), ([1, 2], range(2)), (None, [3])):
        tfser.Cache(small).train("logreg", folds=folds, seeds=seeds, epochs=None)  # type: ignore[arg-type]
    assert asked == [("1", (0,)), ("1", (0, 1)), ("1", (0, 1)), ("1,2", (0, 1)), ("all", (3,))]


def test_names_and_rates_of_the_wrong_kind_are_one_line(tmp_path: Path) -> None:
    cache = tfser.Cache(tmp_path)
    calls: list[Any] = [
        lambda: cache.sql(5),
        lambda: cache.folds(4),
        lambda: cache.utterances(3),
        lambda: cache.features(None),
        lambda: cache.packed("logmel", utterances="abc"),
        lambda: cache.scores(3),
        lambda: cache.model(None),
        lambda: a_rate(0),
        lambda: a_rate("16000"),
        lambda: a_rate(1),
        lambda: tfser.collate([]),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="wanted"):
            call()


def test_a_head_of_ones_own_that_is_off_is_one_line() -> None:
    torch = pytest.importorskip("torch")

    class Wide(torch.nn.Module):  # type: ignore[name-defined,misc]
        """A class more than there are: it would train, and its probabilities would belong to nobody."""

        def __init__(self, dim: int, n_classes: int) -> None:
            super().__init__()
            self.out = torch.nn.Linear(dim, n_classes + 1)

        def forward(self, frames: Any, lengths: Any) -> Any:
            return self.out(frames.mean(dim=1))

    def register(**off: Any) -> Any:
        return tfser.register_head("mine", Wide, version="1", **off)

    try:
        for off, message in (
            ({"recipe": {"epoch": 3}}, "did you mean 'epochs'"),
            ({"recipe": 5}, "recipe: a mapping"),
            ({"inputs": "frames"}, "unknown kind of inputs 'frames'"),
            ({"inputs": "segments", "segment_frames": "80"}, "segment_frames='80'"),
        ):
            with pytest.raises(UsageError, match=message):
                register(**off)
        spec = register(recipe={"epochs": 3, "lr": 0.003})
        assert (spec.recipes["default"].epochs, spec.recipes["default"].lr) == (3, 0.003)
        with pytest.raises(UsageError, match=r"forward gives \(2, 3\); logits \(2, 2\) are wanted"):
            spec.build(spec.preset(), 8, 2)
    finally:
        REGISTERED.pop("mine", None)


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.ones(800, np.int16), "divide 16-bit ones by 32768"),
        (np.ones((800, 2)), "transpose it"),
        (np.ones(800) * 1j, "no ndarray of complex128"),
        ("a.wav", "no str"),
        (np.full(800, np.nan), "finite"),
    ],
)
def test_what_is_no_waveform_is_one_line(waveform: Any, message: str) -> None:
    """Of integers a head would hear very loud speech, and of two columns two samples."""
    head = SimpleNamespace(classes=("anger",), name="h", needs_speakers=False, outputs=Outputs(classes=("anger",)))
    fronts = SimpleNamespace(of=[SimpleNamespace(sample_rate_hz=16000)], minimum_s=0.02)
    model = notebook_models.TrainedModel(SimpleNamespace(heads=[head], fronts=fronts))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        model(waveform, 16000)


def test_features_come_in_every_shape(small: Path) -> None:
    cache = tfser.Cache(small)
    frames, packed = cache.features("logmel"), cache.packed("logmel")
    assert list(frames) == list(packed.utterance_ids) and len(frames) == len(cache.utterances())
    first = packed.utterance_ids[0]
    np.testing.assert_array_equal(frames[first], packed.of(0))
    assert not frames[first].flags.writeable
    items = [cache.dataset("logmel")[i] for i in range(3)]
    batch = tfser.collate(items)
    assert batch["frames"].shape == (3, max(len(item["frames"]) for item in items), 80)
    assert batch["lengths"].tolist() == [len(item["frames"]) for item in items]
    with pytest.raises(UsageError, match="unknown feature set"):
        cache.features("logmol")


def test_one_dimension_may_come_as_a_word(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []
    monkeypatch.setattr(notebook_models, "train_experiment", lambda cache, request, seeds: asked.append(request))
    for target in ("arousal", ["arousal"], "valence,arousal", ("valence", "arousal")):
        tfser.Cache(small).train("ridge", target=target, labels_from="label", settings={"normalise": None})
    assert [request.target for request in asked] == [("arousal",)] * 2 + [("valence", "arousal")] * 2
    assert asked[0].labels_from == "label" and asked[0].settings == {"normalise": "none"}


@pytest.mark.slow
def test_dimensions_and_the_raters_votes_are_learned_here_too(small: Path) -> None:
    cache = tfser.Cache(small)
    rated = cache.train("ridge", target="arousal", folds="1")  # one name is no letters
    (row,) = rated.scores()
    assert row["dimension"] == "arousal" and row["CCC"] is not None and row in cache.scores()
    waveform = 0.2 * np.sin(2 * np.pi * 1500 * np.arange(8000) / 16000)
    (rating,) = rated.model()(waveform, 16000).values()
    assert 1 <= rating <= 5
    plain, voted = (cache.train("mean_pool", labels_from=of, epochs=1, folds="1") for of in ("label", "distribution"))
    assert plain.name != voted.name and {row["selection"] for row in voted.scores()} >= {"last"}
    with pytest.raises(UsageError, match="did you mean 'arousal'"):
        cache.train("ridge", target="arousel")


def test_a_layer_of_a_stack_is_a_feature_set_here_too(cache: Cache, put_corpus: Any, put_stack: Any) -> None:
    """Read where it lies: its columns of the stack's frames."""
    names = [f"u{i}" for i in range(6)]
    put_corpus(cache, [Utterance(utterance_id=name, path="x", speaker="a", label="anger") for name in names])
    rng = np.random.default_rng(0)
    stack = {name: rng.standard_normal((4, 6)).astype(np.float32) for name in names}
    put_stack(cache, stack, 3, name="whisper-base/all", config={"family": "whisper"})
    here = tfser.Cache(cache.root)
    frames, packed = here.features("whisper-base/1"), here.packed("whisper-base/1")
    for i, name in enumerate(packed.utterance_ids):
        np.testing.assert_array_equal(frames[name], stack[name][:, 2:4])
        np.testing.assert_array_equal(packed.of(i), frames[name])
    assert here.dataset("whisper-base/last")[0]["frames"].shape == (4, 2)


def test_tables_come_without_a_remark(small: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert tfser.Cache(small).sql("SELECT 1 AS one").num_rows == 1 and not recwarn.list


@pytest.mark.slow
def test_a_hugging_face_data_set_has_the_same_frames(root: Path) -> None:
    pytest.importorskip("datasets", reason="the extra [datasets]")
    cache = tfser.Cache(root)
    found, frames = cache.hugging_face("logmel"), cache.features("logmel")
    row = found[1]
    np.testing.assert_array_equal(np.array(row["features"], np.float32), frames[row["utterance_id"]])
    assert len(found) == len(frames)


@pytest.mark.slow
def test_a_broken_plug_in_is_one_line(tmp_path: Path) -> None:
    """Three entry points of a package whose module fails while it is imported, and one head that works."""
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tfser.heads]\nbad = broken_module:HEAD\ngood = tfser.heads.models.mean_pool:HEAD\n"
        "[tfser.upstreams]\nworse = broken_module:UPSTREAM\n[tfser.corpora]\nwrong = tfser.heads.models.mean_pool:HEAD\n"
    )
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('half\\nwritten')\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from tfser.cli import app\n"
        "for words in (['heads', '--format', 'json'], ['features'], ['corpora'], ['train', '--head', 'bad']):\n"
        "    print(app(words, standalone_mode=False))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "plug-in bad of broken 1.0: cannot be loaded (RuntimeError: half" in done.stdout
    assert '"from": "broken 1.0"' in done.stdout and '"head": "good"' in done.stdout
    for line in (
        "plug-in worse of broken 1.0: cannot be loaded",
        "plug-in wrong of broken 1.0: tfser.heads.models.mean_pool:HEAD is a",
    ):
        assert line in done.stderr
    assert issubclass(UsageError, TfserError)
