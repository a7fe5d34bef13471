"""What a report says of the data and of how it was made: who speaks what, durations, duplicates, audits, and how to repeat it.

In go contenders and the catalogue; out come `FigureData` and rows for tables, each with its SQL. Everything is what runs and
corpora stored: nothing is audited or measured again.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from tfser.heads import DIMENSION_REFERENCES, REFERENCE_HEADS
from tfser.heads.reports.figure_data import FigureData, Numbers, Row, list_of, text_of
from tfser.heads.reports.material import Contender, ContenderGroup
from tfser.heads.reports.report_tables import ReportTable, table_of
from tfser.heads.reports.stored_frames import with_fingerprint
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.protocols.protocol import JOINED_BY
from tfser.manifests.wording import count
from tfser.manifests.wording import listed as names_listed
from tfser.pipeline.corpora import CORPORA

_MOST_SPEAKERS = 60
"""Of a table of speakers by classes; of more, those with the fewest utterances are shown."""


def tested_sql(group: ContenderGroup) -> str:
    """Return SQL that gives the utterances of a group's protocol, with their classes, beside who said them."""
    return (
        "SELECT a.corpus, a.utterance_id, a.label, u.speaker, u.gender, u.duration_s, u.content_hash FROM assignments a "
        "JOIN utterances u USING (corpus, utterance_id)\n"
        f"  WHERE a.protocol = {text_of(group.protocol)} AND a.corpus IN {list_of(group.corpus.split(JOINED_BY))} "
        "AND a.label IS NOT NULL"
    )


def speakers_by_class(connection: Connection, group: ContenderGroup) -> tuple[Numbers, tuple[str, ...], list[str]]:
    """Return how many utterances of each class each speaker says: a row a speaker, a column a class; and notes."""
    classes = group.classes or tuple(
        row["label"] for row in rows(connection, f"SELECT DISTINCT label FROM ({tested_sql(group)}) ORDER BY 1")
    )
    columns = ", ".join(f'count(*) FILTER (label = {text_of(name)}) AS "class {i + 1}"' for i, name in enumerate(classes))
    sql = (
        f"SELECT corpus, speaker, any_value(gender) AS gender, count(*) AS n{', ' if columns else ''}{columns}\n"
        f"FROM (\n  {tested_sql(group)}\n) GROUP BY corpus, speaker ORDER BY corpus, speaker"
    )
    counts = rows(connection, sql)
    notes = []
    total = sum(row["n"] for row in counts)
    notes.append(
        f"{count(total, 'utterance')} of {count(len(counts), 'speaker')} stand in the protocol {group.protocol}."
        if counts
        else f"The protocol {group.protocol} is no longer in this cache: its speakers cannot be counted."
    )
    if len(counts) > _MOST_SPEAKERS:
        sql = sql.replace("ORDER BY corpus, speaker", f"ORDER BY n, corpus, speaker LIMIT {_MOST_SPEAKERS}")
        counts = rows(connection, sql)
        notes.append(f"The {_MOST_SPEAKERS} with the fewest utterances are shown.")
    shown = tuple(dict(row) for row in counts)
    return Numbers(title="speakers by classes", sql=sql, rows=shown, checked=tuple(shown[0]) if shown else ()), classes, notes


def speakers_table(connection: Connection, group: ContenderGroup) -> tuple[ReportTable, list[str]]:
    """Return the same as a table, its columns called like the classes; and notes."""
    numbers, classes, notes = speakers_by_class(connection, group)
    named = {f"class {i + 1}": name for i, name in enumerate(classes)}
    table = table_of(
        f"speakers by classes: {group.corpus}",
        [{named.get(name, name): value for name, value in row.items()} for row in numbers.rows],
        sql=numbers.sql,
    )
    return table, notes


def durations(connection: Connection, group: ContenderGroup) -> FigureData | None:
    """Return how long the utterances of each class are; None where no duration is known."""
    sql = (
        "SELECT label, count(*) AS n, quantile_cont(duration_s, 0.05) AS p5, quantile_cont(duration_s, 0.25) AS p25, "
        "quantile_cont(duration_s, 0.5) AS median,\n  quantile_cont(duration_s, 0.75) AS p75, "
        "quantile_cont(duration_s, 0.95) AS p95, sum(duration_s ORDER BY corpus, utterance_id) AS seconds\n"
        f"FROM (\n  {tested_sql(group)}\n) WHERE duration_s IS NOT NULL GROUP BY label ORDER BY median, label"
    )
    lengths = tuple(rows(connection, sql))
    if not lengths:
        return None
    hours = sum(row["seconds"] for row in lengths) / 3600
    return FigureData(
        kind="durations",
        title=f"Durations: {group.corpus}",
        reading=f"{hours:.2f} hours; the medians of the classes are {lengths[0]['median']:.1f} to {lengths[-1]['median']:.1f} s.",
        numbers=(Numbers(title="durations by class", sql=sql, rows=lengths, checked=tuple(lengths[0])),),
    )


