"""Two groups of parameters, each at its own rate; what decays, and what does not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.training import optim

PARAMS = {
  "model": {"kernel": jnp.full((2, 3), 4.0), "bias": jnp.full(3, 4.0)},
  "objective": {"centers": jnp.full((5, 3), 4.0)},
}


WITH_BACKBONE = PARAMS | {
  "model": {
    "backbone": {"kernel": jnp.full((2, 3), 4.0)},
    "head": jnp.full((3, 2), 4.0),
  }
}


def updates_of(gradient, **settings):
  """The updates of the first step, for one gradient everywhere."""
  optimizer = optim.adamw(0.01, 0.5, steps=100, **settings)
  gradients = jax.tree.map(lambda p: jnp.full_like(p, gradient), PARAMS)
  return optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)[0]


def test_model_and_class_vectors_have_rates_of_their_own():
  """Adam's first step is its rate, whatever the length of the gradient."""
  updates = updates_of(7.0)
  np.testing.assert_allclose(updates["model"]["kernel"], -0.01, rtol=1e-4)
  np.testing.assert_allclose(updates["objective"]["centers"], -0.5, rtol=1e-4)


def test_only_the_models_matrices_decay():
  updates = updates_of(0.0, weight_decay=0.1)
  np.testing.assert_allclose(updates["model"]["kernel"], -0.01 * 0.1 * 4.0, rtol=1e-5)
  np.testing.assert_array_equal(updates["model"]["bias"], 0)
  np.testing.assert_array_equal(updates["objective"]["centers"], 0)


@pytest.mark.parametrize(
  ("step", "rate"), [(0, 0.0), (5, 0.1), (10, 0.2), (55, 0.1), (100, 0.0)]
)
def test_the_rate_rises_linearly_and_falls_as_a_cosine(step, rate):
  schedule = optim.warmup_cosine(0.2, 100, warmup_steps=10)
  np.testing.assert_allclose(schedule(step), rate, atol=1e-7)


def run(steps, **settings):
  """What each step does to a number of the backbone, and to one of the head.

  Beside them the state after the last step; the gradient grows from step to step.
  """
  optimizer = optim.adamw(
    0.01, 0.5, steps=40, warmup_steps=4, backbone_learning_rate=0.001, **settings
  )
  state = optimizer.init(WITH_BACKBONE)
  backbone, head = [], []
  for length in range(1, steps + 1):
    gradients = jax.tree.map(partial(jnp.full_like, fill_value=length), WITH_BACKBONE)
    updates, state = jax.jit(optimizer.update)(gradients, state, WITH_BACKBONE)
    backbone.append(updates["model"]["backbone"]["kernel"][0, 0])
    head.append(updates["model"]["head"][0, 0])
  return np.array(backbone), np.array(head), state


def adam(gradients, rates):
  """Adam by its paper (Kingma and Ba 2015, Algorithm 1), in float64."""
  m = v = 0.0
  for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
    m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
    yield -rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


def test_a_backbone_has_a_rate_of_its_own():
  backbone, head, _ = run(5)
  np.testing.assert_allclose(head, 10 * backbone, rtol=1e-5)
  assert head[0] == 0 and (head[1:] < 0).all()


def test_a_frozen_backbone_starts_afterwards_as_if_new():
  """Neither its moments nor its schedule have seen the frozen steps."""
  backbone, head, _ = run(20, frozen_steps=7)
  np.testing.assert_array_equal(backbone[:7], 0)
  assert (head[1:] < 0).all()
  rates = [
    0.001 * min(t / 4, (1 + np.cos(np.pi * (t - 4) / 29)) / 2) for t in range(13)
  ]
  expected = list(adam(range(8, 21), rates))
  np.testing.assert_allclose(backbone[7:], expected, rtol=1e-4)


def test_a_frozen_backbone_leaves_its_moments_alone():
  _, _, state = run(3, frozen_steps=3)
  leaves = jax.tree.leaves(state.inner_states["backbone"])
  moments = [leaf for leaf in leaves if leaf.ndim == 2]
  assert len(moments) == 2
  for moment in moments:
    np.testing.assert_array_equal(moment, 0)


def test_a_run_may_end_before_its_backbone_is_set_free():
  backbone, head, _ = run(6, frozen_steps=50)
  np.testing.assert_array_equal(backbone, 0)
  assert (head[1:] < 0).all()


def test_without_a_rate_the_backbone_is_a_part_of_the_model():
  optimizer = optim.adamw(0.01, 0.5, steps=40)
  gradients = jax.tree.map(jnp.ones_like, WITH_BACKBONE)
  state = optimizer.init(WITH_BACKBONE)
  updates, state = optimizer.update(gradients, state, WITH_BACKBONE)
  np.testing.assert_array_equal(
    updates["model"]["backbone"]["kernel"].ravel(), updates["model"]["head"].ravel()
  )
  # Checkpoints of runs without a backbone hold these two groups, by these names.
  assert set(state.inner_states) == {"model", "objective"}


def orthogonal(matrix):
  """Muon's update of a matrix, in float64: scaled by rows, then made orthogonal."""
  wide = np.float64(matrix)
  wide = wide.T if len(wide) > wide.shape[1] else wide
  wide = wide / np.sqrt(np.abs(wide @ wide.T).sum(axis=1, keepdims=True))
  left, values, right = np.linalg.svd(wide, full_matrices=False)
  for _ in range(3):
    values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
  found = (left * values) @ right * 0.2 * max(matrix.shape) ** 0.5
  return found if found.shape == matrix.shape else found.T


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (2, 3, 4, 5)])
def test_muon_makes_the_update_of_a_kernel_orthogonal(shape):
  """At the first step, whose momentum is the gradient; a convolution is a matrix."""
  rng = np.random.default_rng(0)
  kernel, gradient = rng.standard_normal((2, *shape), np.float32)
  params = {"model": {"layer": {"kernel": kernel}}, "objective": {}}
  optimizer = optim.muon(0.01, 0.5, steps=100, weight_decay=0.1)
  gradients = {"model": {"layer": {"kernel": gradient}}, "objective": {}}
  updates, _ = optimizer.update(gradients, optimizer.init(params), params)
  expected = orthogonal(gradient.reshape(-1, shape[-1])).reshape(shape)
  np.testing.assert_allclose(
    updates["model"]["layer"]["kernel"],
    -0.01 * (expected + 0.1 * kernel),
    rtol=1e-3,
    atol=1e-6,
  )


def test_muon_leaves_all_else_to_adam():
  gradients = jax.tree.map(lambda p: jnp.full_like(p, 7.0), PARAMS)
  optimizer = optim.muon(0.01, 0.5, steps=100, weight_decay=0.1)
  updates, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
  np.testing.assert_allclose(updates["objective"]["centers"], -0.5, rtol=1e-4)
  assert (updates["model"]["bias"] == updates["model"]["bias"][0]).all()
  assert -0.02 < updates["model"]["bias"][0] < -0.01  # Nesterov's first step is longer
