"""Random draws for a part of a batch, equal to those of the whole batch."""

import numpy as np

Size = tuple[int, ...]
Number = int | float


class RowDraws:
  """Draws like NumPy's generator for a whole batch, and returns a part of the rows.

  Every process draws for all rows, so that the generators of all processes stay equal.
  `size` is required and its first entry stands for the rows: a draw without a row for
  each image would not fit the images of a process.

  Args:
    rng: the generator.
    rows: the rows of the batch that are returned.
    total: rows of the whole batch.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data.draws import RowDraws
    >>> whole = np.random.default_rng(0).random(size=(4,))
    >>> part = RowDraws(np.random.default_rng(0), slice(2, 4), total=4)
    >>> print(part.random(size=(2,)) == whole[2:])
    [ True  True]
  """

  def __init__(self, rng: np.random.Generator, rows: slice, total: int):
    self._rng, self._rows, self._total = rng, rows, total

  def _whole(self, size: Size) -> Size:
    return (self._total, *size[1:])

  def random(self, *, size: Size) -> np.ndarray:
    return self._rng.random(size=self._whole(size))[self._rows]

  def uniform(self, low: Number = 0.0, high: Number = 1.0, *, size: Size) -> np.ndarray:
    return self._rng.uniform(low, high, size=self._whole(size))[self._rows]

  def integers(self, low: int, high: int | None = None, *, size: Size) -> np.ndarray:
    return self._rng.integers(low, high, size=self._whole(size))[self._rows]

  def standard_normal(self, *, size: Size, dtype: type = np.float64) -> np.ndarray:
    return self._rng.standard_normal(size=self._whole(size), dtype=dtype)[self._rows]


Draws = np.random.Generator | RowDraws  # for a whole batch, or for a part of it
