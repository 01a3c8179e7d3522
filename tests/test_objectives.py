"""The public loss, and what an objective may and may not move."""

from collections import deque
from functools import partial

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ccl_jax
from ccl_jax import centers, losses, objectives
from ccl_jax.losses import blocks
from ccl_jax.training import placement
from ccl_jax.vectors import unit
from tests.losses import oracles

NUM_CLASSES, DIM, FEATURES = 13, 6, 9


@pytest.fixture
def batch():
  rng = np.random.default_rng(2)
  features = jnp.asarray(rng.normal(size=(8, FEATURES)), jnp.float32)
  return features, jnp.asarray(rng.integers(0, NUM_CLASSES, 8), jnp.int32)


@pytest.fixture
def bank():
  return ccl_jax.centers.init(jax.random.key(0), NUM_CLASSES, DIM)


@pytest.fixture
def embeddings(batch):
  return batch[0][:, :DIM]


def test_the_loss_is_the_mean_over_examples_and_the_bank_is_updated(
  batch, bank, embeddings
):
  _, labels = batch
  labels = labels.at[3].set(-1)
  loss, new_bank = ccl_jax.center_contrastive_loss(
    embeddings, labels, bank, scale=8.0, margin=0.3, center_weight=2.0, momentum=0.25
  )
  kept = np.asarray(labels) >= 0
  expected = oracles.center_contrastive(
    np.asarray(embeddings, np.float64)[kept],
    np.asarray(labels)[kept],
    np.asarray(bank.centers, np.float64),
    scale=8.0,
    margin=0.3,
    center_weight=2.0,
  )
  np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)
  by_update = ccl_jax.centers.update(bank, embeddings, labels, momentum=0.25)
  np.testing.assert_array_equal(new_bank.centers, by_update.centers)
  np.testing.assert_array_equal(new_bank.counts, by_update.counts)


def test_a_loss_over_classes_is_told_that_a_bank_has_unit_length(bank, embeddings):
  told = []

  def over_classes(embeddings, labels, centers, **over):
    told.append(over)
    return jnp.zeros(len(labels))

  def plain(embeddings, labels, centers):
    return jnp.zeros(len(labels))

  for loss in (over_classes, plain):
    objective = objectives.with_bank(loss, NUM_CLASSES, DIM)
    objective.apply({}, bank, embeddings, {"label": jnp.zeros(8, jnp.int32)})
  objective = objectives.with_trained_centers(over_classes, NUM_CLASSES, DIM)
  params = {"centers": bank.centers}
  objective.apply(params, {}, embeddings, {"label": jnp.zeros(8, jnp.int32)})
  assert told == [{"unit_length": True}, {}]


def test_no_gradient_reaches_the_bank(batch, bank, embeddings):
  def of_centers(centers):
    return ccl_jax.center_contrastive_loss(
      embeddings, batch[1], bank._replace(centers=centers)
    )[0]

  np.testing.assert_array_equal(jax.grad(of_centers)(bank.centers), 0)


@pytest.mark.parametrize("rule", [centers.class_means, centers.repulsion])
def test_a_label_without_a_class_makes_the_loss_nan(batch, bank, embeddings, rule):
  labels = batch[1].at[0].set(NUM_CLASSES)
  loss, new_bank = ccl_jax.center_contrastive_loss(embeddings, labels, bank, rule=rule)
  assert jnp.isnan(loss)
  assert jnp.isfinite(new_bank.centers).all()
  moved = jnp.abs(new_bank.centers - bank.centers).max(axis=1) > 1e-3
  assert set(np.flatnonzero(moved)) == set(np.asarray(labels[1:]).tolist())
  with pytest.raises(ValueError, match=r"label 13 at position 0 .* num_classes is 13"):
    ccl_jax.check_labels(labels, NUM_CLASSES)
  ccl_jax.check_labels(np.array([-1, 0, NUM_CLASSES - 1]), NUM_CLASSES)
  with pytest.raises(ValueError, match="float64"):
    ccl_jax.check_labels(np.array([0.0]), NUM_CLASSES)


