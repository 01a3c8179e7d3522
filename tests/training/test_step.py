"""One step: it moves everything, traces once, and is the same on any devices."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ccl_jax import class_mesh, losses, objectives
from ccl_jax.centers import class_means
from ccl_jax.training import optim, placement
from ccl_jax.training.step import init_state, make_embed_step, make_train_step
from ccl_jax.vectors import unit

NUM_CLASSES, DIM, HIDDEN, BATCH, STEPS = 98, 8, 32, 16, 20


class Net(nn.Module):
  @nn.compact
  def __call__(self, images, *, train: bool = False):
    x = images.astype(jnp.float32).reshape(len(images), -1) / 255
    x = nn.relu(nn.Dense(HIDDEN)(x))
    return nn.Dense(DIM)(nn.Dropout(0.0, deterministic=not train)(x))


@pytest.fixture(scope="module")
def batches():
  """Few classes are frequent, most are rare, and some rows are padding."""
  rng = np.random.default_rng(0)
  share = 1 / np.arange(1, NUM_CLASSES + 1)
  labels = rng.choice(NUM_CLASSES, (STEPS, BATCH), p=share / share.sum())
  labels[rng.random(labels.shape) < 0.1] = -1
  images = rng.integers(0, 256, (STEPS, BATCH, 4, 4, 1), np.uint8)
  views = np.arange(BATCH, dtype=np.int32) // 2
  return [
    {"image": i, "label": y, "example": views}
    for i, y in zip(images, labels.astype(np.int32), strict=True)
  ]


LOSS = partial(losses.center_contrastive, scale=16.0, margin=0.1, center_weight=1.0)


def pull_and_push(embeddings, labels, *, memory, memory_labels):
  """A loss over the pairs of a batch and a memory."""
  rows = jnp.concatenate([unit(embeddings), unit(memory)])
  row_labels = jnp.concatenate([labels, memory_labels])
  is_same = labels[:, None] == row_labels[None, :]
  sign = jnp.where(is_same, -1.0, 0.3) * (row_labels >= 0)[None, :]
  cosines = unit(embeddings) @ rows.T
  return jnp.tanh(sign * cosines).sum(axis=1) * (labels >= 0)


OBJECTIVES = {
  "bank": lambda axis_name: objectives.with_bank(
    LOSS, NUM_CLASSES, DIM, rule=class_means, momentum=0.5, axis_name=axis_name
  ),
  "repelling bank": lambda axis_name: objectives.with_bank(
    LOSS, NUM_CLASSES, DIM, axis_name=axis_name
  ),
  "trained": lambda axis_name: objectives.with_trained_centers(LOSS, NUM_CLASSES, DIM),
  "memory": lambda axis_name: objectives.with_memory(
    pull_and_push,
    40,  # which no batch divides
    DIM,
    warmup_steps=3,
    axis_name=axis_name,
  ),
}


def over_pairs(axis_name):
  def loss(embeddings, labels, images):
    few = jnp.minimum(labels, 5)  # so that classes have several rows
    return losses.contex(embeddings, few, images)

  reads = "label", "example"
  return objectives.over_rows(loss, reads=reads, axis_name=axis_name)


def parts(objective_name, axis_name, *, model=None, chunks=1):
  objective = (OBJECTIVES | {"pairs": over_pairs})[objective_name](axis_name)
  model = model or Net()
  optimizer = optim.adamw(1e-3, 1e-2, steps=STEPS, warmup_steps=2, weight_decay=0.1)
  image = np.zeros((4, 4, 1), np.uint8)
  step = make_train_step(
    model,
    objective,
    optimizer,
    key=jax.random.key(1),
    axis_name=axis_name,
    chunks=chunks,
  )
  return lambda: init_state(jax.random.key(0), model, objective, optimizer, image), step


def run(objective_name, place, batches, **how):
  init, step = parts(objective_name, place.axis_name, **how)
  state, step = place.make_state(init), place.compile_step(step)
  trace = []
  for batch in batches:
    state, metrics = step(state, place.put_batch(batch))
    trace.append(metrics["loss"])
  return state, np.array(trace)


@pytest.fixture(scope="module")
def unsharded(batches):
  """The step under plain `jit` on one device: what every placement must equal."""

  def run_plain(objective_name):
    init, step = parts(objective_name, None)
    state, trace = init(), []
    for batch in batches:
      state, metrics = jax.jit(step)(state, batch)
      trace.append(metrics["loss"])
    return state, np.array(trace)

  return {name: run_plain(name) for name in OBJECTIVES}


# Under jit it is one program, which XLA splits; under pmap each device has its own, so
# there a second number of them is worth its time. Plain jit is what they are held to.
@pytest.mark.parametrize(
  ("way", "devices"),
  [(placement.with_jit, 8), (placement.with_pmap, 2), (placement.with_pmap, 8)],
)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_is_the_same_on_any_number_of_devices(
  objective, devices, way, unsharded, batches
):
  state, trace = run(objective, way(jax.devices()[:devices]), batches)
  expected, expected_trace = unsharded[objective]
  np.testing.assert_allclose(trace, expected_trace, rtol=2e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
    (state.params, state.objective_state),
    (expected.params, expected.objective_state),
  )


@pytest.mark.parametrize("way", [placement.with_jit, placement.with_pmap])
def test_a_loss_over_pairs_is_the_same_on_eight_devices(way, batches):
  """A row's views and its classes lie on other devices."""
  order = np.random.default_rng(1).permutation(BATCH)
  batches = [{k: rows[order] for k, rows in batch.items()} for batch in batches[:6]]
  expected, expected_trace = run(
    "pairs", placement.with_jit(jax.devices()[:1]), batches
  )
  state, trace = run("pairs", way(jax.devices()), batches)
  np.testing.assert_allclose(trace, expected_trace, rtol=2e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
    state.params,
    expected.params,
  )


