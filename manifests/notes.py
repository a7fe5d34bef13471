"""What people should know beside the result that they asked for, said once: through Python's logging, so that a program that uses
tfser decides what becomes of it. The command line prints it (`tfser.manifests.commands.program`).
"""

from __future__ import annotations

import logging

LOGGER = logging.getLogger("tfser")
_SAID: set[str] = set()


def note(text: str) -> None:
    """Say something, unless it was said before."""
    if text not in _SAID:
        _SAID.add(text)
        LOGGER.warning(text)


def forget() -> None:
    """Begin a new command, which says again what an earlier one of this process said."""
    _SAID.clear()
