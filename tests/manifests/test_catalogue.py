"""The catalogue: up to date, never in the way, rebuilt from the files, read-only."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue import reading as catalogue
from tfser.manifests.catalogue import schema
from tfser.manifests.catalogue.reading import Connection, ensure_protocol, open_catalogue, refresh, rows
from tfser.manifests.catalogue.statements import select
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.files import write_json, write_table
from tfser.manifests.utterances import Utterance


def corpus(n: int = 6, extra: dict[str, Any] | None = None) -> list[Utterance]:
    return [
        Utterance(
            utterance_id=f"u{i}", path=f"u{i}.wav", speaker=f"s{i % 3}", label=("anger", "neutral")[i % 2], extra=extra or {}
        )
        for i in range(n)
    ]


put_run = runpy.run_path(str(Path(__file__).parents[1] / "stored_runs.py"))["put_old_run"]


def everything(cache: Cache, *, views: bool = True) -> dict[str, list[str]]:
    """Return all rows of all tables, and of the views that follow from them unless told otherwise, in an order of their own."""
    with open_catalogue(cache) as connection:
        return {
            t.name: sorted(json.dumps(row, default=str, sort_keys=True) for row in rows(connection, f"FROM {t.name}"))
            for t in schema.TABLES
            if views or not t.view
        }


def utterance_count(cache: Cache) -> int:
    with open_catalogue(cache) as connection:
        return int(rows(connection, "SELECT count(*) AS n FROM utterances")[0]["n"])


def test_schema_is_what_the_tables_are(cache):
    refresh(cache)
    with open_catalogue(cache) as connection:
        for table in schema.TABLES:
            found = connection.execute(f"DESCRIBE {table.name}").fetchall()
            assert [(name, kind.replace(" ", "")) for name, kind, *_ in found] == [
                (name, kind.replace(" ", "")) for name, kind, _ in table.columns
            ], table.name


def test_no_cache(cache):
    with pytest.raises(TfserError, match="no cache at"), open_catalogue(cache):
        pass
    assert not cache.root.exists()


def test_refresh_only_when_something_changed(cache, put_corpus):
    put_corpus(cache, corpus())
    assert refresh(cache)
    before = cache.catalogue.stat().st_ino
    assert not refresh(cache)
    assert cache.catalogue.stat().st_ino == before
    assert refresh(cache, rebuild=True)
    assert sorted(p.name for p in cache.root.iterdir()) == ["catalogue.duckdb", "corpora", "locks"]


def damage(path: Path, how: str) -> None:
    if how == "garbage":
        path.write_bytes(os.urandom(5000))
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:20000])
    elif how == "gone":
        path.unlink()
    else:
        path.unlink()
        with duckdb.connect(str(path)) as connection:
            if how == "older":
                connection.execute(f"CREATE TABLE meta AS SELECT {schema.VERSION - 1} AS version")
            connection.execute("CREATE TABLE something AS SELECT 1 AS a")


@pytest.mark.few(1)
@pytest.mark.parametrize("how", ["garbage", "empty", "cut", "gone", "older", "foreign"])
def test_rebuilt_from_files(cache, put_corpus, put_features, how):
    put_corpus(cache, corpus())
    put_features(cache, ["u0", "u1"])
    put_run(cache, "r1")
    before = everything(cache)
    damage(cache.catalogue, how)
    assert everything(cache) == before


def test_readers_keep_reading(cache, put_corpus):
    put_corpus(cache, corpus(3))
    with open_catalogue(cache) as old:
        put_corpus(cache, corpus(6))
        assert refresh(cache)
        assert rows(old, "SELECT count(*) AS n FROM folds") == [{"n": 9}]  # as it was when it was opened
        with open_catalogue(cache) as new:  # in the same process, beside the old one
            assert rows(new, "SELECT count(*) AS n FROM utterances") == [{"n": 6}]
            assert rows(old, "SELECT count(*) AS n FROM utterances") == [{"n": 3}]
        assert not refresh(cache)


def test_nobody_writes_through_a_connection(cache, put_corpus):
    put_corpus(cache, corpus())
    with open_catalogue(cache) as connection, pytest.raises(duckdb.Error, match="read-only"):
        connection.execute("DELETE FROM utterances")


HOLDER = """
import duckdb, os, sys
connection = duckdb.connect(sys.argv[1])
connection.execute("CREATE TABLE mine AS SELECT 1 AS a")
print("ready", flush=True)
for line in sys.stdin:
    connection.execute("INSERT INTO mine VALUES (2)")
    print("done", flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_a_writer_elsewhere_blocks_nobody(cache, put_corpus):
    put_corpus(cache, corpus(3))
    refresh(cache)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(cache.catalogue)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        assert cache.catalogue.with_name("catalogue.duckdb.wal").exists()
        assert utterance_count(cache) == 3
        put_corpus(cache, corpus(4))
        assert utterance_count(cache) == 4
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "done\n"
        assert utterance_count(cache) == 4
        holder.stdin.close()
    assert utterance_count(cache) == 4
    assert not refresh(cache)  # its log is gone, or we would begin anew each time
    assert not list(cache.root.glob("*.wal"))


@pytest.mark.slow
def test_a_writer_in_this_process(cache, put_corpus):
    put_corpus(cache, corpus(3))
    refresh(cache)
    with duckdb.connect(str(cache.catalogue)):
        assert utterance_count(cache) == 3
        put_corpus(cache, corpus(4))
        assert utterance_count(cache) == 4


def test_a_cache_that_cannot_be_written(cache, put_corpus, monkeypatch):
    put_corpus(cache, corpus(3))

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Cache, "lock", refuse)
    assert utterance_count(cache) == 3  # out of a private copy
    assert not cache.catalogue.exists()
    with pytest.raises(TfserError, match=r"catalogue\.duckdb cannot be written \(permission denied\); .* who may write there"):
        refresh(cache)


