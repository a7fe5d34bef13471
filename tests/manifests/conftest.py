"""Catalogues in memory: what a protocol makes of rows, without files in between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import pytest

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.build import insert_corpora
from tfser.manifests.catalogue.reading import Connection
from tfser.manifests.catalogue.stored import read_corpus
from tfser.manifests.protocols.folds import install
from tfser.manifests.protocols.names import parse
from tfser.manifests.protocols.protocol import Protocol

from ..conftest import memory_catalogue


@pytest.fixture
def installed(cache: Cache) -> Iterator[Callable[..., Connection]]:
    """Return a function that gives a catalogue of all corpora of the cache with some protocols: (corpus, spec, ...)."""
    opened = contextlib.ExitStack()

    def make(corpus: str, *specs: str, own: Mapping[str, Protocol] | None = None) -> Connection:
        connection = opened.enter_context(memory_catalogue())
        names = cache.corpora()
        insert_corpora(connection, [read_corpus(cache, name) for name in names])
        for spec in specs:
            install(connection, corpus, parse(spec, own))
        return connection

    with opened:
        yield make
