"""Finding an encoder's files: folders, the hub's cache, the hub, and what is said when they are not there."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub import errors as hub

from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.features.encoders import weights
from tfser.pipeline.features.encoders.weights import content_hash, find, is_folder, read_config, read_preprocessor

COMMIT = "a" * 40


def folder(path: Path, *names: str) -> Path:
    """Make a folder of files that hold their own names."""
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).write_text(json.dumps({"name": name}))
    return path


def in_cache(root: Path, repository: str, *names: str, ref: str = "main", commit: str = COMMIT) -> Path:
    """Lay files out as the hub's cache does."""
    base = root / f"models--{repository.replace('/', '--')}"
    (base / "refs").mkdir(parents=True, exist_ok=True)
    (base / "refs" / ref).write_text(commit)
    return folder(base / "snapshots" / commit, *names)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network: a question to the hub fails the test unless it is answered."""

    def unasked(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    root = tmp_path / "hub"
    root.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unasked)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unasked)
    return root


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin"], ["pytorch_model.bin"]),
        (
            ["model.safetensors.index.json", "m-1.safetensors", "m-2.safetensors", "x.safetensors"],
            ["m-1.safetensors", "m-2.safetensors"],
        ),
    ],
)
def test_a_folder_yields_one_kind_of_weights(tmp_path: Path, names: list[str], files: list[str]) -> None:
    folder(tmp_path, "config.json", *names)
    index = tmp_path / "model.safetensors.index.json"
    if index.exists():
        index.write_text(json.dumps({"weight_map": {"a": "m-2.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"}}))
    found = find(str(tmp_path))
    assert [path.name for path in found.files] == files
    assert (found.source, found.commit, found.folder) == (str(tmp_path), None, tmp_path)
    assert found.safetensors == files[0].endswith(".safetensors")
    assert read_config(found) == {"name": "config.json"}
    assert read_preprocessor(found) is None
    folder(tmp_path, "preprocessor_config.json")
    assert read_preprocessor(found) == (tmp_path / "preprocessor_config.json", {"name": "preprocessor_config.json"})


def test_a_folder_that_lacks_something_says_what(tmp_path: Path) -> None:
    with pytest.raises(TfserError, match=r"nowhere: no such folder"):
        find(str(tmp_path / "nowhere"))
    with pytest.raises(TfserError, match=r"has no config\.json.*model\.safetensors.*preprocessor_config\.json"):
        find(str(tmp_path))
    folder(tmp_path, "config.json")
    with pytest.raises(TfserError, match=r"has no weights, neither model\.safetensors nor pytorch_model\.bin"):
        find(str(tmp_path))
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "part-2.bin"}}))
    with pytest.raises(TfserError, match=r"has no part-2\.bin, which pytorch_model\.bin\.index\.json lists"):
        find(str(tmp_path))
    index.write_text("{}")
    with pytest.raises(TfserError, match="lists no shards"):
        find(str(tmp_path))
    index.unlink()
    folder(tmp_path, "model.safetensors")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(TfserError, match=r"config\.json: is no JSON object"):
        read_config(find(str(tmp_path)))


def test_folders_are_told_from_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "wavlm").mkdir(parents=True)
    assert [is_folder(s) for s in ("mine/wavlm", "./no", "/no", "~/no", "a/b/c")] == [True] * 5
    assert [is_folder(s) for s in ("microsoft/wavlm-large", "wavlm-large")] == [False] * 2


def test_what_the_cache_has_needs_no_network(hub_cache: Path) -> None:
    where = in_cache(hub_cache, "org/model", "config.json", "model.safetensors")
    other = in_cache(hub_cache, "org/model", "config.json", "pytorch_model.bin", ref="v2", commit="b" * 40)
    found = find("org/model")
    assert (found.folder, found.commit, found.source) == (where, COMMIT, "org/model")
    for revision in ("v2", "b" * 40):
        assert find("org/model", revision).folder == other


def test_offline_says_which_files_to_put_where(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_cache(hub_cache, "org/half", "config.json")  # an interrupted download
    words = r"HF_HUB_OFFLINE.*model.safetensors.*--weights FOLDER"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("org/half", "org/none"):
        with pytest.raises(TfserError, match=f"^{name}: not in the hub's cache .*{words}") as caught:
            find(name)
        assert str(hub_cache) in str(caught.value)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    asked: list[float] = []

    def unreachable(self: Any, repository: str, *, revision: str | None, timeout: float) -> None:
        asked.append(timeout)
        raise OSError("Name or service not known\nand a long story")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(TfserError, match=r"cannot be reached .Name or service not known.; put .*--weights FOLDER") as caught:
        find("org/none", "v1")
    assert caught.type is TfserError
    assert "org/none at v1" in str(caught.value)
    assert len(asked) == 1
    assert asked[0] <= 10


def test_a_download_fetches_one_kind_of_weights_and_no_more(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = ["README.md", "config.json", "preprocessor_config.json", "tf_model.h5", "model.safetensors.index.json",
             "a.safetensors", "b.safetensors", "pytorch_model.bin", "model.fp32.safetensors"]  # fmt: skip
    fetched: list[str] = []

    def info(self: Any, repository: str, *, revision: str | None, timeout: float) -> SimpleNamespace:
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in there])

    def download(repository: str, name: str, *, revision: str | None) -> str:
        fetched.append(name)
        where = in_cache(hub_cache, repository, name, ref=revision or "main")
        if name.endswith("index.json"):
            (where / name).write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
        return str(where / name)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    found = find("org/model", "v3")
    assert fetched[:3] == ["config.json", "preprocessor_config.json", "model.safetensors.index.json"]
    assert fetched[3:] == ["a.safetensors", "b.safetensors"]
    assert found.commit == COMMIT
    assert [path.name for path in found.files] == ["a.safetensors", "b.safetensors"]
    fetched.clear()
    assert find("org/model", "v3") == found
    assert fetched == []
    there[:] = ["README.md", "config.json"]
    with pytest.raises(TfserError, match=r"other.*the hub does not have all of config.json"):
        find("org/other")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (hub.GatedRepoError, "hf auth login"),
        (hub.RevisionNotFoundError, "no revision 'v9'"),
        (hub.RepositoryNotFoundError, "no such model"),
    ],
)
def test_what_the_hub_refuses_is_the_users_to_mend(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], words: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise kind.__new__(kind)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(UsageError, match=words):
        find("org/model", "v9")


def test_an_id_that_is_none(hub_cache: Path) -> None:
    with pytest.raises(UsageError, match="neither a folder nor a hub id"):
        find("or g/mo del")


def test_the_hash_is_of_the_content_and_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memo = tmp_path / "memo.json"
    where = folder(tmp_path / "a", "config.json")
    (where / "model.safetensors").write_bytes(b"weights")
    found = find(str(where))
    digest = content_hash(found, memo)
    assert digest == hashlib.sha256(b"weights").hexdigest()[:32] == content_hash(found)

    reads: list[str] = []
    real = hashlib.file_digest

    def count(stream: Any, name: str) -> Any:
        reads.append(stream.name)
        return real(stream, name)

    monkeypatch.setattr(weights.hashlib, "file_digest", count)
    assert content_hash(found, memo) == digest
    assert reads == []
    status = (where / "model.safetensors").stat()
    (where / "model.safetensors").write_bytes(b"WEIGHTS")
    os.utime(where / "model.safetensors", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    other = content_hash(found, memo)
    assert other == hashlib.sha256(b"WEIGHTS").hexdigest()[:32]
    assert len(reads) == 1
    memo.write_text("{ damaged")
    assert content_hash(found, memo) == other
    assert len(reads) == 2
    assert content_hash(found, memo) == other
    assert len(reads) == 2


def test_the_hash_of_shards_depends_on_each_and_their_names(tmp_path: Path) -> None:
    where = folder(tmp_path / "s", "config.json")
    (where / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "1.bin", "y": "2.bin"}}))
    digests = set()
    for one, two in ((b"a", b"b"), (b"b", b"a"), (b"a", b"c")):
        (where / "1.bin").write_bytes(one)
        (where / "2.bin").write_bytes(two)
        digests.add(content_hash(find(str(where))))
    assert len(digests) == 3
    assert all(len(digest) == 32 for digest in digests)
