"""A folder that looks like IEMOCAP: the real 5531 four-class ids and labels, made-up others, and every quirk of the copies.

The audio is one very short file, linked under each name. Nothing of the corpus itself is in it but ids and labels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

OTHERS = {"fru": 1849, "fea": 40, "sur": 107, "dis": 2, "oth": 3, "xxx": 2507}
"""The classes that the list of four-class utterances leaves out, as often as the corpus has them."""


@dataclass(frozen=True)
class Turn:
    """One labelled turn."""

    utterance_id: str
    label: str

    @property
    def dialogue(self) -> str:
        return self.utterance_id.rpartition("_")[0]

    @property
    def session(self) -> int:
        return int(self.utterance_id[3:5])


def real_turns(listing: Path) -> list[Turn]:
    """Read the ids and labels of the four classes."""
    lines = listing.read_text(encoding="utf-8").splitlines()[1:]
    return [Turn(*line.split("\t")[:2]) for line in lines]


def made_up_turns(real: list[Turn]) -> list[Turn]:
    """Return turns of the other classes, dealt over the dialogues; some with XX for a number, as turns in overlap have it."""
    dialogues = sorted({turn.dialogue for turn in real})
    labels = [label for label, count in OTHERS.items() for _ in range(count)]
    turns = []
    for i, label in enumerate(labels):
        dialogue, number, who = dialogues[i % len(dialogues)], i // len(dialogues), "FM"[i % 2]
        turns.append(Turn(f"{dialogue}_{who}XX{number}" if number < 3 else f"{dialogue}_{who}{number + 500}", label))
    return turns


def make_tree(root: Path, turns: list[Turn], wav: Path) -> None:
    """Lay out the corpus under `root`.

    Args:
        root: the folder that will hold Session1 to Session5.
        turns: what is labelled.
        wav: the file that stands for all audio; on the file system of `root`.
    """
    by_dialogue: dict[str, list[Turn]] = {}
    for turn in turns:
        by_dialogue.setdefault(turn.dialogue, []).append(turn)
    for dialogue, members in sorted(by_dialogue.items()):
        session = root / f"Session{members[0].session}"
        wavs = session / "sentences" / "wav" / dialogue
        wavs.mkdir(parents=True)
        for turn in members:
            os.link(wav, wavs / f"{turn.utterance_id}.wav")
        (wavs / f"._{members[0].utterance_id}.wav").write_bytes(b"\x00\x05\x16\x07")
        (wavs / f"{dialogue}.pk").write_bytes(b"\x00")
        _labels(session / "dialog" / "EmoEvaluation", dialogue, members)
        _transcripts(session / "dialog" / "transcriptions", dialogue, members)
    for session in sorted(root.glob("Session*")):
        for folder in (session, session / "sentences" / "wav", session / "dialog" / "EmoEvaluation"):
            (folder / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")


def _labels(folder: Path, dialogue: str, turns: list[Turn]) -> None:
    """Write the consensus as the corpus has it, CRLF in every other file, and ratings that contradict it in sub-folders."""
    lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    for i, turn in enumerate(turns):
        lines += [
            f"[{i}.2901 - {i + 1}.2357]\t{turn.utterance_id}\t{turn.label}\t[2.5000, {1 + i % 5}.0000, 3.3333]",
            "C-E1:\tAnger; Disgust;\t(m\u00fcde)",
            "C-F1:\tNeutral;\t()",
            "A-E1:\tval 3; act 2; dom  2;\t()",
            "A-M1:\tval ; act ; dom ;\t()",
            "",
        ]
    end = "\r\n" if len(dialogue) % 2 else "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{dialogue}.txt").write_bytes(end.join(lines).encode("latin-1"))
    (folder / f"._{dialogue}.txt").write_bytes(f"[1.0 - 2.0]\t{turns[0].utterance_id}\tang\t[1, 1, 1]\n".encode())
    wrong = f"[0.2901 - 1.2357]\t{turns[0].utterance_id}\tdis\t[1.0000, 1.0000, 1.0000]\n"
    for kind, suffix in (("Attribute", "atr"), ("Categorical", "cat"), ("Self-evaluation", "cat")):
        (folder / kind).mkdir(exist_ok=True)
        (folder / kind / f"{dialogue}_e1_{suffix}.txt").write_text(wrong, encoding="utf-8")


def _transcripts(folder: Path, dialogue: str, turns: list[Turn]) -> None:
    """Write transcripts with the odd lines that the corpus's have, in Windows-1252."""
    lines = ["M: [LAUGHTER]", ""]
    for i, turn in enumerate(turns):
        lines += [f"{turn.utterance_id} [{i:03d}.2901-{i + 1:03d}.2357]: Well\u2026 caf\u00e9, number {i}. ", "F: [BREATHING]"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{dialogue}.txt").write_bytes("\r\n".join(lines).encode("cp1252"))
    (folder / f"._{dialogue}.txt").write_bytes(f"{turns[0].utterance_id} [000.1-000.2]: wrong\n".encode())