def test_files_that_go_away_meanwhile(cache, put_corpus, monkeypatch):
    put_corpus(cache, corpus())
    put_run(cache, "r1")
    put_run(cache, "r2")
    real, calls = catalogue.build, []

    def build(*args: Any, **named: Any) -> Any:
        if not calls:
            shutil.rmtree(cache.runs / "r2")
        calls.append(1)
        return real(*args, **named)

    monkeypatch.setattr(catalogue, "build", build)
    with open_catalogue(cache) as connection:
        assert rows(connection, "SELECT run_id FROM runs") == [{"run_id": "r1"}]
    assert len(calls) == 2


def _cut(cache: Cache) -> None:
    path = cache.runs / "bad" / "predictions.parquet"
    path.write_bytes(path.read_bytes()[:50])


def _break(cache: Cache) -> None:
    """Spoil the description at the end of the file, which DuckDB answers with an error that is none of its own."""
    path = cache.runs / "bad" / "predictions.parquet"
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    path.write_bytes(data[: -8 - length] + b"\xff" * length + data[-8:])


def _change(cache: Cache, **values: Any) -> None:
    path = cache.runs / "bad" / "run.json"
    write_json(path, json.loads(path.read_text()) | values)


def rarely(*case: Any) -> Any:
    """Return a case that goes the way of its neighbours, and is a slow one."""
    return pytest.param(*case, marks=pytest.mark.slow)


