"""One list of properties, run over every loss."""

import inspect
import math
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ccl_jax import losses, objectives
from ccl_jax import vectors as directions
from ccl_jax.losses import proxy
from ccl_jax.training import placement
from tests.losses import oracles


class Case(NamedTuple):
  loss: object
  oracle: object
  settings: dict
  takes: str = "classes"  # beside embeddings and labels; see `call`

  def call(self, function, embeddings, labels, vectors, **more):
    """Loss or oracle, on class vectors, on a memory of the same rows, or on neither."""
    settings = self.settings | more
    if self.takes == "memory":
      memory_labels = (
        MEMORY_LABELS if function is self.oracle else jnp.asarray(MEMORY_LABELS)
      )
      settings |= {"memory": vectors, "memory_labels": memory_labels}
    if self.takes in ("memory", "nothing"):
      return function(embeddings, labels, **settings)
    return function(embeddings, labels, vectors, **settings)


CASES = {
  "center_contrastive": Case(
    losses.center_contrastive,
    oracles.center_contrastive,
    {"scale": 16.0, "margin": 0.2, "center_weight": 1.5},
  ),
  "center_loss": Case(losses.center_loss, oracles.center_loss, {}),
  "contrastive_center": Case(
    losses.contrastive_center, oracles.contrastive_center, {"delta": 0.7}
  ),
  "normalized_softmax": Case(
    losses.normalized_softmax, oracles.normalized_softmax, {"temperature": 0.1}
  ),
  "cosface": Case(losses.cosface, oracles.cosface, {"scale": 24.0, "margin": 0.35}),
}
CASES |= {
  "arcface": Case(losses.arcface, oracles.arcface, {"scale": 24.0, "margin": 0.5}),
  # So wide a margin that most angles pass pi with it.
  "arcface, margin=2": Case(
    losses.arcface, oracles.arcface, {"scale": 9.0, "margin": 2.0}
  ),
  "proxy_nca": Case(losses.proxy_nca, oracles.proxy_nca, {"temperature": 0.2}),
}
# The same by blocks of classes, the last of them smaller.
CASES |= {
  f"{name}, block_size=3": case._replace(loss=partial(case.loss, block_size=3))
  for name, case in CASES.items()
  if "over" in inspect.signature(case.loss).parameters
}
CASES |= {
  "proxy_anchor": Case(
    losses.proxy_anchor, oracles.proxy_anchor, {"scale": 16.0, "margin": 0.1}
  ),
  "soft_triple": Case(
    losses.soft_triple,
    oracles.soft_triple,
    {"scale": 12.0, "gamma": 0.2, "margin": 0.05, "regularizer": 0.4},
    "several centers",
  ),
}
OVER_PAIRS = {
  "supcon": Case(losses.supcon, oracles.supcon, {"temperature": 0.2}),
  "multi_similarity": Case(
    losses.multi_similarity,
    oracles.multi_similarity,
    {"alpha": 2.0, "beta": 20.0, "base": 0.4, "epsilon": 0.1},
  ),
  "multi_similarity, not mined": Case(
    losses.multi_similarity,
    oracles.multi_similarity,
    {"alpha": 3.0, "beta": 10.0, "base": 0.3, "epsilon": math.inf},
  ),
  "triplet, batch_hard": Case(
    losses.triplet, oracles.triplet, {"margin": 0.3, "mining": "batch_hard"}
  ),
  "triplet, semi_hard": Case(
    losses.triplet, oracles.triplet, {"margin": 0.6, "mining": "semi_hard"}
  ),
  "contrastive": Case(losses.contrastive, oracles.contrastive, {"margin": 1.3}),
}
CASES |= {
  f"{name}, with {takes}": case._replace(takes=takes)
  for name, case in OVER_PAIRS.items()
  for takes in ("nothing", "memory")
}
CASES["prototypical"] = Case(
  losses.prototypical, oracles.prototypical, {"temperature": 0.3}, "nothing"
)
OVER_CLASSES = [
  name for name, case in CASES.items() if case.takes in ("classes", "several centers")
]
NUM_CLASSES, DIM = 7, 5
# Two empty slots, a class that the batch lacks, and three that it has.
MEMORY_LABELS = np.array([3, -1, 0, 5, 3, 6, -2], np.int32)
# Of one formula in two programs; hinges are small differences of distances of up to 4.
ROUNDING = {"rtol": 1e-6, "atol": 1e-6}


def least(case):
  """The absolute tolerance: a hinge is a difference of distances of up to 4."""
  return ROUNDING["atol"] if "triplet" in name_of(case) else 0.0


