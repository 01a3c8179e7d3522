"""NT-Xent and ConTeX: check values, properties, one device or eight."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ccl_jax import losses, objectives
from ccl_jax.training import placement
from tests.losses import oracles

DIM = 5


class Case(NamedTuple):
  loss: object  # (embeddings, labels, images) -> [N]
  oracle: object
  settings: dict


CASES = {
  "nt_xent": Case(losses.nt_xent, oracles.nt_xent, {"temperature": 0.2}),
  "contex": Case(losses.contex, oracles.contex, {"temperature": 0.2}),
  "contex_p": Case(losses.contex, oracles.contex, {"temperature": 0.3, "clamp": True}),
}
# Labels and image ids: the views side by side, in turn, of one to four in any order.
LAYOUTS = {
  "side by side": ([0, 0, 3, 3, 3, 3, 1, 1], [4, 4, 0, 0, 7, 7, 9, 9]),
  "in turn": ([0, 3, 3, 1, 0, 3, 3, 1], [4, 0, 7, 9, 4, 0, 7, 9]),
  "mixed": ([2, 5, 2, 2, 5, 5, 2, 8], [1, 6, 1, 3, 0, 6, 1, 2]),
  "single views": ([0, 0, 3, 3, 1, 3, 0, 2], [0, 1, 2, 3, 4, 5, 6, 7]),
  "one class": ([4] * 8, [0, 0, 1, 1, 2, 2, 3, 3]),
}


@pytest.fixture(params=CASES)
def case(request):
  return CASES[request.param]


def ids_of(name):
  return tuple(np.array(ids, np.int32) for ids in LAYOUTS[name])


@pytest.fixture(params=LAYOUTS)
def layout(request):
  return ids_of(request.param)


@pytest.fixture
def mixed():
  return ids_of("mixed")


@pytest.fixture(autouse=True)
def strict_types():
  with jax.numpy_dtype_promotion("strict"):
    yield


@pytest.fixture
def embeddings():
  rng = np.random.default_rng(3)
  return rng.normal(size=(8, DIM)) * rng.uniform(0.1, 9, size=(8, 1))


# Compiled once a case: op by op, the tests would take three times as long.
PROGRAMS = {
  name: jax.jit(partial(case.loss, **case.settings)) for name, case in CASES.items()
}
SLOPES = {
  name: jax.jit(jax.grad(lambda *ids, loss=program: loss(*ids).sum()))
  for name, program in PROGRAMS.items()
}


def run(case, embeddings, labels, images, dtype=jnp.float32, programs=PROGRAMS):
  name = next(name for name, known in CASES.items() if known is case)
  return programs[name](
    jnp.asarray(embeddings, dtype), jnp.asarray(labels), jnp.asarray(images)
  )


def gradient(*arguments, **keywords):
  return run(*arguments, **keywords, programs=SLOPES)


def check_vector():
  """Values of the authors' code: six images, three classes, two views each in turn."""
  i, v, k = np.ogrid[:6, :2, :4]
  rows = np.sin(1 + 1.3 * i + 0.37 * v + 0.9 * k * (i + 1)).transpose(1, 0, 2)
  labels = np.array([0, 0, 1, 1, 1, 2] * 2, np.int32)
  images = np.tile(np.arange(6, dtype=np.int32), 2)
  return (
    jnp.asarray(rows.reshape(12, 4), jnp.float32),
    jnp.asarray(labels),
    jnp.asarray(images),
  )


