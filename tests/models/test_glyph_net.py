"""What the network promises: any small picture, one embedding each, on its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.models.glyph_net import GlyphNet, _windows


@pytest.fixture
def images():
  pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 1), np.uint8)
  return jnp.asarray(pixels)


@pytest.mark.parametrize("shape", [(32, 32, 1), (64, 48, 3), (8, 8, 1)])
def test_it_embeds_any_picture_whose_sides_are_multiples_of_8(shape):
  model = GlyphNet(dim=24, widths=(8, 16), depth=2)
  images = jnp.zeros((2, *shape), jnp.uint8)
  # By shapes alone: to compile the random draws of the weights takes seconds.
  embeddings, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
  assert embeddings.shape == (2, 24)
  assert embeddings.dtype == jnp.float32


def test_other_sides_are_refused():
  with pytest.raises(ValueError, match="30 x 32"):
    GlyphNet().init(jax.random.key(0), jnp.zeros((1, 30, 32, 1), jnp.uint8))


def test_an_embedding_depends_on_its_own_picture_alone(images):
  model = GlyphNet(dim=24, widths=(8, 16))
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  rng = np.random.default_rng(1)
  variables = jax.tree.map(
    lambda leaf: (0.1 * rng.normal(size=leaf.shape)).astype(leaf.dtype), shapes
  )
  apply = jax.jit(model.apply)
  together, alone = apply(variables, images), apply(variables, images[2:3])
  np.testing.assert_allclose(alone[0], together[2], rtol=1e-4, atol=1e-5)
  mix = rng.normal(size=24).astype(np.float32)
  slopes = jax.jit(jax.grad(lambda x: model.apply(variables, x)[2] @ mix))(
    jnp.asarray(images, jnp.float32)
  )
  reach = jnp.abs(slopes).max(axis=(1, 2, 3))
  assert reach[2] > 0
  np.testing.assert_array_equal(np.delete(reach, 2), 0)


def test_the_stem_is_a_strided_convolution(images):
  """The windows are those of an 8 x 8 kernel with stride 4 and Flax's SAME padding."""
  x = jnp.asarray(images, jnp.float32)
  kernel = jax.random.normal(jax.random.key(1), (8, 8, 1, 6))
  expected = jax.lax.conv_general_dilated(
    x, kernel, (4, 4), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  # Corner by corner, each of 4 x 4 pixels, is how `_windows` orders a window.
  rows = kernel.reshape(2, 4, 2, 4, 6).transpose(0, 2, 1, 3, 4).reshape(64, 6)
  np.testing.assert_allclose(_windows(x) @ rows, expected, rtol=1e-4, atol=1e-1)
