"""Losses that classify an embedding among one or more vectors per class.

Most of them are one class softmax: minus the log of the own class's share. They differ
only in the margin on the cosine to the own class. `ccl_jax.losses.blocks.Over` says how
they take the sum over the other classes: at once or by blocks, over a class mesh, over
a sample.
"""

from collections.abc import Callable
from typing import Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from ccl_jax.labels import drop_padding, mask_loss
from ccl_jax.losses.blocks import Contrast, Over, contrast
from ccl_jax.vectors import check_arrays, check_dims, unit

__all__ = [
  "arcface",
  "cosface",
  "normalized_softmax",
  "proxy_anchor",
  "proxy_nca",
  "soft_triple",
]

# The least sine in `arcface`: it bounds the gradient where embedding and proxy agree.
_LEAST_SINE = 1e-6


def normalized_softmax(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  proxies: Num[Array, "K D"],
  *,
  temperature: float = 0.05,
  **over: Unpack[Over],
) -> Float[Array, " B"]:
  r"""Cross-entropy over cosines, :math:`-\log \mathrm{softmax}_y(z \cdot c / T)`.

  Args:
    embeddings: [B, D], any length, any float type; computed in float32 at least.
    labels: [B]; a negative label marks padding (loss 0), one >= K gives NaN.
    proxies: [K, D], any length.
    temperature: T.
    **over: how the sum over the other classes is taken: `blocks.Over`.

  Returns:
    [B] float32, one value per example.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import losses
    >>> embeddings = jnp.array([[3.0, 4.0], [1.0, 0.0]])
    >>> labels, proxies = jnp.array([1, 0]), jnp.eye(2)
    >>> values = losses.normalized_softmax(embeddings, labels, proxies, temperature=0.2)
    >>> print(values.shape, f"{losses.mean_over_examples(values, labels):.3f}")
    (2,) 0.160

  References:
    Zhai, Wu, Classification is a Strong Baseline for Deep Metric Learning, BMVC 2019,
    https://arxiv.org/abs/1811.12649
  """
  scale = 1 / temperature
  found = contrast(embeddings, labels, proxies, scale, over)
  return mask_loss(class_softmax(found, scale), labels, found.num_classes)


def cosface(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  proxies: Num[Array, "K D"],
  *,
  scale: float = 64.0,
  margin: float = 0.35,
  **over: Unpack[Over],
) -> Float[Array, " B"]:
  r"""Cross-entropy over scaled cosines; a margin lowers the cosine to the own proxy.

  .. math::
    \ell_i = -\log \frac{e^{s (z_i \cdot c_{y_i} - m)}}
      {e^{s (z_i \cdot c_{y_i} - m)} + \sum_{k \ne y_i} e^{s\, z_i \cdot c_k}}

  Args:
    embeddings: [B, D], any length, any float type; computed in float32 at least.
    labels: [B]; a negative label marks padding (loss 0), one >= K gives NaN.
    proxies: [K, D], any length.
    scale: s, the inverse temperature.
    margin: m, in units of cosine.
    **over: how the sum over the other classes is taken: `blocks.Over`.

  Returns:
    [B] float32, one value per example.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import losses
    >>> embeddings = jnp.array([[3.0, 4.0], [1.0, 0.0]])
    >>> labels, proxies = jnp.array([1, 0]), jnp.eye(2)
    >>> values = losses.cosface(embeddings, labels, proxies, scale=4.0, margin=0.1)
    >>> print(values.shape, f"{losses.mean_over_examples(values, labels):.3f}")
    (2,) 0.270

  References:
    Wang et al., CosFace: Large Margin Cosine Loss for Deep Face Recognition, CVPR
    2018, Eq. 4, https://arxiv.org/abs/1801.09414
  """
  found = contrast(embeddings, labels, proxies, scale, over)
  values = class_softmax(found, scale, lambda cosines: cosines - margin)
  return mask_loss(values, labels, found.num_classes)


