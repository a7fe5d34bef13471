"""Whether the cache is whole: every file is read and compared with its seal, its digest or its checksums.

What comes in: a cache. What goes out: `verify`'s problems, each named as damaged, missing, could not be checked, or left over.
`repair` moves away what is damaged or left over, and nothing else: a file that could not be opened, read, locked or understood
just now may be whole, and stays where it is. Nothing is ever deleted here: it is moved to `removed/<time>/<its place>`, a link as
the link.

Kinds of files are listed in `CHECKS`; each is one function that yields the problems of one folder.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.build import asked_file
from tfser.manifests.catalogue.near_duplicates import FINGERPRINTS, PAIRS
from tfser.manifests.catalogue.reading import check_catalogue, refresh
from tfser.manifests.catalogue.run_files import check_run, run_folders
from tfser.manifests.catalogue.stored import (
    ANNOTATIONS,
    CORPUS,
    FEATURE_SET,
    SKIPPED,
    UTTERANCES,
    asked_protocols,
    read_about,
    read_annotations,
    read_feature_set,
    read_skipped,
    read_utterances,
)
from tfser.manifests.errors import DamagedError, FileError, MissingFileError, UnreadableError, UsageError
from tfser.manifests.files import could_not_read, is_left_over, opened, sha256_of
from tfser.manifests.protocols.own import read_kept
from tfser.manifests.protocols.protocol import JOINED_BY
from tfser.manifests.wording import listed
from tfser.pipeline.features.feature_set import fingerprint_of
from tfser.pipeline.shards.reader import ShardReader, no_shard
from tfser.pipeline.shards.rows import ROWS_SUFFIX, SHA256, frames_of, load_rows, metadata_of, rows_path
from tfser.pipeline.shards.writer import SUFFIXES, ShardError

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["damaged", "missing", "could not be checked", "left over"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is not as it was written.

    Attributes:
        path: the file or folder, below the cache's root.
        kind: what is known about it.
        reason: one line.
        way_out: what makes it good again; empty where the reason says it.
        moves: what `repair` moves away for it, in this order.
        again: looks once more; None: it is well now.
    """

    path: str
    kind: Kind
    reason: str
    way_out: str = ""
    moves: tuple[Path, ...] = ()
    again: Callable[[], Problem | None] | None = field(default=None, compare=False, repr=False)

    @property
    def line(self) -> str:
        """The problem in one line."""
        return f"{self.path}: {self.kind}: {self.reason}" + (f"; {self.way_out}" if self.way_out else "")

    def to_dict(self) -> dict[str, str]:
        """Return the fields that people and programs read."""
        return {"path": self.path, "problem": self.kind, "reason": self.reason, "way_out": self.way_out}


Check = Callable[[Cache], Iterator[Problem]]


