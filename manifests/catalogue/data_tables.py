"""The tables of what is known about data: corpora, utterances, features, what was passed over, protocols and their folds."""

from __future__ import annotations

from tfser.manifests.catalogue.declared import table

DATA_TABLES = (
    table(
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
    table(
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
    table(
        "skipped",
        "What a stage could not use, and why. An utterance that could not be scanned or extracted fails no audit; rows and files"
        " that a corpus reader passed over (stage read) are no utterances, though they may bear the id of one. Ratings of no"
        " utterance, or that cannot be read, have the stage rating. The stages corpus, annotations, protocols,"
        " near-duplicates, features and run are files of the cache that are damaged or could not be read: what they hold is left"
        " out of the catalogue.",
        """
        corpus VARCHAR -- corpus name; null for a damaged file of no corpus
        utterance_id VARCHAR -- null for a file that is no utterance
        path VARCHAR -- the file
        stage VARCHAR -- read (layout, table), scan (audio), extract:<feature set>, changed:<feature set> (since), or see above
        reason VARCHAR -- one line
        """,
    ),
    table(
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
    table(
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
    table(
        "fingerprints",
        "Utterances that were compared for near-duplicates (`tfser audit --near-duplicates`), while their audio is the same.",
        """
        corpus VARCHAR -- corpus name
        utterance_id VARCHAR -- utterance
        frames BIGINT -- of the fingerprint that hold sound; too few of them, and the utterance is like no other
        """,
    ),
    table(
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
    table(
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
        validation VARCHAR -- none, next-group, next-part, speakers:N, random-leaky:SHARE or split
        summary VARCHAR -- one line
        used_by VARCHAR[] -- who uses it in the literature
        """,
    ),
    table(
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
    table(
        "held_out",
        "Which parts of a protocol's utterances validate in which fold instead of training there, or are left out of it.",
        """
        protocol VARCHAR -- name
        corpus VARCHAR -- corpus name
        part INTEGER -- of `assignments`
        fold INTEGER -- where it would train, and does something else
        role VARCHAR -- val: it validates; out: it is of no side, see `left_out`
        reason VARCHAR -- why it is of no side; null where it validates
        """,
    ),
    table(
        "left_out",
        "Who takes no part in a fold in which a protocol keeps several columns apart at once: they share one of them with those"
        " whom the fold tests. In some other fold they are tested.",
        """
        protocol VARCHAR -- name
        corpus VARCHAR -- corpus name
        fold INTEGER -- from 1
        utterance_id VARCHAR -- utterance
        label VARCHAR -- after the protocol's map
        reason VARCHAR -- which of the columns they share with the tested
        """,
        view=True,
    ),
    table(
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
    table(
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
    table(
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
)