def test_embeddings_of_another_dimension_are_refused(batch, bank):
  with pytest.raises(ValueError, match="dim=9"):
    ccl_jax.center_contrastive_loss(*batch, bank)


def train(loss_fn, params, bank, batch, steps=40):
  """Plain gradient descent, as a user of any framework would write it."""

  @jax.jit
  def step(params, bank):
    (loss, bank), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, bank, batch)
    return jax.tree.map(lambda p, g: p - 0.05 * g, params, grads), bank, loss

  trace = []
  for _ in range(steps):
    params, bank, loss = step(params, bank)
    trace.append(float(loss))
  return trace


def test_it_trains_a_linen_model(batch, bank):
  features, labels = batch
  model = nn.Dense(DIM)
  params = model.init(jax.random.key(1), features)

  def loss_fn(params, bank, batch):
    return ccl_jax.center_contrastive_loss(
      model.apply(params, batch[0]), batch[1], bank
    )

  trace = train(loss_fn, params, bank, batch)
  assert trace[-1] < 0.5 * trace[0]


def test_it_trains_an_nnx_model(batch, bank):
  model = nnx.Linear(FEATURES, DIM, rngs=nnx.Rngs(1))
  graph, params = nnx.split(model)

  def loss_fn(params, bank, batch):
    embeddings = nnx.merge(graph, params)(batch[0])
    return ccl_jax.center_contrastive_loss(embeddings, batch[1], bank)

  trace = train(loss_fn, params, bank, batch)
  assert trace[-1] < 0.5 * trace[0]


def test_it_trains_an_equinox_model(batch, bank):
  model = eqx.nn.Linear(FEATURES, DIM, key=jax.random.key(1))

  def loss_fn(model, bank, batch):
    return ccl_jax.center_contrastive_loss(jax.vmap(model)(batch[0]), batch[1], bank)

  trace = train(loss_fn, model, bank, batch)
  assert trace[-1] < 0.5 * trace[0]


def test_it_works_under_scan_vmap_and_remat(batch, bank, embeddings):
  _, labels = batch
  loss_fn = partial(ccl_jax.center_contrastive_loss, momentum=0.5)
  expected, once = loss_fn(embeddings, labels, bank)
  again, twice = loss_fn(embeddings, labels, once)

  def visit(bank, _):
    loss, bank = loss_fn(embeddings, labels, bank)
    return bank, loss

  scanned, trace = jax.lax.scan(visit, bank, None, length=2)
  np.testing.assert_allclose(trace, [expected, again], rtol=1e-5)
  np.testing.assert_allclose(scanned.centers, twice.centers, atol=1e-6)

  banks = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), bank)
  mapped, _ = jax.vmap(loss_fn, in_axes=(0, 0, 0))(
    jnp.stack([embeddings] * 2), jnp.stack([labels] * 2), banks
  )
  np.testing.assert_allclose(mapped, [expected, expected], rtol=1e-5)

  def scalar(embeddings):
    return loss_fn(embeddings, labels, bank)[0]

  np.testing.assert_allclose(
    jax.grad(jax.checkpoint(scalar))(embeddings),
    jax.grad(scalar)(embeddings),
    rtol=1e-5,
  )


LOSS = partial(losses.center_contrastive, scale=8.0, margin=0.1, center_weight=1.0)


def test_an_objective_with_a_bank_has_state_and_no_params(batch, embeddings):
  objective = objectives.with_bank(LOSS, NUM_CLASSES, DIM, momentum=0.5)
  params, bank = objective.init(jax.random.key(3))
  assert params == {}
  values, new_bank = objective.apply(params, bank, embeddings, {"label": batch[1]})
  expected = LOSS(embeddings, batch[1], bank.centers)
  np.testing.assert_allclose(values, expected, rtol=1e-6)
  assert int(new_bank.counts.sum()) == len(embeddings)


