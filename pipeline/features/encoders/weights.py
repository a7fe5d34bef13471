"""Where an encoder's files are: a local folder, the hub's cache, or the hub; and the hash of what the weights hold.

A folder is as `save_pretrained` writes it: config.json, the weights, and mostly preprocessor_config.json or, from newer
versions, processor_config.json. What the hub's cache already has is used without the network. What is missing ends in one line
that says which files to put where.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfser.manifests.errors import DamagedError, TfserError, UnreadableError, UsageError, first_line
from tfser.manifests.files import read_json, write_json
from tfser.pipeline.features.encoders.funasr import CONFIGURATION, YAML, is_folder_of_funasr, read_yaml, weights_name

CONFIG, PREPROCESSOR, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"
"""What a model is; what its input has to be; and the same within the settings of a processor, as transformers writes it from
version 5 on."""

KINDS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Weights in the order of preference; an index names the shards that it stands for."""

TIMEOUT_S = 8.0
"""How long the hub may take to answer the first question."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """An encoder's files on this machine. `files` are the weights, `source` the hub id or folder that was asked for."""

    folder: Path
    source: str
    commit: str | None
    files: tuple[Path, ...]

    @property
    def safetensors(self) -> bool:
        """Whether the weights are safetensors, rather than pickled tensors."""
        return self.files[0].suffix == ".safetensors"


def is_folder(source: str) -> bool:
    """Tell a folder from a hub id: it exists, or it is written as a path."""
    return Path(source).expanduser().is_dir() or source.startswith((".", "~", "/")) or source.count("/") > 1


def find(source: str, revision: str | None = None) -> Found:
    """Find the files of a folder or hub id; a hub id that is not in the hub's cache is downloaded.

    Only config.json, the settings of the preprocessor and one kind of weights are fetched.

    Raises:
        UsageError: if the hub has no such repository or revision, or does not let this user in.
        TfserError: if a file is missing, or the hub cannot be reached.
    """
    if is_folder(source):
        folder = Path(source).expanduser()
        if not folder.is_dir():
            raise TfserError(f"{folder}: no such folder")
        return Found(folder=folder.resolve(), source=str(folder), commit=None, files=_complete(folder))
    cached = _cached(source, revision)
    return cached if cached is not None else _download(source, revision)


def content_hash(weights: Found, memo: Path | None = None, *, again: bool = False) -> str:
    """Return 32 hexadecimal digits of the SHA-256 over the weight files' bytes, in the order of their names.

    `memo` is a JSON file that remembers the digests of files by path, size and times, that of the system's own note with them:
    what was put in a file's place with its size and time is another file. `again` believes nothing that is remembered.
    """
    known: dict[str, Any] = {}
    if memo is not None:
        with contextlib.suppress(DamagedError, UnreadableError):  # a memo only saves time: a damaged one is written anew
            stored = read_json(memo, place=memo.name)
            known = stored if isinstance(stored, dict) else {}
    digests, changed = [], False
    # By the file behind the link: the hub's cache links one file under many names. Its own note of changes
    # (ctime) is in the stamp, since size and time can be copied along with other content.
    for path in sorted(weights.files):
        real = path.resolve()
        status = real.stat()
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        entry = known.get(str(real))
        if again or not (isinstance(entry, dict) and entry.get("stamp") == stamp and isinstance(entry.get("sha256"), str)):
            with real.open("rb") as stream:
                entry = {"stamp": stamp, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
            known[str(real)], changed = entry, True
        digests.append(f"{path.name} {entry['sha256']}")
    if memo is not None and changed:
        with contextlib.suppress(OSError):  # a full disk, or another process that swept it away: it is hashed again then
            write_json(memo, {path: entry for path, entry in sorted(known.items()) if Path(path).exists()}, place=memo.name)
    if len(digests) == 1:  # one file: whatever its name
        return digests[0].split(" ")[1][:32]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:32]


def config_path(weights: Found) -> Path:
    """Return the file that says what the model is: config.json, or config.yaml in a folder of FunASR's."""
    return weights.folder / (YAML if is_folder_of_funasr(weights.folder) else CONFIG)


def read_config(weights: Found) -> dict[str, Any]:
    """Return config.json, or what config.yaml says in its words.

    Raises:
        TfserError: if it is damaged.
    """
    path = config_path(weights)
    return read_yaml(path) if path.name == YAML else _object(path)


def read_preprocessor(weights: Found) -> tuple[Path, dict[str, Any]] | None:
    """Return what the encoder's input has to be, and the file that says so; None where there is none.

    That is preprocessor_config.json, else what processor_config.json has under `feature_extractor`.

    Raises:
        TfserError: if the file is damaged.
    """
    path = weights.folder / PREPROCESSOR
    if path.is_file():
        return path, _object(path)
    path = weights.folder / PROCESSOR
    if path.is_file():
        within = _object(path).get("feature_extractor")
        if isinstance(within, dict):
            return path, within
    return None


