"""Folders of encoders from anywhere: what newer transformers write is read, and whatever is off in them is one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tfser.heads.runs.experiment import resolve
from tfser.heads.runs.request import Request
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.files import read_json, write_json
from tfser.pipeline.corpora.table import READER
from tfser.pipeline.extraction.extract import extract_pass
from tfser.pipeline.features.encoders.loading import load
from tfser.pipeline.features.encoders.spec import EncoderSpec, encoder_spec
from tfser.pipeline.features.encoders.weights import content_hash, find
from tfser.pipeline.features.engine import Compute
from tfser.pipeline.features.registry import FeatureRequest, feature_pass
from tfser.pipeline.inventory import Unwanted, doomed
from tfser.pipeline.scanning.scan import scan

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

RATE = 16000
CONFIG: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 8,
}


def save(folder: Path, seed: int = 0) -> Path:
    """Write a small wav2vec 2.0 of random weights, without settings of a preprocessor."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**CONFIG)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("weights") / "enc")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(saved, tmp_path / "enc"))


def change(path: Path, **values: Any) -> None:
    """Change values of a JSON file, which may not be there yet."""
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **values}))


def use(folder: Path) -> np.ndarray:
    """Compute something with an encoder, as an extraction does."""
    spec = encoder_spec(str(folder))
    (frames,) = load(spec).encode([spec.prepare(np.ones(800, np.float32))])
    return frames[0]


# -- what comes before the first layer ---------------------------------------------------------------------------------------


def raw(folder: Path) -> EncoderSpec:
    return encoder_spec(str(folder))


def test_a_processor_s_settings_are_those_of_its_feature_extractor(folder: Path) -> None:
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=False, sampling_rate=8000)
    extractor.save_pretrained(folder)
    old = raw(folder)
    assert (old.sample_rate_hz, old.normalise, old.notes) == (8000, False, ())
    (folder / "preprocessor_config.json").unlink()
    settings = {"do_normalize": False, "sampling_rate": 8000}
    change(folder / "processor_config.json", processor_class="Wav2Vec2Processor", feature_extractor=settings)
    new = raw(folder)
    assert (new.sample_rate_hz, new.normalise, new.notes) == (8000, False, ())
    assert new.config(new.outputs[0]) == old.config(old.outputs[0])  # one fingerprint, whichever file says it


def test_what_transformers_writes_is_read(folder: Path) -> None:
    vocabulary = folder / "v.json"
    vocabulary.write_text(json.dumps({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4}))
    transformers.Wav2Vec2Processor(
        transformers.Wav2Vec2FeatureExtractor(do_normalize=False, sampling_rate=8000),
        transformers.Wav2Vec2CTCTokenizer(str(vocabulary)),
    ).save_pretrained(folder)
    assert (raw(folder).sample_rate_hz, raw(folder).normalise) == (8000, False)


def test_the_older_file_has_the_word_where_there_are_both(folder: Path) -> None:
    change(folder / "preprocessor_config.json", do_normalize=True, sampling_rate=16000)
    before = raw(folder)
    change(folder / "processor_config.json", feature_extractor={"do_normalize": False, "sampling_rate": 8000})
    assert raw(folder).config(before.outputs[0]) == before.config(before.outputs[0])


def test_a_processor_that_says_nothing_of_sound_is_none(folder: Path) -> None:
    change(folder / "processor_config.json", processor_class="Wav2Vec2Processor")
    spec = raw(folder)
    assert spec.normalise and "processor_config.json" in spec.notes[0]


def test_whisper_reads_it_as_well(tmp_path: Path) -> None:
    config = transformers.WhisperConfig(
        d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=16, max_source_positions=100, vocab_size=60,
        pad_token_id=1, bos_token_id=1, eos_token_id=1, decoder_start_token_id=1,
    )  # fmt: skip
    transformers.WhisperModel(config).save_pretrained(tmp_path / "w")
    change(tmp_path / "w" / "processor_config.json", feature_extractor={"hop_length": 80, "n_fft": 200})
    spec = encoder_spec(str(tmp_path / "w"))
    assert spec.mel == {"n_fft": 200, "hop_length": 80, "bands": 80}
    change(tmp_path / "w" / "processor_config.json", feature_extractor={"feature_size": 128})
    with pytest.raises(TfserError, match=r"processor_config\.json: feature_size is 128, and config.json needs 80"):
        encoder_spec(str(tmp_path / "w"))