def test_a_repelling_bank_moves_to_the_repelled_embeddings(batch, embeddings):
  labels = batch[1]
  rule = partial(centers.repulsion, sharpness=6.0)
  objective = objectives.with_bank(LOSS, NUM_CLASSES, DIM, rule=rule, momentum=0.5)
  _, bank = objective.init(jax.random.key(3))
  _, moved = objective.apply({}, bank, embeddings, {"label": labels})
  away = rule(unit(embeddings), labels)
  class_means = partial(centers.update, rule=centers.class_means, momentum=0.5)
  expected = class_means(bank, away, labels)
  np.testing.assert_allclose(moved.centers, expected.centers, atol=1e-6)
  plain = class_means(bank, embeddings, labels)
  assert jnp.abs(moved.centers - plain.centers).max() > 0.1
  _, same = ccl_jax.center_contrastive_loss(
    embeddings, labels, bank, rule=rule, momentum=0.5
  )
  np.testing.assert_allclose(same.centers, moved.centers, atol=1e-6)


def test_a_class_without_a_center_is_contrasted_within_its_batch(embeddings):
  objective = objectives.with_bank(
    LOSS, NUM_CLASSES, DIM, momentum=0.5, unvisited=losses.supcon
  )
  _, bank = objective.init(jax.random.key(3))
  bank = bank._replace(counts=bank.counts.at[5].set(2))
  # A visited class, two without a center, padding, and a label that is none.
  labels = jnp.array([5, 2, 2, 5, 8, -1, NUM_CLASSES, 2])

  def mean(embeddings):
    values, moved = objective.apply({}, bank, embeddings, {"label": labels})
    return values[:6].sum() + values[7], (values, moved)

  (_, (values, moved)), gradient = jax.value_and_grad(mean, has_aux=True)(embeddings)
  over_bank = LOSS(embeddings, labels, bank.centers)
  among = losses.supcon(embeddings, labels)
  assert float(among[4]) == 0  # alone of its class
  expected = jnp.where(labels == 5, over_bank, among).at[6].set(jnp.nan)
  np.testing.assert_allclose(values, expected, rtol=1e-6)
  assert jnp.isfinite(gradient).all() and (jnp.abs(gradient[1]) > 0).any()
  by_update = ccl_jax.centers.update(bank, embeddings, labels, momentum=0.5)
  np.testing.assert_array_equal(moved.centers, by_update.centers)
  kept = labels.at[6].set(-1)
  public, _ = ccl_jax.center_contrastive_loss(
    embeddings,
    kept,
    bank,
    **{"scale": 8.0, "margin": 0.1, "center_weight": 1.0},
    unvisited=losses.supcon,
  )
  values, _ = objective.apply({}, bank, embeddings, {"label": kept})
  np.testing.assert_allclose(public, values.sum() / 6, rtol=1e-6)
  # Then all of them have a center.
  again, _ = objective.apply({}, moved, embeddings, {"label": labels})
  np.testing.assert_allclose(again, LOSS(embeddings, labels, moved.centers), rtol=1e-6)


def test_a_loss_that_is_not_finite_spares_the_bank(batch, embeddings):
  def one_for_all(embeddings, labels, centers):
    return jnp.full(len(labels), jnp.nan)

  objective = objectives.with_bank(one_for_all, NUM_CLASSES, DIM, momentum=0.5)
  _, bank = objective.init(jax.random.key(3))
  _, moved = objective.apply({}, bank, embeddings, {"label": batch[1]})
  expected = ccl_jax.centers.update(bank, embeddings, batch[1], momentum=0.5)
  np.testing.assert_array_equal(moved.centers, expected.centers)


def test_an_objective_with_trained_centers_has_params_and_no_state(batch, embeddings):
  objective = objectives.with_trained_centers(LOSS, NUM_CLASSES, DIM)
  params, state = objective.init(jax.random.key(3))
  assert state == {}

  def total(params):
    return objective.apply(params, state, embeddings, {"label": batch[1]})[0].sum()

  gradient = jax.grad(total)(params)["centers"]
  assert gradient.shape == (NUM_CLASSES, DIM)
  assert (jnp.abs(gradient).max(axis=1) > 0).all()


