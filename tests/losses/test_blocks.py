"""The sum over the other classes: every way gives the numbers of the formula."""

import itertools
import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax import class_mesh, losses
from tests.losses import oracles

SETTINGS = {
  "center_contrastive": {"scale": 16.0, "margin": 0.2, "center_weight": 1.5},
  "normalized_softmax": {"temperature": 0.1},
  "cosface": {"scale": 24.0, "margin": 0.35},
  "arcface": {"scale": 24.0, "margin": 0.5},
  "proxy_nca": {"temperature": 0.2},
}
AT_ONCE = 2**31  # a block that holds all classes
# (K, block_size): one class, one class a block, blocks that divide K and that do not,
# the benchmarks' numbers of train classes, a block larger than K.
SIZES = [
  (1, 4),
  (2, 1),
  (7, 3),
  (98, 16),
  (100, 25),
  (100, 4096),
  (3997, 1024),
  (11318, 4096),
  (131072, 5000),
]


def draw(num_classes, dtype=np.float32, *, rows=6, dim=8):
  """Embeddings, labels (one padded row; the first and the last class) and centers."""
  rng = np.random.default_rng(num_classes)
  embeddings = rng.normal(size=(rows, dim)) * rng.uniform(0.1, 9, size=(rows, 1))
  centers = rng.normal(size=(num_classes, dim)) * rng.uniform(0.1, 9, (num_classes, 1))
  labels = rng.integers(num_classes, size=rows)
  labels[:3] = 0, num_classes - 1, -1
  embeddings[2] = np.nan
  return (
    jnp.asarray(embeddings, dtype),
    jnp.asarray(labels, jnp.int32),
    jnp.asarray(centers, dtype),
  )


def value_and_gradients(loss, embeddings, labels, centers, argnums=(0, 1)):
  """Of a sum with unequal weights: each example's gradient counts."""

  def total(embeddings, centers):
    values = loss(embeddings, labels, centers)
    return values @ jnp.linspace(0.5, 2, len(values), dtype=values.dtype), values

  gradients, values = jax.jit(jax.grad(total, argnums, has_aux=True))(
    embeddings, centers
  )
  return values, *gradients


def pair(name, block_size):
  settings = SETTINGS[name]
  return (
    partial(getattr(losses, name), block_size=block_size, **settings),
    partial(getattr(losses, name), block_size=AT_ONCE, **settings),
  )


def assert_close(actual, expected, tolerance):
  """Relative to the largest entry of each array."""
  for a, b in zip(actual, expected, strict=True):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


def over_a_mesh(name, num_classes, arrays):
  """The loss over classes that lie on several devices, as padded rows."""
  shards = min(4, num_classes)
  mesh = class_mesh.make(num_classes, shards, jax.devices()[:4])
  embeddings, labels, centers = arrays
  padding = jnp.ones((mesh.num_rows - num_classes, centers.shape[1]), centers.dtype)
  centers = jnp.concatenate([centers, padding])
  loss = partial(getattr(losses, name), mesh=mesh, **SETTINGS[name])
  return jax.jit(loss)(embeddings, labels, centers)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("num_classes", [1, 7, 98, 3997])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_way_equals_the_formula(name, num_classes, dtype):
  arrays = draw(num_classes, dtype, rows=8)
  embeddings, labels, centers = (np.asarray(a, np.float64) for a in arrays)
  kept = labels >= 0
  expected = np.zeros(8)
  expected[kept] = getattr(oracles, name)(
    embeddings[kept], labels[kept].astype(int), centers, **SETTINGS[name]
  )
  loss = partial(getattr(losses, name), **SETTINGS[name])
  found = {
    "at once": loss(*arrays, block_size=AT_ONCE),
    "by blocks": loss(*arrays, block_size=3 if num_classes < 99 else 500),
    "over a mesh": over_a_mesh(name, num_classes, arrays),
  }
  for way, values in found.items():
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6, err_msg=way)