# -- what is off in a folder -------------------------------------------------------------------------------------------------

BAD: list[tuple[str, Mapping[str, Any], str]] = [
    ("config.json", {"conv_stride": [5, 2, 2, 0, 2, 2, 2]}, "conv_stride is"),
    ("config.json", {"conv_stride": [5, 2]}, "different lengths"),
    ("config.json", {"conv_kernel": None}, "conv_kernel is None"),
    ("config.json", {"conv_dim": "many"}, "conv_dim is 'many'"),
    ("config.json", {"hidden_size": None}, "hidden_size is None"),
    ("config.json", {"hidden_size": "16"}, "hidden_size is '16'"),
    ("config.json", {"hidden_size": 0}, "hidden_size is 0"),
    ("config.json", {"hidden_size": 10**12}, "hidden_size is 1000000000000"),
    ("config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers is"),
    ("config.json", {"num_hidden_layers": -1}, "num_hidden_layers is -1"),
    ("config.json", {"num_attention_heads": 5}, "cannot be loaded"),
    ("config.json", {"num_attention_heads": "2"}, "num_attention_heads is '2'"),
    ("config.json", {"layer_norm_eps": "small"}, "layer_norm_eps is 'small'"),
    ("config.json", {"do_stable_layer_norm": "yes"}, "do_stable_layer_norm is 'yes'"),
    ("config.json", {"hidden_act": 3}, "hidden_act is 3"),
    ("config.json", {"hidden_act": "gulu"}, "cannot be loaded"),
    ("config.json", {"feat_extract_norm": "none"}, "cannot be loaded"),
    ("config.json", {"dtype": "nonsense"}, ""),
    ("config.json", {"dtype": 7}, ""),
    ("config.json", {"torch_dtype": "nonsense"}, ""),
    ("config.json", {"model_type": ["wav2vec2"]}, "model_type"),
    ("preprocessor_config.json", {"sampling_rate": "16 kHz"}, "sampling_rate is '16 kHz'"),
    ("preprocessor_config.json", {"sampling_rate": None}, "sampling_rate is None"),
    ("preprocessor_config.json", {"sampling_rate": 1}, "sampling_rate is 1;"),
    ("preprocessor_config.json", {"do_normalize": "false"}, "do_normalize is 'false'"),
    ("processor_config.json", {"feature_extractor": {"sampling_rate": []}}, "processor_config.json: sampling_rate is"),
]


@pytest.mark.parametrize(("name", "values", "reason"), BAD, ids=[f"{name}-{values}" for name, values, _ in BAD])
def test_whatever_is_off_is_one_line(folder: Path, name: str, values: Mapping[str, Any], reason: str) -> None:
    change(folder / name, **values)
    try:
        use(folder)
    except TfserError as error:
        assert "\n" not in str(error) and reason in str(error) and len(str(error)) < 500
    else:
        assert not reason, "this cannot be computed"  # a dtype that this version of transformers does not look at


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "processor_config.json"])
@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "[]", "null", "", "\udcff"])
def test_json_that_is_none(folder: Path, name: str, content: str) -> None:
    (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(TfserError) as caught:
        raw(folder)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", "", 3, None])
def test_an_index_names_files_beside_it_alone(folder: Path, shard: Any) -> None:
    (folder / "model.safetensors").rename(folder.parent / "secret.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"masked_spec_embed": shard}}))
    with pytest.raises(TfserError, match="which is no name of a file beside it"):
        find(str(folder))


def test_a_pickle_is_refused_in_words_of_our_own(folder: Path, tmp_path: Path) -> None:
    class Run:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    (folder / "model.safetensors").unlink()
    torch.save({"x": Run()}, folder / "pytorch_model.bin")
    with pytest.raises(TfserError) as caught:
        use(folder)
    assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Run()))
    with pytest.raises(TfserError) as caught:
        use(folder)
    assert "weights_only" not in str(caught.value) and not (tmp_path / "ran").exists()


# -- the memo of hashes ------------------------------------------------------------------------------------------------------


def test_weights_that_were_replaced_with_size_and_time_are_hashed_again(folder: Path, tmp_path: Path) -> None:
    memo, weights = tmp_path / "weights.json", folder / "model.safetensors"
    first = content_hash(find(str(folder)), memo)
    status, data = weights.stat(), bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert content_hash(find(str(folder)), memo) != first


