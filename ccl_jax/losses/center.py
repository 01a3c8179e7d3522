"""Losses that pull an embedding to its class center."""

from typing import Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from ccl_jax.labels import drop_padding, mask_loss
from ccl_jax.losses.blocks import Over, contrast
from ccl_jax.losses.proxy import class_softmax
from ccl_jax.vectors import check_dims, unit

__all__ = ["center_contrastive", "center_loss", "contrastive_center"]


def center_contrastive(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  centers: Num[Array, "K D"],
  *,
  scale: float = 16.0,
  margin: float = 0.2,
  center_weight: float = 2.0,
  **over: Unpack[Over],
) -> Float[Array, " B"]:
  r"""Contrasts each embedding with every class center, and pulls it to its own.

  .. math::
    \ell_i = -\log \frac{e^{s (z_i \cdot c_{y_i} - m)}}
      {e^{s (z_i \cdot c_{y_i} - m)} + \sum_{k \ne y_i} e^{s\, z_i \cdot c_k}} +
      \lambda \lVert z_i - c_{y_i} \rVert^2

  with z and c scaled to unit length: Eq. 5 of the reference plus the constant
  :math:`2 \lambda`, which makes it non-negative.

  Args:
    embeddings: [B, D], any length, any float type; computed in float32 at least.
    labels: [B]; a negative label marks padding (loss 0), one >= K gives NaN.
    centers: [K, D], any length.
    scale: s, the inverse temperature. The defaults of s, m and lambda are our choice,
      tuned on validation classes of Glyphs; no public source states the paper's.
    margin: m, in units of cosine, subtracted from the own class's cosine.
    center_weight: lambda, the weight of the pull to the own center.
    **over: how the sum over the other classes is taken: `blocks.Over`.

  Returns:
    [B] float32, one value per example.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import losses
    >>> embeddings = jnp.array([[3.0, 4.0], [1.0, 0.0]])
    >>> labels, centers = jnp.array([1, 0]), jnp.eye(2)
    >>> values = losses.center_contrastive(embeddings, labels, centers, scale=4.0)
    >>> print(values.shape, f"{losses.mean_over_examples(values, labels):.3f}")
    (2,) 0.767

  References:
    Cai, Xiong, Tian, Center Contrastive Loss for Metric Learning, 2023, Eq. 5,
    https://arxiv.org/abs/2308.00458
  """
  found = contrast(embeddings, labels, centers, scale, over)
  values = class_softmax(found, scale, lambda cosines: cosines - margin)
  pull = jnp.sum((found.embeddings - found.own) ** 2, axis=-1)
  return mask_loss(values + center_weight * pull, labels, found.num_classes)


def center_loss(
  embeddings: Num[Array, "B D"], labels: Int[Array, " B"], centers: Num[Array, "K D"]
) -> Float[Array, " B"]:
  r"""Half the squared distance to the own center, :math:`\lVert z-c_y \rVert^2/2`.

  The reference adds it to a softmax loss and does not scale embeddings; here, as in
  every loss of this package, z and c are scaled to unit length first.

  Args:
    embeddings: [B, D], any length, any float type; computed in float32 at least.
    labels: [B]; a negative label marks padding (loss 0), one >= K gives NaN.
    centers: [K, D], any length.

  Returns:
    [B] float32, one value per example, between 0 and 2.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import losses
    >>> embeddings = jnp.array([[3.0, 4.0], [1.0, 0.0]])
    >>> labels, centers = jnp.array([1, 0]), jnp.eye(2)
    >>> values = losses.center_loss(embeddings, labels, centers)
    >>> print(values.shape, f"{losses.mean_over_examples(values, labels):.3f}")
    (2,) 0.100

  References:
    Wen et al., A Discriminative Feature Learning Approach for Deep Face Recognition,
    ECCV 2016, Eq. 2, https://doi.org/10.1007/978-3-319-46478-7_31
  """
  check_dims(embeddings=embeddings, centers=centers)
  if not len(centers):
    raise ValueError(f"centers {centers.shape}: expected [K, D] with a class at least")
  z = unit(drop_padding(embeddings, labels))
  own = unit(jnp.take(centers, jnp.maximum(labels, 0), axis=0, mode="clip"))
  return mask_loss(0.5 * jnp.sum((z - own) ** 2, axis=-1), labels, len(centers))


def contrastive_center(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  centers: Num[Array, "K D"],
  *,
  delta: float = 1.0,
) -> Float[Array, " B"]:
  r"""Squared distance to the own center, divided by the sum of those to all others.

  .. math::
    \ell_i = \frac{1}{2} \frac{\lVert z_i - c_{y_i} \rVert^2}
      {\sum_{k \ne y_i} \lVert z_i - c_k \rVert^2 + \delta}

  Args:
    embeddings: [B, D]; scaled to unit length here, in float32.
    labels: [B]; a negative label marks padding (loss 0), one >= K gives NaN.
    centers: [K, D]; scaled to unit length here.
    delta: keeps the denominator from zero; 1 in the reference.

  Returns:
    [B] float32, one value per example.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import losses
    >>> embeddings = jnp.array([[3.0, 4.0], [1.0, 0.0]])
    >>> labels, centers = jnp.array([1, 0]), jnp.eye(2)
    >>> values = losses.contrastive_center(embeddings, labels, centers)
    >>> print(values.shape, f"{losses.mean_over_examples(values, labels):.3f}")
    (2,) 0.056

  References:
    Qi, Su, Contrastive-Center Loss for Deep Neural Networks, ICIP 2017, Eq. 3,
    https://arxiv.org/abs/1707.07391
  """
  check_dims(embeddings=embeddings, centers=centers)
  z, c = unit(drop_padding(embeddings, labels)), unit(centers)
  squared = (
    jnp.sum(z * z, axis=-1)[:, None] + jnp.sum(c * c, axis=-1)[None, :] - 2 * z @ c.T
  )
  others = 1 - jax.nn.one_hot(labels, len(centers), dtype=squared.dtype)
  distant = jnp.sum(squared * others, axis=-1) + delta
  return center_loss(embeddings, labels, centers) / distant