def test_an_objective_may_train_several_centers_per_class(batch, embeddings):
  objective = objectives.with_trained_centers(
    losses.soft_triple, NUM_CLASSES, DIM, centers_per_class=3
  )
  params, state = objective.init(jax.random.key(3))
  vectors = np.asarray(params["centers"], np.float64)
  assert vectors.shape == (NUM_CLASSES, 3, DIM)
  values, _ = objective.apply(params, state, embeddings, {"label": batch[1]})
  expected = oracles.soft_triple(
    np.asarray(embeddings, np.float64),
    np.asarray(batch[1]),
    vectors,
    scale=20.0,
    gamma=0.1,
    margin=0.01,
    regularizer=0.2,
  )
  np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_an_objective_without_state_sees_the_batch_and_keeps_nothing(batch, embeddings):
  images = jnp.arange(8) // 2
  objective = objectives.over_rows(losses.nt_xent, reads=("label", "example"))
  params, state = objective.init(jax.random.key(3))
  assert jax.tree.leaves((params, state)) == []
  values, state = objective.apply(
    params, state, embeddings, {"label": batch[1], "example": images}
  )
  expected = oracles.nt_xent(
    np.asarray(embeddings, np.float64), np.asarray(batch[1]), images, temperature=0.1
  )
  np.testing.assert_allclose(values, expected, rtol=1e-4)
  assert jax.tree.leaves(state) == []


def attraction(embeddings, of_batch, *, memory, memory_labels):
  """Minus the dot products with rows of the same label, plus those with others."""
  rows = jnp.concatenate([embeddings, memory])
  labels = jnp.concatenate([of_batch, memory_labels])
  is_same = of_batch[:, None] == labels[None, :]
  sign = jnp.where(is_same, -1, 1) * (labels >= 0)[None, :]
  sign = jnp.where(jnp.eye(len(embeddings), len(labels), dtype=bool), 0, sign)
  return (sign * (embeddings @ rows.T)).sum(axis=1) * (of_batch >= 0)


@pytest.mark.parametrize(("size", "warmup_steps"), [(7, 0), (7, 4), (3, 0), (9, 1)])
def test_a_memory_holds_the_last_rows_and_a_batch_meets_those_before_it(
  size, warmup_steps
):
  """Against a deque, with batches that do not divide it and rows of padding."""
  objective = objectives.with_memory(attraction, size, 4, warmup_steps=warmup_steps)
  params, state = objective.init(jax.random.key(0))
  assert params == {}
  held = deque([(np.zeros(4), -1)] * size, maxlen=size)
  rng = np.random.default_rng(0)
  apply = jax.jit(objective.apply)
  for step in range(9):
    rows = rng.normal(size=(3, 4)).astype(np.float32)
    labels = rng.integers(-1, 2, 3).astype(np.int32)
    new = list(zip(rows, labels, strict=True))
    expected = np.zeros(3)
    for i, (row, label) in enumerate(new):
      others = new[:i] + new[i + 1 :] + ([] if step < warmup_steps else list(held))
      for other, other_label in others:
        if label >= 0 and other_label >= 0:
          expected[i] += (-1 if other_label == label else 1) * np.dot(row, other)
    values, state = apply(params, state, jnp.asarray(rows), {"label": labels})
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    held.extend((row if label >= 0 else 0 * row, label) for row, label in new)
    # From the oldest on, as the deque goes.
    order = (np.arange(size) + int(state.position)) % size
    np.testing.assert_array_equal(state.embeddings[order], [row for row, _ in held])
    np.testing.assert_array_equal(state.labels[order], [label for _, label in held])