def arcface(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  proxies: Num[Array, "K D"],
  *,
  scale: float = 64.0,
  margin: float = 0.5,
  **over: Unpack[Over],
) -> Float[Array, " B"]:
  r"""Cross-entropy over scaled cosines; a margin widens the angle to the own proxy.

  .. math::
    \ell_i = -\log \frac{e^{s\, \psi(\theta_{y_i})}}
      {e^{s\, \psi(\theta_{y_i})} + \sum_{k \ne y_i} e^{s \cos \theta_k}}

  .. math::
    \psi(\theta) = \cos(\theta + m) \text{ for } \theta \le \pi - m, \quad
      \cos \theta - m \sin m \text{ else}

  The second case is from the authors' code; it keeps psi falling where theta + m is
  above pi.

  Args:
    embeddings: [B, D], any length, any float type; computed in float32 at least.
    labels: [B]; a negative label marks padding (loss 0), one >= K gives NaN.
    proxies: [K, D], any length.
    scale: s, the inverse temperature.
    margin: m, an angle in radians, 0 to pi.
    **over: how the sum over the other classes is taken: `blocks.Over`.

  Returns:
    [B] float32, one value per example.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import losses
    >>> embeddings = jnp.array([[3.0, 4.0], [1.0, 0.0]])
    >>> labels, proxies = jnp.array([1, 0]), jnp.eye(2)
    >>> values = losses.arcface(embeddings, labels, proxies, scale=4.0, margin=0.1)
    >>> print(values.shape, f"{losses.mean_over_examples(values, labels):.3f}")
    (2,) 0.238

  References:
    Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition, CVPR
    2019, Eq. 3, https://arxiv.org/abs/1801.07698, and
    https://github.com/deepinsight/insightface
  """

  def with_margin(cosines):
    # cos(theta + m) by the addition formula, without the arc cosine, whose slope is
    # infinite at both ends. So is the slope of the sine, hence its least value.
    squared = (1 - cosines) * (1 + cosines)
    sines = jnp.sqrt(jnp.maximum(squared, _LEAST_SINE**2))
    turned = cosines * jnp.cos(margin) - sines * jnp.sin(margin)
    beyond = cosines - margin * jnp.sin(margin)
    return jnp.where(cosines >= -jnp.cos(margin), turned, beyond)

  found = contrast(embeddings, labels, proxies, scale, over)
  values = class_softmax(found, scale, with_margin)
  return mask_loss(values, labels, found.num_classes)


def proxy_nca(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  proxies: Num[Array, "K D"],
  *,
  temperature: float = 1 / 9,
  **over: Unpack[Over],
) -> Float[Array, " B"]:
  r"""ProxyNCA++: cross-entropy over squared distances to all proxies.

  .. math::
    \ell_i = -\log \frac{e^{-\lVert z_i - c_{y_i} \rVert^2 / T}}
      {\sum_k e^{-\lVert z_i - c_k \rVert^2 / T}}

  The own proxy is in the denominator, unlike in the first ProxyNCA. For z and c of unit
  length the squared distance is :math:`2 - 2 z_i \cdot c_k`, so that the loss equals
  `normalized_softmax` at half the temperature and is computed by it.

  Args:
    embeddings: [B, D], any length, any float type; computed in float32 at least.
    labels: [B]; a negative label marks padding (loss 0), one >= K gives NaN.
    proxies: [K, D], any length.
    temperature: T; the authors' code multiplies z and c by 3, which is T = 1/9.
    **over: how the sum over the other classes is taken: `blocks.Over`.

  Returns:
    [B] float32, one value per example.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import losses
    >>> embeddings = jnp.array([[3.0, 4.0], [1.0, 0.0]])
    >>> labels, proxies = jnp.array([1, 0]), jnp.eye(2)
    >>> values = losses.proxy_nca(embeddings, labels, proxies)
    >>> print(values.shape, f"{losses.mean_over_examples(values, labels):.3f}")
    (2,) 0.013

  References:
    Teh, DeVries, Taylor, ProxyNCA++: Revisiting and Revitalizing Proxy Neighborhood
    Component Analysis, ECCV 2020, Eq. 9, https://arxiv.org/abs/2004.01113, and
    https://github.com/euwern/proxynca_pp (`ProxyNCA_prob`)
  """
  temperature = temperature / 2
  return normalized_softmax(
    embeddings, labels, proxies, temperature=temperature, **over
  )


