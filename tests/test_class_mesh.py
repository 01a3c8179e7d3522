"""Classes split over devices: the numbers of one device, and what travels."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ccl_jax
from ccl_jax import centers, class_mesh, losses, objectives
from ccl_jax.training import optim, placement
from ccl_jax.training.checkpoint import Checkpoints
from ccl_jax.training.step import init_state, make_train_step
from experiments.benchmarks.collectives import collectives
from experiments.benchmarks.sharded_step import compile_step
from tests.losses.test_blocks import SETTINGS, assert_close, value_and_gradients

ROWS, DIM = 16, 8
MESHES = [(1, 8), (2, 4), (4, 2), (8, 1), (1, 1)]


def mesh_of(num_classes, data, shards):
  return class_mesh.make(num_classes, shards, jax.devices()[: data * shards])


def draw(num_classes, num_rows):
  """Embeddings, labels and centers, whose rows from K on would win any maximum."""
  rng = np.random.default_rng(num_classes)
  embeddings = rng.normal(size=(ROWS, DIM)).astype(np.float32)
  labels = rng.integers(num_classes, size=ROWS).astype(np.int32)
  labels[:3] = 0, num_classes - 1, -1
  embeddings[2] = np.nan  # padding
  vectors = rng.normal(size=(num_classes, DIM)).astype(np.float32)
  beyond = np.repeat(embeddings[:1], num_rows - num_classes, axis=0)
  return (
    jnp.asarray(embeddings),
    jnp.asarray(labels),
    jnp.asarray(np.concatenate([vectors, beyond])),
  )


@pytest.mark.parametrize(("data", "shards"), MESHES)
@pytest.mark.parametrize("num_classes", [8, 13, 3997])
def test_a_bank_split_by_class_gives_the_dense_loss(num_classes, data, shards):
  mesh = mesh_of(num_classes, data, shards)
  embeddings, labels, vectors = draw(num_classes, mesh.num_rows)
  settings = SETTINGS["center_contrastive"]
  split = partial(losses.center_contrastive, mesh=mesh, block_size=100, **settings)
  dense = partial(losses.center_contrastive, **settings)
  values, by_embeddings, by_vectors = value_and_gradients(
    split, embeddings, labels, jax.device_put(vectors, mesh.sharding)
  )
  expected = value_and_gradients(dense, embeddings, labels, vectors[:num_classes])
  assert_close((values, by_embeddings, by_vectors[:num_classes]), expected, 2e-6)
  np.testing.assert_array_equal(by_vectors[num_classes:], 0)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_class_softmax_can_be_split(name):
  mesh = mesh_of(99, 2, 4)
  embeddings, labels, vectors = draw(99, mesh.num_rows)
  split = partial(getattr(losses, name), mesh=mesh, **SETTINGS[name])
  dense = partial(getattr(losses, name), **SETTINGS[name])
  actual = value_and_gradients(split, embeddings, labels, vectors)
  expected = value_and_gradients(dense, embeddings, labels, vectors[:99])
  assert_close((*actual[:2], actual[2][:99]), expected, 2e-6)


@pytest.mark.parametrize(("data", "shards"), MESHES)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_each_range_is_moved_by_its_owner(data, shards, momentum):
  mesh = mesh_of(13, data, shards)
  embeddings, labels, _ = draw(13, 13)
  labels = labels.at[4].set(13)  # no class, and a row of a padded bank
  bank = centers.init(jax.random.key(0), 13, DIM, mesh=mesh)
  moved = bank
  expected = centers.CenterBank(bank.centers[:13], bank.counts[:13])
  for _ in range(2):  # the first visit, and one that has an old center
    moved = jax.jit(partial(centers.update, momentum=momentum, mesh=mesh))(
      moved, embeddings, labels
    )
    expected = centers.update(expected, embeddings, labels, momentum=momentum)
  np.testing.assert_allclose(moved.centers[:13], expected.centers, atol=1e-6)
  np.testing.assert_array_equal(moved.counts[:13], expected.counts)
  np.testing.assert_array_equal(moved.centers[13:], bank.centers[13:])
  np.testing.assert_array_equal(moved.counts[13:], 0)
  visits = jax.jit(partial(centers.visits, mesh=mesh))(moved, labels)
  np.testing.assert_array_equal(visits, centers.visits(expected, labels))


def test_the_public_loss_takes_a_bank_that_is_split():
  mesh = mesh_of(13, 2, 4)
  embeddings, labels, _ = draw(13, 13)
  bank = centers.init(jax.random.key(0), 13, DIM, mesh=mesh)
  whole = centers.CenterBank(bank.centers[:13], bank.counts[:13])
  split = jax.device_put(bank, mesh.sharding)
  loss = jax.value_and_grad(ccl_jax.center_contrastive_loss, has_aux=True)
  (value, split), gradient = jax.jit(partial(loss, mesh=mesh))(
    embeddings, labels, split
  )
  (expected, whole), expected_gradient = loss(embeddings, labels, whole)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)
  np.testing.assert_allclose(split.centers[:13], whole.centers, atol=1e-6)
  assert split.centers.sharding.is_equivalent_to(mesh.sharding, 2)


def test_a_label_without_a_class_is_nan_though_the_bank_has_a_row_for_it():
  mesh = mesh_of(13, 1, 8)
  embeddings, labels, vectors = draw(13, mesh.num_rows)
  values = losses.cosface(embeddings, labels.at[5].set(13), vectors, mesh=mesh)
  assert np.flatnonzero(np.isnan(values)).tolist() == [5]


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match=r"class_shards=3 does not divide the 8 devices"):
    class_mesh.make(100, 3)
  with pytest.raises(ValueError, match=r"7 classes cannot .* at most 7"):
    class_mesh.make(7)
  mesh = class_mesh.make(13)
  with pytest.raises(ValueError, match=r"13 class vectors on a mesh of 16 rows"):
    losses.cosface(*draw(13, 13), mesh=mesh)


# Twenty steps of training, and what they move between devices.

STEPS, NUM_CLASSES = 20, 3997


class Net(nn.Module):
  @nn.compact
  def __call__(self, images, *, train: bool = False):
    x = images.astype(jnp.float32).reshape(len(images), -1) / 255
    return nn.Dense(DIM)(nn.relu(nn.Dense(32)(x)))


def parts(objective_name, mesh, num_classes=NUM_CLASSES):
  """A function that draws the state, and the step."""
  loss = partial(losses.center_contrastive, scale=16.0, margin=0.1, center_weight=1.0)
  bind = {
    "trained": partial(objectives.with_trained_centers, loss),
    "bank": partial(objectives.with_bank, loss, rule=centers.class_means, momentum=0.5),
    "ArcFace, bank": partial(
      objectives.with_bank, partial(losses.arcface, scale=16.0), unvisited=losses.supcon
    ),
  }[objective_name]
  objective = bind(num_classes, DIM, mesh=mesh)
  optimizer = optim.adamw(1e-3, 1e-2, steps=STEPS, warmup_steps=2, weight_decay=0.1)
  image = np.zeros((4, 4, 1), np.uint8)
  key = jax.random.key(0)
  step = make_train_step(Net(), objective, optimizer, key=jax.random.key(1))
  return lambda: init_state(key, Net(), objective, optimizer, image), step


@pytest.fixture(scope="module")
def batches():
  """Few classes are frequent, so that they come again, and some rows are padding."""
  rng = np.random.default_rng(0)
  share = 1 / np.arange(1, NUM_CLASSES + 1)
  labels = rng.choice(NUM_CLASSES, (STEPS, ROWS), p=share / share.sum())
  labels[0, 0] = NUM_CLASSES - 1
  labels[rng.random(labels.shape) < 0.1] = -1
  images = rng.integers(0, 256, (STEPS, ROWS, 4, 4, 1), np.uint8)
  return [
    {"image": i, "label": y}
    for i, y in zip(images, labels.astype(np.int32), strict=True)
  ]


@pytest.fixture(scope="module")
def on_one_device(batches):
  """What every mesh must equal: the dense loss under plain `jit`."""

  def run(objective_name):
    init, step = parts(objective_name, None)
    state, trace = init(), []
    for batch in batches:
      state, metrics = jax.jit(step)(state, batch)
      trace.append((metrics["loss"], metrics["grad_norm"]))
    return state, np.array(trace)

  return {name: run(name) for name in ("bank", "ArcFace, bank", "trained")}


@pytest.mark.parametrize(("data", "shards"), MESHES)
@pytest.mark.parametrize("objective", ["bank", "ArcFace, bank", "trained"])
def test_twenty_steps_are_the_same_on_any_mesh(
  objective, data, shards, batches, on_one_device
):
  mesh = mesh_of(NUM_CLASSES, data, shards)
  place = placement.with_class_sharding(mesh)
  init, step = parts(objective, mesh)
  state, compiled = place.make_state(init), place.compile_step(step)
  trace = []
  for batch in batches:
    state, metrics = compiled(state, place.put_batch(batch))
    trace.append((metrics["loss"], metrics["grad_norm"]))
  expected, expected_trace = on_one_device[objective]
  np.testing.assert_allclose(trace, expected_trace, rtol=2e-5)

  def assert_same(actual, expected):
    if actual.shape != expected.shape:  # the rows beyond K
      assert (len(actual), len(expected)) == (mesh.num_rows, NUM_CLASSES)
      actual = actual[:NUM_CLASSES]
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-5)

  everything = (state.params, state.objective_state, state.opt_state)
  jax.tree.map(
    assert_same,
    everything,
    (expected.params, expected.objective_state, expected.opt_state),
  )
  of_classes = [
    x for x in jax.tree.leaves(everything) if x.shape[:1] == (mesh.num_rows,)
  ]
  assert len(of_classes) == (3 if objective == "trained" else 2)
  for leaf in of_classes:
    assert {s.data.shape[0] for s in leaf.addressable_shards} == {
      mesh.num_rows // shards
    }


@pytest.mark.parametrize("shards", [8, 4, 2, 1])
def test_what_travels_is_the_batch_whatever_the_number_of_classes(shards):
  few, many = (
    collectives(compile_step(k, shards, rows=64, dim=128).as_text())
    for k in (10**4, 10**6)
  )
  assert few == many
  with_dim = [c.bytes for c in few if ",128]" in c.shape]
  rest = [c.bytes for c in few if ",128]" not in c.shape]
  assert 0 < sum(with_dim) < 4 * 64 * 128 * 4
  assert sum(rest) < 8 * 64 * 4


@pytest.mark.parametrize("shards", [8, 2])
def test_a_step_holds_its_range_of_the_bank_once(shards):
  """The old bank becomes the new one in place, and nothing of its size is beside it."""
  rows, dim = 64, 128
  compiled = compile_step(10**6, shards, rows=rows, dim=dim)
  memory = compiled.memory_analysis()
  range_bytes = 10**6 // shards * (dim + 1) * 4
  assert memory.argument_size_in_bytes < range_bytes + 1e5
  assert memory.alias_size_in_bytes >= range_bytes
  # A few arrays of B x block and of block x D (1024 classes a block on a CPU).
  assert memory.temp_size_in_bytes < 8 * 1024 * (rows + dim) * 4


def train(place, state, step, batches):
  compiled = place.compile_step(step)
  for batch in batches:
    state, _ = compiled(state, place.put_batch(batch))
  return state


@pytest.mark.parametrize("objective", ["bank", "trained"])
def test_a_checkpoint_goes_on_with_eight_then_two_then_one_device(
  objective, batches, on_one_device, tmp_path
):
  for start, end, data, shards in ((0, 6, 2, 4), (6, 13, 1, 2), (13, 20, 1, 1)):
    mesh = mesh_of(NUM_CLASSES, data, shards)
    place = placement.with_class_sharding(mesh)
    init, step = parts(objective, mesh)
    state = place.make_state(init)
    with Checkpoints(tmp_path, num_classes=NUM_CLASSES) as saved:
      if start:
        state, position = saved.restore(state)
        assert position == {"next": start} and int(state.step) == start
      state = train(place, state, step, batches[start:end])
      saved.save(end, state, {"next": end})
  expected, _ = on_one_device[objective]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
    (state.params, state.objective_state, state.opt_state),
    (expected.params, expected.objective_state, expected.opt_state),
  )


@pytest.mark.parametrize("objective", ["bank", "trained"])
def test_a_checkpoint_is_restored_with_more_classes(objective, batches, tmp_path):
  """The old ones keep all that they had, and the padded rows become new classes."""
  old, new, dim = 13, 21, DIM
  few = [{**b, "label": np.minimum(b["label"], old - 1)} for b in batches[:3]]

  def start(num_classes, shards):
    mesh = mesh_of(num_classes, 1, shards)
    init, step = parts(objective, mesh, num_classes)
    place = placement.with_class_sharding(mesh)
    return place, place.make_state(init), step

  def of_classes(state):
    leaves = jax.tree.leaves((state.params["objective"], state.objective_state))
    return leaves + [
      x
      for x in jax.tree.leaves(state.opt_state)
      if x.shape[1:] == (dim,) and len(x) < 32
    ]

  place, state, step = start(old, 8)
  trained = train(place, state, step, few)
  with Checkpoints(tmp_path, num_classes=old) as saved:
    saved.save(3, trained, {})
  _, fresh, _ = start(new, 4)
  with Checkpoints(tmp_path, num_classes=new) as saved:
    assert saved.num_classes() == old
    grown, _ = saved.restore(fresh)
  assert len(of_classes(grown)) == {"bank": 2, "trained": 3}[objective]
  for after, before, drawn in zip(
    *map(of_classes, (grown, trained, fresh)), strict=True
  ):
    assert after.shape[0] == 24 and after.sharding == drawn.sharding
    np.testing.assert_array_equal(after[:old], before[:old])
    np.testing.assert_array_equal(after[old:], drawn[old:])
  with Checkpoints(tmp_path, num_classes=12) as saved:
    with pytest.raises(ValueError, match="has 13 classes and now there are 12"):
      saved.restore(start(12, 4)[1])
  with Checkpoints(tmp_path) as saved:  # without K, another shape is no growth
    with pytest.raises(RuntimeError, match="none of the checkpoints"):
      saved.restore(fresh)
