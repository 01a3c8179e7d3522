"""Draws for a part of a batch, against the draws of NumPy for the whole batch."""

import numpy as np
import pytest

from ccl_jax.data.draws import RowDraws

DRAWS = {
  "random": {},
  "uniform": {"low": -1.0, "high": 3.0},
  "integers": {"low": 2**62, "high": 2**63},
  "standard_normal": {"dtype": np.float32},
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_part_draws_its_rows_of_the_whole(name):
  whole = np.random.default_rng(3)
  parts = [
    RowDraws(np.random.default_rng(3), slice(at, at + 2), 6) for at in range(0, 6, 2)
  ]
  for width in (4, 1):  # the second draw too: every part left its generator alike
    expected = getattr(whole, name)(**DRAWS[name], size=(6, width))
    found = [getattr(part, name)(**DRAWS[name], size=(2, width)) for part in parts]
    np.testing.assert_array_equal(np.concatenate(found), expected)
    assert found[0].dtype == expected.dtype


@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_without_a_size_is_refused(name):
  draws = RowDraws(np.random.default_rng(3), slice(0, 2), 6)
  with pytest.raises(TypeError, match="size"):
    getattr(draws, name)(**DRAWS[name])
