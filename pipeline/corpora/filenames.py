"""Corpora whose file names say everything: read from a declaration, without code of their own.

Comes in: a `FileNames`, that is a pattern of the path with named groups, and what their codes mean. Goes out: the corpus's
reader. A group named like a column (speaker, gender, session, sentence, scenario, split) fills it, `emotion` gives the label,
a group that begins with _ only serves templates, and any other becomes a column of the corpus's own. Paths match whatever
their case and whatever folders stand in front, so that copies of a corpus that were unpacked or renamed differently are
read alike, and give the same ids.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tfser.manifests.utterances import DECLARED, Utterance
from tfser.pipeline.corpora.base import (
    CorpusReader,
    Expected,
    Reading,
    audio_files,
    read_lines,
    read_text,
    relative,
)
from tfser.pipeline.sound.audio import KNOWN_SUFFIXES


@dataclass(frozen=True, kw_only=True)
class Transcripts:
    """Where the words stand: `name` is a template of a text file's name, beside the audio or anywhere below the root.

    `line` has the groups `id` and `words`; None: the whole file is the words of one utterance. `encodings` says, by the
    language of the utterance, what a file is written in that is no Unicode.
    """

    name: str
    line: str | None = None
    encodings: Mapping[str | None, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """A corpus that numbers its utterances through: `group` counts from 1, every `size` numbers another of the `emotions`.

    The number within the block is the group `place` of templates. An emotion that the folder says, too, has to agree.
    """

    group: str
    size: int
    emotions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FileNames:
    """One corpus: what it is, how its files are named, and what the codes in the names mean.

    `pattern` matches the end of a path below the root, without the extension; `scheme` says the same to people, and `example`
    is one such path. `emotions` gives for each code the corpus's own word and the field's. `codes` translates other groups
    (a code that is not there is a wrong name; templates find the code itself under the group's name with _ in front);
    `derived` makes a column of a group (one that is not there stays empty), `columns` makes columns by templates of both.
    `upper` and `lower` are groups whose case is made so; codes are spelled as declared. `suffixes` are
    those of its files. `notes` are said at every scan.
    """

    name: str
    summary: str
    source: str
    page: str
    licence: str
    scheme: str
    example: str
    pattern: str
    utterance_id: str
    emotions: Mapping[str, tuple[str, str]]
    default_protocol: str
    codes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    derived: Mapping[str, tuple[str, Mapping[str, str]]] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    upper: tuple[str, ...] = ()
    lower: tuple[str, ...] = ()
    blocks: Blocks | None = None
    transcripts: Transcripts | None = None
    suffixes: frozenset[str] = KNOWN_SUFFIXES
    expected: Expected | None = None
    notes: tuple[str, ...] = ()

    def reader(self) -> CorpusReader:
        """Return the reader of this corpus."""
        return CorpusReader(
            name=self.name,
            summary=self.summary,
            source=self.source,
            layout=f"  ROOT/{self.example}   ({self.scheme}; in whatever folders)",
            read=functools.partial(_read, self),
            default_protocol=self.default_protocol,
            page=self.page,
            licence=self.licence,
            expected=self.expected,
        )


def _read(corpus: FileNames, root: Path, options: Mapping[str, Any]) -> Reading:
    """Read a corpus from any folder above its files.

    Raises:
        TfserError: if no file is named like the corpus's.
    """
    # Any folders may stand before the name: people unpack an archive into whatever is there.
    pattern = re.compile(rf"(?:.*?/)??{corpus.pattern}", re.IGNORECASE)
    reading = Reading(notes=list(corpus.notes))
    words = _Words(corpus.transcripts, root) if corpus.transcripts is not None else None
    seen: dict[str, str] = {}
    for path in audio_files(root, corpus.suffixes, reading.skipped):
        name = relative(path, root)
        match = pattern.fullmatch(name[: -len(path.suffix)])
        try:
            if match is None:
                raise ValueError(f"the name is not {corpus.scheme}, as in {PurePosixPath(corpus.example).name}")
            utterance = _utterance(corpus, name, _groups(corpus, match), words)
        except ValueError as error:
            reading.skipped.append((None, name, str(error)))
            continue
        # The same recording in two folders (an archive that was unpacked twice) is one utterance; the second is listed.
        first = seen.setdefault(utterance.utterance_id, name)
        if first != name:
            reading.skipped.append((utterance.utterance_id, name, f"the same utterance as {first}"))
            continue
        reading.utterances.append(utterance)
    if words is not None and words.useless:
        named = ", ".join(relative(path, root) for path in words.useless[:3])
        reading.notes.append(
            f"no transcript could be read in {len(words.useless):,} of the files for them ({named}): no line is an id and words"
        )
    if not reading.utterances:
        raise corpus.reader().fail(root, f"no audio file is named like {PurePosixPath(corpus.example).name}")
    return reading


def _groups(corpus: FileNames, match: re.Match[str]) -> dict[str, Any]:
    """Return the groups of a name with their codes translated; `emotion` stays a code, `_x` is the code of x.

    Raises:
        ValueError: if a code means nothing, or two parts of the path contradict each other.
    """
    groups: dict[str, Any] = {}
    for group, text in match.groupdict().items():
        value = text or None
        if value is not None and group in corpus.codes:
            groups[f"_{group}"] = _code(group, value, corpus.codes[group])
            value = corpus.codes[group][groups[f"_{group}"]]
        elif value is not None and group == "emotion":
            value = _code(group, value, corpus.emotions)
        elif value is not None and group in corpus.upper + corpus.lower:
            value = value.upper() if group in corpus.upper else value.lower()
        groups[group] = value
    if corpus.blocks is not None:
        block, place = divmod(int(groups[corpus.blocks.group]) - 1, corpus.blocks.size)
        if not 0 <= block < len(corpus.blocks.emotions):
            raise ValueError(f"the number {groups[corpus.blocks.group]} is none of the corpus's")
        emotion = corpus.blocks.emotions[block]
        if groups.get("emotion") is not None and groups["emotion"] != emotion:
            raise ValueError(f"the folder says {groups['emotion']}, the number {groups[corpus.blocks.group]} says {emotion}")
        groups |= {"emotion": emotion, "place": place + 1}
    return groups


def _code(group: str, text: str, codes: Mapping[str, Any]) -> str:
    """Return a code as it is declared, whatever its case.

    Raises:
        ValueError: if it stands for nothing.
    """
    for code in codes:
        if code.casefold() == text.casefold():
            return code
    raise ValueError(f"the {group} {text!r} is none of {', '.join(codes)}")


def _utterance(corpus: FileNames, path: str, groups: Mapping[str, Any], words: _Words | None) -> Utterance:
    raw, label = corpus.emotions[groups["emotion"]]
    derived = {name: meanings.get(groups[group]) for name, (group, meanings) in corpus.derived.items()}
    named = {name: "" if value is None else value for name, value in {**groups, **derived}.items()}
    columns = {name: value for name, value in groups.items() if name[0] != "_" and name not in ("emotion", "place")}
    columns |= derived | {name: template.format(**named) for name, template in corpus.columns.items()}
    name = corpus.utterance_id.format(**named)
    if words is not None:
        columns["transcript"] = words.find(name, path, named, columns.get("language"))
    return Utterance(
        utterance_id=name,
        path=path,
        label=label,
        raw_label=raw,
        **{column: value for column, value in columns.items() if column in DECLARED},
        extra={column: value for column, value in columns.items() if column not in DECLARED},
    )


class _Words:
    """The words of utterances, from text files below a root; each file is read once, when first needed."""

    def __init__(self, transcripts: Transcripts, root: Path) -> None:
        self.about = transcripts
        self.root = root
        self._line = re.compile(transcripts.line) if transcripts.line is not None else None
        self._files: dict[str, list[Path]] = {}
        for path in audio_files(root, (".txt",), []):
            self._files.setdefault(path.name.casefold(), []).append(path)
        self._read: dict[Path, dict[str, str]] = {}
        self.useless: list[Path] = []
        """Files that are named like transcripts and hold none."""

    def find(self, utterance_id: str, path: str, groups: Mapping[str, Any], language: str | None) -> str | None:
        """Return the words of an utterance; None where no file has them."""
        audio = self.root / path
        files = self._files.get(self.about.name.format(**groups, stem=audio.stem).casefold(), [])
        beside = [file for file in files if file.parent == audio.parent]
        for file in beside or files:
            if file not in self._read:
                self._read[file] = self._load(file, self.about.encodings.get(language, "cp1252"))
            words = self._read[file].get("" if self._line is None else utterance_id)
            if words is not None:
                return words
        return None

    def _load(self, file: Path, encoding: str) -> dict[str, str]:
        if self._line is None:
            words = " ".join(read_text(file, encoding).split())
            return {"": words} if words else {}
        lines = read_lines(file, encoding)
        matches = (self._line.fullmatch(line.strip()) for line in lines)
        words_of = {match["id"]: " ".join(match["words"].split()) for match in matches if match is not None}
        if not words_of:
            self.useless.append(file)
        return words_of