@pytest.mark.parametrize(
  ("temperature", "by_class", "by_view", "contex", "contex_p", "supcon"),
  [
    (0.07, 6.512603, 0.904484, 3.708544, 4.696833, 11.130001),
    (0.10, 4.767879, 0.854982, 4.016329, 4.944294, 11.446921),
    (0.50, 1.859311, 1.208158, 10.955247, 11.128513, 18.855217),
  ],
)
def test_values_of_the_authors_code(
  temperature, by_class, by_view, contex, contex_p, supcon
):
  """The official losses on the check vector, apart from this code."""
  embeddings, labels, images = check_vector()

  def mean(loss, *ids, **settings):
    values = loss(embeddings, labels, *ids, temperature=temperature, **settings)
    return losses.mean_over_examples(values, labels)

  both = mean(losses.contex, images)
  view = mean(losses.nt_xent, images)
  np.testing.assert_allclose(view, by_view, atol=1e-5)
  # Without images, the class part is all there is.
  alone = mean(losses.contex) * 2 * 0.07 / temperature
  np.testing.assert_allclose(alone, by_class, atol=1e-5)
  np.testing.assert_allclose(both, contex, atol=1e-5)
  np.testing.assert_allclose(
    mean(losses.contex, images, clamp=True), contex_p, atol=1e-5
  )
  np.testing.assert_allclose(mean(losses.supcon), supcon, atol=1e-5)


def test_equals_its_formula(case, layout, embeddings):
  expected = case.oracle(embeddings, *layout, **case.settings)
  np.testing.assert_allclose(
    run(case, embeddings, *layout), expected, rtol=1e-5, atol=1e-5
  )
  with jax.enable_x64(True):
    values = run(case, embeddings, *layout, dtype=jnp.float64)
    assert values.dtype == jnp.float64
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", ["mixed", "one class"])
def test_gradients_equal_finite_differences(case, layout, embeddings):
  layout = ids_of(layout)

  def of_embeddings(x):
    return case.oracle(x, *layout, **case.settings).sum()

  expected = oracles.slope(of_embeddings, embeddings)
  with jax.enable_x64(True):
    found = gradient(case, embeddings, *layout, dtype=jnp.float64)
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
  single = gradient(case, embeddings, *layout)
  np.testing.assert_allclose(single, expected, rtol=1e-4, atol=1e-4)


def test_the_mean_leaves_out_anchors_without_pairs(case, mixed, embeddings):
  """A class of one image and an image of one view are no part of the mean."""
  labels, images = mixed
  rows = range(len(labels))
  of_class = [i for i in rows if sum(labels == labels[i]) > 1]
  of_image = [i for i in rows if sum(images == images[i]) > 1]
  assert len(of_class) == 7 and len(of_image) == 5
  values = np.asarray(run(case, embeddings, labels, images))
  eager = case.loss(
    *map(jnp.asarray, (np.float32(embeddings), *mixed)), **case.settings
  )
  np.testing.assert_allclose(eager, values, rtol=1e-5, atol=1e-6)
  assert values[7] == 0  # neither
  if case.loss is losses.nt_xent:
    assert set(np.flatnonzero(values)) == set(of_image)
  else:
    assert set(np.flatnonzero(values)) == set(of_class)


def test_a_batch_without_any_pair_is_zero(case, embeddings):
  labels = np.arange(8, dtype=np.int32)
  np.testing.assert_array_equal(run(case, embeddings, labels, labels), 0)
  np.testing.assert_array_equal(gradient(case, embeddings, labels, labels), 0)


def test_half_precision_is_computed_in_float32(case, mixed, embeddings):
  half = np.asarray(jnp.asarray(embeddings, jnp.bfloat16), np.float64)
  values = run(case, embeddings, *mixed, dtype=jnp.bfloat16)
  assert values.dtype == jnp.float32
  expected = case.oracle(half, *mixed, **case.settings)
  np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("garbage", [1e30, np.nan])