@pytest.fixture(params=CASES)
def case(request):
  return CASES[request.param]


@pytest.fixture(autouse=True)
def strict_types():
  with jax.numpy_dtype_promotion("strict"):
    yield


@pytest.fixture
def examples(request):
  rng = np.random.default_rng(0)
  embeddings = rng.normal(size=(6, DIM)) * rng.uniform(0.1, 9, size=(6, 1))
  labels = np.array([0, 3, 3, 6, 1, 3], np.int32)
  vectors = rng.normal(size=(NUM_CLASSES, DIM)) * rng.uniform(0.1, 9, (NUM_CLASSES, 1))
  if "case" in request.fixturenames:
    if request.getfixturevalue("case").takes == "several centers":
      vectors = rng.normal(size=(NUM_CLASSES, 3, DIM))
  return embeddings, labels, vectors


def formula(case, embeddings, labels, vectors):
  return case.call(case.oracle, embeddings, labels, vectors)


# Compiled once a case and shape: op by op the tests take several times as long.
@cache
def programs(name):
  case = CASES[name]

  def total(embeddings, vectors, labels):
    return case.call(case.loss, embeddings, labels, vectors).sum()

  return jax.jit(partial(case.call, case.loss)), jax.jit(jax.grad(total, (0, 1)))


def name_of(case):
  return next(name for name, known in CASES.items() if known is case)


def run(case, embeddings, labels, vectors, dtype=jnp.float32):
  value, _ = programs(name_of(case))
  return value(
    jnp.asarray(embeddings, dtype), jnp.asarray(labels), jnp.asarray(vectors, dtype)
  )


def gradients(case, embeddings, labels, vectors, dtype=jnp.float32):
  _, slopes = programs(name_of(case))
  return slopes(
    jnp.asarray(embeddings, dtype), jnp.asarray(vectors, dtype), jnp.asarray(labels)
  )


def test_equals_its_formula(case, examples):
  expected = formula(case, *examples)
  np.testing.assert_allclose(run(case, *examples), expected, 1e-5, least(case))


def test_equals_its_formula_in_float64(case, examples):
  with jax.enable_x64(True):
    values = run(case, *examples, dtype=jnp.float64)
    assert values.dtype == jnp.float64
    np.testing.assert_allclose(values, formula(case, *examples), rtol=1e-12)


def test_gradients_equal_finite_differences(case, examples):
  embeddings, labels, vectors = examples

  def of_embeddings(x):
    return formula(case, x, labels, vectors).sum()

  def of_vectors(c):
    return formula(case, embeddings, labels, c).sum()

  with jax.enable_x64(True):
    by_embedding, by_vector = gradients(case, *examples, dtype=jnp.float64)
    np.testing.assert_allclose(
      by_embedding, oracles.slope(of_embeddings, embeddings), rtol=1e-6, atol=1e-7
    )
    expected = oracles.slope(of_vectors, vectors)
    if case.takes == "memory":
      assert np.abs(expected).max() > 0.01
      expected *= 0  # it is contrasted with, and not moved
    np.testing.assert_allclose(by_vector, expected, rtol=1e-6, atol=1e-7)


