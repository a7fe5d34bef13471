"""The catalogue's tables: names, columns, types and what they mean. DDL and docs/schema.md are both made from this."""

from __future__ import annotations

from dataclasses import dataclass

VERSION = 9
"""Raised when a table changes: an older catalogue is then rebuilt from the files, never read."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table or view, with its columns as `name TYPE -- meaning` lines."""

    name: str
    summary: str
    columns: tuple[tuple[str, str, str], ...]
    view: bool = False

    def ddl(self) -> str:
        """Return the CREATE TABLE statement."""
        body = ", ".join(f'"{name}" {kind}' for name, kind, _ in self.columns)
        return f"CREATE TABLE {self.name} ({body})"


def _table(name: str, summary: str, columns: str, *, view: bool = False) -> Table:
    rows = []
    for line in columns.strip().splitlines():
        declaration, _, meaning = line.strip().partition(" -- ")
        column, _, kind = declaration.partition(" ")
        rows.append((column, kind, meaning))
    return Table(name=name, summary=summary, columns=tuple(rows), view=view)


TABLES = (
    _table(
        "corpora",
        "Corpora that were scanned into this cache.",
        """
        corpus VARCHAR -- name
        adapter VARCHAR -- the reader that understands its layout
        root VARCHAR -- folder of the audio
        scanned_at VARCHAR -- time of the last scan that changed something, UTC
        default_protocol VARCHAR -- what `train` and `audit` take when none is named
        options VARCHAR -- options of the scan, JSON
        expected_utterances BIGINT -- as the corpus's documentation counts them; null where it does not
        """,
    ),
    _table(
        "utterances",
        "One row an utterance; columns of a corpus's own follow the ones listed.",
        """
        corpus VARCHAR -- corpus name
        utterance_id VARCHAR -- unique within the corpus
        path VARCHAR -- audio file, relative to the corpus root where it lies below it
        speaker VARCHAR -- who speaks
        gender VARCHAR -- F or M
        session VARCHAR -- recording session
        dialogue VARCHAR -- conversation
        scenario VARCHAR -- improvised or scripted
        sentence VARCHAR -- what is read, where sentences recur
        transcript VARCHAR -- the words
        label VARCHAR -- emotion in the field's words
        raw_label VARCHAR -- emotion as the corpus writes it
        valence DOUBLE -- mean rating, on the corpus's own scale
        arousal DOUBLE -- mean rating (also called activation)
        dominance DOUBLE -- mean rating
        start_s DOUBLE -- start of the segment in the file, seconds; null: from its beginning
        end_s DOUBLE -- end of the segment in the file, seconds; null: to its end
        duration_s DOUBLE -- seconds of audio; null where it is unreadable
        sample_rate BIGINT -- of the file, Hz
        split VARCHAR -- the corpus's own train, val or test
        content_hash VARCHAR -- of the decoded samples between start and end; null where unreadable
        peak DOUBLE -- largest magnitude of a sample, 1 is full scale
        rms_db DOUBLE -- level, dB relative to full scale
        clipped_share DOUBLE -- share of samples at full scale
        flags VARCHAR[] -- silent, clipped, overscale, damaged, long, short: noticed, never dropped
        size BIGINT -- bytes of the file, for the quick check
        mtime_ns BIGINT -- modification time of the file, for the quick check
        ctime_ns BIGINT -- when the system noted its last change; null: scanned by a version that did not ask
        """,
    ),
    _table(
        "skipped",
        "What a stage could not use, and why. An utterance that could not be scanned or extracted fails no audit; rows and files"
        " that a corpus reader passed over (stage read) are no utterances, though they may bear the id of one. The stages corpus,"
        " protocols, near-duplicates, features and run are files of the cache that are damaged or could not be read: what they"
        " hold is left out of the catalogue.",
        """
        corpus VARCHAR -- corpus name; null for a damaged file of no corpus
        utterance_id VARCHAR -- null for a file that is no utterance
        path VARCHAR -- the file
        stage VARCHAR -- read (layout, table), scan (audio), extract:<feature set>, changed:<feature set> (since), or see above
        reason VARCHAR -- one line
        """,
    ),
    _table(
        "feature_sets",
        "Feature sets in this cache.",
        """
        feature_set VARCHAR -- name; an outdated one, or one of two encoders called alike, bears its fingerprint behind an @
        fingerprint VARCHAR -- of everything that changes the numbers
        kind VARCHAR -- front-end or encoder
        dim INTEGER -- width of a frame
        dtype VARCHAR -- as stored
        hop_s DOUBLE -- seconds between frames
        created_at VARCHAR -- UTC
        config VARCHAR -- what the fingerprint is taken of, JSON
        source VARCHAR -- where an encoder's weights came from (their content is in config), JSON; null for front-ends
        folder VARCHAR -- below the cache
        """,
    ),
    _table(
        "features",
        "Where the frames of each utterance lie; only features that still fit the utterance's audio.",
        """
        feature_set VARCHAR -- name
        corpus VARCHAR -- corpus name
        utterance_id VARCHAR -- utterance
        shard VARCHAR -- file below the cache
        first_frame BIGINT -- first row in the shard
        frames BIGINT -- number of rows
        dim INTEGER -- width of a row
        checksum VARCHAR -- CRC-32 of the frames' bytes, 8 hexadecimal digits: compared where they are read
        """,
    ),
    _table(
        "fingerprints",
        "Utterances that were compared for near-duplicates (`tfser audit --near-duplicates`), while their audio is the same.",
        """
        corpus VARCHAR -- corpus name
        utterance_id VARCHAR -- utterance
        frames BIGINT -- of the fingerprint that hold sound; too few of them, and the utterance is like no other
        """,
    ),
    _table(
        "near_duplicates",
        "Utterances that are copies of one another by their fingerprints, though not by their samples; each pair both ways.",
        """
        corpus VARCHAR -- corpus name
        utterance_id VARCHAR -- utterance
        other_corpus VARCHAR -- corpus of its copy
        other_id VARCHAR -- its copy
        similarity DOUBLE -- share of equal bits where the two overlap; 0.5 is chance
        evidence VARCHAR -- copy: the whole of both is alike; excerpt: a part of at least one
        offset_s DOUBLE -- how much later the shared sound begins in the copy
        overlap_s DOUBLE -- seconds of sound that were compared
        """,
    ),
    _table(
        "protocols",
        "Protocols that this cache knows for its corpora. One over several corpora has a row for each of them, all of one hash.",
        """
        protocol VARCHAR -- name, with label map and validation policy where they were chosen
        corpus VARCHAR -- corpus name; of several corpora, one of them
        corpora VARCHAR -- all of its corpora, joined by +, as in `runs.corpus`; of one corpus, its name
        version INTEGER -- of the protocol's definition
        hash VARCHAR -- of the rows that it makes: utterance, label, fold, role
        folds INTEGER -- number of folds
        classes VARCHAR[] -- in the order of the head's outputs
        keeps_apart VARCHAR[] -- columns that must not be shared between train and test
        grouped_by VARCHAR -- the column whose values the folds are made of
        validation VARCHAR -- none, next-group, speakers:N, random-leaky:SHARE or split
        summary VARCHAR -- one line
        used_by VARCHAR[] -- who uses it in the literature
        """,
    ),
    _table(
        "assignments",
        "Which group each utterance of a protocol belongs to; `folds` is made of this.",
        """
        protocol VARCHAR -- name
        corpus VARCHAR -- corpus name: that of the utterance
        utterance_id VARCHAR -- utterance
        label VARCHAR -- after the protocol's map
        group VARCHAR -- value of the grouping column; over several corpora, corpus/value
        fold INTEGER -- the fold that tests this utterance; null: none can
        role VARCHAR -- fixed role (official splits, cross-corpus); null: by fold
        part INTEGER -- what a validation policy holds out together (see held_out); null: never held out
        """,
    ),
    _table(
        "held_out",
        "Which parts of a protocol's utterances validate in which fold instead of training there.",
        """
        protocol VARCHAR -- name
        corpus VARCHAR -- corpus name
        part INTEGER -- of `assignments`
        fold INTEGER -- where it would train, and validates
        """,
    ),
    _table(
        "fold_roles",
        "Which role the utterances that are tested in one fold have in each fold, where they have no fixed role and are not held"
        " out: a policy that holds parts of groups out (held_out) turns some of train into val. For who is tested, this is all.",
        """
        protocol VARCHAR -- name
        corpus VARCHAR -- corpus name
        validation VARCHAR -- the protocol's validation policy
        tested_in INTEGER -- the fold that tests them (`fold` of `assignments`)
        fold INTEGER -- from 1
        role VARCHAR -- train, val or test
        """,
        view=True,
    ),
    _table(
        "folds",
        "Who is in which fold, in which role.",
        """
        protocol VARCHAR -- name
        corpus VARCHAR -- corpus name
        fold INTEGER -- from 1
        role VARCHAR -- train, val or test
        utterance_id VARCHAR -- utterance
        label VARCHAR -- after the protocol's map
        validation VARCHAR -- the protocol's validation policy
        """,
        view=True,
    ),
    _table(
        "fold_utterances",
        "`folds` beside the columns of `utterances` that audits compare.",
        """
        protocol VARCHAR -- name
        corpus VARCHAR -- corpus name
        fold INTEGER -- from 1
        role VARCHAR -- train, val or test
        utterance_id VARCHAR -- utterance
        label VARCHAR -- after the protocol's map
        speaker VARCHAR -- who speaks
        session VARCHAR -- recording session
        dialogue VARCHAR -- conversation
        content_hash VARCHAR -- of the samples
        duration_s DOUBLE -- seconds
        """,
        view=True,
    ),
    _table(
        "runs",
        "One row a training run: one head on one fold with one seed.",
        """
        run_id VARCHAR -- made of the configuration's fingerprint
        experiment VARCHAR -- the same for all folds and seeds of one configuration
        head VARCHAR -- architecture
        preset VARCHAR -- variant of the architecture
        recipe VARCHAR -- way of training
        corpus VARCHAR -- corpus name; several joined by +
        protocol VARCHAR -- protocol name
        protocol_hash VARCHAR -- of its rows when the run was made
        validation VARCHAR -- validation policy
        fold INTEGER -- from 1; 0: trained on all labelled utterances, for use (`train --fold none`), and tested on none
        seed BIGINT -- random seed
        feature_set VARCHAR -- name
        fingerprint VARCHAR -- of the feature set
        epochs INTEGER -- trained
        device VARCHAR -- cpu, cuda, cuda:1 ...
        device_name VARCHAR -- of the processor or GPU; null: a run that is older than the column
        parameters BIGINT -- of the head
        layer_weights VARCHAR -- of a learned layer mix, JSON: by selection, from layer 0 on, sum 1; null: one layer
        utterances_cut BIGINT -- longer than what the head sees (max_frames in config), and cut there
        audit VARCHAR -- passed, overridden (leaks were allowed) or gaps (something lacking was)
        speakers_kept VARCHAR -- kept: no test speaker is heard in training or validation; broken: some are; or unknown
        classes VARCHAR[] -- in the order of the head's outputs
        findings VARCHAR -- what the audit found, JSON
        started_at VARCHAR -- UTC
        finished_at VARCHAR -- UTC
        seconds DOUBLE -- of training and evaluation
        versions VARCHAR -- of tfser and the libraries, JSON
        config VARCHAR -- the whole configuration, JSON
        """,
    ),
    _table(
        "history",
        "One row an epoch of a run; the test columns are looked at by selections that begin with test- alone.",
        """
        run_id VARCHAR -- run
        epoch INTEGER -- from 1
        loss DOUBLE -- mean training loss
        lr DOUBLE -- learning rate at its end
        seconds DOUBLE -- of training and evaluation
        val_WA DOUBLE -- utterance level; null without validation, as the other columns of val
        val_UA DOUBLE -- utterance level
        val_WF1 DOUBLE -- utterance level; null in runs that are older than the column, as the three below that bear WF1 or loss
        val_loss DOUBLE -- mean of -log(probability of the true class) over the utterances
        test_WA DOUBLE -- utterance level
        test_UA DOUBLE -- utterance level
        test_WF1 DOUBLE -- utterance level
        test_loss DOUBLE -- as val_loss
        """,
    ),
    _table(
        "predictions",
        "Every prediction of every run; choose a selection and a level.",
        """
        run_id VARCHAR -- run
        corpus VARCHAR -- corpus name: that of the utterance
        fold INTEGER -- from 1
        utterance_id VARCHAR -- utterance
        label VARCHAR -- true class
        predicted VARCHAR -- class of the largest probability
        probabilities MAP(VARCHAR,DOUBLE) -- by class
        selection VARCHAR -- how the epoch was chosen: last, val, test-oracle or one of the recipe's; test-...: on the test side
        level VARCHAR -- utterance or segment
        segment INTEGER -- number within the utterance, from 0; null at utterance level
        """,
    ),
    _table(
        "metrics",
        "Scores of every run.",
        """
        run_id VARCHAR -- run
        fold INTEGER -- from 1
        selection VARCHAR -- last, val, test-oracle or one of the recipe's
        epoch INTEGER -- the epoch that was selected
        level VARCHAR -- utterance or segment
        metric VARCHAR -- WA, UA, WF1, macro_F1 or recall
        class VARCHAR -- for recall; null for overall scores
        value DOUBLE -- from 0 to 1
        """,
    ),
    _table(
        "confusion",
        "Confusion counts of every run, selection and level: choose one of each, or ask `result_confusion`.",
        """
        run_id VARCHAR -- run
        fold INTEGER -- from 1
        selection VARCHAR -- last, val, test-oracle or one of the recipe's
        level VARCHAR -- utterance or segment
        label VARCHAR -- true class
        predicted VARCHAR -- predicted class
        count BIGINT -- utterances or segments
        """,
    ),
    _table(
        "scores",
        "Scores of each experiment and seed over its folds: the mean over folds, and pooled over all of their test utterances."
        " Each selection and level has a row: choose one, or ask `results`.",
        """
        experiment VARCHAR -- the same for all folds and seeds of one configuration
        head VARCHAR -- architecture
        preset VARCHAR -- variant
        recipe VARCHAR -- way of training
        corpus VARCHAR -- corpus name; several joined by +
        protocol VARCHAR -- protocol name
        feature_set VARCHAR -- name
        seed BIGINT -- random seed
        epochs INTEGER -- trained
        selection VARCHAR -- last, val, test-oracle or one of the recipe's
        level VARCHAR -- utterance or segment
        folds BIGINT -- folds that have scores
        of_folds INTEGER -- folds of the protocol
        WA DOUBLE -- mean over folds
        WA_std DOUBLE -- sample standard deviation over folds
        UA DOUBLE -- mean over folds
        UA_std DOUBLE -- sample standard deviation over folds
        WF1 DOUBLE -- mean over folds
        macro_F1 DOUBLE -- mean over folds
        pooled_WA DOUBLE -- share of all test utterances that are right
        pooled_UA DOUBLE -- mean over classes of the recall over all test utterances
        pooled_folds BIGINT -- folds whose test utterances are pooled
        seconds DOUBLE -- of all folds together
        audit VARCHAR -- passed; overridden: a fold was trained with --allow-leaks though its audit failed; gaps: --allow-gaps
        speakers_kept VARCHAR -- the worst of its folds, see `runs`: broken and unknown are no scores for new speakers
        """,
        view=True,
    ),
    _table(
        "results",
        "One row an experiment, as `tfser scores` shows it: the last epoch, utterance level, means over folds and seeds.",
        """
        experiment VARCHAR -- the same for all folds and seeds of one configuration
        head VARCHAR -- architecture
        preset VARCHAR -- variant
        recipe VARCHAR -- way of training
        feature_set VARCHAR -- name
        corpus VARCHAR -- corpus name; several joined by +
        protocol VARCHAR -- protocol name
        validation VARCHAR -- validation policy
        classes VARCHAR[] -- in the order of the head's outputs
        seeds BIGINT[] -- random seeds
        folds BIGINT -- folds that have scores, of the seed with the most
        of_folds INTEGER -- folds of the protocol
        UA DOUBLE -- mean over folds and seeds
        UA_std DOUBLE -- sample standard deviation over folds and seeds
        WA DOUBLE -- mean over folds and seeds
        WA_std DOUBLE -- sample standard deviation over folds and seeds
        pooled_UA DOUBLE -- over all test utterances of a seed, mean over the seeds that tested the most
        pooled_WA DOUBLE -- likewise
        audit VARCHAR -- passed, or overridden
        speakers_kept VARCHAR -- the worst of its folds, see `runs`: broken and unknown are no scores for new speakers
        """,
        view=True,
    ),
    _table(
        "result_predictions",
        "The predictions that `results` pools: of the last epoch, utterance level, of the seeds that tested the most. Name one"
        " experiment, or group by it.",
        """
        experiment VARCHAR -- the same for all folds and seeds of one configuration
        seed BIGINT -- random seed
        fold INTEGER -- from 1
        corpus VARCHAR -- corpus name
        utterance_id VARCHAR -- utterance
        speaker VARCHAR -- who speaks
        session VARCHAR -- recording session
        dialogue VARCHAR -- conversation
        label VARCHAR -- true class
        predicted VARCHAR -- predicted class
        hit BOOLEAN -- whether they are the same
        run_id VARCHAR -- run
        """,
        view=True,
    ),
    _table(
        "result_confusion",
        "`result_predictions`, counted: one row an experiment, seed, true and predicted class.",
        """
        experiment VARCHAR -- the same for all folds and seeds of one configuration
        seed BIGINT -- random seed
        label VARCHAR -- true class
        predicted VARCHAR -- predicted class
        n BIGINT -- utterances, over all folds of the seed
        """,
        view=True,
    ),
    _table(
        "test_predictions",
        "Every prediction beside its experiment and who said it, where: what intervals and comparisons are computed from.",
        """
        experiment VARCHAR -- the same for all folds and seeds of one configuration
        seed BIGINT -- random seed
        run_id VARCHAR -- run
        fold INTEGER -- from 1
        selection VARCHAR -- last, val or test-...: how the epoch was chosen; those that begin with test- looked at the test side
        level VARCHAR -- utterance or segment
        corpus VARCHAR -- corpus name
        utterance_id VARCHAR -- utterance
        segment INTEGER -- number within the utterance, from 0; null at utterance level
        speaker VARCHAR -- who speaks
        session VARCHAR -- recording session
        dialogue VARCHAR -- conversation
        label VARCHAR -- true class
        predicted VARCHAR -- predicted class
        hit BOOLEAN -- whether they are the same
        """,
        view=True,
    ),
    _table(
        "fold_scores",
        "Scores of each fold.",
        """
        experiment VARCHAR -- the same for all folds and seeds of one configuration
        seed BIGINT -- random seed
        selection VARCHAR -- last, val or test-...: how the epoch was chosen; those that begin with test- looked at the test side
        level VARCHAR -- utterance or segment
        fold INTEGER -- from 1
        run_id VARCHAR -- run
        epoch INTEGER -- the epoch that was selected
        n BIGINT -- test utterances (segments)
        hits BIGINT -- those that are right
        UA DOUBLE -- mean of the recalls of the classes that the test side has
        WA DOUBLE -- hits by n
        WF1 DOUBLE -- F1 by the classes' sizes
        macro_F1 DOUBLE -- plain mean of F1
        """,
        view=True,
    ),
    _table(
        "class_scores",
        "Scores of each class, pooled over the folds.",
        """
        experiment VARCHAR -- the same for all folds and seeds of one configuration
        seed BIGINT -- random seed
        selection VARCHAR -- last, val or test-...: how the epoch was chosen; those that begin with test- looked at the test side
        level VARCHAR -- utterance or segment
        class VARCHAR -- class
        n BIGINT -- test utterances (segments) of the class
        hits BIGINT -- those that are right
        predicted BIGINT -- all that were taken for the class
        recall DOUBLE -- hits by n
        precision DOUBLE -- hits by predicted; null where nothing was taken for the class
        F1 DOUBLE -- harmonic mean of the two
        """,
        view=True,
    ),
    _table(
        "speaker_scores",
        "Scores of each speaker, over the folds that test them; utterances of unknown speakers are left out.",
        """
        experiment VARCHAR -- the same for all folds and seeds of one configuration
        seed BIGINT -- random seed
        selection VARCHAR -- last, val or test-...: how the epoch was chosen; those that begin with test- looked at the test side
        level VARCHAR -- utterance or segment
        corpus VARCHAR -- corpus name
        speaker VARCHAR -- who speaks
        n BIGINT -- test utterances (segments)
        hits BIGINT -- those that are right
        classes BIGINT -- how many of the classes are among them
        UA DOUBLE -- mean of the recalls of those classes
        WA DOUBLE -- hits by n
        n_by_class MAP(VARCHAR,BIGINT) -- test utterances by true class
        hits_by_class MAP(VARCHAR,BIGINT) -- those that are right, by class
        """,
        view=True,
    ),
    _table(
        "session_scores",
        "Scores of each session, over the folds that test it; utterances of no session are left out.",
        """
        experiment VARCHAR -- the same for all folds and seeds of one configuration
        seed BIGINT -- random seed
        selection VARCHAR -- last, val or test-...: how the epoch was chosen; those that begin with test- looked at the test side
        level VARCHAR -- utterance or segment
        corpus VARCHAR -- corpus name
        session VARCHAR -- recording session
        n BIGINT -- test utterances (segments)
        hits BIGINT -- those that are right
        classes BIGINT -- how many of the classes are among them
        UA DOUBLE -- mean of the recalls of those classes
        WA DOUBLE -- hits by n
        n_by_class MAP(VARCHAR,BIGINT) -- test utterances by true class
        hits_by_class MAP(VARCHAR,BIGINT) -- those that are right, by class
        """,
        view=True,
    ),
)


def markdown() -> str:
    """Return docs/schema.md."""
    lines = [
        "# The catalogue's tables",
        "",
        "Made by `tfser manifest schema`; a test compares. Open the file with `tfser sql`, with Python's `duckdb`, or with the",
        "plain `duckdb` shell: `duckdb -readonly \"$(tfser manifest path)\"`.",
        "",
    ]
    for table in TABLES:
        lines += [f"## {table.name}", "", table.summary + (" (A view.)" if table.view else ""), ""]
        lines += ["| column | type | meaning |", "|---|---|---|"]
        lines += [f"| {name} | {kind} | {meaning} |" for name, kind, meaning in table.columns]
        lines.append("")
    return "\n".join(lines)
