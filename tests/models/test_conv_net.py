"""What Conv-4 promises: its published shape, and statistics of the batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.models import conv_net
from ccl_jax.models.conv_net import ConvNet


@pytest.mark.parametrize(
  ("shape", "dim", "length"),
  [((28, 28, 1), None, 64), ((84, 84, 3), None, 1600), ((33, 16, 1), 24, 24)],
)
def test_it_embeds_any_picture(shape, dim, length):
  images = jnp.zeros((2, *shape), jnp.uint8)
  embeddings, variables = jax.eval_shape(
    ConvNet(dim=dim).init_with_output, jax.random.key(0), images
  )
  assert embeddings.shape == (2, length) and embeddings.dtype == jnp.float32
  kernels = [variables["params"][f"conv_{i}"]["kernel"].shape for i in range(4)]
  assert kernels == [(3, 3, shape[2], 64)] + [(3, 3, 64, 64)] * 3


def test_pictures_too_small_are_refused():
  with pytest.raises(ValueError, match="images are 15 x 28.* sides of 16 or more"):
    ConvNet().init(jax.random.key(0), jnp.zeros((1, 15, 28, 1), jnp.uint8))


@pytest.mark.parametrize("side", [6, 7])
def test_the_maxima_and_their_gradients_are_those_of_a_window(side):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, side, side, 3)), jnp.float32)
  weights = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 3, 3)), jnp.float32)

  def window(x):
    return nn.max_pool(x, (2, 2), (2, 2))

  np.testing.assert_array_equal(conv_net._max_pool(x), window(x))
  found, expected = (
    jax.grad(lambda x, pool=pool: (weights * pool(x)).sum())(x)
    for pool in (conv_net._max_pool, window)
  )
  np.testing.assert_array_equal(found, expected)


def test_training_moves_the_statistics_and_testing_sees_each_picture_alone():
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.integers(0, 256, (6, 16, 16, 1), np.uint8))
  model = ConvNet(dim=8, widths=(4, 4))
  variables = model.init(jax.random.key(0), images)
  trained, moved = model.apply(variables, images, train=True, mutable=["batch_stats"])
  before, after = variables["batch_stats"]["norm_0"], moved["batch_stats"]["norm_0"]
  filtered = nn.Conv(4, (3, 3), use_bias=False).apply(
    {"params": variables["params"]["conv_0"]}, images / 255
  )
  np.testing.assert_allclose(
    after["mean"], 0.1 * filtered.mean((0, 1, 2)), rtol=1e-3, atol=1e-6
  )
  assert (after["var"] != before["var"]).all()
  together, alone = (model.apply(variables, some) for some in (images, images[2:3]))
  np.testing.assert_allclose(alone[0], together[2], rtol=1e-4, atol=1e-6)
  assert jnp.abs(trained - together).max() > 1e-3