def test_gradients_in_float32_equal_those_in_float64(case, examples):
  single = gradients(case, *examples)
  with jax.enable_x64(True):
    double = gradients(case, *examples, dtype=jnp.float64)
  for a, b in zip(single, double, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def test_length_of_embeddings_and_vectors_does_not_matter(case, examples):
  embeddings, labels, vectors = examples
  np.testing.assert_allclose(
    run(case, 100 * embeddings, labels, vectors / 50), run(case, *examples), rtol=1e-4
  )


def test_half_precision_is_computed_in_float32(case, examples):
  embeddings, labels, vectors = examples
  half = np.asarray(jnp.asarray(embeddings, jnp.bfloat16), np.float64)
  half_vectors = np.asarray(jnp.asarray(vectors, jnp.bfloat16), np.float64)
  values = run(case, embeddings, labels, vectors, dtype=jnp.bfloat16)
  assert values.dtype == jnp.float32
  expected = formula(case, half, labels, half_vectors)
  np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("garbage", [1e30, np.nan])
def test_padding_rows_change_nothing(case, examples, garbage):
  embeddings, labels, vectors = examples
  padded = np.concatenate([embeddings, np.full((2, DIM), garbage)])
  padded_labels = np.concatenate([labels, [-1, -7]]).astype(np.int32)
  values = run(case, padded, padded_labels, vectors)
  np.testing.assert_array_equal(values[-2:], 0)
  np.testing.assert_allclose(values[:-2], run(case, *examples), **ROUNDING)
  by_embedding, by_vector = gradients(case, padded, padded_labels, vectors)
  np.testing.assert_array_equal(by_embedding[-2:], 0)
  expected = gradients(case, *examples)
  np.testing.assert_allclose(by_embedding[:-2], expected[0], rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(by_vector, expected[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", OVER_CLASSES, indirect=True)
def test_a_label_without_a_class_gives_nan_in_its_row_alone(case, examples):
  embeddings, labels, vectors = examples
  labels = labels.copy()
  labels[2] = NUM_CLASSES
  values = np.asarray(run(case, embeddings, labels, vectors))
  assert np.isnan(values).tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("fill", [0.0, 1e-30, 1e15, -1e15])
def test_extreme_inputs_give_finite_values_and_gradients(case, examples, fill):
  embeddings, labels, vectors = (a.copy() for a in examples)
  embeddings[1], vectors[2], vectors[labels[0]] = fill, fill, fill
  assert np.isfinite(run(case, embeddings, labels, vectors)).all()
  for gradient in gradients(case, embeddings, labels, vectors):
    assert np.isfinite(gradient).all()


def test_a_one_class_batch_is_finite(case, examples):
  embeddings, _, vectors = examples
  labels = np.full(6, 4, np.int32)
  np.testing.assert_allclose(
    run(case, embeddings, labels, vectors),
    formula(case, embeddings, labels, vectors),
    rtol=1e-5,
  )
  for gradient in gradients(case, embeddings, labels, vectors):
    assert np.isfinite(gradient).all()


def test_permuting_the_batch_permutes_the_values(case, examples):
  embeddings, labels, vectors = examples
  order = np.array([3, 0, 5, 1, 4, 2])
  np.testing.assert_allclose(
    run(case, embeddings[order], labels[order], vectors),
    run(case, *examples)[order],
    **ROUNDING,
  )


def test_compiled_and_mapped_equal_eager(case, examples):
  embeddings, labels, vectors = map(jnp.asarray, examples)
  embeddings, vectors = embeddings.astype(jnp.float32), vectors.astype(jnp.float32)
  loss = partial(case.call, case.loss)
  expected = loss(embeddings, labels, vectors)
  compiled = jax.jit(loss)(embeddings, labels, vectors)
  np.testing.assert_allclose(compiled, expected, **ROUNDING)
  mapped = jax.vmap(loss, in_axes=(0, 0, None))(
    jnp.stack([embeddings, embeddings[::-1]]),
    jnp.stack([labels, labels[::-1]]),
    vectors,
  )
  np.testing.assert_allclose(mapped[0], expected, **ROUNDING)
  np.testing.assert_allclose(mapped[1], expected[::-1], **ROUNDING)


def bind(case, axis_name):
  """The case as an objective, whose class vectors or memory are those given to it."""
  loss = partial(case.loss, **case.settings)
  if case.takes == "nothing":
    return objectives.over_rows(loss, axis_name=axis_name)
  if case.takes == "memory":
    size = 24  # of a whole batch; what is written into it is not looked at
    return objectives.with_memory(loss, size, DIM, axis_name=axis_name)
  relates_rows = "over" not in inspect.signature(case.loss).parameters
  return objectives.with_trained_centers(
    loss, NUM_CLASSES, DIM, axis_name=axis_name, relates_rows=relates_rows
  )


def test_eight_devices_give_the_loss_and_gradients_of_one(case, examples):
  """Of the mean over the global batch, whose classes and padding lie on all devices."""
  vectors = jnp.asarray(examples[2], jnp.float32)
  rng = np.random.default_rng(5)
  features = jnp.asarray(rng.normal(size=(24, 6)), jnp.float32)
  labels = jnp.asarray(rng.permutation(np.arange(24) % 9 - 2), jnp.int32)
  params = jnp.asarray(rng.normal(size=(6, DIM)), jnp.float32), vectors

  def value_and_grad(params, features, labels, axis_name=None):
    objective = bind(case, axis_name)

    def mean(params):
      weights, vectors = params
      learned, held = {"centers": vectors}, ()
      if case.takes == "memory":
        _, held = objective.init(jax.random.key(0))
        held = held._replace(embeddings=vectors, labels=jnp.asarray(MEMORY_LABELS))
      values, _ = objective.apply(learned, held, features @ weights, {"label": labels})
      return objectives.global_mean(values, labels, axis_name)

    loss, slopes = jax.value_and_grad(mean)(params)
    return loss, jax.lax.pmean(slopes, axis_name) if axis_name else slopes

  whole, split = PartitionSpec(), PartitionSpec("data")
  mapped = jax.shard_map(
    partial(value_and_grad, axis_name="data"),
    mesh=placement.data_mesh(),
    in_specs=(whole, split, split),
    out_specs=whole,
    check_vma=False,
  )
  found = jax.jit(mapped)(params, features, labels)
  expected = jax.jit(value_and_grad)(params, features, labels)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), found, expected
  )


@pytest.mark.parametrize("name", OVER_PAIRS)
@pytest.mark.parametrize("garbage", [1e30, np.nan])
def test_empty_slots_of_the_memory_change_nothing(name, examples, garbage):
  embeddings, labels, memory = examples
  memory[MEMORY_LABELS < 0] = garbage
  case = CASES[f"{name}, with memory"]
  expected = formula(case, embeddings, labels, memory)
  values = run(case, embeddings, labels, memory)
  np.testing.assert_allclose(values, expected, 1e-5, least(case))
  assert np.isfinite(gradients(case, embeddings, labels, memory)[0]).all()
  empty = {"memory": np.zeros((0, DIM)), "memory_labels": np.zeros(0, np.int32)}
  without = OVER_PAIRS[name]
  found = without.loss(
    jnp.asarray(embeddings, jnp.float32),
    jnp.asarray(labels),
    **without.settings,
    **jax.tree.map(jnp.asarray, empty),
  )
  alone = without.oracle(embeddings, labels, **without.settings)
  np.testing.assert_allclose(found, alone, 1e-5, least(case))


@pytest.mark.parametrize("name", OVER_PAIRS)
@pytest.mark.parametrize("takes", ["nothing", "memory"])
def test_pairs_may_be_named_in_place_of_labels(name, takes, examples):
  case, (embeddings, labels, vectors) = OVER_PAIRS[name]._replace(takes=takes), examples
  width = len(labels) + (len(vectors) if takes == "memory" else 0)
  # Sets of labels overlap, so that to be a positive is not transitive.
  sets = np.random.default_rng(4).random((width, 3)) < 0.4
  positives = (sets[: len(labels)] @ sets.T).astype(bool)
  expected = case.call(
    case.oracle, embeddings, 0 * labels, vectors, positives=positives
  )
  assert not np.allclose(expected, formula(case, *examples))
  with jax.enable_x64(True):
    arrays = map(jnp.asarray, (embeddings, 0 * labels, vectors))
    values = case.call(case.loss, *arrays, positives=jnp.asarray(positives))
    np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_a_memory_without_its_labels_is_refused(examples):
  embeddings, labels, memory = map(jnp.asarray, examples)
  with pytest.raises(ValueError, match="give both or neither"):
    losses.supcon(embeddings, labels, memory=memory)


@pytest.mark.parametrize("cosine", [1.0, -1.0])
def test_arcface_has_a_finite_gradient_at_its_ends(cosine):
  """At the own proxy and opposite of it, where the arc cosine's slope is infinite."""
  proxies = jnp.eye(3, 4)

  def total(embeddings):
    return losses.arcface(embeddings, jnp.zeros(1, jnp.int32), proxies).sum()

  value, slope = jax.value_and_grad(total)(cosine * proxies[:1])
  expected = oracles.arcface(
    cosine * np.eye(1, 4), [0], np.eye(3, 4), scale=64.0, margin=0.5
  )
  np.testing.assert_allclose(value, expected.sum(), rtol=1e-4, atol=1e-6)
  assert np.isfinite(slope).all()


def test_a_prototype_of_several_rows_counts_once(examples):
  embeddings, labels = examples[0], np.array([4, 2, 2, 4, 2, 5], np.int32)
  with jax.enable_x64(True):
    values = losses.prototypical(jnp.asarray(embeddings), jnp.asarray(labels))
  expected = oracles.prototypical(embeddings, labels, temperature=0.1)
  np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_a_negative_as_far_as_the_positive_is_not_semi_hard():
  """One triplet is left: from e1 to e2 a squared distance of 2, to -e1 one of 4."""
  embeddings = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [-1.0, 0.0]])
  labels = jnp.array([0, 0, 1, 2])
  values = losses.triplet(embeddings, labels, margin=3.0, mining="semi_hard")
  assert values.tolist() == [4 * (3 + 2 - 4), 0, 0, 0]


