"""Queries with what they found, for the choice of what to show and for the page."""

import numpy as np
import pytest

from ccl_jax.report.neighbors import Neighbors
from tests.report.test_figures import pictures


@pytest.fixture(scope="module")
def neighbors():
  """Six queries among themselves; classes 0 0 1 1 2 and the lone class 3."""
  images = pictures(6)
  labels = np.array([0, 0, 1, 1, 2, 3])
  return Neighbors(
    query_images=images,
    query_labels=labels,
    gallery_images=images,
    gallery_labels=labels,
    indices=np.array([[1, 2], [2, 0], [0, 3], [4, 1], [0, 1], [0, 1]], np.int32),
    similarities=np.array(
      [[0.95, 0.1], [0.75, 0.2], [0.85, 0.3], [0.65, 0.4], [0.99, 0.5], [0.98, 0.5]],
      np.float32,
    ),
    names={0: "zero", 1: "<one> & 'a' \"b\"", 2: "two"},
  )