def duplicates(connection: Connection, group: ContenderGroup) -> Numbers:
    """Return how many utterances have the samples of another one, or sound like a copy of one."""
    corpora = list_of(group.corpus.split(JOINED_BY))
    sql = (
        f"WITH tested AS (\n  {tested_sql(group)}\n), same AS (\n"
        "  SELECT content_hash, count(*) AS n, count(DISTINCT label) AS labels FROM tested\n"
        "  WHERE content_hash IS NOT NULL GROUP BY content_hash HAVING count(*) > 1\n)\n"
        "SELECT 'utterances with the samples of another one' AS what, coalesce(sum(n), 0)::BIGINT AS n FROM same\n"
        "UNION ALL SELECT 'of these, with another label than it', coalesce(sum(n), 0)::BIGINT FROM same WHERE labels > 1\n"
        "UNION ALL SELECT 'utterances that are near copies of another one', count(DISTINCT (corpus, utterance_id)) FROM "
        f"near_duplicates WHERE corpus IN {corpora}\n"
        "UNION ALL SELECT 'utterances that were compared for near copies', count(*) FROM fingerprints "
        f"WHERE corpus IN {corpora}\n"
        f"UNION ALL SELECT 'utterances that could not be scanned', count(*) FROM skipped "
        f"WHERE corpus IN {corpora} AND stage = 'scan'"
    )
    return Numbers(title="duplicates", sql=sql, rows=tuple(rows(connection, sql)), checked=("what", "n"))


def audit_findings(connection: Connection, members: Sequence[Contender]) -> tuple[list[dict[str, Any]], str]:
    """Return what the audits found when the runs were trained, a row a finding and fold, and the SQL for all of it."""
    ids = list_of(member.experiment for member in members)
    sql = f"SELECT experiment, fold, seed, findings FROM runs\nWHERE experiment IN {ids}\nORDER BY experiment, fold, seed"
    names = {member.experiment: member.name for member in members}
    findings: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows(connection, sql):
        for finding in json.loads(row["findings"] or "[]"):
            if not isinstance(finding, dict) or finding.get("level") == "ok":
                continue
            key = tuple(str(finding.get(name, "")) for name in ("audit", "level", "protocol", "fold", "title"))
            # A finding of many runs is one row that names the experiments: they share a protocol, and so its audit.
            of = findings.setdefault(
                key,
                {
                    "level": finding.get("level", ""),
                    "audit": finding.get("audit", ""),
                    "found": finding.get("title", ""),
                    "fold": "all" if finding.get("fold") is None else finding["fold"],
                    "rows": finding.get("rows", ""),
                    "what to do": finding.get("action", ""),
                    "experiments": [],
                },
            )
            if names[row["experiment"]] not in of["experiments"]:
                of["experiments"].append(names[row["experiment"]])
    # What weighs most comes first, and the order depends on nothing but the findings.
    order = {"error": 0, "warning": 1, "info": 2}
    listed = sorted(findings.values(), key=lambda row: (order.get(row["level"], 3), row["audit"], str(row["fold"])))
    return [{**row, "experiments": names_listed(row["experiments"], 4)} for row in listed], sql