def test_a_rescan_believes_no_memo(folder: Path, tmp_path: Path) -> None:
    memo = tmp_path / "weights.json"
    right = content_hash(find(str(folder)), memo)
    stored = read_json(memo, place=memo.name)
    for entry in stored.values():
        entry["sha256"] = "0" * 64
    other = {str(tmp_path): {"stamp": [], "sha256": "1" * 64}}
    write_json(memo, stored | other, place=memo.name)
    assert encoder_spec(str(folder), memo=memo).weights == "0" * 32
    assert encoder_spec(str(folder), memo=memo, rehash=True).weights == right
    assert encoder_spec(str(folder), memo=memo).weights == right
    assert read_json(memo, place=memo.name).items() > other.items()  # where other weights were seen is still known


def test_a_memo_that_cannot_be_written_stops_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none").write_text("")
    assert content_hash(find(str(folder)), tmp_path / "none" / "weights.json") == content_hash(find(str(folder)))


# -- two encoders of one name ------------------------------------------------------------------------------------------------


@pytest.fixture
def two(cache: Cache, saved: Path, tmp_path: Path) -> tuple[Cache, Path, Path, list[str]]:
    """A corpus with features of two encoders whose folders are called alike, and what was told."""
    root = tmp_path / "corpus"
    root.mkdir()
    lines = ["path,label,speaker"]
    for i in range(8):
        soundfile.write(root / f"u{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(4000), RATE)
        lines.append(f"u{i}.wav,{'anger' if i % 2 else 'neutral'},s{i // 2}")
    (root / "t.csv").write_text("\n".join(lines) + "\n")
    scan(cache, READER, corpus="c", root=root, options={"table": str(root / "t.csv")})
    other, told = save(tmp_path / "there" / "enc", seed=1), list[str]()
    for folder in (saved, other):
        take(cache, folder, told)
    return cache, saved, other, told


def take(cache: Cache, folder: Path, told: list[str], **settings: str) -> None:
    wanted = feature_pass(str(folder), FeatureRequest(layer="2", settings=settings))
    extract_pass(cache, "c", wanted, compute=Compute(tell=told.append))


def held(cache: Cache) -> dict[str, str]:
    """Where each feature set came from."""
    with open_catalogue(cache) as connection:
        found = rows(connection, "SELECT feature_set, source FROM feature_sets")
    return {row["feature_set"]: json.loads(row["source"])["weights"] for row in found}


@pytest.mark.slow
def test_neither_of_two_encoders_takes_the_other_s_name(two: tuple[Cache, Path, Path, list[str]]) -> None:
    cache, one, other, told = two
    sets = held(cache)
    assert sorted(sets.values()) == sorted([str(one), str(other)]) and all(name.startswith("enc/2@") for name in sets)
    (note,) = (line for line in told if "another encoder" in line)
    assert str(one) in note and all(name in note for name in sets)
    with pytest.raises(UsageError) as caught:
        resolve(cache, Request(head="logreg", corpus="c", features="enc/2"))
    assert all(name in str(caught.value) for name in sets) and str(one) in str(caught.value) and str(other) in str(caught.value)
    for name in sets:
        assert resolve(cache, Request(head="logreg", corpus="c", features=name)).feature_set == name
    with pytest.raises(UsageError, match="which features"):
        resolve(cache, Request(head="logreg", corpus="c"))
    assert doomed(cache, Unwanted(stale=True)) == []  # neither is an outdated version of the other


@pytest.mark.slow
def test_a_newer_version_of_one_encoder_takes_its_name(two: tuple[Cache, Path, Path, list[str]]) -> None:
    cache, one, other, _ = two
    shutil.rmtree(next(p.parent for p in cache.feature_root.glob("*/feature_set.json") if str(other) in p.read_text()))
    assert list(held(cache)) == ["enc/2"]
    weights = one / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    try:
        weights.write_bytes(data)
        path = next(cache.feature_root.glob("*/feature_set.json"))
        about = cache.read_json(path)
        cache.write_json(path, about | {"created_at": "1" + about["created_at"][1:]})  # seconds are too coarse here
        take(cache, one, [])
        names = held(cache)
        assert len(names) == 2 and "enc/2" in names
        assert resolve(cache, Request(head="logreg", corpus="c", features="enc/2")).feature_set == "enc/2"
        assert len(doomed(cache, Unwanted(stale=True))) == 1
    finally:
        data[-1] ^= 1
        weights.write_bytes(data)