def test_a_memory_keeps_not_even_a_nan_of_padding():
  objective = objectives.with_memory(
    lambda rows, labels, **memory: jnp.zeros(len(rows)), 4, 2
  )
  params, state = objective.init(jax.random.key(0))
  rows = jnp.array([[1.0, 2.0], [jnp.nan, jnp.inf]], jnp.bfloat16)
  _, state = objective.apply(params, state, rows, {"label": jnp.array([5, -1])})
  np.testing.assert_array_equal(state.embeddings, [[1, 2], [0, 0], [0, 0], [0, 0]])
  np.testing.assert_array_equal(state.labels, [5, -1, -1, -1])
  assert state.embeddings.dtype == jnp.float32


def test_no_gradient_reaches_the_memory(batch, embeddings):
  objective = objectives.with_memory(attraction, 20, DIM)
  _, state = objective.init(jax.random.key(0))
  batch = {"label": batch[1] % 3}
  labels = jnp.arange(20) % 3  # what was held counts, where it is not replaced

  def second_loss(first_rows, held, second_rows):
    _, state_after = objective.apply(
      {}, state._replace(embeddings=held, labels=labels), first_rows, batch
    )
    return objective.apply({}, state_after, second_rows, batch)[0].sum()

  arguments = embeddings, state.embeddings, 2 * embeddings
  of_first, of_held, of_second = jax.grad(second_loss, (0, 1, 2))(*arguments)
  np.testing.assert_array_equal(of_first, 0)
  np.testing.assert_array_equal(of_held, 0)
  # The rows remembered do pull: without them the gradient is another.
  alone = jax.grad(lambda rows: objective.apply({}, state, rows, batch)[0].sum())
  assert jnp.abs(of_second - alone(2 * embeddings)).max() > 0.1


def test_a_memory_smaller_than_a_batch_is_refused(batch, embeddings):
  objective = objectives.with_memory(attraction, 7, DIM)
  params, state = objective.init(jax.random.key(0))
  with pytest.raises(ValueError, match="7 rows is smaller than the batch of 8: give"):
    objective.apply(params, state, embeddings, {"label": batch[1]})


def test_a_classifier_takes_the_cross_entropy_of_its_logits(batch, embeddings):
  labels = batch[1].at[3].set(-1).at[5].set(NUM_CLASSES)
  objective = objectives.with_classifier(NUM_CLASSES, DIM)
  params, state = objective.init(jax.random.key(3))
  params["bias"] = jnp.linspace(-1.0, 1.0, NUM_CLASSES)
  values, _ = objective.apply(params, state, embeddings, {"label": labels})
  kernel, bias = (np.asarray(params[name], np.float64) for name in ("kernel", "bias"))
  for i, label in enumerate(np.asarray(labels)):
    logits = np.asarray(embeddings[i], np.float64) @ kernel + bias
    expected = 0.0 if label < 0 else np.nan
    if 0 <= label < NUM_CLASSES:
      expected = -np.log(np.exp(logits[label]) / np.exp(logits).sum())
    np.testing.assert_allclose(values[i], expected, rtol=1e-5)
  # Not scaled to unit length: twice the embedding is another loss.
  doubled, _ = objective.apply(params, state, 2 * embeddings, {"label": labels})
  assert abs(doubled[0] - values[0]) > 1e-3


