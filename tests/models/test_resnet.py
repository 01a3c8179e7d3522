"""The ResNet against a float64 NumPy one and PyTorch, and what its options promise."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from ccl_jax import losses, objectives
from ccl_jax.models import import_torch
from ccl_jax.models.resnet import Backbone, ResNet, resnet18, resnet20, resnet50
from ccl_jax.training import placement
from ccl_jax.training.step import TrainState, make_train_step
from tests.models import oracles

TINY = dict(depths=(1, 2), width=4)
# Where the batch statistics of three layers are, beside PyTorch's name of the layer.
LAYERS = {
  "bn1": ("bn1",),
  "layer2.0.bn2": ("layer2_0", "bn2"),
  "layer2.0.downsample.1": ("layer2_0", "downsample_1"),
}


def photos(batch=4, side=21, channels=3):
  rng = np.random.default_rng(5)
  return rng.integers(0, 256, (batch, side, side, channels), np.uint8)


def blank(model):
  """Variables without the time that it takes to compile their random draws."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), photos())
  return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def name_of(path):
  """PyTorch's name of one of our parameters."""
  *modules, leaf = path
  leaf = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
  return ".".join([*modules, leaf]).replace("_", ".")


def backbone_of(weights, images, *, train, **options):
  """The features as a function of params, and the variables from PyTorch's weights."""
  model = ResNet(dim=6, **options)
  variables = import_torch.resnet(weights, blank(model))
  names = Backbone.__dataclass_fields__.keys() - {"parent", "name"}
  backbone = Backbone(**{name: getattr(model, name) for name in names})

  def features(params):
    found, changed = backbone.apply(
      {"params": params, "batch_stats": variables["batch_stats"]["backbone"]},
      jnp.asarray(images),
      train=train,
      mutable=["batch_stats"],
    )
    return found, changed["batch_stats"]

  return features, {kind: tree["backbone"] for kind, tree in variables.items()}