def proxy_anchor(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  proxies: Num[Array, "K D"],
  *,
  scale: float = 32.0,
  margin: float = 0.1,
) -> Float[Array, " B"]:
  r"""Lets each proxy pull the batch's examples of its class and push all others.

  .. math::
    L = \frac{1}{|P^+|} \sum_{k \in P^+}
        \log \Big(1 + \sum_{i: y_i = k} e^{-\alpha (z_i \cdot c_k - \delta)} \Big) +
      \frac{1}{K} \sum_k
        \log \Big(1 + \sum_{i: y_i \ne k} e^{\alpha (z_i \cdot c_k + \delta)} \Big)

  with P+ the classes that have an example in the batch. L is a mean over proxies and no
  sum over examples: every example has L as its value and padding has 0, so that
  `mean_over_examples` gives L.

  Args:
    embeddings: [B, D], any length, any float type; computed in float32 at least.
    labels: [B]; a negative label marks padding (loss 0), one >= K gives NaN.
    proxies: [K, D], any length.
    scale: alpha.
    margin: delta, in units of cosine.

  Returns:
    [B] float32, L for every example.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import losses
    >>> embeddings = jnp.array([[3.0, 4.0], [1.0, 0.0]])
    >>> labels, proxies = jnp.array([1, 0]), jnp.eye(2)
    >>> values = losses.proxy_anchor(embeddings, labels, proxies, scale=4.0)
    >>> print(values.shape, f"{losses.mean_over_examples(values, labels):.3f}")
    (2,) 1.929

  References:
    Kim et al., Proxy Anchor Loss for Deep Metric Learning, CVPR 2020, Eq. 4,
    https://arxiv.org/abs/2003.13911, and
    https://github.com/tjddus9597/Proxy-Anchor-CVPR2020
  """
  check_dims(embeddings=embeddings, proxies=proxies)
  num_classes = len(proxies)
  cosines = unit(drop_padding(embeddings, labels)) @ unit(proxies).T
  own = labels[:, None] == jnp.arange(num_classes, dtype=labels.dtype)[None, :]
  others = (labels >= 0)[:, None] & ~own
  pull = log_one_plus_sum(-scale * (cosines - margin), own, axis=0)
  push = log_one_plus_sum(scale * (cosines + margin), others, axis=0)
  present = jnp.maximum(own.any(axis=0).sum(), 1).astype(cosines.dtype)
  loss = pull.sum() / present + push.mean()
  return mask_loss(jnp.full(len(labels), loss), labels, num_classes)