def how_made(connection: Connection, one: Contender) -> dict[str, Any]:
    """Return how an experiment was made: the command that repeats it, hashes, versions, the whole configuration."""
    stored = rows(connection, "FROM runs WHERE experiment = ? ORDER BY seed, fold", [one.experiment])
    first = stored[0]
    features = with_fingerprint(connection, first["fingerprint"])
    config = json.loads(first["config"] or "{}")
    feature_config = {} if features is None else json.loads(features.row["config"] or "{}")
    source = None if features is None else json.loads(features.row["source"] or "null")
    # Runs of one experiment may be from several days and machines: all that differ are named.
    versions = sorted({row["versions"] for row in stored if row["versions"]})
    facts = {
        "experiment": one.experiment,
        "head": f"{first['head']}, preset {first['preset']}, recipe {first['recipe']}",
        "parameters": f"{first['parameters']:,}" if first["parameters"] is not None else "",
        "protocol": f"{first['protocol']}, hash {first['protocol_hash']}, validation {first['validation']}",
        "features": f"{first['feature_set']}, fingerprint {first['fingerprint']}",
        "weights of the encoder": ", ".join(f"{k} {v}" for k, v in (source or {}).items() if v)
        + (f", SHA-256 begins {feature_config['weights']}" if "weights" in feature_config else ""),
        "data hash": config.get("data_hash", ""),
        "runs": f"{len(stored)}: folds {_listed(row['fold'] for row in stored)}, seeds {_listed(row['seed'] for row in stored)}",
        "device": ", ".join(
            sorted({f"{row['device']} ({row['device_name']})" if row["device_name"] else row["device"] for row in stored})
        ),
        "utterances cut": f"{max(row['utterances_cut'] or 0 for row in stored):,} longer than the head sees",
        "versions": "; ".join(", ".join(f"{k} {v}" for k, v in sorted(json.loads(text).items())) for text in versions),
    }
    return {
        "name": one.name,
        "facts": [(name, value) for name, value in facts.items() if value],
        "commands": commands_of(stored, config),
        "config": json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False),
    }


def _listed(numbers: Any) -> str:
    return ", ".join(str(n) for n in sorted(set(numbers)))


def commands_of(stored: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> list[str]:
    """Return the commands that train the runs again: one a seed, every setting said, so that no default can change them.

    Args:
        stored: rows of the table `runs` of one experiment.
        config: the configuration that they share.
    """
    first = stored[0]
    # Heads that are fitted at once refuse the settings of epochs.
    fitted_at_once = first["head"] in (*REFERENCE_HEADS, *DIMENSION_REFERENCES)
    heeded = () if first["head"] in DIMENSION_REFERENCES else ("class_weights", "class_beta", "temperature")
    settings = [
        f"--set {shlex.quote(f'{key}={_written(value)}')}"
        for part in ("head_config", "recipe_config")
        for key, value in (config.get(part) or {}).items()
        if key not in ("summary", "validation") and (part == "head_config" or key in heeded or not fitted_at_once)
    ]
    commands = []
    for seed in sorted({row["seed"] for row in stored}):
        folds = sorted({row["fold"] for row in stored if row["seed"] == seed})
        words = ["tfser train"]
        classes = ["class"] if config.get("classes") else []
        words += [f"--target {','.join([*classes, *config['targets']])}"] if config.get("targets") else []
        for option, value in (
            ("head", first["head"]),
            ("preset", first["preset"]),
            ("recipe", first["recipe"]),
            ("corpus", first["corpus"]),
            ("protocol", first["protocol"]),
            ("features", first["feature_set"]),
            ("seed", seed),
            ("fold", ",".join(map(str, folds))),
            ("device", first["device"]),
        ):
            words.append(f"--{option} {shlex.quote(str(value))}")
        words += settings
        if any(row["audit"] == "overridden" for row in stored):
            words.append("--allow-leaks")
        if any(row["audit"] == "gaps" for row in stored):
            words.append("--allow-gaps")
        commands.append(" ".join(words))
    return commands


def _written(value: Any) -> str:
    """Return a setting as `--set` reads it.

    >>> _written([0.9, 0.999]), _written(None), _written(True)
    ('0.9,0.999', 'none', 'true')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(_written(part) for part in value)
    return str(value)


def corpora_rows(connection: Connection, groups: Sequence[ContenderGroup]) -> tuple[list[Row], str]:
    """Return the corpora of a report with where they come from and under which licence, and the SQL of what the cache knows."""
    names = sorted({name for group in groups for name in group.corpus.split(JOINED_BY)})
    sql = (
        "SELECT c.corpus, c.adapter, count(u.utterance_id) AS utterances, count(DISTINCT u.speaker) AS speakers FROM corpora c "
        f"LEFT JOIN utterances u USING (corpus)\nWHERE c.corpus IN {list_of(names)} "
        "GROUP BY c.corpus, c.adapter ORDER BY c.corpus"
    )
    table: list[Row] = []
    for row in rows(connection, sql):
        reader = CORPORA.get(row["adapter"])
        table.append(
            {
                **row,
                "source": reader.source if reader else "",
                "licence": (reader.licence if reader else "") or "not known to tfser: ask whoever gave you the corpus",
            }
        )
    return table, sql
