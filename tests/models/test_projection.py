"""A head that the loss sees and evaluation does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax import objectives
from ccl_jax.models.glyph_net import GlyphNet
from ccl_jax.models.projection import Projected
from ccl_jax.training import optim
from ccl_jax.training.step import init_state, make_embed_step


@pytest.fixture(scope="module")
def images():
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.integers(0, 256, (3, 16, 16, 3), np.uint8))


def test_the_features_are_the_encoders_and_the_head_lies_on_them(images):
  encoder = GlyphNet(dim=6, widths=(8, 8), depth=0)
  model = Projected(encoder, (5, 4))
  variables = model.init(jax.random.key(0), images)
  params = variables["params"]
  features = encoder.apply({"params": params["encoder"]}, images)
  found = model.apply(variables, images, method="features")
  np.testing.assert_array_equal(found, features)
  features = np.asarray(features)
  one, two = (jax.tree.map(np.asarray, params[f"layers_{i}"]) for i in range(2))
  hidden = np.maximum(features @ one["kernel"] + one["bias"], 0)
  expected = hidden @ two["kernel"] + two["bias"]
  np.testing.assert_allclose(
    model.apply(variables, images), expected, rtol=1e-5, atol=1e-6
  )


def test_the_embed_step_takes_what_it_is_told_to(images):
  model = Projected(GlyphNet(dim=6, widths=(8, 8), depth=0), (4,))
  state = init_state(
    jax.random.key(0),
    model,
    objectives.with_classifier(3, 4),
    optim.sgd(0.1, 0.1, steps=2),
    np.asarray(images[0]),
  )
  assert make_embed_step(model)(state, images).shape == (3, 4)
  assert make_embed_step(model, "features")(state, images).shape == (3, 6)