@pytest.mark.parametrize(
  ("objective", "way"),
  [
    ("repelling bank", placement.with_jit),
    ("repelling bank", placement.with_pmap),
    ("pairs", placement.with_jit),
    ("memory", placement.with_pmap),
  ],
)
def test_a_batch_by_chunks_trains_as_the_whole_batch(objective, way, batches):
  place, few = way(jax.devices()[:2]), batches[:3]
  expected, expected_trace = run(objective, place, few)
  state, trace = run(objective, place, few, chunks=4)
  np.testing.assert_allclose(trace, expected_trace, rtol=2e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), state, expected
  )


def test_classes_over_devices_train_by_chunks_too(batches):
  mesh = class_mesh.make(NUM_CLASSES, 2)
  place, optimizer = placement.with_class_sharding(mesh), optax.sgd(0.1)
  objective = objectives.with_bank(LOSS, NUM_CLASSES, DIM, mesh=mesh)

  def end(chunks):
    init = partial(
      init_state, jax.random.key(0), Net(), objective, optimizer, batches[0]["image"][0]
    )
    step = make_train_step(
      Net(), objective, optimizer, key=jax.random.key(1), chunks=chunks
    )
    state, step = place.make_state(init), place.compile_step(step)
    for first, second in zip(batches[:3], batches[3:6], strict=True):
      both = {name: np.concatenate([first[name], second[name]]) for name in first}
      state, _ = step(state, place.put_batch(both))
    return state

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), end(4), end(1)
  )


@pytest.mark.parametrize(
  ("objective", "passes"), [("bank", 1), ("trained", 1), ("pairs", 2)]
)
def test_only_a_loss_that_compares_rows_embeds_them_twice(objective, passes, batches):
  init, step = parts(objective, None, chunks=4)
  program = str(jax.make_jaxpr(step)(jax.eval_shape(init), batches[0]))
  hidden = f":f32[{BATCH // 4},{HIDDEN}] = dot_general"
  assert program.count(hidden) == passes + 1  # and once on the way back


class NormNet(nn.Module):
  @nn.compact
  def __call__(self, images, *, train: bool = False):
    x = images.astype(jnp.float32).reshape(len(images), -1) / 255
    return nn.Dense(DIM)(nn.BatchNorm(not train, momentum=0.5)(x))


