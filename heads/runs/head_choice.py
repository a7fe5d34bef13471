"""Which head is trained where none is named: the one that holds up best for the kind of features at hand.

What comes in: a request without a head, and the cache. What goes out: the request with a head, and the reason in words. The rule
rests on the measurements in docs/methods.md ("Which head, where none is named"); it looks at the kind of the features alone,
never at a score in the cache, so that it is the same for everybody.
"""

from __future__ import annotations

from dataclasses import replace

from tfser.heads import head
from tfser.heads.runs.chosen_features import choose_features
from tfser.heads.runs.request import AUTO, Request
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue
from tfser.manifests.splits.choose import choose_protocol
from tfser.pipeline.features.feature_set import is_per_utterance
from tfser.pipeline.features.stacks import layers_of

ON_FRAMES, ON_FUNCTIONALS = "probe", "logreg"
"""The head for frames over time, whatever makes them, and that for one vector an utterance."""

ON_DIMENSIONS = "ridge"
"""The head where dimensions are learned, whatever the features."""

ON_BOTH = "logreg"
"""The head where they are learned beside classes: logistic regression, and ridge regression of the ratings."""


def with_head(cache: Cache, request: Request) -> tuple[Request, str | None]:
    """Return a request that names a head, and what to say of the choice; None where the head was named.

    Raises:
        UsageError: the cache leaves several feature sets or corpora, and nothing says which.
    """
    if request.head != AUTO:
        return request, None
    corpus, _ = choose_protocol(
        cache, request.corpus, request.protocol, labels=request.split_labels, validation=request.validation
    )
    with open_catalogue(cache) as connection:
        features = choose_features(connection, head(ON_FRAMES), corpus, request.features)
    single = is_per_utterance(features.row)
    layers = layers_of(features.row)
    kind = "one vector an utterance" if single else f"{layers} layers side by side" if layers > 1 else "frames"
    name = ON_FUNCTIONALS if single else ON_FRAMES
    if request.targets:
        name, kind = (ON_BOTH, "classes and dimensions") if request.learns_classes else (ON_DIMENSIONS, "dimensions")
    return replace(request, head=name), f"head {name} (the default for {kind}; docs/methods.md has the measurements)"
