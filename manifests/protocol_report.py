"""A protocol shown: what it is, who uses it, and its counts by fold, role and class; and the list of those that there are."""

from __future__ import annotations

from typing import Any

from tfser.manifests.catalogue import rows
from tfser.manifests.connections import Connection
from tfser.manifests.named import PROTOCOLS

ROLES = ("train", "val", "test")


def describe(connection: Connection, protocol: str, corpora: str) -> dict[str, Any]:
    """Return what the catalogue knows of a protocol, and under `counts` a row a fold and role.

    Args:
        connection: an open catalogue that holds the protocol.
        protocol: its name.
        corpora: the corpus, or several joined by +.
    """
    about = rows(
        connection, "SELECT * EXCLUDE (corpus) FROM protocols WHERE protocol = ? AND corpora = ? LIMIT 1", [protocol, corpora]
    )[0]
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
        table.setdefault(key, dict.fromkeys(about["classes"], 0))[row["label"]] = row["n"]
    counts = []
    for key in sorted(table, key=lambda key: (key[0], ROLES.index(key[1]))):
        of = table[key]
        counts.append({"fold": key[0], "role": key[1], **of, "all": sum(of.values()), "speakers": speakers[key]})
    unused = rows(
        connection,
        "SELECT count(*) AS n FROM assignments a JOIN protocols p USING (protocol, corpus) "
        "WHERE p.protocol = ? AND p.corpora = ? AND a.fold IS NULL",
        [protocol, corpora],
    )[0]["n"]
    return {**about, "in_no_fold": unused, "counts": counts}


def headline(about: dict[str, Any]) -> list[str]:
    """Return what `describe` found, but the counts, in lines for people."""
    lines = [
        f"{about['protocol']} on {about['corpora']}: {about['summary']}",
        f"  version {about['version']}, hash {about['hash']}, {about['folds']} {'fold' if about['folds'] == 1 else 'folds'}, "
        f"grouped by {about['grouped_by']}",
        f"  keeps apart {', '.join(about['keeps_apart']) or 'nothing'}; validation {about['validation']}",
    ]
    lines += [f"  {'used by' if i == 0 else '       '} {who}" for i, who in enumerate(about["used_by"])]
    if about["in_no_fold"]:
        lines.append(f"  in no fold: {about['in_no_fold']:,} utterances; see `tfser audit`")
    return lines


def listed() -> list[dict[str, Any]]:
    """Return the named and generic protocols, as `tfser protocol ls` prints them."""
    return [
        {
            "protocol": p.name + (f":{p.needs}" if p.needs else ""),
            "corpora": ", ".join(p.corpora) if p.corpora else "any",
            "about": p.summary,
            "classes": list(dict.fromkeys(p.labels.values())) if p.labels else [],
            "grouped_by": p.grouped_by,
            "keeps_apart": list(p.keeps_apart),
            "validation": p.validation,
            "version": p.version,
            "used_by": list(p.used_by),
        }
        for p in PROTOCOLS.values()
    ]
