"""A user's own protocol: a small TOML file, read, checked, and kept in the cache.

    name = "my-split"                     letters, digits, _ and -
    corpus = "emodb"                      or corpora = ["emodb", "casia"]; left out: any corpus
    labels = "common4"                    a map's name, or a table: [labels] with happiness = ["happiness", "excitement"]
    where = "duration_s < 10"             an SQL condition on the utterance's columns
    grouped_by = "speaker"                the column that folds are made of (utterance_id for a list of ids), or several that are
                                          kept apart at once: ["speaker", "sentence"], with k = [5, 2] or one k for all
    k = 5                                 or folds = [["03", "08"], ["09", "10"]], or [sides] with train, val and test lists
    others = "leave-out"                  with folds or sides, groups in no list: error (default), leave-out or train
    keeps_apart = ["speaker"]
    validation = "speakers:1"

Every key but `name` may be left out. Over several corpora, the values in folds and sides are written `corpus/value`.

The protocol is called `my-split.1a2b3c4d`: the digits are of its content, comments and layout aside, so that a run names exactly
one definition. The file is copied to `protocols/` in the cache, from which the catalogue can be rebuilt without it; from then on
the long name can be used in its place.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfser.manifests import files
from tfser.manifests.cache import Cache, check_name
from tfser.manifests.errors import DamagedError, MissingFileError, TfserError, UnreadableError, UsageError
from tfser.manifests.labels import NO_EMOTION, normalise, parse_label_map
from tfser.manifests.natural import natural_key
from tfser.manifests.protocols.conditions import check_condition
from tfser.manifests.protocols.names import PROTOCOLS, with_validation
from tfser.manifests.protocols.protocol import GROUP_COLUMNS, Protocol
from tfser.manifests.protocols.validation import NEXT_PART
from tfser.manifests.texts import as_text, as_toml, read_text

KEYS = (
    *("name", "version", "summary", "corpus", "corpora", "labels", "label_column", "where", "grouped_by", "k", "folds", "sides"),
    *("others", "keeps_apart", "validation", "used_by"),
)
ROLES = ("train", "val", "test")
OTHERS = ("error", "leave-out", "train")


@dataclass(frozen=True, kw_only=True)
class OwnProtocol:
    """A protocol and the text of the file that it is from."""

    protocol: Protocol
    text: str


def is_file(name: str | None) -> bool:
    """Tell whether what stands for a protocol is a file.

    >>> is_file("my.toml"), is_file("loso-speaker"), is_file(None)
    (True, False, False)
    """
    return name is not None and name.endswith(".toml")


def read_own(path: Path) -> OwnProtocol:
    """Read a user's own protocol.

    Raises:
        UsageError: if the file is not there, or something in it is off; the message names the key.
    """
    return parse_own(read_text(path, f"protocol file {path}"), str(path))


def parse_own(text: str, file: str) -> OwnProtocol:
    """Return the protocol of a file's text.

    Args:
        text: TOML.
        file: what errors call it.

    Raises:
        UsageError: as `read_own`.
    """
    return OwnProtocol(protocol=_Reader(file, as_toml(text, file)).protocol(), text=text)


def own_protocols(cache: Cache) -> dict[str, Protocol]:
    """Return the own protocols that the cache keeps, by their long names; one whose file was changed is none (`damaged_own`)."""
    return {name: protocol for name, protocol in _kept(cache).items() if isinstance(protocol, Protocol)}


def damaged_own(cache: Cache) -> dict[str, str]:
    """Return the own protocols whose files are not what they were, by long name, and why: a name holds its content's hash."""
    return {name: reason for name, reason in _kept(cache).items() if isinstance(reason, str)}


def _kept(cache: Cache) -> dict[str, Protocol | str]:
    """Return each own protocol that the cache keeps, or what is wrong with its file."""
    protocols: dict[str, Protocol | str] = {}
    for path in sorted(cache.protocols.glob("[!.]*.toml")):
        name = path.name.removesuffix(".toml")
        try:
            protocols[name] = read_kept(path).protocol
        except (DamagedError, UnreadableError) as error:
            protocols[name] = f"{error}; name your own file again"
    return protocols


def read_kept(path: Path) -> OwnProtocol:
    """Return an own protocol that the cache keeps.

    Raises:
        DamagedError: if its content is not what was written there: the digits in its name are of another.
        UnreadableError: if it could not be read, or a key of it is of another version.
    """
    content = files.read_bytes(path)
    try:
        text = as_text(content, path.name)
        told = as_toml(text, path.name)
    except UsageError as error:
        raise DamagedError(f"its content is not what was written there ({error})", at=path) from error
    if path.name != f"{told.get('name')}.{_digits(told)}.toml":
        raise DamagedError("its content is not what was written there", at=path)
    try:
        return parse_own(text, path.name)
    except UsageError as error:
        raise UnreadableError(f"cannot be understood ({error})", at=path) from error