def test_one_center_a_class_needs_no_regularizer(examples):
  """SoftTriple is then CosFace, whatever the weight and gamma."""
  x, labels, vectors = map(jnp.asarray, examples)
  x, vectors = x.astype(jnp.float32), vectors.astype(jnp.float32)
  found = losses.soft_triple(
    x, labels, vectors[:, None], scale=9.0, gamma=0.3, margin=0.2, regularizer=5.0
  )
  expected = losses.cosface(x, labels, vectors, scale=9.0, margin=0.2)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_merged_centers_are_finite_in_products_of_few_bits(monkeypatch):
  """TPUs round both sides to bfloat16: cosines of equal rows are above 1 then."""

  def rounded(vectors):
    return directions.unit(vectors).astype(jnp.bfloat16).astype(jnp.float32)

  monkeypatch.setattr(proxy, "unit", rounded)
  rng = np.random.default_rng(0)
  x, vectors = (jnp.asarray(rng.normal(size=(n, 64)), jnp.float32) for n in (4, 50))
  merged = jnp.repeat(vectors[:, None], 3, axis=1)
  assert (jnp.sum(rounded(vectors) ** 2, axis=1) > 1.001).any()

  def total(merged):
    return losses.soft_triple(x, jnp.arange(4), merged).sum()

  value, gradient = jax.value_and_grad(total)(merged)
  assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