def _column(cache: Cache, **columns: Any) -> None:
    write_table(cache.runs / "bad" / "metrics.parquet", pa.table({"run_id": ["bad"], **columns}))


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("harm", "of", "reason"),
    [
        (_cut, "toy", "predictions.parquet"),
        (_break, "toy", "predictions.parquet: "),
        (lambda cache: (cache.runs / "bad" / "history.parquet").unlink(), "toy", "history.parquet"),
        (lambda cache: (cache.runs / "bad" / "run.json").write_text('{"run_id": "bad", "stat'), None, "run.json: is no JSON"),
        rarely(lambda cache: (cache.runs / "bad" / "run.json").write_text("[]"), None, "it describes no run"),
        rarely(lambda cache: _change(cache, seed=99999999999999999999), "toy", "out of range"),
        (lambda cache: _change(cache, seed=10**400), "toy", ""),
        rarely(lambda cache: _change(cache, fold="first"), "toy", "first"),
        rarely(lambda cache: _change(cache, run_id="good"), None, "it describes the run 'good'"),
        rarely(lambda cache: _change(cache, corpus=3, seed="x"), None, "corpus is 3"),
        rarely(lambda cache: _column(cache, value=["a half"]), "toy", "a half"),
        rarely(lambda cache: _column(cache, colour=["red"]), "toy", "colour"),
        (lambda cache: _column(cache, run_id=["good"]), "toy", "rows of another run"),
    ],
)
@pytest.mark.parametrize("rebuild", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_damaged_run_is_left_out_alone(cache, put_corpus, put_features, harm, of, reason, rebuild):
    put_corpus(cache, corpus(), skipped=[("u5", "scan")])
    put_run(cache, "good")
    put_run(cache, "bad", fold=2)
    if not rebuild:
        assert len(everything(cache, views=False)["runs"]) == 2
    harm(cache)
    os.utime(cache.runs / "bad" / "run.json")
    refresh(cache, rebuild=rebuild)
    put_features(cache, ["u0"])  # which reads the other lists of skipped utterances again
    found = everything(cache, views=False)
    for table in ("runs", "history", "metrics", "confusion", "predictions"):
        assert {json.loads(row)["run_id"] for row in found[table]} == {"good"}, table
    (listed,) = [row for row in map(json.loads, found["skipped"]) if row["stage"] == "run"]
    assert (listed["corpus"], listed["utterance_id"], listed["path"]) == (of, None, "runs/bad")
    assert reason in listed["reason"] and "\n" not in listed["reason"] and str(cache.root) not in listed["reason"]
    assert len(found["skipped"]) == 2
    refresh(cache, rebuild=True)
    assert everything(cache, views=False) == found
    put_run(cache, "bad", fold=2)
    found = everything(cache, views=False)
    assert len(found["runs"]) == 2 and len(found["skipped"]) == 1


@pytest.mark.slow
def test_runs_that_go_together_only_one_by_one(cache, put_corpus):
    """What one file is wide enough for may not be common to all."""
    put_corpus(cache, corpus())
    put_run(cache, "bad")
    put_run(cache, "good")
    _column(cache, value=pa.array([[0.5]], pa.list_(pa.float64())))
    put_run(cache, "third")
    assert [json.loads(row)["run_id"] for row in everything(cache)["runs"]] == ["good", "third"]


@pytest.mark.parametrize("file", ["corpora/toy/utterances.parquet"])
def test_damaged_files_are_named(cache, put_corpus, file):
    put_corpus(cache, corpus())
    (cache.root / file).write_bytes(b"garbage")
    with open_catalogue(cache) as connection:  # what hangs on them is left out
        (listed,) = rows(connection, "FROM skipped")
        assert rows(connection, "FROM corpora") == rows(connection, "FROM utterances") == []
    assert (listed["stage"], listed["path"]) == ("corpus", "corpora/toy")
    assert listed["reason"] == "utterances.parquet: is no Parquet file, or not all of one"
    with pytest.raises(TfserError, match=r"utterances\.parquet: is no Parquet file"):
        ensure_protocol(cache, "toy", "loso-speaker")
    assert not list(cache.root.glob(".*"))


def test_runs_count_when_they_are_finished(cache, put_corpus):
    put_corpus(cache, corpus())
    put_run(cache, "r1", status="running")
    assert everything(cache)["runs"] == []
    put_run(cache, "r1", wa=0.25)
    put_run(cache, "r2", wa=0.75, fold=2)
    with open_catalogue(cache) as connection:
        (score,) = rows(connection, "SELECT folds, WA, pooled_WA FROM scores")
        assert (score["folds"], score["WA"], score["pooled_WA"]) == (2, 0.5, 0.5)
    put_run(cache, "r1", wa=1.0)
    with open_catalogue(cache) as connection:
        assert rows(connection, "SELECT value FROM metrics WHERE metric = 'WA' ORDER BY 1") == [{"value": 0.75}, {"value": 1.0}]


def test_outdated_feature_sets_bear_their_fingerprint(cache, put_corpus, put_features):
    put_corpus(cache, corpus())
    put_features(cache, ["u0"])
    put_features(cache, ["u0", "u1"], shard="1")  # u0 in two shards: one of them serves
    folder = cache.feature_root / "logmel-fedcba543210"
    about = json.loads((cache.feature_root / "logmel-abcdef012345" / "feature_set.json").read_text())
    write_json(folder / "feature_set.json", about | {"fingerprint": "fedcba543210", "created_at": "2025-02-01T00:00:00"})
    with open_catalogue(cache) as connection:
        names = rows(connection, "SELECT feature_set FROM feature_sets ORDER BY 1")
        assert [row["feature_set"] for row in names] == ["logmel", "logmel@abcdef01"]
        found = rows(connection, "SELECT utterance_id, shard FROM features ORDER BY 1")
    prefix = "features/logmel-abcdef012345/toy"
    assert [(r["utterance_id"], r["shard"]) for r in found] == [("u0", f"{prefix}/0.h5"), ("u1", f"{prefix}/1.h5")]


def test_one_extraction_under_two_names_is_two_feature_sets(cache, put_corpus, put_features):
    """As `tfser cache collapse --name` makes them: one fingerprint, and each set has its own name and rows."""
    put_corpus(cache, corpus())
    put_features(cache, ["u0", "u1"], name="enc/3")
    put_features(cache, ["u2"], name="mine")
    with open_catalogue(cache) as connection:
        sets = rows(connection, "SELECT feature_set, fingerprint FROM feature_sets ORDER BY 1")
        ids = "list(utterance_id ORDER BY utterance_id) AS ids"
        found = rows(connection, f"SELECT feature_set, {ids} FROM features GROUP BY 1 ORDER BY 1")
    assert sets == [{"feature_set": name, "fingerprint": "abcdef012345"} for name in ("enc/3", "mine")]
    assert [(row["feature_set"], row["ids"]) for row in found] == [("enc/3", ["u0", "u1"]), ("mine", ["u2"])]


def test_hidden_folders_are_no_corpora(cache, put_corpus):
    put_corpus(cache, corpus())
    shutil.copytree(cache.root / "corpora" / "toy", cache.root / "corpora" / ".toy-being-removed")
    assert cache.corpora() == ["toy"]
    assert utterance_count(cache) == 6


def test_columns_of_a_removed_corpus_go(cache, put_corpus):
    put_corpus(cache, corpus(extra={"age": 3}))
    with open_catalogue(cache) as connection:
        assert rows(connection, "SELECT DISTINCT age FROM utterances") == [{"age": 3}]
    shutil.rmtree(cache.corpus("toy"))
    with open_catalogue(cache) as connection:
        names = [column[0] for column in connection.execute("DESCRIBE utterances").fetchall()]
    assert "age" not in names
    assert "content_hash" in names


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("corpus"), st.sampled_from(["toy", "two"]), st.sampled_from([0, 3, 5])),
        st.tuples(st.just("features"), st.sampled_from(["toy", "two"]), st.integers(1, 5)),
        st.tuples(st.just("run"), st.sampled_from(["r1", "r2"]), st.sampled_from(["finished", "running", "removed"])),
        st.tuples(st.just("protocol"), st.just("toy"), st.sampled_from(["group-kfold:2", "random-kfold:2"])),
        st.tuples(st.just("refresh"), st.just(""), st.just("")),
    ),
    min_size=2,
    max_size=7,
)


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_incremental_equals_rebuilt(tmp_path, put_corpus, put_features, steps):
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    cache = Cache(tmp_path / "cache")
    refresh(cache)
    for number, (what, which, value) in enumerate(steps):
        if what == "corpus" and value:
            put_corpus(cache, corpus(value, {f"own_of_{which}": value}), corpus=which)
        elif what == "corpus":
            shutil.rmtree(cache.root / "corpora" / which, ignore_errors=True)
        elif what == "features":
            put_features(cache, [f"u{i}" for i in range(value)], corpus=which, shard=str(number))
        elif what == "run" and value == "removed":
            shutil.rmtree(cache.runs / which, ignore_errors=True)
        elif what == "run":
            put_run(cache, which, status=value, wa=number / 10)
        elif what == "protocol" and which in cache.corpora():
            ensure_protocol(cache, which, value)
        else:
            refresh(cache)
    incremental = everything(cache)
    assert not refresh(cache)
    assert refresh(cache, rebuild=True)
    assert everything(cache) == incremental


