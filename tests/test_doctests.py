"""The examples in docstrings print what they say, and every public loss has one."""

import doctest
import inspect

import pytest

from ccl_jax import accumulate, centers, losses, objectives
from ccl_jax.losses import center, pair, proxy, view

PUBLIC = [name for name in losses.__all__ if inspect.isfunction(getattr(losses, name))]


@pytest.mark.parametrize(
  "module",
  [accumulate, center, pair, proxy, view, centers, objectives],
  ids=lambda m: m.__name__,
)
def test_the_examples_print_what_they_say(module):
  failed, tried = doctest.testmod(module)
  assert tried > 0 and failed == 0


@pytest.mark.parametrize("name", sorted({*PUBLIC} - {"mean_over_examples"}))
def test_every_public_loss_has_an_example(name):
  assert f"losses.{name}(" in inspect.getdoc(getattr(losses, name)).split(">>>", 1)[-1]