@pytest.mark.parametrize("objective", ["bank", "pairs"])
def test_running_statistics_become_the_mean_over_the_chunks(objective, batches):
  init, step = parts(objective, None, model=NormNet(), chunks=4)
  state, _ = jax.jit(step)(init(), batches[0])
  pixels = batches[0]["image"].reshape(4, 4, -1).astype(np.float64) / 255
  found = state.model_state["batch_stats"]["BatchNorm_0"]
  np.testing.assert_allclose(found["mean"], pixels.mean((0, 1)) / 2, rtol=1e-5)
  # Axis 0 goes over the rows of a chunk: rows 0, 4, 8, 12 are the first chunk.
  within = pixels.var(axis=0).mean(axis=0)
  np.testing.assert_allclose(found["var"], 0.5 + within / 2, rtol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_step_moves_every_field_of_the_state(objective, batches):
  init, step = parts(objective, None)
  state = init()
  # The first step of a warm-up has rate zero, so two are taken.
  moved = state
  for batch in batches[:2]:
    moved, _ = jax.jit(step)(moved, batch)
  for name in ("step", "params", "objective_state", "opt_state"):
    before, after = getattr(state, name), getattr(moved, name)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), before, after)
    unmoved = [
      jax.tree_util.keystr(path)
      for path, is_same in jax.tree_util.tree_leaves_with_path(same)
      if is_same
    ]
    assert not unmoved, f"{name}: {unmoved}"


@pytest.mark.parametrize("objective", ["bank", "memory"])
@pytest.mark.parametrize("way", [placement.with_jit, placement.with_pmap])
def test_the_step_is_traced_once(way, objective, batches):
  place = way()
  init, step = parts(objective, place.axis_name)
  traces = []

  def counted(state, batch):
    traces.append(1)
    return step(state, batch)

  state, compiled = place.make_state(init), place.compile_step(counted)
  for batch in batches[:5]:
    state, _ = compiled(state, place.put_batch(batch))
  assert len(traces) == 1


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("way", [placement.with_jit, placement.with_pmap])
def test_the_state_is_one_copy_and_the_old_state_is_donated(way, objective, batches):
  """No axis of devices, the same layout after each step, and no second state."""
  place = way()
  init, step = parts(objective, place.axis_name)
  shapes = jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(init))
  state, compiled = place.make_state(init), place.compile_step(step)
  layout = jax.tree.map(lambda leaf: leaf.sharding, state)
  for batch in batches[:3]:
    old = state
    state, metrics = compiled(old, place.put_batch(batch))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    assert jax.tree.map(lambda leaf: leaf.shape, state) == shapes
    assert all(value.shape == () for value in metrics.values())
    for leaf, expected in zip(
      jax.tree.leaves(state), jax.tree.leaves(layout), strict=True
    ):
      assert leaf.sharding.is_equivalent_to(expected, leaf.ndim)
      assert leaf.is_fully_replicated and len(leaf.sharding.device_set) == 8


@pytest.mark.parametrize("way", [placement.with_jit, placement.with_pmap])
def test_no_step_copies_the_state_through_the_host(way, batches):
  place = way()
  init, step = parts("bank", place.axis_name)
  state, compiled = place.make_state(init), place.compile_step(step)
  # Only the batch travels: laid out as each placement takes it, before the guard.
  placed = place.put_batch(batches[0])
  if way is placement.with_pmap:
    by_device = NamedSharding(placement.data_mesh(), PartitionSpec("data"))
    placed = jax.device_put(placed, by_device)
  state, _ = compiled(state, placed)
  with jax.transfer_guard("disallow"):
    for _ in range(2):
      state, _ = compiled(state, placed)
  assert int(state.step) == 3


def test_embedding_does_not_depend_on_the_rest_of_the_batch(batches):
  init, _ = parts("bank", None)
  state = init()
  embed = make_embed_step(Net())
  images = batches[0]["image"]
  together = embed(state, images)
  np.testing.assert_allclose(embed(state, images[3:4])[0], together[3], rtol=1e-5)
  assert together.dtype == jnp.float32


@pytest.mark.parametrize(
  ("batch_size", "fitting"), [(98, "96 or 104"), (3, "8 would"), (0, "8 would")]
)
def test_a_batch_that_does_not_divide_is_refused_with_what_would_fit(
  batch_size, fitting
):
  with pytest.raises(ValueError, match=fitting):
    placement.check_batch_size(batch_size, 8)


def test_chunks_on_each_device_are_part_of_what_must_divide():
  with pytest.raises(ValueError, match="accumulate=4 parts each; 32 or 64 would"):
    placement.check_batch_size(48, 8, accumulate=4)
  assert placement.check_batch_size(64, 8, accumulate=4) is None


def test_a_batch_that_divides_passes():
  assert placement.check_batch_size(128, 8) is None
