"""Catalogues in memory: what a protocol makes of rows, without files in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import duckdb
import pytest

from tfser.manifests.build import create, insert_corpora
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue import Connection
from tfser.manifests.folds import install
from tfser.manifests.protocol import Protocol
from tfser.manifests.protocols import parse
from tfser.manifests.stored import read_corpus


@pytest.fixture
def installed(cache: Cache) -> Iterator[Callable[..., Connection]]:
    """Return a function that gives a catalogue of all corpora of the cache with some protocols: (corpus, spec, ...)."""
    opened: list[Connection] = []

    def make(corpus: str, *specs: str, own: Mapping[str, Protocol] | None = None) -> Connection:
        connection = duckdb.connect()
        opened.append(connection)
        create(connection)
        names = cache.corpora()
        insert_corpora(connection, [read_corpus(cache, name) for name in names])
        for spec in specs:
            install(connection, corpus, parse(spec, own))
        return connection

    yield make
    for connection in opened:
        connection.close()