@pytest.mark.parametrize("name", OVER_CLASSES)
def test_labels_may_be_bytes_where_these_can_number_the_classes(name):
  case, rng = CASES[name], np.random.default_rng(4)
  embeddings = jnp.asarray(rng.normal(size=(4, DIM)), jnp.float32)
  labels = np.array([0, 119, 100, 0])

  def value(num_classes, dtype):
    shape = (num_classes, 2, DIM) if case.takes == "several centers" else None
    vectors = np.random.default_rng(5).normal(size=shape or (num_classes, DIM))
    vectors = jnp.asarray(vectors, jnp.float32)
    return case.call(case.loss, embeddings, jnp.asarray(labels, dtype), vectors)

  np.testing.assert_array_equal(value(120, jnp.int8), value(120, jnp.int32))
  with pytest.raises(ValueError, match=r"labels of int8 .* num_classes=300: make"):
    value(300, jnp.int8)


def test_center_contrastive_check_vector():
  """Values derived by hand, apart from this code."""
  i, j, k = np.arange(6)[:, None], np.arange(3)[:, None], np.arange(4)[None, :]
  embeddings = np.sin(1 + 1.3 * i + 0.9 * k * (i + 1))
  vectors = np.cos(0.5 + 1.1 * j + 0.7 * k * (j + 1))
  labels = np.array([0, 0, 1, 1, 1, 2], np.int32)
  arrays = (
    jnp.asarray(embeddings, jnp.float32),
    jnp.asarray(labels),
    jnp.asarray(vectors, jnp.float32),
  )
  contrast = losses.cosface(*arrays, scale=16.0, margin=0.2).mean()
  pull = 2 * losses.center_loss(*arrays).mean()
  both = losses.center_contrastive(*arrays, scale=16.0, margin=0.2, center_weight=1.0)
  np.testing.assert_allclose(contrast, 13.792028, atol=1e-5)
  np.testing.assert_allclose(pull, 1.897276, atol=1e-5)
  np.testing.assert_allclose(both.mean(), 15.689304, atol=1e-5)


def test_center_contrastive_has_cosface_and_normalized_softmax_as_limits(examples):
  embeddings, labels, vectors = examples
  arrays = (
    jnp.asarray(embeddings, jnp.float32),
    jnp.asarray(labels),
    jnp.asarray(vectors, jnp.float32),
  )
  contrast = partial(losses.center_contrastive, *arrays, center_weight=0.0)
  np.testing.assert_array_equal(
    contrast(scale=20.0, margin=0.3), losses.cosface(*arrays, scale=20.0, margin=0.3)
  )
  np.testing.assert_array_equal(
    contrast(scale=20.0, margin=0.0),
    losses.normalized_softmax(*arrays, temperature=1 / 20.0),
  )


def test_equal_centers_contrast_to_log_k(examples):
  embeddings, labels, _ = examples
  same = np.ones((NUM_CLASSES, DIM))
  values = losses.normalized_softmax(
    jnp.asarray(embeddings, jnp.float32),
    jnp.asarray(labels),
    jnp.asarray(same, jnp.float32),
  )
  np.testing.assert_allclose(values, np.log(NUM_CLASSES), rtol=1e-5)


def test_the_mean_counts_examples_and_not_padding():
  loss = jnp.array([2.0, 0.0, 4.0, 0.0])
  mean = losses.mean_over_examples(loss, jnp.array([1, -1, 0, -2]))
  assert mean == 3.0
  assert losses.mean_over_examples(jnp.zeros(2), jnp.array([-1, -1])) == 0.0
