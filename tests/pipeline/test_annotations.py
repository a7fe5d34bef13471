"""Single ratings on their way into the catalogue: the corpus's own files, tables by --annotations, and what is listed."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfser.manifests.annotations import Annotation
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.catalogue.stored import ANNOTATIONS
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.utterances import Utterance
from tfser.pipeline.corpora import crema_d, iemocap
from tfser.pipeline.corpora.annotation_file import read_annotations
from tfser.pipeline.verify import verify

from ..conftest import run

UTTERANCES = [
    Utterance(utterance_id="one", path="a/clip1.wav"),
    Utterance(utterance_id="two", path="b/clip1.wav"),
    Utterance(utterance_id="three", path="b/clip3.wav"),
]


def test_rows_by_id_path_and_name_and_what_is_listed(tmp_path):
    file = tmp_path / "ratings.csv"
    file.write_text(
        "FileName,Worker,EmoClass,Val\n"
        "one,w1,Angry,2.5\nb/clip3.wav,w1,happy;sad,\nclip3,w2,Neutral,\n"
        "clip1,w2,Neutral,\nclip1,w3,Neutral,\nthree,w3,,x\n,w4,Neutral,\ntwo,w4,,\n"
        "C:\\x\\b\\clip3.wav,w5,Fear,\nother/clip3.wav,w6,Fear,\n",
        encoding="utf-8",
    )
    found, passed = read_annotations(file, {}, UTTERANCES)
    assert found == [
        Annotation(utterance_id="one", rater="w1", label="anger", valence=2.5),
        Annotation(utterance_id="three", rater="w1", label="happiness"),
        Annotation(utterance_id="three", rater="w1", label="sadness"),
        Annotation(utterance_id="three", rater="w2", label="neutral"),
        Annotation(utterance_id="three", rater="w5", label="fear"),
    ]
    # Two files are called clip1: nobody is meant by it. What cannot be used is listed, row by row or by name.
    assert [(name, reason) for name, _, reason in passed] == [
        ("three", "row 6: valence 'x' is no number"),
        (None, "row 7 names no utterance"),
        ("two", "row 8: it has neither a label nor a value"),
        ("clip1", "2 ratings of an utterance that the corpus has not"),
        ("other/clip3.wav", "1 rating of an utterance that the corpus has not"),  # as dev/x.wav beside train/x.wav
    ]


@pytest.mark.parametrize(
    ("text", "columns", "error", "says"),
    [
        ("who,label\n1,anger\n", {}, UsageError, "no column names utterances"),
        ("id,who\none,2\n", {}, UsageError, "no column rates anything"),
        ("id,label\nfour,anger\n", {}, TfserError, "no row rates an utterance"),
        ("id,label\none,anger\n", {"rater": "who"}, UsageError, "has no column who"),
        ("id,label\none,anger\n", {"speaker": "id"}, UsageError, "speaker is none of"),
        ("", {}, TfserError, "empty"),
    ],
)
def test_files_that_say_nothing(tmp_path, text, columns, error, says):
    (tmp_path / "r.csv").write_text(text, encoding="utf-8")
    with pytest.raises(error, match=says):
        read_annotations(tmp_path / "r.csv", columns, UTTERANCES)
    with pytest.raises(UsageError, match="no such file"):
        read_annotations(tmp_path / "none.csv", {}, UTTERANCES)


def test_iemocaps_ratings_are_those_below_the_turns_and_of_the_folders(tmp_path, iemocap_tree, write_wav):
    root, wav = tmp_path / "IEMOCAP", write_wav(tmp_path / "one.wav", 0.05)
    iemocap_tree.make_tree(root, [iemocap_tree.Turn("Ses01F_impro01_F000", "neu")], wav)
    folder = root / "Session1" / "dialog" / "EmoEvaluation"
    (folder / "Categorical" / "Ses01F_impro01_e2_cat.txt").write_text(
        "Ses01F_impro01_F000 :Sadness; ()\nSes01F_impro09_M000 :Neutral state; :Frustration; (so)\n", encoding="utf-8"
    )
    (folder / "Attribute" / "Ses01F_impro01_e2_atr.txt").write_text(
        "Ses01F_impro09_M000 :act 4; :val 3; :dom  2; ()\n", encoding="utf-8"
    )
    turn, other = "Ses01F_impro01_F000", "Ses01F_impro09_M000"
    listener = {"setting": "multimodal"}
    assert iemocap.read(root, {}).annotations == [
        Annotation(utterance_id=turn, rater="C-E1", label="anger", **listener),
        Annotation(utterance_id=turn, rater="C-E1", label="disgust", **listener),
        Annotation(utterance_id=turn, rater="C-F1", label="neutral", setting="self", counts=False),
        Annotation(utterance_id=turn, rater="A-E1", valence=3, arousal=2, dominance=2, **listener),
        # Below that turn stands nothing, so the folders are asked; a turn that is rated above is not counted twice.
        Annotation(utterance_id=other, rater="C-E2", label="neutral", **listener),
        Annotation(utterance_id=other, rater="C-E2", label="frustration", **listener),
        Annotation(utterance_id=other, rater="A-E2", valence=3, arousal=4, dominance=2, **listener),
    ]


def test_crema_ds_votes_have_raters_where_the_answers_are_there(tmp_path, write_wav):
    write_wav(tmp_path / "AudioWAV" / "1001_IEO_ANG_MD.wav", 0.05)
    (tmp_path / "tabulatedVotes.csv").write_text(
        '"","A","D","F","H","N","S","fileName","numResponses"\n"100009",2,0,0,0,1,0,"1001_IEO_ANG_MD",3\n'
        '"200009",0,0,0,1,0,0,"1001_IEO_ANG_MD",1\n'
    )
    clip, face = {"utterance_id": "1001_IEO_ANG_MD"}, {"setting": "face", "counts": False}
    assert crema_d.read(tmp_path, {}).annotations == [
        *(Annotation(**clip, label="anger", setting="voice") for _ in range(2)),
        Annotation(**clip, label="neutral", setting="voice"),
        Annotation(**clip, label="happiness", **face),
    ]
    (tmp_path / "finishedResponses.csv").write_text(
        '"","localid","pos","ans","ttr","queryType","clipName","respEmo"\n'
        '"1","7",1,"A_70",900,1,"1001_IEO_ANG_MD","A"\n"2","8",1,"N_20",900,2,"1001_IEO_ANG_MD.flv","N"\n'
        '"3","9",1,"X_20",900,1,"1001_IEO_ANG_MD","X"\n'
    )
    reading = crema_d.read(tmp_path, {})
    assert reading.annotations == [
        Annotation(**clip, rater="7", label="anger", setting="voice"),
        Annotation(**clip, rater="8", label="neutral", **face),
    ]
    assert [reason for _, _, reason in reading.unused_ratings] == [
        "row 3: the emotion 'X' or the kind of query '1' is none of the corpus's"
    ]


def test_from_the_command_line_to_the_catalogue_and_back(tmp_path, write_wav):
    for name in ("x", "y"):
        write_wav(tmp_path / f"{name}.wav", 0.1, seed=ord(name))
    (tmp_path / "toy.csv").write_text("path,label\nx.wav,anger\ny.wav,fear\n")
    ratings = tmp_path / "r.tsv"
    ratings.write_text("clip\twho\tlabel\nx\t1\tanger\nx\t2\tfear\ny\t1\tfear\nz\t1\tfear\n")
    cache = Cache(tmp_path / "cache")
    words = ("scan", "--corpus", "table", "--table", tmp_path / "toy.csv", "--cache", cache.root)
    more = ("--annotations", ratings, "--annotation-column", "rater=who")
    refused = run(*words, "--annotation-column", "rater=who")
    assert refused.exit_code == 2 and "goes with --annotations" in refused.output
    found = run(*words, *more)
    assert found.exit_code == 0, found.output
    assert "3 ratings of 2 utterances by 2 raters" in found.output
    assert "1 lines of ratings are of no use" in found.output and "z: 1 rating of an utterance" in found.output
    with open_catalogue(cache) as connection:
        assert [row["rater"] for row in rows(connection, "FROM annotations ORDER BY utterance_id, rater")] == ["1", "2", "1"]
        listed = rows(connection, "SELECT utterance_id FROM skipped WHERE stage = 'rating'")
    assert listed == [{"utterance_id": "z"}]
    # What was said once holds, and nothing is written where nothing changed.
    stamp = (cache.corpus("toy") / ANNOTATIONS).stat().st_mtime_ns
    again = run("scan", "--corpus", "toy", "--cache", cache.root)
    assert "nothing had changed" in again.output and (cache.corpus("toy") / ANNOTATIONS).stat().st_mtime_ns == stamp
    assert verify(cache) == []
    (cache.corpus("toy") / ANNOTATIONS).write_bytes(b"PAR1 no more PAR1")
    assert [(problem.path, problem.kind) for problem in verify(cache)] == [(f"corpora/toy/{ANNOTATIONS}", "damaged")]
    with open_catalogue(cache) as connection:  # the utterances stay, and the loss is said
        assert rows(connection, "SELECT count(*) AS n FROM utterances") == [{"n": 2}]
        assert [r["stage"] for r in rows(connection, "SELECT stage FROM skipped WHERE stage = 'annotations'")] == ["annotations"]
    (cache.corpus("toy") / ANNOTATIONS).unlink()
    assert [problem.kind for problem in verify(cache)] == ["missing"]
    assert run("scan", "--corpus", "toy", "--annotations", "none", "--cache", cache.root).exit_code == 0
    assert verify(cache) == []


def test_ids_that_differ_in_case_alone_keep_their_own_ratings(tmp_path):
    (tmp_path / "r.csv").write_text("id,rater,label\nA1,r,anger\na1,r,fear\nAB.wav,r,joy\nx/b2,r,sad\n", encoding="utf-8")
    utterances = [Utterance(utterance_id=name, path=f"x/{name}.wav") for name in ("A1", "a1", "aB", "ab", "B2")]
    found, passed = read_annotations(tmp_path / "r.csv", {}, utterances)
    assert [(of.utterance_id, of.label) for of in found] == [("A1", "anger"), ("a1", "fear"), ("B2", "sadness")]
    assert [name for name, _, _ in passed] == ["AB.wav"]


def test_a_value_that_is_said_to_be_none_costs_no_vote_and_numbers_of_raters_are_no_floats(tmp_path):
    (tmp_path / "r.csv").write_text("id,rater,label,val\none,1,anger,NA\ntwo,1,,-\n", encoding="utf-8")
    table = pa.table({"id": ["one "], "rater": [1.0], "label": ["anger"], "val": pa.array([float("nan")])})
    pq.write_table(table, tmp_path / "r.parquet")
    for name, reasons in (("r.csv", ["row 2: it has neither a label nor a value"]), ("r.parquet", [])):
        found, passed = read_annotations(tmp_path / name, {}, UTTERANCES)
        assert found == [Annotation(utterance_id="one", rater="1", label="anger")]
        assert [reason for _, _, reason in passed] == reasons
