"""A user's own protocol in TOML: what it makes, what it is called, and every way to get it wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tfser.manifests.audits.run import packaged_audits, run_audits
from tfser.manifests.catalogue.reading import open_catalogue, refresh, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.protocols.own import own_protocols, parse_own
from tfser.manifests.splits.choose import choose_protocol
from tfser.manifests.utterances import Utterance


def corpus(speakers: int = 4, labels: tuple[str, ...] = ("anger", "neutral", "sadness")) -> list[Utterance]:
    return [
        Utterance(
            utterance_id=f"s{s}_{i}",
            path=f"s{s}_{i}.wav",
            speaker=f"s{s}",
            session=f"S{(s + 1) // 2}",
            scenario=("improvised", "scripted")[i % 2],
            label=labels[i % len(labels)],
        )
        for s in range(1, speakers + 1)
        for i in range(6)
    ]


def write(folder: Path, text: str, name: str = "my.toml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def made(connection, protocol) -> dict[tuple[int, str], list[str]]:
    found: dict[tuple[int, str], list[str]] = {}
    for row in rows(connection, "SELECT * FROM fold_utterances WHERE protocol = ? ORDER BY utterance_id", [protocol]):
        found.setdefault((row["fold"], row["role"]), []).append(row["utterance_id"])
    return found


def speakers(ids: list[str]) -> list[str]:
    return sorted({name.split("_")[0] for name in ids})


def test_a_whole_file(cache, put_corpus, tmp_path):
    put_corpus(cache, corpus(), corpus="one")
    put_corpus(cache, corpus(), corpus="two")
    path = write(
        tmp_path,
        """
        name = "mine"
        version = 3
        summary = "improvised, as we cut it"
        corpus = "one"
        where = "scenario = 'improvised'"
        folds = [["s1", "s4"], ["s2"], ["s3"]]
        keeps_apart = ["speaker"]
        validation = "next-group"
        used_by = ["us"]
        [labels]
        neg = ["anger", "sad"]
        neu = ["neutral"]
        """,
    )
    chosen, name = choose_protocol(cache, None, path)
    assert chosen == "one" and name.startswith("mine.") and len(name) == 13
    with open_catalogue(cache) as connection:
        (about,) = rows(connection, "SELECT * FROM protocols WHERE protocol = ?", [name])
        folds = made(connection, name)
    assert {k: about[k] for k in ("corpus", "version", "folds", "classes", "validation", "summary", "used_by")} == {
        **{"corpus": "one", "version": 3, "folds": 3, "classes": ["neg", "neu"], "validation": "next-group"},
        **{"summary": "improvised, as we cut it", "used_by": ["us"]},
    }
    assert [speakers(folds[k, "test"]) for k in (1, 2, 3)] == [["s1", "s4"], ["s2"], ["s3"]]
    assert [speakers(folds[k, "val"]) for k in (1, 2, 3)] == [["s2"], ["s3"], ["s1", "s4"]]
    assert all(int(i[-1]) % 2 == 0 for ids in folds.values() for i in ids)


@pytest.mark.slow
def test_the_cache_needs_the_file_no_more(cache, put_corpus, tmp_path):
    put_corpus(cache, corpus())
    path = write(tmp_path, 'name = "mine"\nk = 2')
    _, name = choose_protocol(cache, None, path)
    Path(path).unlink()
    cache.catalogue.unlink()
    with open_catalogue(cache) as connection:
        first = made(connection, name)
    assert len(first) == 4
    assert choose_protocol(cache, None, name) == ("toy", name)  # the long name serves in its place
    assert choose_protocol(cache, None, name, labels="common4", validation="speakers:1")[1] == f"{name}@common4/speakers:1"
    cache.catalogue.unlink()
    with open_catalogue(cache) as connection:
        assert made(connection, name) == first
        assert len(made(connection, f"{name}@common4/speakers:1")) == 6
    kept = cache.protocols / f"{name}.toml"
    kept.write_text(kept.read_text() + "\n# a remark")
    assert name in own_protocols(cache)
    kept.write_text('name = "mine"\nk = 3')
    with open_catalogue(cache) as connection:  # a damaged one costs nobody the rest
        assert rows(connection, "SELECT count(*) AS n FROM utterances") == [{"n": 24}]
        assert rows(connection, "SELECT * FROM protocols WHERE protocol = ?", [name]) == []
    with pytest.raises(TfserError, match=rf"{name}\.toml: its content is not what was written there; name your own file again"):
        choose_protocol(cache, None, f"{name}@common4")


def test_the_name_is_of_the_content():
    a = parse_own('name = "x"\nk = 2\nvalidation = "none"', "a.toml").protocol
    assert parse_own('# mine\nvalidation="none"\n\n\nk=2\nname = "x"  # so', "b.toml").protocol == a
    others = ('name = "x"\nk = 3', 'name = "x"\nk = 2', 'name = "x"\nk = 2\nvalidation = "speakers:1"')
    assert len({parse_own(text, "c.toml").protocol.name for text in others} | {a.name}) == 4


@pytest.mark.slow
def test_ids_and_sides(cache, put_corpus, tmp_path):
    put_corpus(cache, corpus())
    ids = 'name = "ids"\ngrouped_by = "utterance_id"\nothers = "leave-out"\n'
    split = ids + "[sides]\ntrain = ['s1_0', 's1_1', 's2_3']\nval = ['s3_0']\ntest = ['s4_1']\n"
    by_fold = ids + "folds = [['s1_0', 's2_1'], ['s3_0', 's4_1']]"
    _, fixed = choose_protocol(cache, None, write(tmp_path, split))
    _, dealt = choose_protocol(cache, None, write(tmp_path, by_fold))
    with open_catalogue(cache) as connection:
        assert made(connection, fixed) == {(1, "train"): ["s1_0", "s1_1", "s2_3"], (1, "val"): ["s3_0"], (1, "test"): ["s4_1"]}
        assert rows(connection, "SELECT validation AS v FROM protocols WHERE protocol = ?", [fixed]) == [{"v": "split"}]
        assert made(connection, dealt) == {
            **{(1, "test"): ["s1_0", "s2_1"], (1, "train"): ["s3_0", "s4_1"]},
            **{(2, "test"): ["s3_0", "s4_1"], (2, "train"): ["s1_0", "s2_1"]},
        }


@pytest.mark.few(1)
@pytest.mark.parametrize(("others", "sizes"), [("train", {1: (18, 6), 2: (18, 6)}), ("leave-out", {1: (6, 6), 2: (6, 6)})])
def test_who_is_in_no_list(cache, put_corpus, tmp_path, others, sizes):
    put_corpus(cache, corpus())
    _, name = choose_protocol(cache, None, write(tmp_path, f'name = "x"\nothers = "{others}"\nfolds = [["s1"], ["s3"]]'))
    with open_catalogue(cache) as connection:
        folds = made(connection, name)
        assert {k: (len(folds[k, "train"]), len(folds[k, "test"])) for k in (1, 2)} == sizes
    split = f'name = "y"\nothers = "{others}"\n[sides]\ntrain=["s1"]\ntest=["s3"]'
    _, name = choose_protocol(cache, None, write(tmp_path, split))
    with open_catalogue(cache) as connection:
        folds = made(connection, name)
    assert len(folds[1, "train"]) == sizes[1][0] and len(folds[1, "test"]) == 6


@pytest.mark.slow
def test_by_default_nobody_is_forgotten(cache, put_corpus, tmp_path):
    put_corpus(cache, corpus())
    _, name = choose_protocol(cache, None, write(tmp_path, 'name = "x"\nfolds = [["s1"], ["s3"]]'))
    with open_catalogue(cache) as connection:
        chosen = [a for a in packaged_audits() if a.name == "utterance_in_no_fold"]
        (finding,) = run_audits(connection, protocol=name, corpus="toy", audits=chosen)
    assert (finding.level, finding.rows) == ("error", 12)


@pytest.mark.slow
def test_several_corpora(cache, put_corpus, tmp_path):
    for name in ("one", "two"):
        put_corpus(cache, corpus(speakers=3), corpus=name)
    text = 'name = "x"\ncorpora = ["two", "one"]\n'
    _, dealt = choose_protocol(cache, None, write(tmp_path, text + "k = 3\nvalidation = 'speakers:1'"))
    listed = text + 'folds = [["one/s1", "two/s1"], ["one/s2"], ["two/s2", "one/s3", "two/s3"]]'
    chosen, by_hand = choose_protocol(cache, None, write(tmp_path, listed))
    assert chosen == "one+two"
    with open_catalogue(cache) as connection:
        groups = rows(connection, 'SELECT DISTINCT corpus, "group" FROM assignments WHERE protocol = ? ORDER BY ALL', [dealt])
        assert [r["group"] for r in groups] == [f"{c}/s{i}" for c in ("one", "two") for i in (1, 2, 3)]
        folds = rows(
            connection,
            "SELECT fold, role, list_sort(list(DISTINCT corpus || '/' || speaker)) AS who FROM fold_utterances "
            "WHERE protocol = ? AND role = 'test' GROUP BY ALL ORDER BY fold",
            [by_hand],
        )
        assert [f["who"] for f in folds] == [["one/s1", "two/s1"], ["one/s2"], ["one/s3", "two/s2", "two/s3"]]
        held = rows(
            connection,
            "SELECT fold, count(DISTINCT (corpus, speaker)) AS n FROM fold_utterances "
            "WHERE protocol = ? AND role = 'val' GROUP BY 1",
            [dealt],
        )
        assert [r["n"] for r in held] == [1, 1, 1]


@pytest.mark.slow
def test_a_condition_that_fails_on_some_row_breaks_nothing_else(cache, put_corpus, tmp_path):
    put_corpus(cache, corpus())
    condition = "raw_label IS NULL OR raw_label::INT > 2"
    _, name = choose_protocol(cache, None, write(tmp_path, f"name = 'x'\nk = 2\nwhere = '{condition}'"))
    put_corpus(cache, [replace(u, raw_label="three") for u in corpus()])  # scanned anew, and no number any more
    refresh(cache)
    with open_catalogue(cache) as connection:
        found = {r["protocol"] for r in rows(connection, "FROM protocols")}
    assert found == {"loso-speaker", "loso-session"} and name not in found
    with pytest.raises(TfserError, match="its condition cannot be computed"):
        choose_protocol(cache, None, name)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("name = ", "this is no TOML"),
        ("k = 2", "name: is missing"),
        ('name = "a b"', "name: 'a b': use letters"),
        ('name = "loso-speaker"', "name: 'loso-speaker': is the name of a protocol that tfser knows"),
        ('nmae = "x"', "nmae: there is no such key; did you mean 'name'"),
        ('name = "x"\ngroup_by = "speaker"', "group_by: there is no such key; did you mean 'grouped_by'"),
        ('zzqq = "x"', "zzqq: there is no such key; Known: name"),
        ('name = "x"\nk = 1', "k: is a whole number from 2"),
        ('name = "x"\nk = true', "k: is a whole number from 2"),
        ('name = "x"\nversion = 2147483648', "version: is a whole number from 1"),
        ('name = "x"\n[labels]\n" " = ["a"]\nb = ["b"]', "labels: a class has no name"),
        ('name = "x"\nk = 2\nfolds = [["a"],["b"]]', "k: k, folds and sides exclude each other"),
        ('name = "x"\nfolds = [["a"]]', "folds: is a list of at least two folds"),
        ('name = "x"\nfolds = [["a"], ["b", 3]]', "folds: is a list"),
        ('name = "x"\nfolds = [["a"], ["b", "a"]]', "folds: 'a' stands in two places"),
        ('name = "x"\n[sides]\ntrain = ["a"]', "sides: is a table with the lists train, test"),
        ('name = "x"\n[sides]\ntrain = ["a"]\ntest = ["b"]\ndev = ["c"]', "sides.dev: there is no such side"),
        ('name = "x"\n[sides]\ntrain = ["a"]\ntest = ["a"]', "sides: 'a' stands in two places"),
        ('name = "x"\nothers = "train"', "others: goes with folds or sides"),
        ('name = "x"\nfolds = [["a"],["b"]]\nothers = "drop"', "others: 'drop' is none of error, leave-out, train"),
        ('name = "x"\ngrouped_by = "utterance_id"', "grouped_by: utterance_id needs k, folds or sides"),
        ('name = "x"\nlabels = "anger"', "labels: label map 'anger' makes fewer than two classes"),
        ('name = "x"\n[labels]\na = "anger"', "labels.a: is a list of labels"),
        ('name = "x"\n[labels]\na = ["anger"]\nb = ["ang"]', "labels.b: 'ang' stands in two classes"),
        ('name = "x"\n[labels]\na = ["anger"]', "labels: one class is no task"),
        ('name = "x"\n[labels]\na = ["anger"]\nb = ["xxx"]', "labels: 'undecided' says that the raters did not agree"),
        ('name = "x"\nwhere = "DELETE FROM utterances"', "where: .* is no SQL condition"),
        ('name = "x"\nwhere = "label = (SELECT 1)"', "where: .* sub-query"),
        ('name = "x"\nwhere = 3', "where: is a text in quotes"),
        ('name = "x"\nkeeps_apart = ["speakers"]', "keeps_apart: 'speakers' is none of speaker, session"),
        ('name = "x"\nkeeps_apart = "speaker"', "keeps_apart: is a list of texts"),
        ('name = "x"\nvalidation = "speakers"', "validation: .*say how many speakers"),
        ('name = "x"\nvalidation = "random:0.1"', "validation: .*random-leaky:0.1"),
        ('name = "x"\nvalidation = "next-group"\n[sides]\ntrain = ["a"]\ntest = ["b"]', "validation: .*one fold only"),
        ('name = "x"\nvalidation = "speakers:1"\n[sides]\ntrain = ["a"]\nval = ["c"]\ntest = ["b"]', "validation: .*own val"),
        ('name = "x"\ncorpus = "a"\ncorpora = ["b"]', "corpora: corpus and corpora exclude each other"),
        ('name = "x"\ncorpora = ["a", "a"]', "corpora: name each corpus once"),
        ('name = "x"\ncorpus = "a/b"', "corpus: corpus name 'a/b'"),
        ('name = "x"\ncorpora = ["a", "b"]\nfolds = [["s1"], ["b/s2"]]', "folds: 's1': over several corpora write corpus/value"),
    ],
)
def test_every_mistake_names_file_and_key(text, error):
    with pytest.raises(UsageError, match=f"^my.toml: {error}"):
        parse_own(text, "my.toml")


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('name = "x"\ngrouped_by = "sesion"', r"unknown column of utterances, .*'sesion'; did you mean 'session'"),
        ('name = "x"\nwhere = "senario = 1"', r"unknown column of utterances, .*'senario'; did you mean 'scenario'"),
        ('name = "x"\nlabel_column = "mood"', r"unknown column of utterances, .*'mood'"),
        ('name = "x"\nfolds = [["s1"], ["s9"]]', r"it lists 's9' of the column speaker"),
        ('name = "x"\n[sides]\ntrain = ["s1"]\ntest = ["s9"]', r"it lists 's9' of the column speaker"),
        ('name = "x"\nwhere = "label > 3"', r"its condition cannot be computed"),
        ('name = "x"\ncorpus = "tou"', r"unknown corpus in the cache 'tou'; did you mean 'toy'"),
    ],
)
def test_what_the_corpus_lacks(cache, put_corpus, tmp_path, text, error):
    put_corpus(cache, corpus())
    with pytest.raises(TfserError, match=error):
        choose_protocol(cache, None, write(tmp_path, text))
    assert not list(cache.protocols.glob("*"))  # nothing is kept of what cannot be made


def test_files_that_cannot_be_read(cache, put_corpus, tmp_path):
    put_corpus(cache, corpus())
    with pytest.raises(UsageError, match=r"protocol file .*nowhere\.toml: cannot be read"):
        choose_protocol(cache, None, str(tmp_path / "nowhere.toml"))
    (tmp_path / "latin.toml").write_bytes('name = "é"'.encode("latin-1"))
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        choose_protocol(cache, None, str(tmp_path / "latin.toml"))
    with pytest.raises(UsageError, match=r"unknown protocol 'mine\.12345678'"):
        choose_protocol(cache, None, "mine.12345678")