# Each block in each mode once; the pooling and the stem do not hang on them.
@pytest.mark.parametrize(
  ("bottleneck", "train", "pooling", "small_images"),
  [
    (False, False, "average", False),
    (False, True, "max", True),
    (True, False, "sum", False),
    (True, True, "average", False),
  ],
)
def test_features_are_those_of_a_float64_resnet(
  bottleneck, train, pooling, small_images
):
  images, stem = photos(), 3 if small_images else 7
  weights = oracles.random_weights(**TINY, bottleneck=bottleneck, stem=stem)
  options = dict(pooling=pooling, small_images=small_images)
  features, variables = backbone_of(
    weights, images, train=train, bottleneck=bottleneck, **TINY, **options
  )
  found, statistics = jax.jit(features)(variables["params"])
  expected, of_batch = oracles.features(weights, images, train=train, **options)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

  running = flatten_dict(statistics)
  for name, path in LAYERS.items():
    mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    if train:  # a tenth of the way to those of the batch, whose variance is biased
      mean = 0.9 * mean + 0.1 * of_batch[name][0]
      var = 0.9 * var + 0.1 * of_batch[name][1]
    np.testing.assert_allclose(running[*path, "mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(running[*path, "var"], var, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("bottleneck", "train"), [(False, False), (True, True)])
def test_gradients_are_those_of_a_float64_resnet(bottleneck, train):
  """Each array's slope along a random direction, against a difference of two sums."""
  images, rng = photos(batch=3, side=16), np.random.default_rng(1)
  weights = oracles.random_weights(**TINY, bottleneck=bottleneck)
  features, variables = backbone_of(
    weights, images, train=train, bottleneck=bottleneck, **TINY
  )
  mix = rng.normal(size=features(variables["params"])[0].shape).astype(np.float32)
  grads = jax.jit(jax.grad(lambda params: (features(params)[0] * mix).sum()))(
    variables["params"]
  )
  slopes = flatten_dict(grads)

  def total(name, change):
    changed = weights | {name: weights[name].astype(np.float64) + change}
    return (oracles.features(changed, images, train=train)[0] * mix).sum()

  checked = 0
  for path, slope in slopes.items():
    name = name_of(path)
    direction = rng.normal(size=weights[name].shape)
    step = 1e-6 * direction
    expected = (total(name, step) - total(name, -step)) / 2e-6
    if direction.ndim == 4:
      direction = direction.transpose(2, 3, 1, 0)
    found = (np.asarray(slope, np.float64) * direction).sum()
    length = np.linalg.norm(slope) * np.sqrt(direction.size) + 1e-3
    assert abs(found - expected) < 1e-3 * min(abs(expected), length) + 1e-4 * length
    checked += 1
  assert checked == sum("running" not in name for name in weights)


@pytest.mark.parametrize("train", [False, True])
def test_resnet50_is_that_of_pytorch(train):
  """Ours in float32 against PyTorch's in float64, from the same weights."""
  torch = pytest.importorskip("torch", reason="compares with a live PyTorch")
  sizes = dict(depths=(3, 4, 6, 3), bottleneck=True)
  weights, images = oracles.random_weights(**sizes), photos(side=96)
  theirs = oracles.torch_resnet(**sizes).double().train(train)
  state = {name: torch.from_numpy(value) for name, value in weights.items()}
  missing, unknown = theirs.load_state_dict(state, strict=False)
  assert not unknown
  assert all(n.startswith("fc.") or n.endswith("num_batches_tracked") for n in missing)
  mix = np.random.default_rng(0).normal(size=(4, 2048)).astype(np.float32)
  expected = theirs(torch.from_numpy(images).double())
  (expected * torch.from_numpy(mix)).sum().backward()

  features, variables = backbone_of(weights, images, train=train, **sizes)

  def total(params):
    found, _ = features(params)
    return (found * mix).sum(), found

  # As a run compiles it: without optimization, sums round otherwise, and more ReLUs of
  # inputs near 0 fall on the other side.
  options = {"xla_backend_optimization_level": 3}
  take = jax.jit(jax.grad(total, has_aux=True), compiler_options=options)
  grads, found = take(variables["params"])
  expected = expected.detach().numpy()
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
  slopes = {
    name: p.grad.numpy() for name, p in theirs.named_parameters() if "fc" not in name
  }
  errors, lengths = [], []
  for path, slope in flatten_dict(grads).items():
    other = slopes.pop(name_of(path))
    other = other.transpose(2, 3, 1, 0) if other.ndim == 4 else other
    errors.append(np.linalg.norm(slope - other))
    lengths.append(np.linalg.norm(other))
    # One of a million ReLUs on the other side of 0 shows in a bias, and which ones are
    # depends on the processor's sums; PyTorch's float32 is as far off its float64. What
    # is wired wrongly is off by the length of the gradient.
    assert errors[-1] < 5e-2 * lengths[-1], path
  assert not slopes
  assert np.linalg.norm(errors) < 2e-2 * np.linalg.norm(lengths)


@pytest.mark.parametrize(
  ("make", "backbone", "features"),
  [(resnet18, 11_176_512, 512), (resnet50, 23_508_032, 2048)],
)
def test_the_sizes_are_the_published_ones(make, backbone, features):
  """torchvision's counts, 11,689,512 and 25,557,032, less a classifier of 1,000."""
  variables = jax.eval_shape(
    make(dim=128).init, jax.random.key(0), jnp.zeros((1, 224, 224, 3), jnp.uint8)
  )
  count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]["backbone"]))
  assert count == backbone
  assert count + 1000 * (features + 1) in (11_689_512, 25_557_032)
  assert variables["params"]["head"]["kernel"].shape == (features, 128)


def test_the_network_for_cifar_has_the_published_size():
  """.27 million parameters (Table 6), less the classifier; here with shortcuts."""
  variables = jax.eval_shape(
    resnet20(dim=10).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.uint8)
  )
  flat = flatten_dict(variables["params"]["backbone"], sep="/")
  own = [leaf.size for name, leaf in flat.items() if "downsample" not in name]
  # 3 x 3 convolutions, 19 in all, and a gain and a bias for each channel of each.
  kernels = 3 * 16 + 6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64
  assert sum(own) == 9 * kernels + 2 * (7 * 16 + 6 * 32 + 6 * 64) == 269_072
  assert variables["params"]["head"]["kernel"].shape == (64, 10)


@pytest.fixture(scope="module")
def tiny():
  """A tiny network, as a function of images and its options."""
  images = photos()
  weights = oracles.random_weights(**TINY, bottleneck=False)
  start = ResNet(dim=6, bottleneck=False, **TINY)
  variables = import_torch.resnet(weights, blank(start))
  kernel = np.random.default_rng(2).normal(size=(8, 6)).astype(np.float32)
  variables["params"]["head"]["kernel"] = kernel

  def run(images=images, *, train=False, **options):
    model = ResNet(dim=6, bottleneck=False, **TINY, **options)
    apply = partial(model.apply, train=train, mutable=["batch_stats"])
    found, changed = jax.jit(apply)(variables, images)
    return np.asarray(found), changed["batch_stats"]

  run.variables = variables
  return run


