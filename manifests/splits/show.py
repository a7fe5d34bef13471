"""A protocol shown: what it is, who uses it, and its counts by fold, role and class; and the list of those that there are."""

from __future__ import annotations

from typing import Any

from tfser.manifests.catalogue.reading import rows
from tfser.manifests.connections import Connection
from tfser.manifests.protocols.independence import fold_independence, worst
from tfser.manifests.protocols.known import PROTOCOLS
from tfser.manifests.protocols.listed import ORIGINS, list_protocol, published_lists

ROLES = ("train", "val", "test")

_NOT_KEPT = {
    "broken": "NOT SPEAKER-INDEPENDENT: test speakers train or validate; scores on it are marked",
    "unknown": "speakers cannot be told for every utterance; scores on it are marked",
}
"""What the headline says of a protocol whose scores are not known to be of new speakers."""

_MOST_COUNTS = 200_000
"""Counts (folds x sides x classes) that are worth showing; with more of them the classes are left out."""


def describe(connection: Connection, protocol: str, corpora: str) -> dict[str, Any]:
    """Return what the catalogue knows of a protocol, and under `counts` a row a fold and role.

    Args:
        connection: an open catalogue that holds the protocol.
        protocol: its name.
        corpora: the corpus, or several joined by +.
    """
    description = rows(
        connection, "SELECT * EXCLUDE (corpus) FROM protocols WHERE protocol = ? AND corpora = ? LIMIT 1", [protocol, corpora]
    )[0]
    # Leave-one-utterance-out of a large corpus is millions of cells that nobody reads: sizes alone then, by
    # arithmetic.
    if description["folds"] * len(ROLES) * max(1, len(description["classes"])) > _MOST_COUNTS:
        sides = _sides(connection, protocol, corpora, description["folds"], description["validation"])
        return {**description, "speakers_kept": None, "in_no_fold": _unused(connection, protocol, corpora), "counts": sides}
    counted = rows(
        connection,
        "SELECT f.fold, f.role, f.label, count(*) AS n FROM folds f JOIN protocols p USING (protocol, corpus) "
        "WHERE p.protocol = ? AND p.corpora = ? GROUP BY ALL",
        [protocol, corpora],
    )
    speakers = {
        (row["fold"], row["role"]): row["n"]
        for row in rows(
            connection,
            "SELECT f.fold, f.role, count(DISTINCT (f.corpus, f.speaker)) FILTER (f.speaker IS NOT NULL) AS n "
            "FROM fold_utterances f JOIN protocols p USING (protocol, corpus) "
            "WHERE p.protocol = ? AND p.corpora = ? GROUP BY ALL",
            [protocol, corpora],
        )
    }
    table: dict[tuple[int, str], dict[str, Any]] = {}
    for row in counted:
        key = (row["fold"], row["role"])
        table.setdefault(key, dict.fromkeys(description["classes"], 0))[row["label"]] = row["n"]
    counts = []
    for key in sorted(table, key=lambda key: (key[0], ROLES.index(key[1]))):
        of = table[key]
        by_class = {name: n for name, n in of.items() if name is not None}  # a protocol over ratings has no classes
        counts.append({"fold": key[0], "role": key[1], **by_class, "all": sum(of.values()), "speakers": speakers[key]})
    judged: dict[str, Any] = {"speakers_kept": worst(fold_independence(connection, protocol, corpora).values())}
    out = _left_out(connection, protocol, corpora)
    judged |= {"left_out": out} if out else {}
    return {**description, **judged, "in_no_fold": _unused(connection, protocol, corpora), "counts": counts}


def _left_out(connection: Connection, protocol: str, corpora: str) -> int:
    """Count the places, of an utterance in a fold, that are left out since columns are kept apart there."""
    counted = rows(
        connection,
        "SELECT count(*) AS n FROM left_out l JOIN protocols p USING (protocol, corpus) WHERE p.protocol = ? AND p.corpora = ?",
        [protocol, corpora],
    )
    return int(counted[0]["n"])


def _unused(connection: Connection, protocol: str, corpora: str) -> int:
    """Count the utterances that no fold tests or trains on."""
    counted = rows(
        connection,
        "SELECT count(*) AS n FROM assignments a JOIN protocols p USING (protocol, corpus) "
        "WHERE p.protocol = ? AND p.corpora = ? AND a.fold IS NULL",
        [protocol, corpora],
    )
    return int(counted[0]["n"])


