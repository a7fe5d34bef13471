"""What users' SQL may reach: the catalogue, and nothing else; and paths that are not patterns."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from pathlib import Path

import pytest

from tfser.manifests.audits.run import audits_in, parse_audit, run_audits
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh
from tfser.manifests.catalogue.statements import select, select_arrow
from tfser.manifests.connections import interruptibly, lock_down, open_memory, quote, quote_name, threads_asked
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.protocols.conditions import check_condition
from tfser.manifests.utterances import Utterance

HEADER = "-- title: t\n-- level: error\n-- explanation: e\n-- action: a\n"
FOUND = "SELECT 'p' AS protocol, 'toy' AS corpus, NULL AS fold, 'error' AS level"
secret = "a variable of this module"


def utterances(n: int) -> list[Utterance]:
    return [
        Utterance(utterance_id=f"u{i}", path=f"u{i}.wav", speaker=f"s{i % 3}", label=("anger", "neutral")[i % 2])
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def asked(tmp_path_factory, put_corpus) -> Cache:
    """A cache that is only asked, with a file beside it that nobody may read."""
    root = tmp_path_factory.mktemp("edges")
    cache = Cache(root / "cache")
    put_corpus(cache, utterances(6))
    refresh(cache)
    (root / "x.csv").write_text("secret\nswordfish\n", encoding="utf-8")
    return cache


READS_FILES = [
    "FROM '{csv}'",
    "SELECT * FROM read_text('{csv}')",
    "SELECT * FROM read_blob('{csv}')",
    "SELECT * FROM read_csv('{csv}')",
    "SELECT * FROM read_json('{csv}')",
    "SELECT * FROM read_parquet('{parquet}')",
    "SELECT * FROM parquet_metadata('{parquet}')",
    "SELECT * FROM sniff_csv('{csv}')",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM read_text('/proc/self/environ')",
    "SELECT * FROM read_csv('https://example.invalid/x.csv')",
    "SELECT * FROM 's3://bucket/x.parquet'",
    "SELECT * FROM query('SELECT * FROM read_text(''{csv}'')')",
    "SELECT * FROM query_table('{csv}')",
    "SELECT getenv('HOME')",
    "FROM secret",
    "SELECT (SELECT content FROM read_text('{csv}'))",
    "EXPLAIN ANALYZE SELECT * FROM read_text('{csv}')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM read_text(''{csv}'')'))",
]
OTHERS = [
    "COPY (SELECT 1) TO '{written}'",
    "ATTACH '{written}' AS x",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "PRAGMA enable_profiling",
    "MERGE INTO utterances USING utterances u ON FALSE WHEN NOT MATCHED THEN INSERT BY NAME",
    "WITH x AS (INSERT INTO utterances (corpus) VALUES ('x') RETURNING *) FROM x",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{written}'",
    "SELECT 1; COPY (SELECT 1) TO '{written}'",
    "CALL enable_logging()",
    "CREATE SECRET (TYPE s3)",
]


def filled(text: str, cache: Cache) -> str:
    root = cache.root.parent
    parquet = cache.corpus("toy") / "utterances.parquet"
    return text.format(csv=root / "x.csv", folder=root, parquet=parquet, written=root / "written")


@pytest.mark.few(16)
@pytest.mark.parametrize("text", [*READS_FILES, *OTHERS])
def test_sql_reaches_no_file_no_address_and_no_variable(asked, text):
    with open_catalogue(asked) as connection:
        for ask in (select, select_arrow):
            with pytest.raises(UsageError, match="SQL: ") as caught:
                ask(connection, filled(text, asked))
            assert "swordfish" not in str(caught.value) and "\n" not in str(caught.value)
    assert not (asked.root.parent / "written").exists()


@pytest.mark.few(5)
@pytest.mark.parametrize("text", READS_FILES)
def test_an_audit_reaches_no_file(asked, text):
    if text.startswith("EXPLAIN"):
        return
    audit = parse_audit("own", f"{HEADER}SELECT *, 'p' AS protocol, 'error' AS level, NULL AS fold FROM ({filled(text, asked)})")
    with open_catalogue(asked) as connection, pytest.raises(TfserError, match="audit own: "):
        run_audits(connection, protocol="p", corpus="toy", audits=[audit])


@pytest.mark.parametrize(
    "query",
    [
        f"{FOUND} ) SELECT 1; COPY (SELECT 1) TO '{{written}}'; WITH found AS ({FOUND}",
        f"{FOUND} WHERE FALSE; {FOUND}",
        "COPY (SELECT 1) TO '{written}'",
        "PRAGMA show_tables",
        "CREATE TABLE t AS SELECT 1",
        "SELECT 1 /* an open comment",
        "-- nothing",
    ],
)
def test_an_audit_is_one_select(asked, query):
    with pytest.raises(TfserError, match=r"audit own\.sql: "):
        parse_audit("own", HEADER + filled(query, asked))
    assert not (asked.root.parent / "written").exists()


def test_an_audit_may_end_in_a_semicolon_and_a_note(asked):
    audit = parse_audit("own", f"{HEADER}{FOUND} -- one\n;  -- and the end")
    with open_catalogue(asked) as connection:
        found = run_audits(connection, protocol="p", corpus="toy", audits=[audit])
    assert [(f.audit, f.level, f.rows) for f in found] == [("own", "error", 1)]


def test_audit_files_of_other_kinds(tmp_path):
    (tmp_path / "x.sql").mkdir()
    with pytest.raises(UsageError, match=r"audit .*x\.sql: cannot be read \(is a directory\)"):
        audits_in(tmp_path)
    (tmp_path / "x.sql").rmdir()
    (tmp_path / "y.sql").write_bytes(HEADER.encode() + b"SELECT '\xe9'")
    with pytest.raises(UsageError, match=r"audit .*y\.sql: line 5 is not UTF-8"):
        audits_in(tmp_path)
    (tmp_path / "y.sql").write_bytes(b"\xef\xbb\xbf" + HEADER.encode() + FOUND.encode())
    assert [audit.name for audit in audits_in(tmp_path)] == ["y"]


def test_the_connection_cannot_be_opened_again(asked):
    with open_catalogue(asked) as connection:
        for name in ("enable_external_access", "python_enable_replacements", "lock_configuration"):
            statement = f"SET {name} = {str(name != 'lock_configuration').lower()}"
            with pytest.raises(Exception, match=r"configuration|external access|cannot be"):
                connection.execute(statement)


def test_conditions_run_on_such_a_connection():
    assert check_condition("duration_s < 10", "x") == {"duration_s"}
    with pytest.raises(UsageError, match="sub-query"):
        check_condition("label IN (SELECT content FROM read_text('/etc/passwd'))", "x")


AWKWARD = ["exp[1]", "ex*", "exp?", "a]b", "{a,b}", "[!a]", "label=foo", "a'b", "x%20y", "[[]", "é\u0301"]


@pytest.mark.slow
def test_a_cache_in_an_awkward_folder_is_no_pattern(tmp_path, put_corpus):
    """A sibling that the pattern would match holds more rows; a folder label=foo would give every row that label."""
    put_corpus(Cache(tmp_path / "exp1"), utterances(9))
    put_corpus(Cache(tmp_path / "a"), utterances(9))
    for name in AWKWARD:
        cache = Cache(tmp_path / name / "cache")
        put_corpus(cache, utterances(4))
        with open_catalogue(cache) as connection:
            assert connection.execute("SELECT count(*), min(label) FROM utterances").fetchone() == (4, "anger"), name
        assert cache.catalogue.is_file(), name
        assert not [p for p in tmp_path.rglob("*.wal*") if p.is_file()], name


def test_names_are_quoted():
    with contextlib.closing(open_memory()) as connection:
        name, text = 'a "b"', "it's"
        found = connection.execute(f"SELECT {quote(text)} AS {quote_name(name)}")
        assert found.description[0][0] == name and found.fetchone() == (text,)


def test_a_folder_that_is_no_cache_stays_as_it_is(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match=r"no cache at .* holds none of what a cache does"), open_catalogue(Cache(tmp_path)):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_query_is_interrupted_at_once():
    """Also a recursive one, which looks for no signal while it runs."""
    endless = "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 1000000000) SELECT count(*) FROM r"
    with contextlib.closing(open_memory()) as connection:
        lock_down(connection)
        main = threading.main_thread().ident
        assert main is not None
        threading.Timer(0.5, signal.pthread_kill, [main, signal.SIGINT]).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            interruptibly(connection, lambda: connection.execute(endless).fetchall())
        assert time.monotonic() - began < 20
        assert connection.execute("SELECT 1").fetchone() == (1,)  # nothing runs in it any more


def test_spilling_leaves_nothing_in_the_working_folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(open_memory()) as connection:
        connection.execute("SET memory_limit = '60MB'")
        connection.execute("SET threads = 1")
        lock_down(connection)
        sorted_rows = "SELECT count(*) FROM (SELECT range AS i, hash(range) AS h FROM range(3000000) ORDER BY h OFFSET 1)"
        assert connection.execute(sorted_rows).fetchone() == (2999999,)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("said", "threads"), [("1", 1), ("3", 3), ("", None), ("2,1", None), ("0", None), ("many", None)])
def test_threads_are_limited_as_those_of_other_libraries_are(
    said: str, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert threads_asked() == ({} if threads is None else {"threads": threads})
    if threads == 3:
        with contextlib.closing(open_memory()) as connection:
            assert connection.execute("SELECT current_setting('threads')").fetchone() == (3,)