def check_kept(cache: Cache, name: str) -> None:
    """Make sure that the file of an own protocol, if the cache keeps one of that name, is still what it was.

    Raises:
        TfserError: if it was changed or damaged.
    """
    base = re.split("[:@/]", name, maxsplit=1)[0]
    path = cache.protocols / f"{base}.toml"
    if path.is_file() and (reason := damaged_own(cache).get(base)) is not None:
        raise TfserError(reason)


def keep_own(cache: Cache, own: OwnProtocol) -> None:
    """Copy an own protocol's file into the cache."""
    path = cache.protocols / f"{own.protocol.name}.toml"
    try:
        read_kept(path)
    except (DamagedError, MissingFileError):  # damaged: the file that was named now has the same content as what was kept
        files.write_bytes(path, own.text.encode())


def _digits(told: dict[str, Any]) -> str:
    """Return the digits of a protocol's name: of its content, comments and layout aside."""
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:8]


class _Reader:
    """Reads the keys of one file, each with its own checks."""

    def __init__(self, file: str, told: dict[str, Any]) -> None:
        self.file, self.told = file, told

    def fail(self, key: str, reason: str) -> UsageError:
        return UsageError(f"{self.file}: {key}: {reason}")

    def protocol(self) -> Protocol:
        # Unknown keys first: a misspelt `grouped_by` would otherwise be a protocol by speakers, without a word.
        self.check_keys()
        name = self.text("name")
        if name is None:
            raise self.fail("name", "is missing; give the protocol one")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or name in PROTOCOLS:
            taken = "is the name of a protocol that tfser knows" if name in PROTOCOLS else "use letters, digits, '_' and '-'"
            raise self.fail("name", f"{name!r}: {taken}")
        # The digits of the content are in the name, so that a file which was edited is another protocol, with
        # other runs.
        digits = _digits(self.told)
        over = self.over()
        several = over is not None and len(over) > 1
        grouped_by, crossed = self.grouped()
        groups, sides = self.folds(), self.sides()
        if sum(x is not None for x in (self.told.get("k"), groups, sides)) > 1:
            raise self.fail("k", "k, folds and sides exclude each other; keep one of them")
        k = self.whole("k", 2) if not crossed else crossed[0][1]
        if crossed and (groups or sides):
            raise self.fail("grouped_by", "several columns go with k alone, not with folds or sides")
        if grouped_by == "utterance_id" and not (k or groups or sides):
            raise self.fail("grouped_by", "utterance_id needs k, folds or sides: who tests which utterance?")
        for values in [*(groups or ()), list(sides or ())] if several and grouped_by != "corpus" else []:
            if wrong := [v for v in values if v.partition("/")[0] not in (over or ()) or not v.partition("/")[2]]:
                raise self.fail("folds" if groups else "sides", f"{wrong[0]!r}: over several corpora write corpus/value")
        where = self.text("where") or "TRUE"
        check_condition(where, f"{self.file}: where")
        protocol = Protocol(
            name=f"{name}.{digits}",
            summary=self.text("summary") or f"a protocol of one's own, by {' and '.join(dict(crossed)) or grouped_by}",
            version=self.whole("version", 1) or 1,
            over=over,
            labels=self.labels(),
            label_column=self.text("label_column") or "label",
            where=where,
            grouped_by=grouped_by,
            crossed=crossed[1:],
            k=k,
            groups=groups,
            sides=sides,
            others=self.one_of("others", OTHERS) or "error",
            keeps_apart=self.keeps_apart([column for column, _ in crossed] or [grouped_by]),
            validation="split" if sides and "val" in sides.values() else "none",
            used_by=tuple(self.texts("used_by") or ()),
        )
        if "others" in self.told and groups is None and sides is None:
            raise self.fail("others", "goes with folds or sides, which leave somebody out")
        return self.with_policy(protocol)

    def check_keys(self) -> None:
        for key in self.told:
            if key not in KEYS:
                close = difflib.get_close_matches(key, KEYS, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ";"
                raise self.fail(key, f"there is no such key{hint} Known: {', '.join(KEYS)}")

    def with_policy(self, protocol: Protocol) -> Protocol:
        """Return the protocol with the policy of the file, which its name need not repeat."""
        if (policy := self.text("validation")) is None:
            return protocol
        with self.of_key("validation"):
            return replace(with_validation(protocol, policy), name=protocol.name)

    def over(self) -> tuple[str, ...] | None:
        one, several = self.text("corpus"), self.texts("corpora")
        if one is not None and several is not None:
            raise self.fail("corpora", "corpus and corpora exclude each other; keep one of them")
        names = several if several is not None else [one] if one is not None else None
        if names is None:
            return None
        key = "corpora" if several is not None else "corpus"
        for name in names:
            with self.of_key(key):
                check_name("corpus", name)
        if not names or len(set(names)) < len(names):
            raise self.fail(key, "name each corpus once")
        return tuple(sorted(names, key=natural_key))

    def labels(self) -> dict[str, str] | None:
        given = self.told.get("labels")
        if given is None:
            return None
        if isinstance(given, str):
            with self.of_key("labels"):
                return parse_label_map(given)
        if not isinstance(given, dict) or not given:
            raise self.fail("labels", 'is a map\'s name, or a table of class = ["label", ...]')
        of_emotion = (self.text("label_column") or "label") == "label"
        result: dict[str, str] = {}
        for name, members in given.items():
            if not name.strip():
                raise self.fail("labels", "a class has no name")
            if not isinstance(members, list) or not members or not all(isinstance(m, str) and m.strip() for m in members):
                raise self.fail(f"labels.{name}", 'is a list of labels: ["happiness", "excitement"]')
            for member in members:
                label = (normalise(member) or member) if of_emotion else member
                if result.setdefault(label, name) != name:
                    raise self.fail(f"labels.{name}", f"{member!r} stands in two classes")
        if len(given) < 2:
            raise self.fail("labels", "one class is no task; name at least two")
        if of_emotion and (vague := sorted(NO_EMOTION & set(result))):
            raise self.fail("labels", f"{vague[0]!r} says that the raters did not agree; it is no class")
        return result

    def folds(self) -> tuple[tuple[str, ...], ...] | None:
        given = self.told.get("folds")
        if given is None:
            return None
        good = isinstance(given, list) and all(isinstance(f, list) and f and all(isinstance(v, str) for v in f) for f in given)
        if not good or len(given) < 2:
            raise self.fail("folds", 'is a list of at least two folds, each a list of what it tests: [["03", "08"], ["09"]]')
        self.once("folds", [value for fold in given for value in fold])
        return tuple(tuple(fold) for fold in given)

    def sides(self) -> dict[str, str] | None:
        given = self.told.get("sides")
        if given is None:
            return None
        if not isinstance(given, dict) or not {"train", "test"} <= set(given):
            raise self.fail("sides", "is a table with the lists train, test and, if there is one, val")
        for role, values in given.items():
            if role not in ROLES:
                raise self.fail(f"sides.{role}", f"there is no such side; known: {', '.join(ROLES)}")
            if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
                raise self.fail(f"sides.{role}", 'is a list of values: ["03", "08"]')
        self.once("sides", [value for values in given.values() for value in values])
        return {value: role for role in ROLES for value in given.get(role, ())}

    def once(self, key: str, values: list[str]) -> None:
        seen: set[str] = set()
        for value in values:
            if value in seen:
                raise self.fail(key, f"{value!r} stands in two places")
            seen.add(value)

    def grouped(self) -> tuple[str, tuple[tuple[str, int | None], ...]]:
        """Return the first column that folds are made of; where there are several, all of them with their numbers of parts."""
        if not isinstance(self.told.get("grouped_by"), list):
            return self.text("grouped_by") or "speaker", ()
        columns, k = self.texts("grouped_by") or [], self.told.get("k")
        if wrong := [column for column in columns if column not in GROUP_COLUMNS]:
            raise self.fail("grouped_by", f"of several columns, {wrong[0]!r} is none of {', '.join(GROUP_COLUMNS)}")
        if len(columns) < 2 or len(set(columns)) < len(columns):
            raise self.fail("grouped_by", "is a column, or a list of two and more different ones")
        parts = k if isinstance(k, list) else [k] * len(columns)
        good = all(part is None or (isinstance(part, int) and not isinstance(part, bool) and part >= 2) for part in parts)
        if not good or len(parts) != len(columns):
            raise self.fail("k", f"is a whole number from 2, or a list of {len(columns)}: one for each of {', '.join(columns)}")
        if (self.text("validation") or "none") not in ("none", NEXT_PART):
            raise self.fail("validation", f"folds that keep several columns apart at once validate by {NEXT_PART}, or by nobody")
        return columns[0], tuple(zip(columns, parts, strict=True))

    def keeps_apart(self, grouped_by: list[str]) -> tuple[str, ...]:
        known = (*GROUP_COLUMNS, "corpus")
        told = self.texts("keeps_apart")
        if told is None:
            return tuple(column for column in grouped_by if column in known)
        if wrong := [value for value in told if value not in known]:
            raise self.fail("keeps_apart", f"{wrong[0]!r} is none of {', '.join(known)}")
        return tuple(told)

    def text(self, key: str) -> str | None:
        value = self.told.get(key)
        if value is not None and not (isinstance(value, str) and value.strip()):
            raise self.fail(key, "is a text in quotes")
        return value

    def texts(self, key: str) -> list[str] | None:
        value = self.told.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise self.fail(key, "is a list of texts")
        return value

    def whole(self, key: str, least: int) -> int | None:
        value = self.told.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31):
            raise self.fail(key, f"is a whole number from {least}")
        return value

    def one_of(self, key: str, known: tuple[str, ...]) -> str | None:
        value = self.text(key)
        if value is not None and value not in known:
            raise self.fail(key, f"{value!r} is none of {', '.join(known)}")
        return value

    @contextlib.contextmanager
    def of_key(self, key: str) -> Iterator[None]:
        try:
            yield
        except UsageError as error:
            raise self.fail(key, str(error)) from error
