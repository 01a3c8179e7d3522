"""Losses over the views and classes of a batch: NT-Xent, SupCon and ConTeX.

Every row is an anchor. Which rows show the same image is told by an id a row, so that
the views may come in any order and number. The published scalar of each is a mean over
the anchors that have the pairs it needs; its values are spread so that
`mean_over_examples` gives that scalar: an anchor without them has the value 0, and the
others are raised by the number of examples over the number of such anchors.

The similarities held are N x N (N x the global batch over a mapped axis), never with a
third dimension.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from ccl_jax.centers import unit
from ccl_jax.labels import drop_padding


def nt_xent(
  embeddings: Num[Array, "N D"],
  labels: Int[Array, " N"],
  images: Int[Array, " N"],
  *,
  temperature: float = 0.1,
  axis_name: str | None = None,
) -> Float[Array, " N"]:
  r"""Tells the other views of an image from all other rows (SimCLR).

  .. math::
    \ell_i = -\frac{1}{|S(i)|} \sum_{q \in S(i)}
      \log \frac{e^{z_i \cdot z_q / \tau}}{\sum_{k \ne i} e^{z_i \cdot z_k / \tau}}

  with z scaled to unit length and S(i) the other rows that show the image of row i. An
  anchor whose S(i) is empty leaves the mean (see the module); that is our choice.

  Args:
    embeddings: [N, D], any length, any float type; computed in float32 at least.
    labels: [N]; a negative label marks padding, which no anchor is contrasted with.
      Otherwise they are not read.
    images: [N], an id of the image that each row shows, unique in the global batch.
    temperature: tau.
    axis_name: a mapped axis (`pmap`, or `shard_map` with `check_vma=False`) over which
      the rows are split: its own rows are a device's anchors, and those of all devices
      its contrasts. Average the gradients with `lax.pmean`.

  Returns:
    [N] float32, one value per row.

  References:
    Chen et al., A Simple Framework for Contrastive Learning of Visual Representations,
    ICML 2020, Eq. 1, https://arxiv.org/abs/2002.05709
  """
  pairs = _pairs(embeddings, labels, images, temperature, axis_name)
  return _views_apart(pairs, labels, axis_name)


def supcon(
  embeddings: Num[Array, "N D"],
  labels: Int[Array, " N"],
  *,
  temperature: float = 0.1,
  base_temperature: float = 0.07,
  axis_name: str | None = None,
) -> Float[Array, " N"]:
  r"""Tells the other rows of a class, views included, from all other rows.

  .. math::
    \ell_i = -\frac{\tau}{\tau_0} \frac{1}{|P(i)|} \sum_{p \in P(i)}
      \log \frac{e^{z_i \cdot z_p / \tau}}{\sum_{k \ne i} e^{z_i \cdot z_k / \tau}}

  with z scaled to unit length and P(i) the other rows of the label of row i. An anchor
  whose P(i) is empty leaves the mean (see the module).

  Args:
    embeddings: [N, D], any length, any float type; computed in float32 at least.
    labels: [N]; a negative label marks padding, which no anchor is contrasted with.
    temperature: tau.
    base_temperature: tau_0; the factor is in the authors' code, not in the paper.
    axis_name: as in `nt_xent`.

  Returns:
    [N] float32, one value per row.

  References:
    Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, Eq. 2,
    https://arxiv.org/abs/2004.11362
  """
  pairs = _pairs(embeddings, labels, None, temperature, axis_name)
  all_others = _log_sum(pairs, pairs.others)
  values = _pull(pairs.similarities, pairs.positives, all_others)
  values = _spread(values, pairs.positives.any(axis=1), labels, axis_name)
  return temperature / base_temperature * values


def contex(
  embeddings: Num[Array, "N D"],
  labels: Int[Array, " N"],
  images: Int[Array, " N"] | None = None,
  *,
  temperature: float = 0.1,
  base_temperature: float = 0.07,
  clamp: bool = False,
  axis_name: str | None = None,
) -> Float[Array, " N"]:
  r"""Contrasts classes, without the positives below, and views (NT-Xent), by halves.

  .. math::
    a_i &= \frac{1}{|P(i)|} \sum_{p \in P(i)} \Big[
      \log \sum_{n \in N(i)} e^{z_i \cdot z_n / \tau} - z_i \cdot z_p / \tau \Big] \\
    b_i &= \frac{1}{|S(i)|} \sum_{q \in S(i)} \Big[
      \log \sum_{k \ne i} e^{z_i \cdot z_k / \tau} - z_i \cdot z_q / \tau \Big] \\
    \ell_i &= \frac{\tau}{\tau_0} \frac{a_i + b_i}{2}

  with z scaled to unit length, P(i) the other rows of the label of row i, N(i) the rows
  of other labels, and S(i) the other rows that show its image. It may be negative.

  The authors' code gives NaN where one of these sets is empty. Here, by our choice, an
  anchor whose P(i) or N(i) is empty leaves the mean of a, and one whose S(i) is empty
  that of b: a batch of one class keeps b alone, and one of single views a alone.

  Args:
    embeddings: [N, D], any length, any float type; computed in float32 at least.
    labels: [N]; a negative label marks padding, which no anchor is contrasted with.
    images: [N], an id of the image that each row shows, unique in the global batch;
      None: every row shows its own.
    temperature: tau.
    base_temperature: tau_0.
    clamp: cuts each pair's part of a at 0 from below, the authors' variant `contex_p`.
    axis_name: as in `nt_xent`.

  Returns:
    [N] float32, one value per row, spread as the module says, each mean for itself.

  References:
    Deng, Yang, Context-Enriched Contrastive Loss, IEEE Transactions on Multimedia 27,
    2025, https://arxiv.org/abs/2512.02152, and the authors' code (`losses.py`)
  """
  pairs = _pairs(embeddings, labels, images, temperature, axis_name)
  negatives = _log_sum(pairs, pairs.negatives)
  by_class = _pull(pairs.similarities, pairs.positives, negatives, clamp=clamp)
  both = pairs.positives.any(axis=1) & pairs.negatives.any(axis=1)
  by_class = _spread(by_class, both, labels, axis_name)
  by_view = _views_apart(pairs, labels, axis_name)
  return temperature / base_temperature * 0.5 * (by_class + by_view)


class _Pairs(NamedTuple):
  """Anchors, the local rows, against all rows of the global batch."""

  similarities: Float[Array, "N M"]  # cosines over the temperature
  others: Bool[Array, "N M"]  # two rows that are not padding, and not the same row
  positives: Bool[Array, "N M"]  # others of the anchor's label
  negatives: Bool[Array, "N M"]  # others of another label
  views: Bool[Array, "N M"]  # others that show the anchor's image


def _pairs(embeddings, labels, images, temperature, axis_name) -> _Pairs:
  z = unit(drop_padding(embeddings, labels))
  row = jnp.arange(len(labels))
  if axis_name is not None:
    row = row + len(labels) * jax.lax.axis_index(axis_name)
  if images is None:
    images = row

  def of_all(rows):
    return (
      rows if axis_name is None else jax.lax.all_gather(rows, axis_name, tiled=True)
    )

  def equal(rows):
    return rows[:, None] == of_all(rows)[None, :]

  real = labels >= 0
  others = real[:, None] & of_all(real)[None, :] & ~equal(row)
  return _Pairs(
    similarities=z @ of_all(z).T / temperature,
    others=others,
    positives=others & equal(labels),
    negatives=others & ~equal(labels),
    views=others & equal(images),
  )


def _log_sum(pairs: _Pairs, taken: Bool[Array, "N M"]) -> Float[Array, " N"]:
  """Log of the summed exponentials of a row; -inf, which is dropped later, of none."""
  return jax.nn.logsumexp(pairs.similarities, axis=1, where=taken)


def _pull(
  similarities: Float[Array, "N M"],
  wanted: Bool[Array, "N M"],
  log_sum: Float[Array, " N"],
  *,
  clamp: bool = False,
) -> Float[Array, " N"]:
  """Mean over the wanted of log_sum - similarity; 0 where none is wanted."""
  values = log_sum[:, None] - similarities
  if clamp:
    values = jnp.maximum(values, 0.0)
  total = jnp.where(wanted, values, 0.0).sum(axis=1)
  return total / jnp.maximum(wanted.sum(axis=1), 1).astype(total.dtype)


def _views_apart(pairs: _Pairs, labels, axis_name) -> Float[Array, " N"]:
  all_others = _log_sum(pairs, pairs.others)
  values = _pull(pairs.similarities, pairs.views, all_others)
  return _spread(values, pairs.views.any(axis=1), labels, axis_name)


def _spread(
  values: Float[Array, " N"],
  has_pairs: Bool[Array, " N"],
  labels: Int[Array, " N"],
  axis_name: str | None,
) -> Float[Array, " N"]:
  """Values whose mean over the examples is that over the anchors that have pairs."""
  counts = (labels >= 0).sum(), has_pairs.sum()
  if axis_name is not None:
    counts = jax.lax.psum(counts, axis_name)
  examples, anchors = (count.astype(values.dtype) for count in counts)
  return jnp.where(has_pairs, values, 0.0) * (examples / jnp.maximum(anchors, 1))
