"""The card of an exported model: what it is, what it learnt from, what vouches for it, and what it must not be used for.

What comes in: `CardFacts`, gathered by `tfser.heads.prediction.export`. What goes out: Markdown with the header that
model hubs read. Every number comes from stored runs; where nothing vouches for a model, the card says so in that place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfser.heads.prediction.trained import TrainedHead
from tfser.heads.results.marks import explain_marks, mark
from tfser.heads.results.written import number_text
from tfser.heads.runs.experiment import EVERYTHING
from tfser.manifests.feature_name import FeatureName
from tfser.manifests.wording import cell
from tfser.pipeline.features.encoders.known import ENCODERS
from tfser.pipeline.features.feature_set import JOINED
from tfser.pipeline.features.stored_set import StoredSet

OF_CLASSES = """\
* **An expression is not a feeling.** The classes are labels that listeners gave to recordings, many of them acted. The model
  says which of these labels a recording resembles; it does not say what a person feels, means, or is going to do.
"""
OF_RATINGS = """\
* **An expression is not a feeling.** The ratings are what listeners said of recordings, many of them acted. The model says which
  rating a recording would get from people like them; it does not say what a person feels, means, or is going to do.
"""

CAUTIONS = """\
* **Do not decide about people with it.** Not in hiring, schooling, insurance, policing, migration, medicine or the watching of
  workers. The European Union's AI Act (Regulation 2024/1689, Article 5(1)(f)) forbids emotion recognition at work and in
  schools but for medical or safety reasons.
* **It knows few voices.** Other languages, accents, ages, microphones, rooms and ways of speaking than those above are outside
  of what was tested, and scores fall there, often to chance.
* **Ask those who speak.** Recordings of voices are personal data.
"""


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card says.

    Attributes:
        heads: the exported heads, of one experiment.
        corpora: rows of corpora with `corpus`, `utterances`, `speakers`, `minutes`, `licence`, `page`.
        protocol: the protocol's row, None if the catalogue does not hold it any more.
        scores: the row of `tfser.heads.results.score_tables` for the exported selection; None: no test of this
            configuration, or no classes.
        dimensions: rows of `tfser.heads.results.dimension_tables` for that selection, the last one over all of them; none of
            a head of classes alone.
        onnx: what was compared, if there is a graph.
        travels: the folders of those encoders whose files travel along, by the hash of their weights.
    """

    heads: Sequence[TrainedHead]
    corpora: Sequence[Mapping[str, Any]]
    protocol: Mapping[str, Any] | None
    scores: Mapping[str, Any] | None
    onnx: Mapping[str, Any] | None
    travels: Mapping[str, str]
    dimensions: Sequence[Mapping[str, Any]] = ()


def card(facts: CardFacts, name: str) -> str:
    """Return the card as Markdown.

    Args:
        facts: what it says.
        name: what the model is called.
    """
    sections = [
        _header(facts),
        f"# {name}\n",
        _what(facts),
        _use(facts, name),
        "## What it was trained on\n\n" + _data(facts),
        "## What vouches for it\n\n" + _worth(facts),
        "## Intended use\n\nResearch on speech emotion recognition: to compare methods, to reproduce a result, to look at "
        "recordings like those above.\n",
        "## Limits and cautions\n\n" + _cautions(facts),
        "## How it was made\n\n" + _made(facts),
    ]
    return "\n".join(sections)


def _cautions(facts: CardFacts) -> str:
    """Return what must be known before anybody uses it, and how far its probabilities can be believed."""
    first = facts.heads[0]
    of_ratings = "Silence and music get ratings, too, which are never beyond the scale; nothing says how sure they are."
    if not first.classes:
        return f"{OF_RATINGS}{CAUTIONS}* **It always answers.** {of_ratings}\n"
    answers = "Silence, music and emotions that are no class get one of its classes. "
    fitted = [of.temperature for of in facts.heads if of.temperature is not None]
    if len(fitted) == len(facts.heads):
        answers += (
            "Probabilities are as the head gives them; with `--calibrated` they are at the temperature that was fitted on the "
            f"validation side ({', '.join(f'{value:.3g}' for value in fitted)}), which holds for voices like those."
        )
    else:
        answers += "Probabilities are not calibrated."
    answers += f" {of_ratings}" if first.targets else ""
    return f"{OF_CLASSES}{CAUTIONS}* **It always answers.** {answers}\n"


