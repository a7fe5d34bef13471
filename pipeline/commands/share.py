"""`tfser cache push` and `tfser cache pull`: features and finished runs to a store elsewhere, and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from tfser.manifests.catalogue.reading import refresh
from tfser.manifests.commands.printing import InCache
from tfser.manifests.display import bar, say
from tfser.manifests.errors import UsageError
from tfser.manifests.options import Option
from tfser.manifests.wording import count, listed, size
from tfser.pipeline.stores.remote import RemoteFolder, as_url
from tfser.pipeline.stores.sharing import What, pull, push
from tfser.pipeline.stores.stored_objects import Moved

Url = Annotated[str, typer.Argument(metavar="URL", help="s3://bucket/folder, gs://..., or another that fsspec knows.")]


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What of a cache is shared; everything if nothing is named."""

    panel: ClassVar[str] = "What"
    what: Annotated[What, Option("Beside the rows of corpora: features, finished runs, or all.")] = What.everything
    features: Annotated[str | None, Option("Only this feature set, and runs on it.", metavar="NAME")] = None
    corpus: Annotated[str | None, Option("Only this corpus, and runs on it.", metavar="NAME")] = None


def cache_push(url: Url, *, shared: Shared, place: InCache) -> None:
    """Copy corpora's rows, features and finished runs to a store elsewhere; what is there already is not sent again.

    Nothing counts there until all of it is there. Runs that are unfinished or damaged are named, and left out.

    Raises:
        UsageError: if there is nothing of that name, or nothing here reads such URLs.
        RemoteError: if the store does not answer.

    Example:
        tfser cache push s3://lab/tfser --features wavlm-large/12
        tfser cache push s3://lab/tfser --what runs
    """
    remote = _folder(url)
    with bar("pushing") as moving:
        done = push(
            place.store,
            remote,
            features=shared.features,
            corpus=shared.corpus,
            what=shared.what,
            advance=lambda n, of: moving(completed=n, total=of),
        )
    _tell(done, f"pushed to {remote.url}", "were there")


def cache_pull(url: Url, *, shared: Shared, place: InCache) -> None:
    """Copy what this cache lacks from a store elsewhere; what it has is never replaced.

    Raises:
        UsageError: if there is nothing of that name, or nothing here reads such URLs.
        RemoteError: if the store does not answer, or what lies there is damaged.

    Example:
        tfser cache pull s3://lab/tfser --features wavlm-large/12 --corpus iemocap
        tfser cache pull s3://lab/tfser --what runs
    """
    remote, store = _folder(url), place.store
    with bar("pulling") as moving:
        done = pull(
            store,
            remote,
            features=shared.features,
            corpus=shared.corpus,
            what=shared.what,
            advance=lambda n, of: moving(completed=n, total=of),
            on_wait=say,
        )
    _tell(done, f"pulled from {remote.url}", "were here")
    if done.kept:
        say(f"{count(len(done.kept), 'place')} of this cache differ and stay as they are: {listed(done.kept, 3)}")
    refresh(store)


def _folder(url: str) -> RemoteFolder:
    """Return the folder of a URL.

    Raises:
        UsageError: if it is none.
    """
    read = as_url(Path(url)) if "://" not in url else as_url(url)
    if read is None:
        raise UsageError(f"{url}: no URL; write s3://bucket/folder, for instance")
    return RemoteFolder(read)


def _tell(done: Moved, what: str, rest: str) -> None:
    runs = f", with {count(done.runs, 'run')}" if done.runs else ""
    say(f"{count(done.moved, 'file')} ({size(done.bytes)}) {what}{runs}; {done.before:,} {rest}")
    if done.passed:
        say(f"{count(len(done.passed), 'run')} took no part: {listed(done.passed, 3)}")
    if done.names_kept:
        names = listed(done.names_kept, 3)
        say(f"{count(len(done.names_kept), 'name')} not taken over: another experiment is called so here: {names}")
    if done.other_scans:
        names = listed(done.other_scans, 3)
        say(f"{count(len(done.other_scans), 'file')} not fetched: of another scan of the corpus than this cache has: {names}")
