"""A vision transformer: its tokens, its sizes of images, and what of it trains."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from ccl_jax.models import import_torch, vit
from ccl_jax.models.vit import ViT, frozen
from ccl_jax.training import optim

TINY = partial(ViT, dim=6, width=8, depth=3, heads=2, patch=4, grid=3)


def drawn(side=12):
  shape = (2, side, side, 3)
  return jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def variables_of(model, images=None):
  images = drawn() if images is None else images
  variables = jax.jit(model.init)(jax.random.key(0), images[:1])
  # Not the ones and zeros that a network starts with.
  leaves, form = jax.tree.flatten(variables)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  pairs = zip(leaves, keys, strict=True)
  return form.unflatten([x + 0.1 * jax.random.normal(k, x.shape) for x, k in pairs])


def test_both_tokens_are_the_class_token_and_the_mean():
  variables = variables_of(TINY(dim=None, registers=2))
  found = {
    tokens: TINY(dim=None, registers=2, tokens=tokens).apply(variables, drawn())
    for tokens in ("class", "mean", "both")
  }
  joined = jnp.concatenate([found["class"], found["mean"]], axis=1)
  np.testing.assert_allclose(found["both"], joined, rtol=1e-6)
  assert not np.allclose(found["class"], found["mean"])


def test_positions_are_resampled_for_an_image_of_another_size():
  model = TINY(dim=None, tokens="mean")
  variables = variables_of(model)
  assert model.apply(variables, drawn(20)).shape == (2, 8)
  equal = vit._resampled(jnp.ones((1, 9, 2)), 3, (5, 7))
  np.testing.assert_allclose(equal, np.ones((1, 35, 2)), rtol=1e-6)


def test_an_image_that_patches_do_not_divide_is_refused():
  with pytest.raises(ValueError, match="13 x 13 x 3: .* multiples of 4"):
    TINY().init(jax.random.key(0), drawn(13))


def test_remat_changes_no_number():
  variables, weights = (
    variables_of(TINY()),
    np.random.default_rng(0).normal(size=(2, 6)),
  )

  def value_and_grad(model):
    def loss(params):
      return (model.apply({"params": params}, drawn()) * weights).sum()

    return jax.jit(jax.value_and_grad(loss))(variables["params"])

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    value_and_grad(TINY(remat=True)),
    value_and_grad(TINY()),
  )


@pytest.mark.parametrize("trained_blocks", [None, 0, 1, 3, 5])
def test_only_the_last_blocks_train(trained_blocks):
  model = TINY(registers=1, trained_blocks=trained_blocks)
  params = variables_of(model)["params"]

  def loss(params):
    return jnp.sin(model.apply({"params": params}, drawn())).sum()

  names = frozen(3, trained_blocks)
  still = {
    None: set(),
    0: {*params["backbone"]},
    1: {*params["backbone"]} - {"blocks_2", "norm"},
    3: set(),
    5: set(),
  }
  assert names == still[trained_blocks]
  grads = jax.jit(jax.grad(loss))(params)
  optimizer = optim.adamw(0.1, 0.1, steps=9, weight_decay=0.5, frozen=names)
  tree = {"model": params, "objective": {}}
  updates, _ = optimizer.update(
    {"model": grads, "objective": {}}, optimizer.init(tree), tree
  )
  moved = {
    path[:2]
    for path, update in flatten_dict(updates["model"]).items()
    if np.asarray(update).any()
  }
  assert {path[1] for path in moved if path[0] == "backbone"} == (
    {*params["backbone"]} - names
  )
  assert ("head", "kernel") in moved


def weights_of(variables):
  """A file's tensors, by the names of timm and the shapes of PyTorch."""
  weights = {}
  for path, leaf in flatten_dict(variables["params"]["backbone"]).items():
    name = ".".join(path).replace("blocks_", "blocks.").replace("_gamma", ".gamma")
    for ours, theirs in {
      "patch_embed_proj": "patch_embed.proj",
      "attn_": "attn.",
      "mlp_": "mlp.",
      "kernel": "weight",
      "scale": "weight",
    }.items():
      name = name.replace(ours, theirs)
    leaf = np.asarray(leaf)
    if path[-1] == "kernel":
      leaf = leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T
    weights[name] = leaf
  return weights


@pytest.fixture(scope="module")
def variables():
  return variables_of(TINY(registers=2))


def test_weights_come_in_by_name_and_the_head_stays(variables):
  weights = weights_of(variables)
  weights["register_tokens"] = weights.pop("reg_token")  # as DINOv2 calls it
  weights |= {"mask_token": np.zeros((1, 8)), "head.weight": np.zeros((9, 8))}
  other = jax.tree.map(jnp.zeros_like, variables)
  filled = import_torch.vit(weights, other)["params"]
  jax.tree.map(
    np.testing.assert_array_equal, filled["backbone"], variables["params"]["backbone"]
  )
  assert not np.asarray(filled["head"]["kernel"]).any()


def test_a_file_without_layer_scale_or_a_class_position_is_the_same_network(variables):
  weights = weights_of(variables)
  weights = {n: w for n, w in weights.items() if ".ls" not in n}
  weights["pos_embed"] = weights["pos_embed"][:, 1:]
  backbone = import_torch.vit(weights, variables)["params"]["backbone"]
  assert not backbone["pos_embed"][:, 0].any()
  for i in range(3):
    for gain in ("ls1_gamma", "ls2_gamma"):
      np.testing.assert_array_equal(backbone[f"blocks_{i}"][gain], 1)


@pytest.mark.parametrize(
  ("damage", "told"),
  [
    (lambda w: w.pop("blocks.1.attn.qkv.bias"), "lack blocks.1.attn.qkv.bias of shape"),
    (lambda w: w.pop("blocks.2.ls2.gamma"), "lack blocks.2.ls2.gamma of shape"),
    (
      lambda w: w.update({"fc_norm.bias": np.zeros(3)}),
      r"hold fc_norm.bias of .*\(3,\)",
    ),
    (
      lambda w: w.update({"pos_embed": np.zeros((1, 5, 8), np.float32)}),
      r"pos_embed of the weights is .* \(1, 5, 8\), expected .* \(1, 10, 8\): .* grid",
    ),
    (
      lambda w: w.update({"norm.bias": np.zeros(8, np.int64)}),
      "norm.bias of the weights is int64",
    ),
  ],
)
def test_a_file_of_another_network_is_named_in_one_line(damage, told, variables):
  weights = weights_of(variables)
  damage(weights)
  with pytest.raises(ValueError, match=told) as error:
    import_torch.vit(weights, variables)
  assert "\n" not in str(error.value)