def _header(facts: CardFacts) -> str:
    """Return the YAML that hubs read; JSON's way of writing texts is YAML's, too."""
    tags = ["speech-emotion-recognition", "tfser", facts.heads[0].spec.name]
    lines = [
        "---",
        "library_name: tfser",
        "pipeline_tag: audio-classification",
        "tags:",
        *(f"- {json.dumps(tag)}" for tag in tags),
    ]
    return "\n".join([*lines, "---", ""])


def _what(facts: CardFacts) -> str:
    first = facts.heads[0]
    about = first.about
    count = f"The mean of {len(facts.heads)} heads (folds and seeds of one experiment). " if len(facts.heads) > 1 else ""
    given = [f"one of {len(first.classes)} classes ({', '.join(first.classes)})"] if first.classes else []
    if first.targets:
        low, high = first.scale
        given.append(f"ratings of {', '.join(first.targets)}, each from {low:g} to {high:g}")
    return (
        f"{count}Takes speech, gives {', and '.join(given)}.\n\n"
        f"* Head: {first.spec.name}, preset {about['preset']} ({first.spec.summary}; {first.spec.source}), "
        f"{about['parameters'] or 0:,} parameters.\n"
        f"* Features: {first.features.name}, fingerprint `{first.features.fingerprint}`. {_encoder(facts)}\n"
    )


def _encoder(facts: CardFacts) -> str:
    """Return what makes the frames, and what an encoder was trained on itself."""
    features = facts.heads[0].features
    words = []
    if features.kind == JOINED:
        words.append(f"Side by side: {', '.join(part.name for part in features.parts)}.")
    # A mix was learned with the labels of a fold's training side: so were these features.
    if owner := features.config.get("belongs_to"):
        words.append(f"A mix of layers in it was learned by {owner['run_id']}, on the training side of fold {owner['fold']}.")
    encoders = {str(of.config["weights"]): of for of in features.encoders}
    if not encoders:
        words.append("Computed from the audio alone, without trained weights.")
    return " ".join([*words, *(_one_encoder(key, of, facts.travels.get(key)) for key, of in encoders.items())])


def _one_encoder(weights: str, encoder: StoredSet, folder: str | None) -> str:
    """Return what an encoder was trained on, and where its weights are."""
    known = ENCODERS.get(FeatureName.parse(encoder.name).encoder)
    source = encoder.source.get("weights", "unknown")
    learnt = f"{known.summary}; the card of {known.hub} says more" if known else f"see {source} for what it was trained on"
    commit = encoder.source.get("commit") or "unknown"
    where = f"in the folder `{folder}`" if folder else f"not in this folder: {source}, commit {commit}"
    return (
        f"They come from an encoder ({learnt}). Its weights have the content hash `{weights}` and are "
        f"{where}. What the encoder learnt from may hold voices of any test set."
    )


def _use(facts: CardFacts, name: str) -> str:
    lines = ["```sh", f"tfser predict {name} recording.wav", f"tfser predict {name} folder/ --format csv", "```"]
    text = "## Use\n\n" + "\n".join(lines) + "\n"
    if facts.onnx is not None:
        text += (
            f"\n`model.onnx` takes {facts.onnx['input']} as the front-end makes them (normalisation is inside) and gives "
            f"{_graph_gives(facts)}. onnxruntime's differ from PyTorch's by at most {facts.onnx['largest_difference']:.1e} on "
            f"{facts.onnx['utterances']} utterances.\n"
        )
    return text


def _graph_gives(facts: CardFacts) -> str:
    """Return what the graph's outputs are."""
    first, (low, high) = facts.heads[0], facts.heads[0].scale
    given = ["`probabilities`"] if first.classes else []
    given += [f"`ratings` of {', '.join(first.targets)} on their scale from {low:g} to {high:g}"] if first.targets else []
    return " and ".join(given)


def _data(facts: CardFacts) -> str:
    about = facts.heads[0].about
    lines = _table([dict(row) for row in facts.corpora]) if facts.corpora else ["The corpora are no longer in the cache."]
    folds = sorted({of.about["fold"] for of in facts.heads})
    if folds == [EVERYTHING]:
        side = (
            "All labelled utterances of the protocol: nothing was held out, so no test score can be had for these very weights."
        )
    else:
        side = f"The training side of fold {', '.join(map(str, folds))}; the other folds' test speakers are in it."
    protocol = f"Protocol {about['protocol']}, hash `{about['protocol_hash']}`, validation {about['validation']}." + (
        f" {facts.protocol['summary']}." if facts.protocol and facts.protocol["summary"] else ""
    )
    return "\n".join(lines) + f"\n\n{protocol}\n\n{side}\n"


