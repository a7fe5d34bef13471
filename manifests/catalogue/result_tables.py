"""The tables of what was learned: runs with their epochs, predictions and scores, and the views that sum them up."""

from __future__ import annotations

from tfser.manifests.catalogue.declared import Table, table


def _scores_by(column: str, summary: str, meaning: str) -> Table:
    """Return the view of scores by who said the utterances, or where."""
    return table(
        f"{column}_scores",
        summary,
        f"""
        experiment VARCHAR -- the same for all folds and seeds of one configuration
        seed BIGINT -- random seed
        selection VARCHAR -- last, val or test-...: how the epoch was chosen; those that begin with test- looked at the test side
        level VARCHAR -- utterance or segment
        corpus VARCHAR -- corpus name
        {column} VARCHAR -- {meaning}
        n BIGINT -- test utterances (segments)
        hits BIGINT -- those that are right
        classes BIGINT -- how many of the classes are among them
        UA DOUBLE -- mean of the recalls of those classes
        WA DOUBLE -- hits by n
        n_by_class MAP(VARCHAR,BIGINT) -- test utterances by true class
        hits_by_class MAP(VARCHAR,BIGINT) -- those that are right, by class
        audit VARCHAR -- passed; overridden: a fold was trained with --allow-leaks though its audit failed; gaps: --allow-gaps
        speakers_kept VARCHAR -- see `runs`: broken and unknown are no scores for new speakers
        """,
        view=True,
    )


RESULT_TABLES = (
    table(
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
        temperature VARCHAR -- T, fitted on validation utterances, for probabilities p^(1/T), JSON: by selection; null: none
        layer_weights VARCHAR -- of a learned layer mix, JSON: by selection, from layer 0 on, sum 1; null: one layer
        utterances_cut BIGINT -- longer than what the head sees (max_frames in config), and cut there
        audit VARCHAR -- passed, overridden (leaks were allowed) or gaps (something lacking was)
        speakers_kept VARCHAR -- kept: no test speaker is heard in training or validation; broken: some are; or unknown
        classes VARCHAR[] -- in the order of the head's outputs; none of a run on dimensions alone
        targets VARCHAR[] -- dimensions that it learned, behind the classes in the head's outputs; null of a run on classes alone
        findings VARCHAR -- what the audit found, JSON
        started_at VARCHAR -- UTC
        finished_at VARCHAR -- UTC
        seconds DOUBLE -- of training and evaluation
        versions VARCHAR -- of tfser and the libraries, JSON
        config VARCHAR -- the whole configuration, JSON
        """,
    ),
    table(
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
        test_loss DOUBLE -- as val_loss; of dimensions both are the mean squared error on 0..1
        val_CCC DOUBLE -- utterance level, mean over the dimensions; null of classes alone, as UA is of dimensions alone
        test_CCC DOUBLE -- likewise
        """,
    ),
    table(
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
    table(
        "rated_predictions",
        "Every predicted rating of every run on dimensions, beside the true one; choose a selection, a level and a dimension.",
        """
        run_id VARCHAR -- run
        corpus VARCHAR -- corpus name: that of the utterance
        fold INTEGER -- from 1
        utterance_id VARCHAR -- utterance
        dimension VARCHAR -- valence, arousal or dominance
        rating DOUBLE -- the true one, on the corpus's scale
        predicted DOUBLE -- on the same scale, never beyond its ends
        low DOUBLE -- the scale's lower end
        high DOUBLE -- the scale's upper end
        selection VARCHAR -- how the epoch was chosen: last, val, test-oracle or one of the recipe's; test-...: on the test side
        level VARCHAR -- utterance or segment
        segment INTEGER -- number within the utterance, from 0; null at utterance level
        """,
    ),
    table(
        "metrics",
        "Scores of every run.",
        """
        run_id VARCHAR -- run
        fold INTEGER -- from 1
        selection VARCHAR -- last, val, test-oracle or one of the recipe's
        epoch INTEGER -- the epoch that was selected
        level VARCHAR -- utterance or segment
        metric VARCHAR -- WA, UA, WF1, macro_F1 or recall; of dimensions CCC, pearson, MAE, scale_shift or location_shift
        class VARCHAR -- for recall; null for overall scores; of dimensions the dimension
        value DOUBLE -- from 0 to 1; MAE in points of the corpus's scale; see docs/dimensions.md for the others
        """,
    ),
    table(
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
    table(
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
    table(
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
    table(
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
    table(
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
    table(
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
    table(
        "test_ratings",
        "`rated_predictions` beside its experiment and who said it, both ratings on 0..1: what scores of dimensions, their"
        " intervals and comparisons are computed from.",
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
        dimension VARCHAR -- valence, arousal or dominance
        rating DOUBLE -- the true one, from 0 to 1
        predicted DOUBLE -- from 0 to 1
        error DOUBLE -- the distance of the two, in points of the corpus's scale
        """,
        view=True,
    ),
    table(
        "dimension_scores",
        "Scores of each dimension in each fold.",
        """
        experiment VARCHAR -- the same for all folds and seeds of one configuration
        seed BIGINT -- random seed
        selection VARCHAR -- last, val or test-...: how the epoch was chosen; those that begin with test- looked at the test side
        level VARCHAR -- utterance or segment
        fold INTEGER -- from 1
        run_id VARCHAR -- run
        epoch INTEGER -- the epoch that was selected
        dimension VARCHAR -- valence, arousal or dominance
        n BIGINT -- test utterances (segments)
        CCC DOUBLE -- concordance correlation; null where all ratings and predictions are one and the same
        pearson DOUBLE -- correlation; null where the ratings or the predictions are constant, as both shifts
        MAE DOUBLE -- mean absolute error, in points of the corpus's scale
        scale_shift DOUBLE -- deviation of the predictions by that of the ratings; 1: as widely spread
        location_shift DOUBLE -- mean of the predictions less that of the ratings, by the root of the two deviations' product
        audit VARCHAR -- passed; overridden: a fold was trained with --allow-leaks though its audit failed; gaps: --allow-gaps
        speakers_kept VARCHAR -- see `runs`: broken and unknown are no scores for new speakers
        """,
        view=True,
    ),
    table(
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
        audit VARCHAR -- passed; overridden: a fold was trained with --allow-leaks though its audit failed; gaps: --allow-gaps
        speakers_kept VARCHAR -- see `runs`: broken and unknown are no scores for new speakers
        """,
        view=True,
    ),
    table(
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
        audit VARCHAR -- passed; overridden: a fold was trained with --allow-leaks though its audit failed; gaps: --allow-gaps
        speakers_kept VARCHAR -- see `runs`: broken and unknown are no scores for new speakers
        """,
        view=True,
    ),
    _scores_by(
        "speaker",
        "Scores of each speaker, over the folds that test them; utterances of unknown speakers are left out.",
        "who speaks",
    ),
    _scores_by(
        "session",
        "Scores of each session, over the folds that test it; utterances of no session are left out.",
        "recording session",
    ),
)