def test_many_classes_are_contrasted_by_blocks_to_the_same_numbers(monkeypatch):
  """With B x K above the limit, the program holds no array of that size."""
  num_classes, batch = 3000, 8
  bank = ccl_jax.centers.init(jax.random.key(0), num_classes, DIM)
  embeddings = jax.random.normal(jax.random.key(1), (batch, DIM))
  labels = jnp.arange(batch)

  def value_and_grad():
    def loss_fn(embeddings):
      return ccl_jax.center_contrastive_loss(embeddings, labels, bank)

    program = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    text = program.lower(embeddings).compile().as_text()
    return program(embeddings), f"f32[{batch},{num_classes}]" in text

  ((dense, _), by_dense), dense_holds = value_and_grad()
  monkeypatch.setattr(blocks, "MOST_LOGITS", batch * num_classes - 1)
  ((blocked, _), by_blocked), blocked_holds = value_and_grad()
  assert dense_holds and not blocked_holds
  np.testing.assert_allclose(blocked, dense, rtol=1e-6)
  np.testing.assert_allclose(by_blocked, by_dense, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("way", ["pmap", "shard_map"])
def test_over_a_mapped_axis_it_is_the_loss_of_the_global_batch(way, bank):
  features = jax.random.normal(jax.random.key(4), (32, FEATURES))
  labels = jax.random.randint(jax.random.key(5), (32,), -1, NUM_CLASSES)
  weights = jax.random.normal(jax.random.key(6), (FEATURES, DIM))

  def value_and_grad(weights, bank, features, labels, axis_name=None):
    def loss_fn(weights):
      return ccl_jax.center_contrastive_loss(
        features @ weights, labels, bank, axis_name=axis_name
      )

    (loss, new_bank), grads = jax.value_and_grad(loss_fn, has_aux=True)(weights)
    return loss, new_bank, jax.lax.pmean(grads, axis_name) if axis_name else grads

  expected = value_and_grad(weights, bank, features, labels)
  mapped = partial(value_and_grad, axis_name="data")
  if way == "pmap":
    parts = features.reshape(8, 4, -1), labels.reshape(8, 4)
    found = jax.pmap(mapped, axis_name="data", in_axes=(None, None, 0, 0))(
      weights, bank, *parts
    )
    found = jax.tree.map(lambda leaf: leaf[5], found)
  else:
    whole, split = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data")
    found = jax.jit(
      jax.shard_map(
        mapped,
        mesh=placement.data_mesh(),
        in_specs=(whole, whole, split, split),
        out_specs=whole,
        check_vma=False,
      )
    )(weights, bank, features, labels)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected
  )


@pytest.mark.parametrize("loss", [losses.center_contrastive, losses.arcface])
@pytest.mark.parametrize("way", ["bank", "trained"])
def test_the_classes_of_a_sample_are_those_of_the_key(way, loss, batch, embeddings):
  if way == "bank":
    bind = partial(objectives.with_bank, momentum=1.0)
  else:
    bind = objectives.with_trained_centers
  objective = bind(loss, 500, DIM, sample_rate=0.1)
  params, state = objective.init(jax.random.key(0))
  batch = {"label": batch[1]}
  keys = jax.random.split(jax.random.key(1))
  first, after = objective.apply(params, state, embeddings, batch, keys[0])
  second, _ = objective.apply(params, after, embeddings, batch, keys[1])
  again, _ = objective.apply(params, state, embeddings, batch, keys[0])
  np.testing.assert_array_equal(first, again)
  assert (np.abs(np.asarray(first - second)) > 1e-3).all()
  assert jax.tree.structure(state) == jax.tree.structure(after)
  with pytest.raises(ValueError, match="needs a key"):
    objective.apply(params, state, embeddings, batch)


def test_an_objective_tells_its_class_vectors():
  def started(objective):
    params, state = objective.init(jax.random.key(0))
    return objective.class_vectors(params, state), params, state

  vectors, _, bank = started(objectives.with_bank(LOSS, NUM_CLASSES, DIM))
  np.testing.assert_array_equal(vectors, bank.centers)
  vectors, params, _ = started(objectives.with_trained_centers(LOSS, NUM_CLASSES, DIM))
  np.testing.assert_array_equal(vectors, params["centers"])
  several = objectives.with_trained_centers(
    losses.soft_triple, NUM_CLASSES, DIM, centers_per_class=3
  )
  vectors, params, _ = started(several)
  np.testing.assert_allclose(vectors, params["centers"].mean(axis=1), rtol=1e-5)
  for without in (
    objectives.over_rows(losses.supcon),
    objectives.with_memory(losses.supcon, 8, DIM),
    objectives.with_classifier(NUM_CLASSES, DIM),
  ):
    assert started(without)[0] is None