@pytest.mark.parametrize("scale", [16.0, 64.0, 128.0])
@pytest.mark.parametrize("unit_length", [False, True])
def test_every_way_equals_the_formula_at_every_scale(scale, unit_length):
  """Up to a scale of about 80, no maximum is taken off the logits of 3,997 classes."""
  embeddings, labels, centers = draw(3997, rows=8)
  if unit_length:
    centers = centers / jnp.linalg.norm(centers, axis=1, keepdims=True)
  kept = np.asarray(labels) >= 0
  expected = np.zeros(8)
  expected[kept] = oracles.cosface(
    np.asarray(embeddings, np.float64)[kept],
    np.asarray(labels)[kept],
    np.asarray(centers, np.float64),
    scale=scale,
    margin=0.35,
  )
  arrays = embeddings, labels, centers
  over = {"scale": scale, "margin": 0.35, "unit_length": unit_length}
  mesh = class_mesh.make(3997, 4, jax.devices()[:4])
  padding = jnp.ones((mesh.num_rows - 3997, 8))
  found = {
    "at once": losses.cosface(*arrays, block_size=AT_ONCE, **over),
    "by blocks": losses.cosface(*arrays, block_size=500, **over),
    "by default": losses.cosface(*arrays, **over),
    "over a mesh": jax.jit(partial(losses.cosface, mesh=mesh, **over))(
      *arrays[:2], jnp.concatenate([arrays[2], padding])
    ),
  }
  for way, values in found.items():
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6, err_msg=way)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_way_gives_the_same_gradients(name):
  """In embeddings and class vectors, in float64: those of the sum taken at once."""
  with jax.enable_x64(True):
    embeddings, labels, centers = draw(7, np.float64, rows=8)
    mesh = class_mesh.make(7, 4, jax.devices()[:4])
    loss = partial(getattr(losses, name), **SETTINGS[name])
    expected = value_and_gradients(
      partial(loss, block_size=AT_ONCE), embeddings, labels, centers
    )

    def padded(embeddings, labels, centers):
      padding = jnp.ones((mesh.num_rows - 7, centers.shape[1]), centers.dtype)
      return loss(embeddings, labels, jnp.concatenate([centers, padding]), mesh=mesh)

    for way in (partial(loss, block_size=3), padded):
      found = value_and_gradients(way, embeddings, labels, centers)
      assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("name", SETTINGS)
def test_at_once_has_derivatives_of_any_kind(name):
  embeddings, labels, centers = draw(7)
  loss = partial(getattr(losses, name), labels=labels[:2], **SETTINGS[name])

  def total(embeddings):
    return loss(embeddings, proxies=centers).sum()

  if name == "center_contrastive":

    def total(embeddings):
      return loss(embeddings, centers=centers).sum()

  hessian = jax.jit(jax.hessian(total))(embeddings[:2])
  assert hessian.shape == (2, 8, 2, 8) and np.isfinite(hessian).all()
  assert np.abs(hessian).max() > 0


@pytest.mark.parametrize(("num_classes", "block_size"), SIZES)
def test_equals_the_dense_loss(num_classes, block_size):
  blocked, dense = pair("center_contrastive", block_size)
  arrays = draw(num_classes)
  assert_close(
    value_and_gradients(blocked, *arrays), value_and_gradients(dense, *arrays), 1e-6
  )


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("num_classes", "block_size"), [(7, 3), (3997, 512)])
def test_equals_the_dense_loss_in_float64(name, num_classes, block_size):
  blocked, dense = pair(name, block_size)
  with jax.enable_x64(True):
    arrays = draw(num_classes, np.float64)
    actual = value_and_gradients(blocked, *arrays)
    assert {a.dtype for a in actual} == {np.dtype(np.float64)}
    assert_close(actual, value_and_gradients(dense, *arrays), 1e-12)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(("num_classes", "block_size"), [(7, 3), (3997, 512)])
