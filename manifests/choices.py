"""What may be left out of a command: taken where the cache leaves one choice, asked for by name where it leaves several."""

from __future__ import annotations

from tfser.manifests.cache import Cache
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.files import read_json


def choose_corpus(cache: Cache, corpus: str | None) -> str:
    """Return the corpus that is named, or the only one in the cache.

    Raises:
        UsageError: if it is not in the cache, or there are none or several to choose from.
    """
    known = cache.corpora()
    if corpus is not None:
        if corpus not in known:
            if not known:
                raise UsageError(f"corpus {corpus} is not in {cache.root}; run `tfser extract --corpus {corpus}` first")
            raise unknown("corpus in the cache", corpus, known)
        return corpus
    if not known:
        raise UsageError(f"no corpus in {cache.root}; run `tfser extract --corpus NAME` first, or name another --cache")
    if len(known) > 1:
        raise UsageError(f"which corpus? The cache holds {', '.join(known)}; say --corpus NAME")
    return known[0]


def default_protocol(cache: Cache, corpus: str) -> str:
    """Return the protocol that is taken for a corpus when none is named.

    Raises:
        UsageError: if the corpus has neither speakers nor sessions nor a split.
    """
    protocol = read_json(cache.corpus(corpus) / "corpus.json")["default_protocol"]
    if protocol is None:
        raise UsageError(
            f"{corpus} has no speakers, sessions or split to make folds of; add such a column and scan again, or say "
            "--protocol random-kfold:5, which may leak speakers"
        )
    return str(protocol)