def _object(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except RecursionError as error:
        raise TfserError(f"{path}: cannot be read (nested too deeply)") from error
    if not isinstance(value, dict):
        raise TfserError(f"{path}: is no JSON object")
    return value


def _complete(folder: Path) -> tuple[Path, ...]:
    """Return the weights of a folder that has all it needs.

    Raises:
        TfserError: naming what is missing.
    """
    if is_folder_of_funasr(folder):
        path = folder / weights_name(folder / CONFIGURATION)
        if not path.is_file():
            raise TfserError(f"{folder}: has no {path.name}, the weights that {YAML} belongs to")
        return (path,)
    if not (folder / CONFIG).is_file():
        raise TfserError(f"{folder}: has no {CONFIG}; a folder of weights is what save_pretrained writes: {_wanted()}")
    for kind in KINDS:
        if (folder / kind).is_file():
            files = tuple(folder / name for name in _shards(folder / kind))
            for path in files:
                if not path.is_file():
                    raise TfserError(f"{folder}: has no {path.name}, which {kind} lists")
            return files
    raise TfserError(f"{folder}: has no weights, neither {KINDS[0]} nor {KINDS[2]}; put {_wanted()} there")


def _shards(path: Path) -> list[str]:
    """Return the names of the files that a file of weights stands for: its own, or those of its index."""
    if path.suffix != ".json":
        return [path.name]
    shards = _object(path).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise TfserError(f"{path}: lists no shards")
    for name in shards.values():  # a name with a folder in it would be read from, or downloaded to, anywhere
        if not isinstance(name, str) or not name or Path(name).name != name or "\\" in name:
            raise TfserError(f"{path}: lists {str(name)[:80]!r}, which is no name of a file beside it")
    return sorted(set(shards.values()))


def _wanted() -> str:
    return f"{CONFIG}, {KINDS[0]} (or {KINDS[2]}) and {PREPROCESSOR}"


def _cached(repository: str, revision: str | None) -> Found | None:
    """Return what the hub's cache has of a revision, if that is all there is to have."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        tried = (try_to_load_from_cache(repository, name, revision=revision) for name in (CONFIG, YAML))
        path = next((path for path in tried if isinstance(path, str)), None)
    except HFValidationError as error:
        raise UsageError(f"{repository}: neither a folder nor a hub id ({first_line(error)[:200]})") from None
    if path is None:
        return None
    folder = Path(path).parent
    try:
        files = _complete(folder)
    except TfserError:  # half of it
        return None
    return Found(folder=folder, source=repository, commit=folder.name, files=files)


def _download(repository: str, revision: str | None) -> Found:
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub import errors as hub

    label = repository if revision is None else f"{repository} at {revision}"
    if constants.HF_HUB_OFFLINE:
        raise _missing(label, "HF_HUB_OFFLINE is set")
    try:
        # One question with one short wait: where there is no network, retries would take half a minute to say so.
        info = HfApi().model_info(repository, revision=revision, timeout=TIMEOUT_S)
        there = {sibling.rfilename for sibling in info.siblings or []}
        kind = next((kind for kind in KINDS if kind in there), None)
        if CONFIG not in there and YAML in there:  # as FunASR has it
            folder = Path(hf_hub_download(repository, YAML, revision=revision)).parent
            if CONFIGURATION in there:
                hf_hub_download(repository, CONFIGURATION, revision=revision)
            hf_hub_download(repository, weights_name(folder / CONFIGURATION), revision=revision)
            return Found(folder=folder, source=repository, commit=folder.name, files=_complete(folder))
        if CONFIG not in there or kind is None:
            raise TfserError(f"{label}: the hub does not have all of {_wanted()}; take a repository that transformers can load")

        def fetch(names: Iterable[str]) -> list[Path]:
            return [Path(hf_hub_download(repository, name, revision=revision)) for name in names if name in there]

        folder = fetch([CONFIG, PREPROCESSOR, PROCESSOR, kind])[0].parent
        fetch(_shards(folder / kind))
    except hub.GatedRepoError:
        raise UsageError(f"{label}: the hub asks for a login that may read it: `hf auth login`") from None
    except hub.RevisionNotFoundError:
        raise UsageError(f"{repository}: the hub has no revision {revision!r}") from None
    except hub.RepositoryNotFoundError:
        raise UsageError(f"{repository}: the hub has no such model, or it is private (`hf auth login`)") from None
    except TfserError:
        raise
    except Exception as error:  # whatever the transport raises: its classes differ between versions of the hub's client
        raise _missing(label, f"the hub cannot be reached ({first_line(error)[:200]})") from error
    return Found(folder=folder, source=repository, commit=folder.name, files=_complete(folder))


def _missing(label: str, why: str) -> TfserError:
    from huggingface_hub import constants

    return TfserError(
        f"{label}: not in the hub's cache ({constants.HF_HUB_CACHE}), and {why}; put {_wanted()} into a folder"
        f" and give it with --weights FOLDER, or copy the cache of a machine that has it"
    )