def verify(cache: Cache, *, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """Read every file of the cache; return what is not as it was written.

    Nothing is written and nobody is waited for: what a writer at work has not finished is no problem.

    Args:
        cache: the cache.
        progress: told (shards read, shards in all).

    Raises:
        UsageError: if the folder is no cache.
    """
    if not cache.is_one():
        raise UsageError(f"no cache at {cache.root}; name another with --cache")
    problems: list[Problem] = []
    for check in CHECKS:
        problems += check(cache)
    total, done = sum(len(_shards(folder)) for folder in _feature_folders(cache)), 0
    for folder in _feature_folders(cache):
        problems += _rows_without_shards(cache, folder)
        for shard in _shards(folder):
            if (problem := _shard_problem(cache, shard)) is not None:
                problems.append(problem)
            done += 1
            if progress is not None:
                progress(min(done, total), total)
    return [*problems, *_left_overs(cache)]


def repair(cache: Cache, problems: list[Problem], on_wait: Callable[[str], None] | None = None) -> list[str]:
    """Move away what `verify` found damaged or left over; return the lines that say what is where now.

    Writers at work are waited for, and what they made good meanwhile is left alone, as is what lies behind a link.

    Raises:
        CannotWriteError: if something cannot be moved, or the cache not be locked.
    """
    when = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    moved: list[str] = []
    for problem in problems:
        for path in problem.moves[:1]:
            with cache.lock(cache.writers_of(path), on_wait):
                now = problem.again() if problem.again is not None else problem
                for each in now.moves if now is not None else ():
                    if behind := next((p for p in each.parents if cache.root in p.parents and p.is_symlink()), None):
                        moved.append(f"{cache.place(each)}: not moved, it lies behind the link {cache.place(behind)}")
                    elif os.path.lexists(each):
                        moved.append(f"{cache.place(each)}: moved to {cache.place(cache.put_away(each, when))}")
    if moved:
        refresh(cache)
    return moved


def _look(
    cache: Cache, path: Path, read: Callable[[], object], way_out: str, *, is_needed: bool = True, moves: tuple[Path, ...] = ()
) -> Problem | None:
    """Return what is wrong with a file that `read` reads, looks at and may ask libraries about; None if it is whole.

    Only a `DamagedError` is damage. Whatever else is raised says that this file could not be checked now.
    """

    def problem(kind: Kind, error: FileError, moves: tuple[Path, ...] = ()) -> Problem:
        # The problem's line begins with the place; what lies in a folder is named from there.
        reason = error.seen_from(path)
        advice = f"let it be read and verify again; else: {way_out}" if kind == "could not be checked" else way_out
        return Problem(path=cache.place(path), kind=kind, reason=reason, way_out=advice, moves=moves, again=again)

    def again() -> Problem | None:
        return _look(cache, path, read, way_out, is_needed=is_needed, moves=moves)

    try:
        read()
    except DamagedError as error:
        return problem("damaged", error, moves or (path,))
    except MissingFileError as error:
        return problem("missing", error) if is_needed else None
    except UnreadableError as error:
        return problem("could not be checked", error)
    except Exception as error:
        return problem("could not be checked", could_not_read(path, error))
    return None


def _is_rated(cache: Cache, corpus: str) -> bool:
    """Tell whether a corpus says that it has single ratings; one that cannot be asked is a problem of its own file."""
    try:
        return bool(read_about(cache, corpus).get("annotations"))
    except (DamagedError, UnreadableError):
        return False


def _found(*problems: Problem | None) -> Iterator[Problem]:
    yield from (problem for problem in problems if problem is not None)


# -- one function a kind of files ---------------------------------------------------------------------------------------------


def _corpora(cache: Cache) -> Iterator[Problem]:
    for name in sorted({*cache.corpora(), *cache.broken_corpora()}):
        folder, scan = cache.corpus(name), f"scan {name} again"
        yield from _found(
            _look(cache, folder / CORPUS, partial(read_about, cache, name), scan),
            _look(cache, folder / UTTERANCES, partial(read_utterances, cache, name), scan),
            _look(cache, folder / SKIPPED, partial(_listed, cache, folder / SKIPPED), scan),
        )
        if (folder / ANNOTATIONS).exists() or _is_rated(cache, name):
            yield from _found(_look(cache, folder / ANNOTATIONS, partial(read_annotations, cache, name), scan))
        again = f"`tfser audit --near-duplicates --corpus {name}` makes it again"
        for path in (folder / FINGERPRINTS, folder / PAIRS):
            yield from _found(_look(cache, path, partial(cache.read_table, path), again, is_needed=False))
        path, ask = asked_file(cache, name), "ask for the protocols again"
        yield from _found(_look(cache, path, partial(asked_protocols, cache, path), ask, is_needed=False))


def _listed(cache: Cache, path: Path) -> pa.Table:
    """Return a list of what was passed over that has to be there."""
    cache.check(path)
    return read_skipped(cache, path)


def _protocols(cache: Cache) -> Iterator[Problem]:
    path = asked_file(cache, JOINED_BY)
    ask = "ask for the protocols again"
    yield from _found(_look(cache, path, lambda: asked_protocols(cache, path), ask, is_needed=False))
    for own in sorted(cache.protocols.glob("[!.]*.toml*")):
        yield from _found(_look(cache, own, partial(read_kept, own), "name your own file again"))


def _feature_sets(cache: Cache) -> Iterator[Problem]:
    for folder in sorted(p for p in cache.feature_root.glob("[!.]*") if p.is_dir()):
        if next(folder.glob("*"), None) is not None:
            path, again = folder / FEATURE_SET, "extract again to write it"
            yield from _found(_look(cache, path, partial(_fingerprinted, cache, folder), again))
        for path in (p / SKIPPED for p in sorted(folder.glob("[!.]*")) if os.path.lexists(p / SKIPPED)):
            yield from _found(_look(cache, path, partial(read_skipped, cache, path), "extract again to write it"))


def _fingerprinted(cache: Cache, folder: Path) -> dict[str, Any]:
    """Return what a feature set says of itself, whose fingerprint is that of its configuration."""
    about = read_feature_set(cache, folder)
    if fingerprint_of(about["config"], about["dtype"]) != about["fingerprint"]:
        raise DamagedError("its configuration has another fingerprint than it says", at=folder / FEATURE_SET)
    return about


def _index(cache: Cache) -> Iterator[Problem]:
    built = "it is an index: the next command builds it anew"
    yield from _found(_look(cache, cache.catalogue, lambda: check_catalogue(cache, is_remembered=False), built, is_needed=False))
    path = cache.root / "weights.json"
    yield from _found(_look(cache, path, lambda: cache.read_json(path), "it is a memo, and written anew", is_needed=False))


def _runs(cache: Cache) -> Iterator[Problem]:
    for folder in run_folders(cache):
        if not folder.name.startswith("."):
            yield from _found(_look(cache, folder, partial(check_run, folder), "train again to make it", moves=(folder,)))
        elif not cache.is_locked(cache.writers_of(folder)):
            # What is trained of it is worth keeping, and nothing is wrong with it: it is named, and not moved.
            reason = "left by a training with --again that was killed"
            yield Problem(path=cache.place(folder), kind="left over", reason=reason, way_out="the same command goes on with it")


CHECKS: tuple[Check, ...] = (_index, _corpora, _protocols, _feature_sets, _runs)


# -- shards -------------------------------------------------------------------------------------------------------------------


def _feature_folders(cache: Cache) -> list[Path]:
    return sorted(p for p in cache.feature_root.glob("[!.]*/[!.]*") if p.is_dir())


def _shards(folder: Path) -> list[Path]:
    return sorted(p for suffix in SUFFIXES.values() for p in folder.glob(f"[!.]*{suffix}*") if p.name.endswith(suffix))


def _rows_without_shards(cache: Cache, folder: Path) -> Iterator[Problem]:
    for path in sorted(folder.glob(f"[!.]*{ROWS_SUFFIX}")):
        if not any(os.path.lexists(p) for p in frames_of(path)):
            name = frames_of(path)[0]
            with contextlib.suppress(DamagedError, UnreadableError):
                name = path.with_name(str(cache.read_table(path, ["shard"])["shard"][0]))
            yield Problem(path=cache.place(name), kind="missing", reason="its rows are there", way_out="extract again to make it")


def _shard_problem(cache: Cache, shard: Path, *, is_locked_by_us: bool = False) -> Problem | None:
    rows = rows_path(shard)
    try:
        named = set(cache.read_table(rows, ["shard"])["shard"].to_pylist())
        counts = shard.name in named or not any(os.path.lexists(shard.with_name(str(name))) for name in named)
    except MissingFileError:
        counts = False
    except (DamagedError, UnreadableError, KeyError):  # nobody's rows, so this shard's as well
        counts = True
    if counts:
        again = "extract again to make it"
        # Rows first: without them the shard does not count.
        return _look(cache, shard, lambda: _compare(cache, shard), again, moves=(rows, shard))
    if not os.path.lexists(shard) or (not is_locked_by_us and cache.is_locked(cache.writers_of(shard))):
        return None  # its writer is about to write them
    return Problem(
        path=cache.place(shard),
        kind="left over",
        reason="it has no rows, so it does not count: a writer was killed",
        moves=(shard,),
        again=lambda: _shard_problem(cache, shard, is_locked_by_us=True),
    )


def _compare(cache: Cache, shard: Path) -> None:
    """Compare a shard with the digest that its rows have; one of the version before, with the checksums of its frames.

    No library parses the file where there is a digest: a changed bit in its structure could keep one busy for ever.
    """
    try:
        table = load_rows(rows_path(shard), cache)
    except ShardError:
        _refuse_held(shard)
        raise
    wanted = metadata_of(table).get(SHA256)
    if wanted is not None:
        if sha256_of(shard) != wanted:
            _refuse_held(shard)
            if sha256_of(shard) != wanted:
                raise ShardError("its content is not what was written there", at=shard)
        return
    if (problem := no_shard(shard)) is not None:
        raise ShardError(f"{problem}", at=shard)
    with ShardReader(shard) as reader:
        if wrong := reader.damaged(table.to_pylist()):
            _refuse_held(shard)
            raise DamagedError(f"the frames of {listed(wrong, 1)} are not those that were written", at=shard)


def _refuse_held(shard: Path) -> None:
    """Raise an `UnreadableError` if another program has an HDF5 shard open for writing: that leaves a mark in its first bytes."""
    if not shard.name.endswith(SUFFIXES["hdf5"]):
        return
    import fcntl

    with opened(shard) as file:
        marked = file.read(12)[11:12] not in (b"", b"\0")
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UnreadableError("another program has it open for writing", at=shard) from error
            if marked:  # a disk without locks: nobody can tell
                raise UnreadableError("another program may have it open for writing", at=shard) from error


# -- left-overs ---------------------------------------------------------------------------------------------------------------


def _left_overs(cache: Cache) -> Iterator[Problem]:
    """Yield the temporary files of killed writers, in the cache's own folders alone."""
    patterns = (".*", "protocols/.*", "corpora/*/.*", "features/*/.*", "features/*/*/.*", "runs/*/.*", "runs/*/checkpoint/.*")
    for path in sorted(p for pattern in patterns for p in cache.root.glob(pattern)):
        if is_left_over(path.name) and (problem := _left_over(cache, path)) is not None:
            yield problem


def _left_over(cache: Cache, path: Path, *, is_locked_by_us: bool = False) -> Problem | None:
    """Return the problem that a temporary file is, unless a writer of its folder is at work."""
    if not os.path.lexists(path) or (not is_locked_by_us and cache.is_locked(cache.writers_of(path))):
        return None
    return Problem(
        path=cache.place(path),
        kind="left over",
        reason="a writer was killed",
        moves=(path,),
        again=lambda: _left_over(cache, path, is_locked_by_us=True),
    )