def test_half_precision_is_computed_in_float32(dtype, num_classes, block_size):
  blocked, dense = pair("center_contrastive", block_size)
  arrays = draw(num_classes, dtype)
  values, *gradients = value_and_gradients(blocked, *arrays)
  expected, *expected_gradients = value_and_gradients(dense, *arrays)
  assert values.dtype == jnp.float32
  assert {g.dtype for g in gradients} == {np.dtype(dtype)}
  assert_close([values], [expected], 1e-6)
  # One rounding to the type of the input, no more.
  assert_close(gradients, expected_gradients, float(jnp.finfo(dtype).eps))


def test_a_float64_bank_takes_float32_embeddings():
  with jax.enable_x64(True):
    embeddings, labels, centers = draw(7, np.float64)
    arrays = embeddings.astype(jnp.float32), labels, centers
    blocked, dense = pair("center_contrastive", 3)
    values, *gradients = value_and_gradients(blocked, *arrays)
    assert values.dtype == jnp.float64
    expected = value_and_gradients(dense, *arrays)
    assert_close([values, *gradients], expected, 1e-6)


@pytest.mark.parametrize("argnum", [0, 1])
def test_each_gradient_alone_equals_both(argnum):
  blocked, _ = pair("center_contrastive", 16)
  arrays = draw(98)
  both = value_and_gradients(blocked, *arrays)
  values, gradient = value_and_gradients(blocked, *arrays, argnums=(argnum,))
  # Two programs, whose fused sums may round differently.
  assert_close([values, gradient], [both[0], both[1 + argnum]], 1e-6)


@pytest.mark.parametrize("scale", [1.0, 64.0, 84.0, 128.0])
@pytest.mark.parametrize("own", [1.0, -1.0])
@pytest.mark.parametrize("others", [1.0, -1.0])
def test_extreme_cosines(scale, own, others):
  """Values of the formula, and gradients that are finite."""
  classes, label = 9, 5
  cosines = np.full(classes, others, np.float32)
  cosines[label] = own
  centers = jnp.asarray(cosines)[:, None] * jnp.eye(1, 4)
  arrays = 3 * jnp.eye(1, 4), jnp.array([label]), centers
  loss = partial(losses.cosface, scale=scale, margin=0.25, block_size=2)
  values, *gradients = value_and_gradients(loss, *arrays)
  gap = scale * (others - own + 0.25)
  above = max(gap, 0.0)
  expected = above + math.log(math.exp(-above) + 8 * math.exp(gap - above))
  if gap < -30:  # float64 would round 1 + x
    expected = 8 * math.exp(gap)
  np.testing.assert_allclose(values, [expected], rtol=2e-6, atol=1e-38)
  assert all(np.isfinite(g).all() for g in gradients)


