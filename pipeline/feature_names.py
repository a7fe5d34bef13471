"""How a feature set is told from others: the fingerprint of everything that changes its numbers, and its folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any


def fingerprint_of(config: Mapping[str, Any], dtype: str) -> str:
    """Return 16 hexadecimal digits over a configuration, as JSON knows it, and the dtype of storage."""
    text = json.dumps({**config, "dtype": dtype}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def folder_of(name: str, fingerprint: str) -> str:
    """Return the folder's name below `features/`.

    >>> folder_of("wavlm-large/12+float16", "0123456789abcdef")
    'wavlm-large-12-float16-0123456789abcdef'
    """
    return f"{re.sub(r'[^A-Za-z0-9._]+', '-', name)}-{fingerprint}"
