"""How DuckDB is opened and spoken to: the one way to a connection, how texts and paths are written for it, and Ctrl-C.

Whatever a user writes (`tfser sql`, audits, conditions) runs on a connection from `open_memory` that `lock_down` has closed: it
reaches what is attached or in its tables, and no file, no network, no extension, no variable of this program and no setting.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import duckdb

from tfser.manifests.errors import TfserError

T = TypeVar("T")
Connection = duckdb.DuckDBPyConnection

Settings = dict[str, str | bool | int | float | list[str]]
"""What DuckDB is opened with."""

NOTHING_LOADED: Settings = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,  # `FROM name` means a table, never a variable of this program
}
_PATIENCE_S = 5.0
"""How long a query that was interrupted may take to notice."""


def threads_asked() -> Settings:
    """Return DuckDB's setting of threads where `OMP_NUM_THREADS` limits them; without it DuckDB takes every core.

    It is what clusters and users limit every other library of a process by. Most queries here are of a few rows, of which
    threads that wait for work cost a tenth.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return {"threads": int(threads)} if threads.isdecimal() and int(threads) > 0 else {}


def open_memory() -> Connection:
    """Return a connection to a new, empty database in memory, which loads no extension and sees no Python variable."""
    connection = duckdb.connect(config=NOTHING_LOADED | threads_asked())
    connection.execute("SET enable_progress_bar = false")
    # DuckDB's own choice is a folder .tmp in the working folder, made when a query outgrows the memory.
    spill = Path(tempfile.gettempdir()) / f"tfser-duckdb-{secrets.token_hex(6)}"
    connection.execute(f"SET temp_directory = {quote(str(spill))}")
    return connection


def lock_down(connection: Connection) -> None:
    """Take files, the network and all settings away from a connection, for good; what is attached can still be read."""
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def quote(text: str) -> str:
    """Return a text as SQL writes it.

    >>> quote("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def quote_name(name: str) -> str:
    """Return the name of a column or table as SQL writes it.

    >>> print(quote_name('a "b" c'))
    "a ""b"" c"
    """
    return '"' + name.replace('"', '""') + '"'


def duckdb_path(path: Path) -> str:
    """Return a path as DuckDB takes it, which is UTF-8 whatever the locale.

    Raises:
        TfserError: if the path's bytes are not UTF-8.
    """
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise TfserError(f"{path}: DuckDB reads only paths that are UTF-8; use a folder of another name") from error


def interruptibly(connection: Connection, work: Callable[[], T]) -> T:
    """Return what `work` returns, which runs queries on a connection; Ctrl-C ends the query at once.

    DuckDB looks for signals now and then only, so the work is done in a thread, and this one waits for the signal.
    """
    if threading.current_thread() is not threading.main_thread():  # no other gets signals
        return work()
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="tfser-query", daemon=True)
    thread.start()
    try:
        return outcome.result()
    except KeyboardInterrupt:
        for _ in range(int(_PATIENCE_S / 0.1)):  # again and again: the work may go on with another query
            connection.interrupt()
            thread.join(0.1)
            if not thread.is_alive():
                break
        raise
