"""The words by which experiments are named: the summaries that recipes had when the first runs were named by them.

A run's id is a hash of its whole configuration, which held the recipe's summary by mistake: to mend a word of one would have
renamed experiments, and trained every finished run again. So ids are made of the words below, whatever a recipe says of itself
now. Nothing is ever added here or changed: a recipe that is younger, or says nothing of itself, is named without words.
"""

from __future__ import annotations

_OF_HEADS = {
    ("logreg", "default"): "fitted once, every training utterance weighs the same",
    ("logreg", "balanced"): "fitted once, every class weighs the same",
    ("svm", "default"): "fitted once, every training utterance weighs the same",
    ("svm", "balanced"): "fitted once, every class weighs the same",
    ("mean_pool", "default"): "AdamW, 30 epochs, cosine, light label smoothing",
    ("tf_mamba", "paper"): (
        "the paper's: AdamW 5e-4, batch 32, CMDT 0.1; epochs, cosine, weight decay and clipping after ShiftSER"
    ),
    ("tf_mamba", "no_cmdt"): "the paper's without CMDT: Table III's rows but the last two",
    ("tf_mamba", "small"): "for a few hundred utterances: AdamW 2e-3, batch 16, 25 epochs, the rest as `paper`",
    ("tf_transformer", "paper"): ("the paper's: Adam 1e-3, batch 64, 1000 epochs, segments without overlap, nothing else"),
    ("tf_transformer", "robust"): (
        "for minutes, not hours: AdamW 3e-3, batch 16, 20 epochs, cosine, moved segments, averaged weights"
    ),
    ("tf_transformer", "robust_speaker"): (
        "robust with every speaker's own mean and deviation: transductive, needs a test speaker's other utterances"
    ),
}

_OF_LINEAGES = {
    "shiftser": "ShiftSER: AdamW 5e-4, cosine, 100 epochs; best WA and best UA of the test fold, each by itself",
    "dwformer": "DWFormer on IEMOCAP: SGD 5e-4, warm restarts, 120 epochs; best WA + UA of the test fold",
    "dwformer_meld": "DWFormer on MELD: SGD 5e-4, warm restarts, 100 epochs; best WF1 of the validation side",
    "speechformer": ("SpeechFormer(++): SGD 5e-4, cosine to a hundredth, 120 epochs; best WA + UA of the five best test epochs"),
    "ca_mser": "CA-MSER: AdamW 1e-5, segments of 3 s, batch 64, 100 epochs; lowest test loss, patience 8",
    "superb": "SUPERB: Adam 1e-4, batch 4 x 8, 30,000 steps; best WA of a random 20 % (known voices)",
    "emotion2vec": "emotion2vec: RMSprop 5e-4 to 1e-3 and back, 100 epochs; best WA of a random 20 % (known voices)",
    "emobox": "EmoBox: Adam 1e-4, 10 epochs of warm-up, then a line to zero, 100 epochs; every checkpoint is tested",
}


def named_by(head: str, recipe: str) -> str:
    """Return the summary that stands in what names an experiment; empty for a recipe that is younger than this page."""
    return _OF_HEADS.get((head, recipe)) or _OF_LINEAGES.get(recipe, "")
