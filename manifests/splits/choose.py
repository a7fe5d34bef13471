"""What may be left out of a command: taken where the cache leaves one choice, asked for by name where it leaves several."""

from __future__ import annotations

import difflib
from pathlib import Path

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, rows
from tfser.manifests.catalogue.stored import read_about
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.protocols.listed import published_lists
from tfser.manifests.protocols.names import Own, draws_on, parse, specify
from tfser.manifests.protocols.own import check_kept, is_file, own_protocols, read_own
from tfser.manifests.protocols.protocol import JOINED_BY
from tfser.manifests.splits.split import SplitDetails


def settled(cache: Cache, split: SplitDetails, protocol: str | None) -> tuple[str, str]:
    """Return corpus and protocol of what was asked, as `choose_protocol` does, which says what is raised.

    Args:
        cache: the cache.
        split: what was asked beside the protocol.
        protocol: its name, or None.
    """
    return choose_protocol(cache, split.corpus, protocol, labels=split.labels, validation=split.validation)


def choose_corpus(cache: Cache, corpus: str | None) -> str:
    """Return the corpus that is named, or the only one in the cache.

    Raises:
        UsageError: if it is not in the cache, or there are none or several to choose from.
    """
    corpora = cache.corpora()
    if corpus is not None:
        if corpus not in corpora:
            if JOINED_BY in corpus:
                raise UsageError(
                    f"--corpus {corpus}: name one corpus; a protocol over several names them itself, as cross:a:b and loco:a,b do"
                )
            if corpora and difflib.get_close_matches(corpus, corpora):
                raise unknown("corpus in the cache", corpus, corpora)
            holds = f", which holds {', '.join(corpora)}" if corpora else ""
            raise UsageError(f"corpus {corpus} is not in {cache.root}{holds}; run `tfser extract --corpus {corpus}` first")
        return corpus
    if not corpora:
        raise UsageError(f"no corpus in {cache.root}; run `tfser extract --corpus NAME` first, or name another --cache")
    if len(corpora) > 1:
        raise UsageError(f"which corpus? The cache holds {', '.join(corpora)}; say --corpus NAME")
    return corpora[0]


def default_protocol(cache: Cache, corpus: str) -> str:
    """Return the protocol that is taken for a corpus when none is named.

    Raises:
        UsageError: if the corpus has neither several speakers nor several sessions nor a split.
    """
    protocol = read_about(cache, corpus)["default_protocol"]
    if protocol != "official-split":
        _check_no_split(cache, corpus, protocol)
    if protocol is None:
        raise UsageError(
            f"{corpus} has {_what_there_is(cache, corpus)}, which makes no folds; add a column speaker, session or split "
            "(train and test) and scan again, or say --protocol random-kfold:5, which may leak speakers"
        )
    return str(protocol)


def _what_there_is(cache: Cache, corpus: str) -> str:
    """Say what a corpus has of what folds are made of: one speaker is not none."""
    with open_catalogue(cache) as connection:
        speakers, session, splits = connection.execute(
            "SELECT list_sort(list(DISTINCT speaker) FILTER (speaker IS NOT NULL)), min(session), "
            "list_sort(list(DISTINCT split) FILTER (split IS NOT NULL)) FROM utterances WHERE corpus = ?",
            [corpus],
        ).fetchone() or ([], None, [])
    who = "no speakers" if not speakers else f"one speaker ({speakers[0]})"
    when = "no sessions" if session is None else f"one session ({session})"
    sides = f"a split that says {', '.join(splits[:5])}" if splits else "no split"
    return f"{who}, {when} and {sides}"


def _check_no_split(cache: Cache, corpus: str, protocol: str | None) -> None:
    """Refuse to pass over a split that the corpus has of its own, but in words of which no protocol can be made.

    Raises:
        UsageError: if its column split has train and other sides, and no test.
    """
    query = "SELECT DISTINCT split FROM utterances WHERE corpus = ? AND split IS NOT NULL ORDER BY split"
    with open_catalogue(cache) as connection:
        said = [row["split"] for row in rows(connection, query, [corpus])]
    if "train" in said and "test" not in said and len(said) > 1:
        other = f", or say --protocol {protocol}" if protocol else ""
        raise UsageError(
            f"{corpus} has a split of its own ({', '.join(said[:6])}), but nothing there is called test; write a protocol that "
            f'says which value is which side (grouped_by = "split" and [sides], docs/protocols.md){other}'
        )


def _only_fitting(cache: Cache, protocol: str | None, own: Own) -> str | None:
    """Return the one corpus of the cache that a protocol is for, by its reader; None if there are none or several."""
    asked = parse(protocol, own) if protocol is not None else None
    readers = None if asked is None else (published_lists()[asked.listed].corpus,) if asked.listed else asked.corpora
    if readers is None:
        return None
    fitting = [name for name in cache.corpora() if read_about(cache, name)["adapter"] in readers]
    return fitting[0] if len(fitting) == 1 else None


def choose_protocol(
    cache: Cache,
    corpus: str | None = None,
    protocol: str | None = None,
    *,
    labels: str | None = None,
    validation: str | None = None,
) -> tuple[str, str]:
    """Settle corpus and protocol, and make sure that the catalogue holds the protocol's rows; return both names.

    The corpus is what is named, what the protocol names (several are joined by +), or the only one in the cache; the protocol
    is what is named, a user's own file (a name that ends in .toml), or the corpus's default.

    Raises:
        UsageError: if a name is unknown, an option contradicts the protocol, or there are none or several to choose from.
        TfserError: if the rows cannot fill the protocol.
    """
    own = None
    if protocol is not None and is_file(protocol):
        own = read_own(Path(protocol).expanduser())
    elif protocol is not None:
        check_kept(cache, protocol)
    kept = own_protocols(cache)
    if own is not None:
        protocol, kept = own.protocol.name, kept | {own.protocol.name: own.protocol}
    named = draws_on(protocol, kept) if protocol is not None else None
    if named is None:
        chosen = choose_corpus(cache, corpus or _only_fitting(cache, protocol, kept))
    else:
        if corpus is not None and corpus != named:
            raise UsageError(f"--corpus {corpus}: protocol {protocol} is for {named}; leave --corpus out")
        for name in named.split(JOINED_BY):
            choose_corpus(cache, name)
        chosen = named
    spec = specify(protocol or default_protocol(cache, chosen), labels=labels, validation=validation, own=kept)
    return chosen, ensure_protocol(cache, chosen, spec, own=own)