def _worth(facts: CardFacts) -> str:
    first = facts.heads[0]
    about = first.about
    tested = [row for row in (facts.scores, *facts.dimensions[-1:]) if row is not None]
    audit = "Audit of the split: " + {"passed": "passed", "gaps": "something was lacking, and allowed (--allow-gaps)"}.get(
        str(about["audit"]), "FAILED, and training was allowed all the same (--allow-leaks)"
    )
    # Untested weights say so in bold, where a score would stand.
    if not tested:
        return (
            f"{audit}.\n\n**Nothing: no test of this configuration is in the cache it was exported from.** Cross-validate it "
            f"(`tfser train --fold all` with the same settings) before anybody believes it.\n"
        )
    # Weights of all speakers were tested on nobody: their score is that of the same configuration, and the card says whose it is.
    row = tested[0]
    who = (
        "These weights were tested on nobody: the scores are those of the same configuration, cross-validated"
        if any(of.about["fold"] == EVERYTHING for of in facts.heads)
        else "Scores of the experiment that these weights are from"
    )
    of = f"{row['folds']} of {row['of_folds'] or '?'} folds, seeds {', '.join(map(str, row['seeds']))}"
    return "\n".join(
        [
            f"{audit}. Test speakers: {_SPEAKERS.get(str(row['speakers_kept']), 'not known to be new')}.",
            "",
            f"{who}: experiment `{about['experiment']}`, selection {first.selection}, {of}.",
            "",
            *_table([*_of_classes(facts.scores), *_of_dimensions(facts.dimensions)]),
            "",
            *explain_marks(tested),
            "",
        ]
    )


def _of_classes(row: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the lines of UA and WA, in percent."""
    if row is None:
        return []
    lines = []
    for metric in ("UA", "WA"):
        low, high = row[f"pooled_{metric}_low"], row[f"pooled_{metric}_high"]
        cells = {
            "score": f"{metric}, %",
            "utterances": row["utterances"],
            "mean over folds": _percent(row[metric], mark(row)),
            "pooled": _percent(row[f"pooled_{metric}"], mark(row)),
            "95 % over speakers": "none" if low is None else f"{100 * low:.1f} to {100 * high:.1f}",
        }
        lines.append(cells)
    return lines


def _of_dimensions(rated: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of CCC, one a dimension and one of their mean."""
    lines = []
    for row in rated:
        low, high = row["pooled_CCC_low"], row["pooled_CCC_high"]
        cells = {
            "score": f"CCC, {row['dimension']}",
            "utterances": row["utterances"],
            "mean over folds": number_text(row["CCC"], None, mark(row)),
            "pooled": number_text(row["pooled_CCC"], None, mark(row)),
            "95 % over speakers": "none" if low is None else f"{low:.3f} to {high:.3f}",
        }
        lines.append(cells)
    return lines


_SPEAKERS = {
    "kept": "not heard in training or validation",
    "broken": "SOME WERE HEARD IN TRAINING: no scores for new speakers",
    "unknown": "not known; nobody can say whether the head had heard them",
}


def _percent(value: float | None, marks: str) -> str:
    return "" if value is None else f"{100 * value:.1f}{marks}"


def _made(facts: CardFacts) -> str:
    rows = [
        {
            "run": of.name,
            "fold": "all" if of.about["fold"] == EVERYTHING else of.about["fold"],
            "seed": of.about["seed"],
            "epochs": of.about["epochs"],
            "device": of.about["device"],
            "finished": of.about["finished_at"],
        }
        for of in facts.heads
    ]
    first = facts.heads[0]
    versions = first.about.get("versions") or {}
    made = ", ".join(f"{key} {versions[key]}" for key in ("tfser", "python", "torch", "numpy") if key in versions)
    return "\n".join(
        [
            f"Recipe {first.about['recipe']}, selection {first.selection}: {_SELECTIONS.get(first.selection, '')}. "
            f"Made with {made}. `tfser.json` holds the whole configuration.",
            "",
            *_table(rows),
            "",
        ]
    )


_SELECTIONS = {"last": "the last epoch, chosen by looking at nothing", "val": "the epoch of the best validation UA, or mean CCC"}


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return rows as the lines of a Markdown table; what would end a cell or a line is escaped."""
    names = list(rows[0])
    cells = [[" ".join(cell(row[name]).split()).replace("|", r"\|") for name in names] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), *cells)]
