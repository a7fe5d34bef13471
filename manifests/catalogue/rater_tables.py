"""The tables of who rated what: single ratings, and the views of distributions and agreement that follow from them."""

from __future__ import annotations

from tfser.manifests.catalogue.declared import table
from tfser.manifests.dimensions import DIMENSIONS

_OF_VALUES = "\n".join(
    f"{of}_ratings BIGINT -- values of {of} that the rater gave\n"
    f"{of}_least DOUBLE -- the least of them, on the corpus's own scale\n{of}_most DOUBLE -- the largest of them"
    for of in DIMENSIONS
)

RATER_TABLES = (
    table(
        "annotations",
        "One row a rating, for corpora that have single ratings or were scanned with --annotations. A rater who gave several"
        " labels has a row for each.",
        """
        corpus VARCHAR -- corpus name
        utterance_id VARCHAR -- utterance
        rater VARCHAR -- who rated it, as the corpus calls them; null: it counts votes and does not say whose
        label VARCHAR -- emotion in the field's words; null where only dimensions were rated
        valence DOUBLE -- on the corpus's own scale
        arousal DOUBLE -- on the corpus's own scale
        dominance DOUBLE -- on the corpus's own scale
        setting VARCHAR -- what the rater was given (voice, face, multimodal), or self: the speaker's own; null: not said
        counts BOOLEAN -- whether it is part of distributions and agreement: not what saw a face alone, and no speaker's own
        """,
    ),
    table(
        "label_votes",
        "Ratings that count, by utterance and label. Each rater has one vote: one who gives m labels gives each 1/m.",
        """
        corpus VARCHAR -- corpus name
        utterance_id VARCHAR -- utterance
        label VARCHAR -- emotion in the field's words
        votes DOUBLE -- sum of the raters' shares
        sole BIGINT -- raters who gave this label and no other
        """,
        view=True,
    ),
    table(
        "label_distributions",
        "What the raters of each utterance made of it, together.",
        """
        corpus VARCHAR -- corpus name
        utterance_id VARCHAR -- utterance
        raters DOUBLE -- how many gave it a label
        distribution MAP(VARCHAR,DOUBLE) -- share of the votes, by label; labels without one are not in it
        majority VARCHAR -- the label of the most votes; null where several have as many
        majority_share DOUBLE -- its share of the votes
        agreement DOUBLE -- share of the pairs of raters who gave the same label; null with fewer than two
        entropy DOUBLE -- of the distribution, bits; 0: all agree
        """,
        view=True,
    ),
    table(
        "rater_bands",
        "How far the raters of each utterance agree, in words: what `scores --by agreement` and the report group by.",
        """
        corpus VARCHAR -- corpus name
        utterance_id VARCHAR -- utterance
        raters_agree VARCHAR -- all agree, more than half agree, or half or fewer agree (on the most frequent label)
        """,
        view=True,
    ),
    table(
        "rater_agreement",
        "How far the raters of a corpus agree: Krippendorff's alpha (1: always, 0: as by chance) and Fleiss' kappa.",
        """
        corpus VARCHAR -- corpus name
        target VARCHAR -- label, valence, arousal or dominance
        ratings BIGINT -- ratings that count
        raters BIGINT -- different raters; null where the corpus names none
        utterances BIGINT -- those with two ratings and more, on which the figures rest
        left_out BIGINT -- ratings that are no part of the figures: of one rater alone, or one of several labels of a rater
        alpha DOUBLE -- Krippendorff's, nominal of labels, interval of dimensions; null where all ratings are one
        kappa DOUBLE -- Fleiss', of labels; the numbers of raters may differ between utterances
        """,
        view=True,
    ),
    table(
        "raters",
        "One row a rater that is named, over the ratings that count.",
        f"""
        corpus VARCHAR -- corpus name
        rater VARCHAR -- as the corpus calls them
        utterances BIGINT -- that they rated
        label_ratings BIGINT -- labels that they gave
        labels BIGINT -- different ones
        usual_label VARCHAR -- the one that they gave most often
        {_OF_VALUES}
        """,
        view=True,
    ),
)
