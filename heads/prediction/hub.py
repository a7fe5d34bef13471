"""An exported folder onto a model hub, through huggingface_hub.

What comes in: a folder of `tfser export` and a name, organisation/name. What goes out: the address. Nothing else than the
folder's own files is sent, and none that is not what was exported; who may write there is huggingface_hub's affair (`hf
auth login`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tfser.heads.prediction.folder import DESCRIPTION, check_file, read_description
from tfser.manifests.errors import TfserError, UsageError, first_line


def check_repository(name: str) -> str:
    """Return the name of a repository.

    Raises:
        UsageError: if it is none.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        raise UsageError(f"--hub {name}: write organisation/name")
    return name


def push(folder: Path, name: str, *, private: bool = False, api: Any = None) -> str:
    """Send an exported folder to a repository, which is made if it is not there; return its address.

    Args:
        folder: as `tfser export` wrote it.
        name: organisation/name.
        private: of a repository that is made now.
        api: in place of `huggingface_hub.HfApi()`.

    Raises:
        UsageError: the name is none, or the folder no exported one.
        TfserError: a file is not what was exported, or the hub refuses; the folder stays.
    """
    check_repository(name)
    description = read_description(folder)
    named = description["files"]
    files = [DESCRIPTION, *(check_file(folder, file, named).relative_to(folder).as_posix() for file in named)]
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi()
    try:
        api.create_repo(name, repo_type="model", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=str(folder),
            repo_type="model",
            allow_patterns=files,
            commit_message=f"{description['heads'][0]['experiment']}, exported by tfser {description['made_with']['tfser']}",
        )
    except Exception as error:  # whatever the transport raises: its classes differ between versions
        raise TfserError(f"--hub {name}: refused ({first_line(error)[:200]}); the folder {folder} is whole") from error
    return f"https://huggingface.co/{name}"
