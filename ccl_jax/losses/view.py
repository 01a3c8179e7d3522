"""Losses over the views and classes of a batch: NT-Xent and ConTeX.

Every row is an anchor. An id for each row says which image it shows, so that views may
come in any order and number. The published scalar of each loss is a mean over the
anchors that have the pairs which the loss needs; the values are spread over the
examples as in `ccl_jax.losses.pair`.

The largest arrays are N x N; no array has a third dimension.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from ccl_jax.losses.pair import Pairs, mean_gap, pairs_of, spread
from ccl_jax.vectors import check_arrays

__all__ = ["contex", "nt_xent"]


def nt_xent(
  embeddings: Num[Array, "N D"],
  labels: Int[Array, " N"],
  images: Int[Array, " N"],
  *,
  temperature: float = 0.1,
) -> Float[Array, " N"]:
  r"""Pulls each row toward the other views of its image, against all rows (SimCLR).

  .. math::
    \ell_i = -\frac{1}{|S(i)|} \sum_{q \in S(i)}
      \log \frac{e^{z_i \cdot z_q / \tau}}{\sum_{k \ne i} e^{z_i \cdot z_k / \tau}}

  with z scaled to unit length and S(i) the other rows that show the image of row i. An
  anchor whose S(i) is empty does not count in the mean; that is our choice.

  Args:
    embeddings: [N, D], any length, any float type; computed in float32 at least.
    labels: [N]; a negative label marks padding, which no anchor is contrasted with.
      The classes themselves are not read.
    images: [N], an id of the image that each row shows, unique in the batch.
    temperature: tau.

  Returns:
    [N] float32, one value per row.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import losses
    >>> embeddings = jnp.array([[3.0, 4.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> labels = jnp.array([0, 0, 1, 1])
    >>> images = jnp.array([0, 0, 1, 1])
    >>> values = losses.nt_xent(embeddings, labels, images)
    >>> print(values.shape, f"{losses.mean_over_examples(values, labels):.3f}")
    (4,) 2.406

  References:
    Chen et al., A Simple Framework for Contrastive Learning of Visual Representations,
    ICML 2020, Eq. 1, https://arxiv.org/abs/2002.05709
  """
  pairs = pairs_of(embeddings, labels)
  return _views_apart(pairs, labels, images, temperature)


def contex(
  embeddings: Num[Array, "N D"],
  labels: Int[Array, " N"],
  images: Int[Array, " N"] | None = None,
  *,
  temperature: float = 0.1,
  base_temperature: float = 0.07,
  clamp: bool = False,
) -> Float[Array, " N"]:
  r"""The mean of two contrasts, over classes and over views (ConTeX).

  .. math::
    a_i = \frac{1}{|P(i)|} \sum_{p \in P(i)} \Big[
      \log \sum_{n \in N(i)} e^{z_i \cdot z_n / \tau} - z_i \cdot z_p / \tau \Big]

  .. math::
    b_i = \frac{1}{|S(i)|} \sum_{q \in S(i)} \Big[
      \log \sum_{k \ne i} e^{z_i \cdot z_k / \tau} - z_i \cdot z_q / \tau \Big]

  .. math::
    \ell_i = \frac{\tau}{\tau_0} \frac{a_i + b_i}{2}

  with z scaled to unit length, P(i) the other rows that have the label of row i, N(i)
  the rows of other labels, and S(i) the other rows that show the image of row i. The
  denominator of a holds negatives only, so that the loss may be negative; b is NT-Xent.

  The authors' code gives NaN where one of these sets is empty. Here, by our choice, an
  anchor whose P(i) or N(i) is empty does not count in the mean of a, and an anchor
  whose S(i) is empty does not count in the mean of b. A batch of one class therefore
  keeps b alone, and a batch with one view of each image keeps a alone.

  Args:
    embeddings: [N, D], any length, any float type; computed in float32 at least.
    labels: [N]; a negative label marks padding, which no anchor is contrasted with.
    images: [N], an id of the image that each row shows, unique in the batch;
      None: every row shows an image of its own.
    temperature: tau.
    base_temperature: tau_0.
    clamp: raises each negative term of a to 0: the authors' variant `contex_p`.

  Returns:
    [N] float32, one value per row; the means of a and of b are spread separately.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import losses
    >>> embeddings = jnp.array([[3.0, 4.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> labels = jnp.array([0, 0, 1, 1])
    >>> images = jnp.array([0, 0, 1, 1])
    >>> values = losses.contex(embeddings, labels, images)
    >>> print(values.shape, f"{losses.mean_over_examples(values, labels):.3f}")
    (4,) 3.313

  References:
    Deng, Yang, Context-Enriched Contrastive Loss, IEEE Transactions on Multimedia 27,
    2025, https://arxiv.org/abs/2512.02152, and the authors' code (`losses.py`)
  """
  pairs = pairs_of(embeddings, labels)
  similarities = pairs.cosines / temperature
  negatives = jax.nn.logsumexp(similarities, axis=1, where=pairs.negatives)
  by_class = mean_gap(similarities, pairs.positives, negatives, clamp=clamp)
  both = pairs.positives.any(axis=1) & pairs.negatives.any(axis=1)
  by_class = spread(by_class, both, labels)
  if images is None:
    images = jnp.arange(len(labels))
  by_view = _views_apart(pairs, labels, images, temperature)
  return temperature / base_temperature * 0.5 * (by_class + by_view)


def _views_apart(
  pairs: Pairs,
  labels: Int[Array, " N"],
  images: Int[Array, " N"],
  temperature: float,
) -> Float[Array, " N"]:
  check_arrays(images=images)
  if images.shape != labels.shape:
    raise ValueError(
      f"labels {labels.shape} and images {images.shape}: expected [B] each"
    )
  views = pairs.others & (images[:, None] == images[None, :])
  similarities = pairs.cosines / temperature
  all_others = jax.nn.logsumexp(similarities, axis=1, where=pairs.others)
  values = mean_gap(similarities, views, all_others)
  return spread(values, views.any(axis=1), labels)
