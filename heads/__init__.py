"""Learning on cached features: heads (one model a file), recipes, training, metrics.

``HEADS`` is the registry: a head's name, and the module that holds its ``HEAD`` (or, after a colon, what else it is called
there). Adding a head is one new file and one line here. Importing this package imports no torch; ``head`` imports the one
module that is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from tfser.heads.spec.head import HeadSpec
from tfser.manifests.errors import unknown
from tfser.manifests.plugins import HEADS as GROUP
from tfser.manifests.plugins import plugins

if TYPE_CHECKING:
    from tfser.heads.spec.head import HeadSpec

TABLE_ONE = (
    *("ca_mser", "speechformer", "speechformer_pp", "shift_cnn", "shift_lstm", "shiftformer", "dwformer", "dst", "mstr", "ent"),
    "tent",
)
"""The heads that TF-Mamba's Table I compares it with, one a file of its name."""

HEADS: dict[str, str] = {
    "logreg": "tfser.heads.training.both_baselines:LOGREG",
    "svm": "tfser.heads.training.both_baselines:SVM",
    "ridge": "tfser.heads.training.rating_baselines:RIDGE",
    "svr": "tfser.heads.training.rating_baselines:SVR_HEAD",
    "probe": "tfser.heads.training.probe:PROBE",
    "mean_pool": "tfser.heads.models.mean_pool",
    "tf_mamba": "tfser.heads.models.tf_mamba",
    "tf_transformer": "tfser.heads.models.tf_transformer",
    **{name: f"tfser.heads.models.{name}" for name in TABLE_ONE},
}

REGISTERED: dict[str, HeadSpec] = {}
"""Heads of this process alone (`tfser.register_head`): a notebook's own, by name."""

REFERENCE_HEADS = ("logreg", "svm")
"""What stands in every table of a sweep or an ablation: hard to beat on small corpora, and a table that hides that misleads."""

DIMENSION_REFERENCES = ("ridge", "svr")
"""The same of tables whose target is valence, arousal or dominance."""

REFERENCE_FEATURES = "egemaps"
"""The features on which the reference heads stand in every table too, where the cache has them: functionals that need no
encoder, and with logistic regression are hard to beat by networks on log-Mel."""


def head_names() -> list[str]:
    """Return the names of all heads: tfser's own, those of plug-ins (entry points `tfser.heads`), those of this process."""
    return list(dict.fromkeys([*HEADS, *plugins(GROUP), *REGISTERED]))


def head(name: str) -> HeadSpec:
    """Return a head's specification by its name.

    Raises:
        UsageError: There is no such head; the message lists those there are.
        PluginError: It is of another package, and cannot be loaded.
    """
    if name in REGISTERED:
        return REGISTERED[name]
    if name not in HEADS and name in plugins(GROUP):
        return plugins(GROUP)[name].load(HeadSpec)
    if name not in HEADS:
        raise unknown("head", name, sorted(head_names()))
    module, _, attribute = HEADS[name].partition(":")
    spec = getattr(import_module(module), attribute or "HEAD")
    if not isinstance(spec, HeadSpec):
        raise TypeError(f"{HEADS[name]} is not a HeadSpec")
    return spec