def _sides(connection: Connection, protocol: str, corpora: str, folds: int, validation: str) -> list[dict[str, Any]]:
    """Return the size of each side alone, by arithmetic and not by rolling the folds out: thousands of them take no time."""
    joined = "JOIN protocols p USING (protocol, corpus) WHERE p.protocol = ? AND p.corpora = ?"
    cells = rows(
        connection,
        f"SELECT corpus, a.fold, a.role, a.part, count(*) AS n FROM assignments a {joined} AND a.fold IS NOT NULL GROUP BY ALL",
        [protocol, corpora],
    )
    held = rows(connection, f"SELECT corpus, h.part, h.fold, h.role FROM held_out h {joined}", [protocol, corpora])
    # Rows with a role of their own stand on that side in every fold; the others are tested once and train elsewhere.
    fixed = {role: sum(c["n"] for c in cells if c["role"] == role) for role in ROLES}
    tested: dict[int, int] = {}
    of_part: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for cell in cells:
        if cell["role"] is None:
            tested[cell["fold"]] = tested.get(cell["fold"], 0) + cell["n"]
        if cell["part"] is not None and cell["role"] in (None, "train"):
            of_part.setdefault((cell["corpus"], cell["part"]), []).append(cell)
    free = sum(tested.values())
    # A part that is held out leaves the training side only where it would have trained: not in the fold that tests its
    # group.
    held_in: dict[int, int] = {}
    out_of: dict[int, int] = {}
    for part in held:
        would_train = (c["n"] for c in of_part.get((part["corpus"], part["part"]), ()) if c["role"] or c["fold"] != part["fold"])
        into = held_in if part["role"] == "val" else out_of
        into[part["fold"]] = into.get(part["fold"], 0) + sum(would_train)
    counts = []
    for fold in range(1, folds + 1):
        test = tested.get(fold, 0)
        val = held_in.get(fold, 0) + (tested.get(fold % folds + 1, 0) if validation == "next-group" else 0)
        rest = free - test - val - out_of.get(fold, 0)
        sizes = {"train": fixed["train"] + rest, "val": fixed["val"] + val, "test": fixed["test"] + test}
        counts += [{"fold": fold, "role": role, "all": n} for role, n in sizes.items() if n]
    return counts


def headline(row: dict[str, Any]) -> list[str]:
    """Return what `describe` found, but the counts, in lines for people."""
    lines = [
        f"{row['protocol']} on {row['corpora']}: {row['summary']}",
        f"  version {row['version']}, hash {row['hash']}, {row['folds']} {'fold' if row['folds'] == 1 else 'folds'}, "
        f"grouped by {row['grouped_by']}",
        f"  keeps apart {', '.join(row['keeps_apart']) or 'nothing'}; validation {row['validation']}",
    ]
    if row["speakers_kept"] in _NOT_KEPT:
        lines.append(f"  {_NOT_KEPT[row['speakers_kept']]} (`tfser audit` names them)")
    lines += [f"  {'used by' if i == 0 else '       '} {who}" for i, who in enumerate(row["used_by"])]
    if row["counts"] and "speakers" not in row["counts"][0]:
        lines.append(f"  {len(row['classes']):,} classes in {row['folds']:,} folds: the counts below are of whole sides")
    if row.get("left_out"):
        lines.append(f'  left out of single folds: {row["left_out"]:,} places; who and why: tfser sql "FROM left_out"')
    if row["in_no_fold"]:
        lines.append(f"  in no fold: {row['in_no_fold']:,} utterances; see `tfser audit`")
    return lines


def listed() -> list[dict[str, Any]]:
    """Return the named and generic protocols, as `tfser protocol ls` prints them."""
    return [
        {
            "protocol": p.name + (f":{p.needs}" if p.needs else ""),
            "corpora": published_lists()[p.listed].corpus if p.listed else ", ".join(p.corpora) if p.corpora else "any",
            "about": p.summary,
            "classes": list(dict.fromkeys(p.labels.values())) if p.labels else [],
            "grouped_by": p.grouped_by,
            "keeps_apart": list(p.keeps_apart),
            "validation": p.validation,
            "version": p.version,
            "used_by": list(p.used_by),
            "speakers": published_lists()[p.listed].independence if p.listed else None,
            "verdict": published_lists()[p.listed].verdict if p.listed else None,
        }
        for p in (*(p for p in PROTOCOLS.values() if p.name not in ORIGINS), *map(list_protocol, published_lists().values()))
    ]
