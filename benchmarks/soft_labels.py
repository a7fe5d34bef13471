"""Made raters for real recordings: what hard and soft labels give where it is known how raters err.

In: a folder of EmoDB's recordings. Out, in another folder: `rated_emodb.csv`, a table of the recordings whose label is the
majority of five made raters (none where two classes tie), and `votes.csv`, what each rater said. Nothing is trained here:

    python benchmarks/soft_labels.py EMODB FOLDER
    cd FOLDER
    tfser extract --corpus table --table rated_emodb.csv --root EMODB --features logmel
    tfser scan --corpus rated_emodb --annotations votes.csv
    tfser sweep docs/sweeps/soft_labels_emodb.toml --threads 1
    tfser scores --by raters --corpus rated_emodb
    tfser compare A B C, by the ids of the table

How the raters err is made up, and stated here: each recording has an ease, drawn evenly from 0.3 to 1; a rater says the emotion
that was acted with that probability, and else one of two emotions near it (`NEAR`), evenly. So votes say how easy a recording is,
which a majority hides; they do not follow its sound in any other way. Real raters do, and nothing here is a finding about them.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path

import numpy as np

from tfser.pipeline.corpora.emodb import LETTERS

RATERS = 5
ACTED = {letter: label for letter, (_, label) in LETTERS.items()}
"""By the letter in EmoDB's file names."""
NEAR = {
    "anger": ("happiness", "disgust"),
    "boredom": ("neutral", "sadness"),
    "disgust": ("anger", "boredom"),
    "fear": ("happiness", "sadness"),
    "happiness": ("anger", "fear"),
    "neutral": ("boredom", "sadness"),
    "sadness": ("boredom", "neutral"),
}
"""Whom a rater takes an emotion for: made up, by closeness in valence and arousal."""


def votes_of(name: str, number: int) -> list[str]:
    """Return what the raters say of a recording; the same for the same number, on any machine."""
    acted, rng = ACTED[Path(name).stem[5]], np.random.default_rng([17, number])
    ease = rng.uniform(0.3, 1.0)
    return [acted if rng.random() < ease else str(rng.choice(NEAR[acted])) for _ in range(RATERS)]


def majority(votes: list[str]) -> str:
    """Return the class that most raters said; nothing where two tie.

    >>> majority(["fear", "fear", "anger"]), majority(["fear", "anger"])
    ('fear', '')
    """
    (first, most), *rest = Counter(votes).most_common()
    return "" if rest and rest[0][1] == most else first


def main() -> None:
    """Write both tables, and say how often raters and majority are right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("emodb", type=Path, help="the folder of EmoDB's recordings")
    parser.add_argument("folder", type=Path, help="where the tables go")
    asked = parser.parse_args()
    files = sorted((of for of in asked.emodb.rglob("*") if of.suffix in (".wav", ".flac")), key=lambda path: path.name)
    if not files:
        parser.error(f"{asked.emodb}: no recordings")
    asked.folder.mkdir(parents=True, exist_ok=True)
    said = {path: votes_of(path.name, number) for number, path in enumerate(files)}
    table, votes_file = asked.folder / "rated_emodb.csv", asked.folder / "votes.csv"
    labels = {path: majority(votes) for path, votes in said.items()}
    with table.open("w", newline="") as of_table, votes_file.open("w", newline="") as of_votes:
        rows, ratings = csv.writer(of_table), csv.writer(of_votes)
        rows.writerow(["path", "label", "speaker", "sentence"])
        ratings.writerow(["utterance_id", "rater", "label"])
        for path, votes in said.items():
            inside = path.relative_to(asked.emodb).as_posix()
            rows.writerow([inside, labels[path], path.stem[:2], path.stem[2:5]])
            ratings.writerows([inside, f"rater{i + 1}", vote] for i, vote in enumerate(votes))
    acted = [ACTED[path.stem[5]] for path in said]
    raters = np.mean([vote == one for one, votes in zip(acted, said.values(), strict=True) for vote in votes])
    known = [(one, label) for one, label in zip(acted, labels.values(), strict=True) if label]
    right = np.mean([one == label for one, label in known])
    print(f"{len(files)} recordings, {RATERS} raters: {100 * raters:.1f} % of votes are what was acted")
    print(f"{len(known)} have a majority, {100 * right:.1f} % of these are what was acted")


if __name__ == "__main__":
    main()
