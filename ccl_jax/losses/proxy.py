"""Losses that classify an embedding among one or more vectors per class."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from ccl_jax.centers import unit
from ccl_jax.labels import drop_padding, mask_loss


def normalized_softmax(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  proxies: Num[Array, "K D"],
  *,
  temperature: float = 0.05,
) -> Float[Array, " B"]:
  r"""Cross-entropy over cosines, :math:`-\log \mathrm{softmax}_y(z \cdot c / T)`.

  Args:
    embeddings: [B, D], any length, any float type; computed in float32.
    labels: [B]; a negative label marks padding (loss 0), one >= K gives NaN.
    proxies: [K, D], any length.
    temperature: T.

  Returns:
    [B] float32, one value per example.

  References:
    Zhai, Wu, Classification is a Strong Baseline for Deep Metric Learning, BMVC 2019,
    https://arxiv.org/abs/1811.12649
  """
  return cosface(embeddings, labels, proxies, scale=1 / temperature, margin=0.0)


def cosface(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  proxies: Num[Array, "K D"],
  *,
  scale: float = 64.0,
  margin: float = 0.35,
) -> Float[Array, " B"]:
  r"""Cross-entropy over scaled cosines, the own one reduced by a margin.

  .. math::
    \ell_i = -\log \frac{e^{s (z_i \cdot c_{y_i} - m)}}
      {e^{s (z_i \cdot c_{y_i} - m)} + \sum_{k \ne y_i} e^{s\, z_i \cdot c_k}}

  Args:
    embeddings: [B, D], any length, any float type; computed in float32.
    labels: [B]; a negative label marks padding (loss 0), one >= K gives NaN.
    proxies: [K, D], any length.
    scale: s, the inverse temperature.
    margin: m, in units of cosine.

  Returns:
    [B] float32, one value per example.

  References:
    Wang et al., CosFace: Large Margin Cosine Loss for Deep Face Recognition, CVPR
    2018, Eq. 4, https://arxiv.org/abs/1801.09414
  """
  num_classes = len(proxies)
  cosines = unit(drop_padding(embeddings, labels)) @ unit(proxies).T
  own = jax.nn.one_hot(labels, num_classes, dtype=cosines.dtype)
  logits = scale * (cosines - margin * own)
  target = jnp.sum(logits * own, axis=-1)
  return mask_loss(jax.nn.logsumexp(logits, axis=-1) - target, labels, num_classes)