def _refresh_often(root: str, failures: Any) -> None:
    cache = Cache(Path(root))
    try:
        for _ in range(3):
            refresh(cache, rebuild=True)
            with open_catalogue(cache) as connection:
                assert rows(connection, "SELECT count(*) AS n FROM utterances")[0]["n"] >= 3
    except Exception as error:
        failures.put(repr(error))


@pytest.mark.slow
def test_refreshes_from_several_processes(cache, put_corpus):
    put_corpus(cache, corpus(3))
    context = multiprocessing.get_context("spawn")
    failures = context.Queue()
    workers = [context.Process(target=_refresh_often, args=(str(cache.root), failures)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for n in range(4, 10):
        put_corpus(cache, corpus(n))
        assert utterance_count(cache) == n
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    assert failures.empty()
    assert utterance_count(cache) == 9
    assert not list(cache.root.glob(".*"))


def test_refreshes_from_several_threads(cache, put_corpus):
    put_corpus(cache, corpus(3))
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(utterance_count(cache))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [3] * 4


@pytest.fixture(scope="module")
def asked(tmp_path_factory, put_corpus) -> Cache:
    """A cache that is only asked."""
    cache = Cache(tmp_path_factory.mktemp("asked") / "cache")
    put_corpus(cache, corpus())
    refresh(cache)
    return cache


@pytest.fixture(scope="module")
def asking(asked: Cache) -> Iterator[Connection]:
    """The one connection that is asked: nothing that was refused may change it for what comes after."""
    with open_catalogue(asked) as connection:
        yield connection


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) FROM utterances",
        "WITH u AS (FROM utterances) SELECT * FROM u;",
        "-- a note\nFROM utterances LIMIT 1",
        "SELECT 1; -- a note behind",
        "(SELECT 1) UNION (SELECT 2)",
        "VALUES (1)",
        "TABLE utterances",
        "DESCRIBE utterances",
        "DESCRIBE",
        "SHOW TABLES",
        "SHOW ALL TABLES",
        "SUMMARIZE utterances",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "/* why */ explain (format json) SELECT 1",
        "EXPLAIN (SELECT 1)",
        "PIVOT utterances ON label USING count(*) GROUP BY speaker",
        "FROM utterances PIVOT (count(*) FOR label IN ('anger', 'neutral') GROUP BY speaker)",
        "UNPIVOT (SELECT 1 AS a, 2 AS b) ON a, b",
        "PRAGMA table_info('utterances')",
        "PRAGMA show_tables",
        "SELECT * FROM catalogue.main.utterances",
    ],
)
def test_select_reads(asking, query):
    assert select(asking, query).rows


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO utterances (corpus) VALUES ('x')",
        "UPDATE utterances SET label = 'x'",
        "DELETE FROM utterances",
        "TRUNCATE utterances",
        "CREATE TABLE t AS SELECT 1",
        "CREATE TEMP TABLE t AS SELECT 1",
        "DROP TABLE utterances",
        "ALTER TABLE utterances ADD COLUMN x INTEGER",
        "COPY utterances TO '{file}'",
        "COPY (SELECT 1) TO '{file}'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{file}'",
        "EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{file}'",
        "EXPLAIN /* x */ ANALYZE COPY (SELECT 1) TO '{file}'",
        "EXPLAIN ANALYZE EXPLAIN ANALYZE COPY (SELECT 1) TO '{file}'",
        "EXPORT DATABASE '{file}'",
        "ATTACH '{file}' AS x",
        "DETACH catalogue",
        "USE memory",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 1",
        "RESET threads",
        "PRAGMA memory_limit = '1GB'",
        "PRAGMA enable_profiling",
        "PRAGMA profiling_output = '{file}'",
        "CHECKPOINT",
        "VACUUM",
        "BEGIN",
        "PREPARE p AS SELECT 1",
        "CALL pragma_version()",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE utterances",
        "WITH x AS (INSERT INTO utterances (corpus) VALUES ('x') RETURNING *) FROM x",
        "",
        "-- nothing",
        "SELEC 1",
        "SELECT no_such_column FROM utterances",
        "FROM no_such_table",
        "SELECT utterance_id::INTEGER FROM utterances",
    ],
)
def test_select_refuses(asked, asking, tmp_path, query):
    before = asked.catalogue.read_bytes()
    with pytest.raises(UsageError, match="SQL: "):
        select(asking, query.format(file=tmp_path / "written"))
    assert not (tmp_path / "written").exists()
    assert asked.catalogue.read_bytes() == before


def test_a_refresh_takes_away_what_killed_writers_left_and_nothing_of_those_at_work(cache, put_corpus):
    put_corpus(cache, [])
    name = cache.root / ".names.json.1-ab.tmp"
    name.write_text("")
    with cache.lock("names"):
        refresh(cache, rebuild=True)
    assert name.exists()
    refresh(cache, rebuild=True)
    assert not name.exists()