def test_frozen_statistics_are_used_in_training_and_stay(tiny):
  embeddings, statistics = tiny(train=True, frozen_batch_norm=True)
  np.testing.assert_array_equal(embeddings, tiny()[0])
  jax.tree.map(np.testing.assert_array_equal, statistics, tiny.variables["batch_stats"])
  assert (tiny(train=True)[0] != embeddings).all()


def test_layer_norm_comes_before_the_head(tiny):
  head = jax.tree.map(np.asarray, tiny.variables["params"]["head"])
  features = oracles.features(
    oracles.random_weights(**TINY, bottleneck=False), photos(), train=False
  )[0]
  np.testing.assert_allclose(
    tiny()[0], features @ head["kernel"] + head["bias"], rtol=1e-3, atol=1e-4
  )
  mean, deviation = features.mean(1, keepdims=True), features.std(1, keepdims=True)
  normed = (features - mean) / np.sqrt(deviation**2 + 1e-6)
  np.testing.assert_allclose(
    tiny(layer_norm=True)[0], normed @ head["kernel"] + head["bias"], rtol=1e-3
  )


def test_gray_images_are_three_equal_channels(tiny):
  gray = photos(channels=1)
  expected = tiny(np.repeat(gray, 3, axis=3))[0]
  np.testing.assert_allclose(tiny(gray)[0], expected, rtol=1e-4, atol=1e-5)
  with pytest.raises(ValueError, match="2 channels: ResNet takes 1 or 3"):
    tiny(photos(channels=2))


def test_bfloat16_is_of_the_computation_alone(tiny):
  embeddings, statistics = tiny(train=True, dtype=jnp.bfloat16)
  assert {leaf.dtype for leaf in jax.tree.leaves(statistics)} == {jnp.dtype("float32")}
  assert embeddings.dtype == np.float32
  full = tiny(train=True)[0]
  error = np.linalg.norm(embeddings - full) / np.linalg.norm(full)
  assert 1e-4 < error < 0.05
  model = ResNet(dim=6, bottleneck=False, **TINY, dtype=jnp.bfloat16)
  variables = jax.eval_shape(model.init, jax.random.key(0), photos())
  assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.fixture(scope="module")
def after_two_steps():
  """A function from a placement to the last loss and the state after two steps."""
  weights = oracles.random_weights((1,), bottleneck=False, width=4)
  batch = {"image": photos(batch=16), "label": np.arange(16, dtype=np.int32) % 5}
  loss = partial(losses.center_contrastive, scale=16.0, margin=0.1, center_weight=1.0)
  objective = objectives.with_trained_centers(loss, 5, 6)
  optimizer = optax.sgd(0.1)

  def run(place):
    model = ResNet(
      dim=6, bottleneck=False, depths=(1,), width=4, axis_name=place.axis_name
    )
    variables = import_torch.resnet(weights, blank(model))
    params = {
      "model": variables["params"],
      "objective": objective.init(jax.random.key(0))[0],
    }
    rng = np.random.default_rng(0)
    params["model"]["head"]["kernel"] = rng.normal(size=(4, 6)).astype(np.float32)
    fresh = TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      model_state={"batch_stats": variables["batch_stats"]},
      objective_state={},
      opt_state=optimizer.init(params),
    )
    step = make_train_step(
      model, objective, optimizer, key=jax.random.key(0), axis_name=place.axis_name
    )
    state, step = place.make_state(lambda: fresh), place.compile_step(step)
    for _ in range(2):
      state, metrics = step(state, place.put_batch(batch))
    return metrics["loss"], state

  run.expected = run(placement.with_jit(jax.devices()[:1]))
  return run


@pytest.mark.parametrize("way", [placement.with_jit, placement.with_pmap])
def test_a_step_normalizes_the_global_batch_on_any_devices(way, after_two_steps):
  loss, state = after_two_steps(way())
  expected_loss, expected = after_two_steps.expected
  np.testing.assert_allclose(loss, expected_loss, rtol=1e-4)
  jax.tree.map(
    partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5),
    (state.params, state.model_state),
    (expected.params, expected.model_state),
  )
