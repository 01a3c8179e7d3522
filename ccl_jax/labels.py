"""What a label may be: a class 0..K-1, padding (< 0), or an error (>= K).

Indexing in JAX never raises: a wrong label would silently read the row of another
class. The functions below treat the three cases alike in every loss.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from ccl_jax.vectors import check_arrays, unit_rows

__all__ = [
  "as_classes",
  "check_labels",
  "drop_padding",
  "labeled_rows",
  "mask_loss",
  "mean_over_examples",
]


def check_labels(labels: Int[Array, " B"] | np.ndarray, num_classes: int) -> None:
  """Raises if a label has no class; to be called on the host, before a run.

  Args:
    labels: [B] or any shape; negative labels mark padding and pass.
    num_classes: K, the number of rows of the center bank.

  Raises:
    ValueError: naming the first label >= K, its position, and K.

  Example:
    >>> import numpy as np, ccl_jax
    >>> ccl_jax.check_labels(np.array([0, 2, -1]), num_classes=3)
    >>> ccl_jax.check_labels(np.array([0, 3]), num_classes=3)
    Traceback (most recent call last):
      ...
    ValueError: label 3 at position 1 has no class: num_classes is 3, so ...
  """
  flat = np.asarray(labels).reshape(-1)
  _check_integers(flat)
  bad = np.flatnonzero(flat >= num_classes)
  if bad.size:
    raise ValueError(
      f"label {flat[bad[0]]} at position {bad[0]} has no class: num_classes is "
      f"{num_classes}, so labels go from 0 to {num_classes - 1}"
    )


def drop_padding(
  embeddings: Num[Array, "B D"], labels: Int[Array, " B"]
) -> Num[Array, "B D"]:
  """Sets padding rows to zero, even where they hold NaN.

  To mask the loss alone is not enough: its gradient would hold 0 * NaN = NaN.

  Raises:
    ValueError: unless there is a row of embeddings, and an integer, for each example.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import labels
    >>> rows = jnp.array([[jnp.nan, 1.0], [3.0, 4.0]])
    >>> print(labels.drop_padding(rows, jnp.array([-1, 0])))
    [[0. 0.]
     [3. 4.]]
  """
  _check_integers(labels)
  check_arrays(embeddings=embeddings)
  if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
    given = f"embeddings {embeddings.shape} and labels {labels.shape}"
    raise ValueError(f"{given}: expected [B, D] and [B]")
  zero = jnp.zeros((), embeddings.dtype)
  return jnp.where(labels[:, None] < 0, zero, embeddings)


def as_classes(labels: Int[Array, " B"], num_classes: int) -> Int[Array, " B"]:
  """Labels as int32 or int64, so that they can be compared with K and with -1.

  Raises:
    ValueError: if labels are no integers, or their type is too narrow for K, so that
      they wrapped around.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import labels
    >>> print(labels.as_classes(jnp.array([0, 4], jnp.int8), num_classes=5).dtype)
    int32
  """
  _check_integers(labels)
  if num_classes > jnp.iinfo(labels.dtype).max:
    raise ValueError(
      f"labels of {labels.dtype} cannot be compared with num_classes={num_classes}:"
      " make them int32"
    )
  return labels if labels.dtype == jnp.int64 else labels.astype(jnp.int32)


def mask_loss(
  loss: Float[Array, " B"], labels: Int[Array, " B"], num_classes: int
) -> Float[Array, " B"]:
  """The loss per example, set to 0 for padding and to NaN for labels >= K.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import labels
    >>> print(labels.mask_loss(jnp.ones(3), jnp.array([-1, 0, 5]), num_classes=5))
    [ 0.  1. nan]
  """
  labels = as_classes(labels, num_classes)
  return jnp.where(labels < 0, 0.0, jnp.where(labels < num_classes, loss, jnp.nan))


def mean_over_examples(
  loss: Float[Array, " B"], labels: Int[Array, " B"]
) -> Float[Array, ""]:
  """Mean of a per-example loss over the examples that are not padding.

  Args:
    loss: [B], zero on padding rows.
    labels: [B].

  Returns:
    A scalar; 0 if every row is padding.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import losses
    >>> values, labels = jnp.array([2.0, 4.0, 0.0]), jnp.array([1, 0, -1])
    >>> print(losses.mean_over_examples(values, labels), values.mean())
    3.0 2.0
  """
  check_arrays(loss=loss, labels=labels)
  count = jnp.maximum((labels >= 0).sum(), 1)
  return loss.sum() / count.astype(loss.dtype)


def _check_integers(labels) -> None:
  kind = getattr(labels, "dtype", type(labels).__name__)
  if not (hasattr(labels, "dtype") and jnp.issubdtype(labels.dtype, jnp.integer)):
    raise ValueError(f"labels are {kind}; expected an array of integers 0..K-1")


def labeled_rows(
  rows: Array | np.ndarray, labels: Array | np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Unit rows, classes and row numbers on the host, without padding.

  Args:
    rows: [N, D], any length.
    labels: [N]; a label < 0 marks padding.
    name: of the rows, for a message.

  Raises:
    ValueError: if shapes do not fit, a row is not finite, or all are padding.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import labels
    >>> rows = np.array([[3.0, 4.0], [1.0, 1.0]])
    >>> print(labels.labeled_rows(rows, np.array([2, -1]), "rows"))
    (array([[0.6, 0.8]], dtype=float32), array([2]), array([0]))
  """
  labels = np.asarray(labels)
  if labels.shape != (len(rows),):
    raise ValueError(
      f"{name} has {len(rows)} rows and needs a label for each, got labels of shape"
      f" {labels.shape}"
    )
  kept = labels >= 0
  if not kept.any():
    raise ValueError(f"{name} has no row with a label >= 0")
  return unit_rows(np.asarray(rows)[kept], name), labels[kept], np.flatnonzero(kept)
