"""The bank: its update against NumPy, and what must not move."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax import centers, class_mesh
from ccl_jax.centers import CenterBank, class_means
from ccl_jax.vectors import unit

NUM_CLASSES, DIM = 11, 6

# By class means, whose directions are the embeddings themselves.
update = partial(centers.update, rule=class_means)


@pytest.fixture
def bank():
  bank = centers.init(jax.random.key(0), NUM_CLASSES, DIM)
  return bank._replace(counts=bank.counts.at[3].set(5).at[4].set(2))


@pytest.fixture
def batch():
  rng = np.random.default_rng(1)
  labels = np.array([3, 9, 3, 0, 4, 3, 9], np.int32)
  return rng.normal(size=(7, DIM)).astype(np.float32), labels


def updated_by_hand(bank, embeddings, labels, momentum):
  """The rule of `centers.update`, class by class."""
  rows, counts = np.asarray(bank.centers, np.float64), np.asarray(bank.counts).copy()
  rows = rows.copy()
  for k in range(len(rows)):
    own = embeddings[labels == k].astype(np.float64)
    if len(own):
      mean = (own / np.linalg.norm(own, axis=1, keepdims=True)).mean(axis=0)
      moved = mean if counts[k] == 0 else momentum * rows[k] + (1 - momentum) * mean
      rows[k] = moved / np.linalg.norm(moved)
      counts[k] += len(own)
  return rows, counts


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 1.0])
def test_update_equals_the_rule(bank, batch, momentum):
  new = update(bank, *map(jnp.asarray, batch), momentum=momentum)
  rows, counts = updated_by_hand(bank, *batch, momentum)
  np.testing.assert_allclose(new.centers, rows, atol=1e-6)
  np.testing.assert_array_equal(new.counts, counts)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_classes_absent_from_the_batch_keep_their_centers(bank, batch, momentum):
  new = update(bank, *map(jnp.asarray, batch), momentum=momentum)
  absent = np.setdiff1d(np.arange(NUM_CLASSES), batch[1])
  np.testing.assert_array_equal(new.centers[absent], bank.centers[absent])
  np.testing.assert_array_equal(new.counts[absent], bank.counts[absent])


def test_the_first_visit_takes_the_mean_whatever_the_momentum(bank, batch):
  embeddings, labels = batch
  new = update(bank, jnp.asarray(embeddings), jnp.asarray(labels), momentum=0.99)
  np.testing.assert_allclose(
    new.centers[0], embeddings[3] / np.linalg.norm(embeddings[3]), rtol=1e-5
  )


@pytest.mark.parametrize("labels", [[-1, -1], [NUM_CLASSES, 10**6], [-1, NUM_CLASSES]])
@pytest.mark.parametrize("garbage", [1.0, np.nan])
def test_rows_without_a_class_change_nothing(bank, labels, garbage):
  embeddings = jnp.full((2, DIM), garbage)
  new = update(bank, embeddings, jnp.array(labels), momentum=0.0)
  np.testing.assert_array_equal(new.centers, bank.centers)
  np.testing.assert_array_equal(new.counts, bank.counts)


def test_rows_stay_of_unit_length_where_old_and_new_cancel(bank):
  opposite = -bank.centers[3:4]
  for embeddings in (opposite, jnp.zeros((1, DIM))):
    new = update(bank, embeddings, jnp.array([3]), momentum=0.5)
    np.testing.assert_allclose(jnp.linalg.norm(new.centers, axis=1), 1, rtol=1e-5)


def test_no_gradient_reaches_the_bank_or_leaves_it(bank, batch):
  embeddings, labels = map(jnp.asarray, batch)

  def through(embeddings):
    new = update(bank, embeddings, labels, momentum=0.5)
    return jnp.sum(new.centers**3)

  np.testing.assert_array_equal(jax.grad(through)(embeddings), 0)


def test_the_update_makes_no_array_of_the_size_of_the_bank():
  """Beside the bank itself, which is written in place when donated."""
  num_classes, batch = 10_000, 16
  big = centers.init(jax.random.key(0), num_classes, DIM)
  embeddings, labels = jnp.ones((batch, DIM)), jnp.arange(batch)
  moved = jax.jit(lambda *a: centers.update(*a, momentum=0.5), donate_argnums=0)
  program = moved.lower(big, embeddings, labels)
  memory = program.compile().memory_analysis()
  assert memory.temp_size_in_bytes < num_classes * DIM
  assert memory.alias_size_in_bytes >= big.centers.nbytes


def repelled_by_hand(embeddings, labels, sharpness):
  """The rule in loops."""
  z = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
  moved = z.copy()
  for i in range(len(z)):
    rivals = [j for j in range(len(z)) if labels[j] not in (labels[i], -1)]
    weights = [np.exp(sharpness * z[i] @ z[j]) for j in rivals]
    for j, weight in zip(rivals, weights, strict=True):
      moved[i] -= weight / sum(weights) * z[j]
  return moved / np.linalg.norm(moved, axis=1, keepdims=True)


@pytest.mark.parametrize("sharpness", [0.0, 8.0])
def test_repulsion_equals_the_rule(sharpness):
  rng = np.random.default_rng(2)
  embeddings = rng.normal(size=(7, 5))
  labels = np.array([0, 0, 3, 1, -1, 3, 2], np.int32)
  embeddings[4] = 0  # as `update` hands padding over
  moved = centers.repulsion(
    unit(jnp.asarray(embeddings)), jnp.asarray(labels), sharpness=sharpness
  )
  embeddings[4] = 1
  real = labels >= 0
  expected = repelled_by_hand(embeddings, labels, sharpness)
  np.testing.assert_allclose(moved[real], expected[real], rtol=1e-5, atol=1e-6)


def test_labels_may_be_bytes_where_these_can_number_the_classes(bank, batch):
  embeddings, labels = batch
  labels[1] = 100  # of no class
  embeddings = jnp.asarray(embeddings)
  moved = partial(centers.update, bank, embeddings, momentum=0.5)
  for found, expected in zip(
    moved(jnp.asarray(labels, jnp.int8)), moved(jnp.asarray(labels)), strict=True
  ):
    np.testing.assert_array_equal(found, expected)
  large = centers.init(jax.random.key(0), 300, DIM)
  with pytest.raises(ValueError, match=r"labels of int8 .* num_classes=300: make"):
    centers.update(large, embeddings, jnp.asarray(labels, jnp.int8), momentum=0.5)


def test_nothing_repels_a_batch_of_one_class():
  embeddings = jnp.array([[0.6, 0.8], [0.0, 1.0]])
  moved = centers.repulsion(embeddings, jnp.array([5, 5]))
  np.testing.assert_allclose(moved, embeddings, rtol=1e-6)


def test_a_rule_of_ones_own_sees_unit_rows_and_only_known_labels(bank, batch):
  """And its directions are taken as they are: their lengths weigh the mean."""
  embeddings, labels = batch
  labels[1], labels[4] = 100, -1
  seen = {}

  def rule(z, y):
    seen.update(z=z, y=y)
    return 2.0 * z * (jnp.arange(7) + 1)[:, None].astype(z.dtype)

  new = centers.update(
    bank, *map(jnp.asarray, (embeddings, labels)), rule=rule, momentum=0.5
  )
  assert seen["y"].tolist() == [3, -1, 3, 0, -1, 3, 9]
  z = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
  z[[1, 4]] = 0
  np.testing.assert_allclose(seen["z"], z, atol=1e-6)
  mean = 2 * (1 * z[0] + 3 * z[2] + 6 * z[5]) / 3
  expected = 0.5 * np.asarray(bank.centers[3]) + 0.5 * mean
  np.testing.assert_allclose(
    new.centers[3], expected / np.linalg.norm(expected), atol=1e-6
  )


def test_the_default_rule_is_the_repulsion(bank, batch):
  embeddings, labels = map(jnp.asarray, batch)
  directions = centers.repulsion(unit(embeddings), labels)
  expected = update(bank, directions, labels, momentum=0.9)
  np.testing.assert_allclose(
    centers.update(bank, embeddings, labels).centers, expected.centers, atol=1e-6
  )
  plain = update(bank, embeddings, labels, momentum=0.9)
  assert np.abs(plain.centers - expected.centers).max() > 0.1


def test_a_bank_of_a_mesh_is_padded_and_split_from_its_birth():
  mesh = class_mesh.make(13, 4)
  bank = centers.init(jax.random.key(0), 13, DIM, mesh=mesh)
  assert bank.centers.shape == (16, DIM) and bank.counts.shape == (16,)
  for leaf in bank:
    assert leaf.sharding.is_equivalent_to(mesh.sharding, leaf.ndim)
  whole = centers.init(jax.random.key(0), 13, DIM)
  np.testing.assert_allclose(bank.centers[:13], whole.centers, atol=1e-6)
  with pytest.raises(ValueError, match=r"num_classes=12 on a mesh of 13 classes: make"):
    centers.init(jax.random.key(0), 12, DIM, mesh=mesh)


def test_visits_are_counted_by_class(bank):
  labels = jnp.array([3, 0, -1, NUM_CLASSES, 4, -7])
  expected = [5, 0, -1, -1, 2, -1]
  np.testing.assert_array_equal(centers.visits(bank, labels), expected)


def test_update_works_under_scan_and_vmap(bank, batch):
  embeddings, labels = map(jnp.asarray, batch)

  def visit(bank, _):
    return centers.update(bank, embeddings, labels, momentum=0.5), None

  scanned, _ = jax.lax.scan(visit, bank, None, length=3)
  by_hand = bank
  for _ in range(3):
    by_hand = visit(by_hand, None)[0]
  np.testing.assert_allclose(scanned.centers, by_hand.centers, atol=1e-6)

  two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), bank)
  mapped = jax.vmap(
    lambda b, e: centers.update(b, e, labels, momentum=0.5), in_axes=(0, 0)
  )(two, jnp.stack([embeddings, -embeddings]))
  expected = centers.update(bank, -embeddings, labels, momentum=0.5)
  np.testing.assert_allclose(mapped.centers[1], expected.centers, atol=1e-6)


def test_grow_keeps_the_old_classes_and_adds_unvisited_ones(bank):
  grown = centers.grow(bank, jax.random.key(7), 20)
  np.testing.assert_array_equal(grown.centers[:NUM_CLASSES], bank.centers)
  np.testing.assert_array_equal(grown.counts[:NUM_CLASSES], bank.counts)
  np.testing.assert_array_equal(grown.counts[NUM_CLASSES:], 0)
  np.testing.assert_allclose(jnp.linalg.norm(grown.centers, axis=1), 1, rtol=1e-5)
  with pytest.raises(ValueError, match="only grows"):
    centers.grow(bank, jax.random.key(7), NUM_CLASSES - 1)


def test_a_bank_needs_two_classes():
  with pytest.raises(ValueError, match="num_classes=1"):
    centers.init(jax.random.key(0), 1, 8)


def test_init_gives_unvisited_unit_rows():
  bank = centers.init(jax.random.key(0), 50, 8)
  assert isinstance(bank, CenterBank)
  np.testing.assert_allclose(jnp.linalg.norm(bank.centers, axis=1), 1, rtol=1e-5)
  assert not bank.counts.any()
  assert len(np.unique(np.asarray(bank.centers), axis=0)) == 50