def soft_triple(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  centers: Num[Array, "K C D"],
  *,
  scale: float = 20.0,
  gamma: float = 0.1,
  margin: float = 0.01,
  regularizer: float = 0.2,
) -> Float[Array, " B"]:
  r"""Cross-entropy over classes with several centers each, and a pull between them.

  .. math::
    S_{ik} = \sum_c \mathrm{softmax}_c (z_i \cdot w_{kc} / \gamma)\,
        z_i \cdot w_{kc}

  .. math::
    \ell_i = -\log \frac{e^{\lambda (S_{i y_i} - \delta)}}
        {e^{\lambda (S_{i y_i} - \delta)} + \sum_{k \ne y_i} e^{\lambda S_{ik}}} +
      \frac{\tau}{K C (C-1)} \sum_k \sum_{c < c'}
        \sqrt{2 + 10^{-5} - 2 w_{kc} \cdot w_{kc'}}

  with z and w scaled to unit length. The second term is the same for every example; it
  merges the centers that a class does not need, and is 0 where a class has one center.

  Args:
    embeddings: [B, D], any length, any float type; computed in float32 at least.
    labels: [B]; a negative label marks padding (loss 0), one >= K gives NaN.
    centers: [K, C, D], w, any length.
    scale: lambda, the inverse temperature.
    gamma: the temperature of the choice among a class's centers.
    margin: delta, in units of cosine.
    regularizer: tau, the weight of the second term.

  Returns:
    [B] float32, one value per example.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import losses
    >>> embeddings = jnp.array([[3.0, 4.0], [1.0, 0.0]])
    >>> labels, centers = jnp.array([1, 0]), jnp.eye(4).reshape(2, 4, 2)
    >>> values = losses.soft_triple(embeddings, labels, centers)
    >>> print(values.shape, f"{losses.mean_over_examples(values, labels):.3f}")
    (2,) 0.940

  References:
    Qian et al., SoftTriple Loss: Deep Metric Learning Without Triplet Sampling, ICCV
    2019, Eqs. 8 and 10, https://arxiv.org/abs/1909.05235, and
    https://github.com/idstcv/SoftTriple
  """
  check_arrays(centers=centers)
  if centers.ndim != 3:
    raise ValueError(f"centers {centers.shape}: expected [K, C, D], C vectors a class")
  check_dims(embeddings=embeddings, centers=centers)
  num_classes, per_class, _ = centers.shape
  w = unit(centers)
  cosines = jnp.einsum("bd,kcd->bkc", unit(drop_padding(embeddings, labels)), w)
  to_class = jnp.sum(jax.nn.softmax(cosines / gamma) * cosines, axis=-1)
  own = jax.nn.one_hot(labels, num_classes, dtype=cosines.dtype)
  values = _cross_entropy(scale * (to_class - margin * own), labels)

  among = jnp.einsum("kcd,ked->kce", w, w)[:, *jnp.triu_indices(per_class, k=1)]
  # Products of fewer bits may give merged centers a cosine above 1.
  apart = jnp.sqrt(jnp.maximum(2 + 1e-5 - 2 * among, 1e-5))
  spread = apart.sum() / max(num_classes * per_class * (per_class - 1), 1)
  return jnp.where(labels < 0, 0.0, values + regularizer * spread)


def class_softmax(
  found: Contrast,
  scale: float,
  with_margin: Callable[[Float[Array, " B"]], Float[Array, " B"]] | None = None,
) -> Float[Array, " B"]:
  r"""The cross-entropy of the own class, :math:`-\log` of its share of the softmax.

  .. math:: \ell_i = \log \Big(1 + \sum_{k \ne y_i} e^{s\, z_i \cdot c_k}
    / e^{s\, \psi(z_i \cdot c_{y_i})} \Big)

  It is computed as a softplus, which is precise however small the loss is.

  Args:
    found: from `contrast`: the batch against its own and the other classes.
    scale: s, the scale that `contrast` was given.
    with_margin: psi, applied to the cosine to the own class; None leaves it as it is.
  """
  cosines = jnp.sum(found.embeddings * found.own, axis=-1)
  if with_margin is not None:
    cosines = with_margin(cosines)
  return jax.nn.softplus(found.others - scale * cosines)


def _cross_entropy(
  logits: Float[Array, "B K"], labels: Int[Array, " B"]
) -> Float[Array, " B"]:
  own = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
  target = jnp.sum(logits * own, axis=-1)
  values = jax.nn.logsumexp(logits, axis=-1) - target
  return mask_loss(values, labels, logits.shape[1])


def log_one_plus_sum(
  exponents: Float[Array, "N M"], taken: Bool[Array, "N M"], *, axis: int
) -> Float[Array, " _"]:
  """log(1 + the sum of the exponentials that are taken); 0 where none is taken."""
  log_sum = jax.nn.logsumexp(exponents, axis=axis, where=taken)
  return jnp.logaddexp(0.0, log_sum)