def test_padding_rows_change_nothing(case, mixed, embeddings, garbage):
  labels, images = mixed
  padded = np.insert(embeddings, [0, 5], garbage, axis=0)
  # Padding claims the image of a row beside it, and both claim one label.
  padded_labels = np.insert(labels, [0, 5], -3)
  padded_images = np.insert(images, [0, 5], images[[0, 5]])
  kept = padded_labels >= 0
  values = run(case, padded, padded_labels, padded_images)
  np.testing.assert_array_equal(values[~kept], 0)
  expected = run(case, embeddings, *mixed)
  np.testing.assert_allclose(values[kept], expected, rtol=1e-5, atol=1e-5)
  slopes = gradient(case, padded, padded_labels, padded_images)
  np.testing.assert_array_equal(slopes[~kept], 0)
  np.testing.assert_allclose(
    slopes[kept], gradient(case, embeddings, *mixed), rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize("fill", [0.0, 1e-30, 1e15])
def test_extreme_inputs_give_finite_values_and_gradients(case, mixed, embeddings, fill):
  embeddings[1:4] = fill
  assert np.isfinite(run(case, embeddings, *mixed)).all()
  assert np.isfinite(gradient(case, embeddings, *mixed)).all()


def test_permuting_the_rows_permutes_the_values(case, mixed, embeddings):
  order = np.array([3, 7, 0, 5, 1, 6, 4, 2])
  np.testing.assert_allclose(
    run(case, embeddings[order], *(ids[order] for ids in mixed)),
    run(case, embeddings, *mixed)[order],
    rtol=1e-5,
    atol=1e-5,
  )


@pytest.mark.parametrize("case", ["nt_xent", "contex"], indirect=True)
@pytest.mark.parametrize("way", ["jit", "pmap", "shard_map"])
def test_eight_devices_give_the_loss_and_gradient_of_one(case, way):
  """Views of an image, and images of a class, lie on different devices."""
  rng = np.random.default_rng(5)
  features = jnp.asarray(rng.normal(size=(32, 7)), jnp.float32)
  order = rng.permutation(32)
  images = np.repeat(np.arange(16), 2)[order].astype(np.int32)
  labels = (images % 5).astype(np.int32)
  labels[:3] = -1
  labels, images = jnp.asarray(labels), jnp.asarray(images)
  weights = jnp.asarray(rng.normal(size=(7, DIM)), jnp.float32)

  def value_and_grad(weights, features, labels, images, axis_name=None):
    objective = objectives.over_rows(
      partial(case.loss, **case.settings),
      reads=("label", "example"),
      axis_name=axis_name,
    )

    def mean(weights):
      batch = {"label": labels, "example": images}
      values, _ = objective.apply({}, {}, features @ weights, batch)
      return objectives.global_mean(values, labels, axis_name)

    loss, slopes = jax.value_and_grad(mean)(weights)
    return loss, jax.lax.pmean(slopes, axis_name) if axis_name else slopes

  batch = features, labels, images
  expected = value_and_grad(weights, *batch)
  mesh = placement.data_mesh()
  whole, split = PartitionSpec(), PartitionSpec("data")
  if way == "jit":
    batch = jax.device_put(batch, NamedSharding(mesh, split))
    weights = jax.device_put(weights, NamedSharding(mesh, whole))
    found = jax.jit(value_and_grad)(weights, *batch)
  elif way == "pmap":
    parts = [rows.reshape(8, 4, *rows.shape[1:]) for rows in batch]
    mapped = jax.pmap(
      partial(value_and_grad, axis_name="data"),
      axis_name="data",
      in_axes=(None, 0, 0, 0),
    )
    found = [leaf[6] for leaf in mapped(weights, *parts)]
  else:
    mapped = jax.shard_map(
      partial(value_and_grad, axis_name="data"),
      mesh=mesh,
      in_specs=(whole, split, split, split),
      out_specs=whole,
      check_vma=False,
    )
    found = jax.jit(mapped)(weights, *batch)
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


def test_no_array_has_rows_of_pairs():
  """Nothing of N x N x D is made, forwards or backwards."""
  n, dim = 24, 11
  labels = jnp.arange(n) % 4
  total = jax.grad(lambda x: losses.contex(x, labels, jnp.arange(n) // 2).sum())
  program = jax.jit(total).lower(jnp.ones((n, dim))).as_text()
  assert f"{n}x{n}x" in program
  assert f"{n}x{n}x{dim}" not in program and f"{n}x{dim}x{n}" not in program
