"""A loss over prefixes is the mean of the losses over cut arrays."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax import class_mesh, losses, objectives
from tests.losses import oracles

RNG = np.random.default_rng(0)
Z, C = RNG.normal(size=(8, 5)), RNG.normal(size=(4, 5))
Y, LENGTHS = np.array([0, 3, 3, 1, 0, 2, 1, 1], np.int32), (2, 3, 5)
CCL = {"scale": 8.0, "margin": 0.1, "center_weight": 1.0}


def mean_over_lengths(oracle):
  return np.mean([oracle(length) for length in LENGTHS], axis=0)


def test_class_vectors_are_cut_with_the_embeddings():
  loss = losses.matryoshka(partial(losses.center_contrastive, **CCL), LENGTHS)
  expected = mean_over_lengths(
    lambda d: oracles.center_contrastive(Z[:, :d], Y, C[:, :d], **CCL)
  )
  with jax.enable_x64(True):
    np.testing.assert_allclose(loss(*map(jnp.asarray, (Z, Y, C))), expected, 1e-12)


def test_so_is_a_memory():
  loss = losses.matryoshka(losses.supcon, LENGTHS)
  past = {"memory": C, "memory_labels": np.arange(4, dtype=np.int32)}
  expected = mean_over_lengths(
    lambda d: oracles.supcon(
      Z[:, :d], Y, temperature=0.1, **past | {"memory": C[:, :d]}
    )
  )
  with jax.enable_x64(True):
    found = loss(jnp.asarray(Z), jnp.asarray(Y), **jax.tree.map(jnp.asarray, past))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_images_of_a_loss_over_views_are_not_cut():
  images = np.arange(8, dtype=np.int32) // 2
  loss = losses.matryoshka(partial(losses.nt_xent, temperature=0.2), LENGTHS)
  expected = mean_over_lengths(
    lambda d: oracles.nt_xent(Z[:, :d], Y, images, temperature=0.2)
  )
  with jax.enable_x64(True):
    found = loss(*map(jnp.asarray, (Z, Y, images)))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("split", [False, True])
def test_prefixes_of_a_bank_are_not_taken_for_unit_vectors(split):
  mesh = class_mesh.make(4, 2) if split else None
  loss = partial(losses.center_contrastive, **CCL)
  nested = losses.matryoshka(loss, LENGTHS)
  objective = objectives.with_bank(nested, 4, 5, mesh=mesh)
  params, bank = objective.init(jax.random.key(0))
  rows = jnp.asarray(Z, jnp.float32)
  values, after = jax.jit(objective.apply)(
    params, bank, rows, {"label": jnp.asarray(Y)}
  )
  c = np.asarray(bank.centers)[:4]
  expected = mean_over_lengths(
    lambda d: oracles.center_contrastive(Z[:, :d], Y, c[:, :d], **CCL)
  )
  np.testing.assert_allclose(values, expected, rtol=1e-5)
  assert after.centers.shape == bank.centers.shape
