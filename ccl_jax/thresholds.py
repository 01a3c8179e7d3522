"""Thresholds on the similarity of two rows, and how often they are wrong.

Whether two pictures show one thing is asked of a pair, not of a ranking: this is
verification, where `ccl_jax.retrieval` is identification. Pairs are counted by blocks,
never N x N in memory.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from ccl_jax.labels import labeled_rows
from ccl_jax.vectors import check_dims

__all__ = ["Calibration", "calibrate", "calibrate_pairs"]


class Calibration(NamedTuple):
  """How often a threshold on the similarity of two rows is wrong.

  A pair is accepted, as being of one class, if its similarity is the threshold or more.

  Attributes:
    thresholds: ascending; the last accepts no pair.
    far: false accept rate, the share of the pairs of two classes that are accepted.
    frr: false reject rate, the share of the pairs of one class that are not.
    same: number of pairs of one class.
    other: number of pairs of two classes.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import thresholds
    >>> same = np.array([True, True, False, False])
    >>> found = thresholds.calibrate_pairs(np.array([0.9, 0.5, 0.6, 0.1]), same)
    >>> print(found.at_far(0.5), found.eer)
    (0.5, 0.0) 0.5
  """

  thresholds: Float[np.ndarray, " T"]
  far: Float[np.ndarray, " T"]
  frr: Float[np.ndarray, " T"]
  same: int
  other: int

  def at_far(self, far: float) -> tuple[float, float]:
    """The lowest threshold whose false accept rate is at most `far`, and its frr.

    Raises:
      ValueError: if `far` is not in (0, 1], or less than a single pair of two classes.
    """
    if not 0 < far <= 1 or far * self.other < 1:
      least = 1 / self.other
      raise ValueError(
        f"far={far} of {self.other} pairs of two classes: give {least:.2g} to 1, or"
        " more rows"
      )
    first = int(np.argmax(self.far <= far))
    return float(self.thresholds[first]), float(self.frr[first])

  @property
  def eer(self) -> float:
    """Equal error rate: where far and frr, with lines between thresholds, cross."""
    after = int(np.argmax(self.frr >= self.far))
    before = max(after - 1, 0)
    gap_before = self.far[before] - self.frr[before]
    gap_after = self.far[after] - self.frr[after]
    part = gap_before / (gap_before - gap_after) if gap_before > gap_after else 0.0
    return float(self.far[before] + part * (self.far[after] - self.far[before]))


# Cells of equal width between the cosines -1 and 1; their borders are exact in float32.
_CELLS = 2**16
_PAIRS_BLOCK = 2048  # rows of a square of similarities


def calibrate(
  queries: Float[Array | np.ndarray, "Q D"],
  query_labels: Int[Array | np.ndarray, " Q"],
  gallery: Float[Array | np.ndarray, "N D"] | None = None,
  gallery_labels: Int[Array | np.ndarray, " N"] | None = None,
) -> Calibration:
  """False accept and false reject rates of all pairs of rows, by their cosine.

  The thresholds are 65,537 cosines from -1 to 1, and one above. At each of them the
  rates are exact; between them, at a distance of 3e-5, nothing is known. Pairs are
  counted by blocks, so that time grows with Q x N and memory does not.

  Args:
    queries: embeddings, any length and float type.
    query_labels: class of each query; rows with a label < 0 are padding and ignored.
    gallery: the other row of each pair; None pairs each query with the queries after
      it, so that each pair counts once and no row meets itself.
    gallery_labels: class of each gallery row; rows with a label < 0 are ignored.

  Raises:
    ValueError: if shapes do not fit, an embedding is not finite in float32, or there is
      no pair of one class, or none of two classes.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import thresholds
    >>> embeddings = np.array([[1.0, 0.1], [1.0, 0.0], [0.1, 1.0], [0.2, 1.0]])
    >>> found = thresholds.calibrate(embeddings, np.array([0, 0, 1, 1]))
    >>> print(found.same, found.other, found.eer)
    2 4 0.0
  """
  if (gallery is None) != (gallery_labels is None):
    raise ValueError("gallery and gallery_labels go together; only one was given")
  among = gallery is None
  searched = rows, classes, _ = labeled_rows(queries, query_labels, "queries")
  if gallery is not None and gallery_labels is not None:
    searched = labeled_rows(gallery, gallery_labels, "gallery")
  columns, column_classes, _ = searched
  check_dims(queries=rows, gallery=columns)
  same, every = np.zeros(_CELLS + 1, np.int64), np.zeros(_CELLS + 1, np.int64)
  for i in range(0, len(rows), _PAIRS_BLOCK):
    for j in range(i if among else 0, len(columns), _PAIRS_BLOCK):
      cells = _cells_of_pairs(rows, columns, i, j)
      alike = (
        classes[i:][: len(cells), None] == column_classes[None, j:][:, :_PAIRS_BLOCK]
      )
      if among and i == j:
        above = np.triu_indices(len(cells), 1)
        cells, alike = cells[above], alike[above]
      every += np.bincount(cells.reshape(-1), minlength=len(every))
      same += np.bincount(cells[alike], minlength=len(same))
  thresholds = np.arange(_CELLS + 2) * (2 / _CELLS) - 1
  return _calibration(thresholds.astype(np.float32), same, every - same)


def calibrate_pairs(
  similarities: Float[Array | np.ndarray, " P"], same: Bool[Array | np.ndarray, " P"]
) -> Calibration:
  """False accept and false reject rates of given pairs, at each similarity.

  Args:
    similarities: [P], any finite numbers, the larger the more alike.
    same: [P], whether both rows of the pair are of one class.

  Raises:
    ValueError: if shapes differ, a similarity is not finite, or there is no pair of one
      class, or none of two classes.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import thresholds
    >>> same = np.array([True, False])
    >>> print(thresholds.calibrate_pairs(np.array([0.9, 0.1]), same).eer)
    0.0
  """
  similarities, same = np.asarray(similarities), np.asarray(same, bool)
  if similarities.ndim != 1 or similarities.shape != same.shape:
    raise ValueError(
      f"similarities {similarities.shape} and same {same.shape}: expected two vectors"
      " of one length"
    )
  if not np.isfinite(similarities).all():
    bad = int(np.argmin(np.isfinite(similarities)))
    raise ValueError(
      f"similarity {bad} is {similarities[bad]}: expected finite numbers"
    )
  values, cells = np.unique(similarities, return_inverse=True)
  counts = [np.bincount(cells[kept], minlength=len(values)) for kept in (same, ~same)]
  above = np.nextafter(values[-1:], np.inf) if len(values) else values
  return _calibration(np.concatenate([values, above]), *counts)


def _calibration(
  thresholds: np.ndarray, same: np.ndarray, other: np.ndarray
) -> Calibration:
  """From the number of pairs between each two thresholds, the lower one included."""
  if not (same.any() and other.any()):
    lacking = "two classes" if same.any() else "one class"
    raise ValueError(f"there is no pair of {lacking}: give rows with such labels")
  accepted = np.append(np.cumsum(other[::-1])[::-1], 0)
  rejected = np.insert(np.cumsum(same), 0, 0)
  total = int(same.sum()), int(other.sum())
  return Calibration(thresholds, accepted / total[1], rejected / total[0], *total)


def _cells_of_pairs(
  rows: np.ndarray, columns: np.ndarray, i: int, j: int
) -> Int[np.ndarray, "b c"]:
  """The cell of each cosine of a block that begins at row i and column j."""
  blocks = []
  for part in (rows[i : i + _PAIRS_BLOCK], columns[j : j + _PAIRS_BLOCK]):
    # One shape, so that one program is compiled, unless there are few rows in all.
    size = min(_PAIRS_BLOCK, max(len(rows), len(columns)))
    blocks.append(jnp.asarray(np.pad(part, ((0, size - len(part)), (0, 0)))))
  cells = np.asarray(_cells(*blocks))
  return cells[: len(rows) - i, : len(columns) - j]


@jax.jit
def _cells(rows: Array, columns: Array) -> Array:
  cosines = jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST)
  # A cosine of 1 has a cell of its own, or the threshold 1 would accept nothing.
  return jnp.clip(jnp.floor((cosines + 1) * (_CELLS / 2)), 0, _CELLS).astype(jnp.int32)
