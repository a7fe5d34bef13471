"""A learned sum over the layers of an encoder, in front of any head.

What comes in: frames (B, L, M*D) of a feature set that holds all M layers of an encoder side by side (layer k of a frame
is columns k*D to (k+1)*D), and a head for frames of the width D. What goes out: the head's logits on the mix

    x[b, l] = sum over k of w[k] * frames[b, l, k],    w = softmax(scores),

after SUPERB (Yang et al. 2021, section 3.1), which trains downstream models on such a sum of a frozen encoder's layers.
The scores start at zero, so training starts at the mean of all layers.

* Normalisation comes first: with ``normalise=train`` each feature of each layer is standardised by the training frames
  before the sum, so that a layer's weight says how much of the mix it is, whatever the layer's scale (SUPERB mixes the
  layers as they are; ``normalise=none`` does that here). The modes that look at an utterance or a speaker do so for each
  layer's features alike.
* Augmentation comes after: everything that is done to frames is linear in them, so hiding a band of the mix is hiding it
  in all layers, and costs one M-th.
* The scores have the recipe's ``own_rate`` as learning rate and no weight decay: at a head's own rate they would hardly
  leave the mean in the few hundred steps that a head takes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tfser.heads.spec.head import HeadSpec, Network, count_parameters
from tfser.heads.spec.settings import Settings
from tfser.manifests.errors import UsageError

STATE_KEY = "model.layer_scores"
"""Where a trained state (`FitResult.states`) holds the scores."""


class LayerMix(nn.Module):
    """A head behind a softmax-weighted sum over layers.

    Args:
        head: for frames of the width ``dim``.
        layers: M, above 1.
        dim: D, the width of one layer.
    """

    def __init__(self, head: nn.Module, layers: int, dim: int) -> None:
        super().__init__()
        self.head, self.layers, self.dim = head, layers, dim
        self.layer_scores = nn.Parameter(torch.zeros(layers))

    def mix(self, frames: Tensor) -> Tensor:  # (B, L, M*D) -> (B, L, D)
        """Return the weighted sum over the layers, without a copy of the frames."""
        B, L, _ = frames.shape
        weights = self.layer_scores.softmax(dim=0)  # (M,)
        # One small product a frame: einsum would first lay the layers out anew, a copy of all frames.
        layers = frames.reshape(B * L, self.layers, self.dim)
        return torch.bmm(weights.to(frames.dtype).expand(B * L, 1, self.layers), layers).view(B, L, self.dim)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:  # (B, L, M*D) or (B, L, D), (B,) -> (B, K)
        """Classify frames of all layers, or of a mix that `mix` made already."""
        logits: Tensor = self.head(self._mixed(frames), lengths)
        return logits

    def encode(self, frames: Tensor, lengths: Tensor) -> Tensor:  # (B, L, M*D) or (B, L, D), (B,) -> (B, L, D')
        """Return the frames that the head gives to a loss (`Network.gives_frames`)."""
        found: Tensor = self.head.encode(self._mixed(frames), lengths)  # type: ignore[operator]
        return found

    def classify(self, M: Tensor, lengths: Tensor) -> Tensor:  # (B, L, D'), (B,) -> (B, K)
        """Return the logits of what `encode` gave."""
        logits: Tensor = self.head.classify(M, lengths)  # type: ignore[operator]
        return logits

    def own_rate_parameters(self) -> list[nn.Parameter]:
        """Return the scores, and what the head has of this kind: a learning rate of their own, and no weight decay."""
        own = getattr(self.head, "own_rate_parameters", list)
        return [self.layer_scores, *own()]

    def _mixed(self, frames: Tensor) -> Tensor:
        return frames if frames.shape[-1] == self.dim else self.mix(frames)


def layer_weights(state: Mapping[str, Tensor]) -> list[float] | None:
    """Return the weights w (M,) of a trained state, which sum to 1; None where it has no mix."""
    scores = state.get(STATE_KEY)
    return None if scores is None else scores.detach().double().cpu().softmax(dim=0).tolist()


def build_module(spec: HeadSpec, config: Settings, dim: int, n_classes: int, layers: int = 1) -> nn.Module:
    """Check that the width fits, and build a head's module.

    Args:
        spec: the head.
        config: of this head.
        dim: the features' width as stored: of all layers together.
        n_classes: K.
        layers: M; above 1, the head is built for the width dim / M, behind a learned mix.

    Raises:
        UsageError: The feature width does not fit the configuration, or does not part into so many layers.
    """
    if dim % layers:
        raise UsageError(f"features of a width of {dim} do not part into {layers} layers")
    if not isinstance(spec, Network):
        raise UsageError(f"{spec.name} is fitted at once and has no network")
    spec.check(config, dim // layers)
    module = spec.build(config, dim // layers, n_classes)
    return module if layers == 1 else LayerMix(module, layers, dim // layers)


def parameters(spec: HeadSpec, config: Settings, dim: int, n_classes: int, layers: int = 1) -> int | None:
    """Count the trainable parameters of a head for features of a width, without making them; None for one without a network."""
    if not isinstance(spec, Network):
        return None
    with torch.device("meta"):
        return count_parameters(build_module(spec, config, dim, n_classes, layers))