def test_a_loss_near_zero_keeps_its_precision():
  """A difference of two numbers near 16 would give 0 here."""
  centers = jnp.array([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
  arrays = jnp.array([[2.0, 0.0]]), jnp.array([0]), centers
  for block_size in (2, AT_ONCE):
    values = losses.cosface(*arrays, scale=16.0, margin=0.0, block_size=block_size)
    np.testing.assert_allclose(values, [2 * math.exp(-32)], rtol=1e-5)


def test_the_same_mapped_scanned_and_rematerialised():
  blocked, _ = pair("center_contrastive", 16)
  embeddings, labels, centers = draw(37)
  expected = value_and_gradients(blocked, embeddings, labels, centers)
  of_batch = partial(value_and_gradients, blocked)
  stacks = [jnp.stack([a, a]) for a in (embeddings, labels, centers)]

  def scanned(embeddings, labels, centers):
    def step(carry, pair):
      return carry, blocked(*pair, centers)

    _, values = jax.lax.scan(step, None, (embeddings[None], labels[None]))
    return values[0]

  results = {
    "vmap": [g[1] for g in jax.vmap(of_batch)(*stacks)],
    "remat": value_and_gradients(jax.checkpoint(blocked), embeddings, labels, centers),
    "scan": value_and_gradients(scanned, embeddings, labels, centers),
    "scan of remat": value_and_gradients(
      jax.checkpoint(scanned), embeddings, labels, centers
    ),
  }
  for how, actual in results.items():
    print(how)
    assert_close(actual, expected, 1e-6)


@pytest.mark.parametrize("product_dtype", [jnp.bfloat16, "bfloat16"])
def test_products_in_bfloat16_are_close_and_sum_in_float32(product_dtype):
  arrays = draw(3997, dim=32)
  blocked, dense = pair("center_contrastive", 512)
  rounded = partial(blocked, product_dtype=product_dtype)
  actual = value_and_gradients(rounded, *arrays)
  exact = value_and_gradients(dense, *arrays)
  assert_close(actual, exact, 0.02)
  # It must be in force: exact float32 products would be nearer.
  assert np.abs(actual[1] - exact[1]).max() > 1e-5 * np.abs(exact[1]).max()
  for product in products(rounded, *arrays, argnums=(0, 1)):
    assert {v.aval.dtype for v in product.invars} == {np.dtype(jnp.bfloat16)}
    assert {v.aval.dtype for v in product.outvars} == {np.dtype(np.float32)}


def test_products_in_float16_stay_within_its_range():
  """e^64 does not fit: the highest logit is taken off, whatever float32 could hold."""
  rounded, exact = (
    partial(losses.cosface, scale=64.0, margin=0.35, block_size=512, **over)
    for over in ({"product_dtype": jnp.float16}, {})
  )
  arrays = draw(3997)
  found = value_and_gradients(rounded, *arrays)
  assert_close(found, value_and_gradients(exact, *arrays), 0.02)


def test_rows_of_unit_length_are_taken_as_they_are():
  """A bank in bfloat16 has rows of about unit length; these are far from it."""
  embeddings, labels, _ = draw(98)
  centers = 0.5 * jnp.eye(98, 8)
  for block_size in (16, AT_ONCE):
    values = losses.normalized_softmax(
      embeddings, labels, centers, unit_length=True, block_size=block_size
    )
    # 90 of the 98 rows are zero, and each of the others is half a unit vector.
    z = np.asarray(embeddings, np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    logits = 20 * z @ np.asarray(centers, np.float64).T
    own = np.take_along_axis(logits, np.maximum(labels, 0)[:, None], axis=1)[:, 0]
    expected = np.log(np.exp(logits).sum(axis=1)) - own
    expected[2] = 0  # padding
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_a_block_of_no_class_is_refused():
  with pytest.raises(ValueError, match="block_size=0"):
    losses.cosface(*draw(7), block_size=0)


# What the program holds and computes.


def equations(jaxpr):
  """All equations of a program, those of its loops and calls included."""
  for equation in jaxpr.eqns:
    yield equation
    for part in jax.tree.leaves(list(equation.params.values())):
      part = getattr(part, "jaxpr", part)  # a ClosedJaxpr holds a Jaxpr
      if hasattr(part, "eqns"):
        yield from equations(part)


def program(loss, embeddings, labels, centers, argnums):
  if argnums:
    function = partial(value_and_gradients, loss, argnums=argnums)
  else:
    function = loss
  closed = jax.make_jaxpr(function)(embeddings, labels, centers)
  return list(equations(closed.jaxpr))


def products(loss, embeddings, labels, centers, argnums):
  """The matrix products with K, not the dot product that sums the loss."""
  found = program(loss, embeddings, labels, centers, argnums)
  found = [e for e in found if e.primitive.name == "dot_general"]
  return [e for e in found if all(v.aval.ndim == 2 for v in e.invars)]


@pytest.mark.parametrize(
  ("argnums", "count"), [((), 1), ((0,), 2), ((1,), 3), ((0, 1), 4)]
)
def test_the_number_of_products(argnums, count):
  """With K a multiple of the block size, the loop's body is all there is."""
  blocked, _ = pair("center_contrastive", 25)
  assert len(products(blocked, *draw(100), argnums=argnums)) == count


@pytest.mark.parametrize("name", SETTINGS)
def test_the_bank_case_makes_no_array_of_the_size_of_the_bank(name):
  blocked, dense = pair(name, 16)
  embeddings, labels, centers = draw(101)
  shapes = {(len(embeddings), len(centers)), centers.shape, centers.T.shape}

  def made(loss):
    found = program(loss, embeddings, labels, centers, argnums=(0,))
    # A barrier returns its argument.
    found = [e for e in found if e.primitive.name != "optimization_barrier"]
    return {v.aval.shape for e in found for v in e.outvars} & shapes

  assert made(blocked) == set()
  assert made(dense) == shapes  # the check sees what it looks for


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("argnums", [(0,), (0, 1)])
@pytest.mark.parametrize(
  ("num_classes", "block_size"), [(2**20, None), (2**20 + 1, 4096)]
)
def test_a_million_classes_compile_to_little_memory(
  dtype, argnums, num_classes, block_size
):
  """The dense loss takes 10.7 GB here."""
  rows, dim = 1024, 512
  blocked, _ = pair("center_contrastive", block_size)
  compiled = (
    jax.jit(partial(value_and_gradients, blocked, argnums=argnums))
    .lower(
      jax.ShapeDtypeStruct((rows, dim), jnp.float32),
      jax.ShapeDtypeStruct((rows,), jnp.int32),
      jax.ShapeDtypeStruct((num_classes, dim), dtype),
    )
    .compile()
  )
  memory = compiled.memory_analysis()
  assert memory.temp_size_in_bytes <= 80e6
  gradients = 4 * rows * dim + num_classes * dim * dtype.dtype.itemsize * argnums[-1]
  assert memory.output_size_in_bytes <= gradients + 1e5
  text = compiled.as_text()
  assert f"[{num_classes},{dim}]" in text
  assert f"[{rows},{num_classes}]" not in text
  assert f"[{num_classes},{rows}]" not in text


@pytest.mark.parametrize(
  ("platform", "rows", "size"),
  [("cpu", 16, 1024), ("tpu", 16, 16384), ("tpu", 4096, 4096), ("cuda", 2048, 2048)],
)
def test_the_size_of_a_block_is_that_of_the_platform(platform, rows, size):
  """Of the platform that the program is lowered for; this process has CPUs."""
  shapes = (rows, 8), (rows,), (10**6, 8)
  arrays = [
    jax.ShapeDtypeStruct(shape, dtype)
    for shape, dtype in zip(shapes, ("f4", "i4", "f4"), strict=True)
  ]
  traced = jax.jit(losses.cosface).trace(*arrays)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  sizes = set(map(int, re.findall(r"dynamic_slice .*-> tensor<(\d+)x8xf32>", text)))
  assert sizes == {size, 10**6 % size}


def test_queries_travel_in_the_type_of_the_products():
  mesh = class_mesh.make(98 * 4, 4, jax.devices()[:4])
  loss = partial(losses.cosface, mesh=mesh, product_dtype=jnp.bfloat16)
  found = program(loss, *draw(98 * 4, rows=8), argnums=(0, 1))
  gathers = [e for e in found if e.primitive.name == "all_gather"]
  by_type = [v.aval.dtype.name for e in gathers for v in e.invars if v.aval.ndim == 2]
  # For the forward and the backward pass; the gradient of the own centers is exact.
  assert sorted(by_type) == ["bfloat16", "bfloat16", "float32"]


def test_the_gradient_of_trained_centers_is_not_filled_first():
  blocked, _ = pair("center_contrastive", 16)
  arrays = draw(101)
  found = program(blocked, *arrays, argnums=(1,))
  makers = [
    e.primitive.name for e in found for v in e.outvars if v.aval.shape == (101, 8)
  ]
  assert "empty" in makers and "broadcast_in_dim" not in makers
  sampled = partial(blocked, sample_rate=0.5, key=jax.random.key(0))
  found = program(sampled, *arrays, argnums=(1,))
  makers = [
    e.primitive.name for e in found for v in e.outvars if v.aval.shape == (101, 8)
  ]
  assert "broadcast_in_dim" in makers  # the blocks that were not drawn


# A random part of the classes.


def test_a_sample_is_the_formula_over_own_and_drawn_classes():
  """Six pairs of four blocks can be drawn; each draw is one of them, weighted by 2."""
  rng = np.random.default_rng(0)
  z, c = rng.normal(size=(3, 4)), rng.normal(size=(9, 4))
  z /= np.linalg.norm(z, axis=1, keepdims=True)
  c /= np.linalg.norm(c, axis=1, keepdims=True)
  labels = np.array([0, 5, 8])

  def formula(z, drawn):
    terms = np.exp(8.0 * z @ c.T)
    own = terms[np.arange(3), labels]
    weights = np.zeros(9)
    weights[8] = 1  # the smaller last block is always there
    for block in drawn:
      weights[2 * block : 2 * block + 2] = 2
    others = terms @ weights - own * weights[labels]
    return np.log(1 + others / own)

  possible = {drawn: formula(z, drawn) for drawn in itertools.combinations(range(4), 2)}
  loss = partial(losses.cosface, scale=8.0, margin=0.0, block_size=2)
  loss = partial(loss, sample_rate=0.5)
  arrays = jnp.asarray(z), jnp.asarray(labels), jnp.asarray(c)

  @jax.jit
  def sampled(key):
    return value_and_gradients(partial(loss, key=key), *arrays)

  seen = set()
  for seed in range(12):
    values, by_z, by_c = sampled(jax.random.key(seed))
    drawn = min(possible, key=lambda d: np.abs(possible[d] - values).max())
    np.testing.assert_allclose(values, possible[drawn], rtol=2e-5)
    seen.add(drawn)
    # Blocks that were not drawn get no gradient, but for the own classes.
    untouched = set(range(8)) - {2 * b + i for b in drawn for i in (0, 1)} - {0, 5}
    np.testing.assert_array_equal(by_c[np.array(sorted(untouched))], 0)
    assert np.abs(by_c[labels]).min(axis=1).max() > 0
    step = 1e-6
    for i, d in itertools.product(range(3), range(4)):
      moved = [z.copy(), z.copy()]
      moved[0][i, d] += step
      moved[1][i, d] -= step
      moved = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in moved]
      slope = (formula(moved[0], drawn) - formula(moved[1], drawn))[i] / (2 * step)
      expected = slope * np.linspace(0.5, 2, 3)[i]
      np.testing.assert_allclose(by_z[i, d], expected, rtol=1e-3, atol=1e-4)
  assert len(seen) >= 4


@pytest.mark.parametrize("shards", [None, 4])
def test_the_sampled_sum_is_right_on_average(shards):
  mesh = shards and class_mesh.make(203, shards, jax.devices()[:shards])
  embeddings, labels, centers = draw(203, rows=8)
  if mesh:
    beyond = jnp.ones((mesh.num_rows - 203, centers.shape[1]))
    centers = jnp.concatenate([centers, beyond])
  loss = partial(losses.cosface, scale=4.0, margin=0.0, block_size=5, mesh=mesh)
  exact = np.expm1(loss(embeddings, labels, centers))  # sum of the others / own
  keys = jax.random.split(jax.random.key(0), 400)

  @jax.jit
  def draws(keys):
    sampled = partial(loss, embeddings, labels, centers, sample_rate=0.3)
    return jax.lax.map(lambda key: jnp.expm1(sampled(key=key)), keys)

  found = np.asarray(draws(keys))
  error = found.std(axis=0) / np.sqrt(len(keys))
  assert (error[exact > 0] > 0).all()  # it does sample
  assert (np.abs(found.mean(axis=0) - exact) <= 4 * error).all()


def test_a_sample_of_all_is_all_and_a_bad_rate_is_refused():
  arrays = draw(98)
  exact, _ = pair("center_contrastive", 16)
  whole = partial(exact, sample_rate=1.0, key=jax.random.key(0))
  for a, b in zip(
    value_and_gradients(whole, *arrays),
    value_and_gradients(exact, *arrays),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)
  with pytest.raises(ValueError, match=r"sample_rate=0.1 needs a key"):
    exact(*arrays, sample_rate=0.1)
  with pytest.raises(ValueError, match=r"sample_rate=1.5: expected above 0"):
    exact(*arrays, sample_rate=1.5, key=jax.random.key(0))
