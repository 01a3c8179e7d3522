"""Random draws for a part of a batch, the same as for the whole batch."""

import numpy as np

Size = tuple[int, ...]
Number = int | float


class RowDraws:
  """Draws as NumPy's generator does, for a whole batch, and returns a part of its rows.

  Every process draws for all rows of the batch, so that their generators stay alike.
  The size is required, by name: a draw without a row for each image would differ
  between processes.

  Args:
    rng: source of the draws.
    rows: the part of the batch that is returned.
    total: rows of the whole batch.
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


Draws = np.random.Generator | RowDraws  # of a whole batch, or of a part of it
