"""The vision transformer beside that of transformers, at random weights.

Names differ there, and are mapped to those of DINOv2's files below.
"""

import re

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from ccl_jax.models import import_torch, vit
from ccl_jax.models.resnet import MEAN, STANDARD_DEVIATION
from tests.models.test_vit import weights_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

NAMES = (
  (r"^embeddings\.(cls_token|mask_token|register_tokens)", r"\1"),
  (r"^embeddings\.position_embeddings", "pos_embed"),
  (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
  (r"^(?:encoder\.)?layer\.(\d+)", r"blocks.\1"),
  (r"attention\.o_proj", "attn.proj"),
  (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
  (r"^layernorm", "norm"),
)


def by_name(tensors):
  """Tensors by DINOv2's names, with query, key and value in one."""
  found = {}
  for name, tensor in tensors.items():
    for pattern, ours in NAMES:
      name = re.sub(pattern, ours, name)
    found[name] = tensor
  for name in [name for name in found if ".attention.q_proj." in name]:
    parts = [found.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
    found[name.replace("attention.q_proj", "attn.qkv")] = np.concatenate(parts)
  return found


@pytest.mark.parametrize(
  ("make", "registers", "depth"),
  # The depth is cut, but for the smallest, to save time.
  [(vit.vit_small, 0, 12), (vit.vit_base, 4, 2), (vit.vit_large, 0, 2)],
  ids=["S", "B with registers", "L"],
)
def test_features_and_gradients_are_those_of_transformers(make, registers, depth):
  size = make().width
  kind = "Dinov2WithRegisters" if registers else "Dinov2"
  config = getattr(transformers, f"{kind}Config")(
    hidden_size=size,
    num_hidden_layers=depth,
    num_attention_heads=make().heads,
    image_size=42,
    patch_size=14,
    **({"num_register_tokens": registers} if registers else {}),
  )
  peer = getattr(transformers, f"{kind}Model")(config).eval()
  torch.manual_seed(0)
  with torch.no_grad():
    for name, parameter in peer.named_parameters():
      parameter.normal_(0, 0.03)
      if "lambda" in name or (name.endswith("weight") and "norm" in name):
        parameter.add_(0.7)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, 42, 42, 3), np.uint8)
  weight = rng.normal(size=(2, 2 * size)).astype(np.float32)

  pixels = ((images / 255 - MEAN) / STANDARD_DEVIATION).transpose(0, 3, 1, 2)
  out = peer(torch.tensor(pixels.astype(np.float32))).last_hidden_state
  expected = torch.cat([out[:, 0], out[:, 1 + registers :].mean(dim=1)], dim=1)
  (expected * torch.tensor(weight)).sum().backward()
  parameters = dict(peer.named_parameters())
  weights = by_name({n: p.detach().numpy() for n, p in parameters.items()})
  slopes = by_name(
    {n: p.grad.numpy() for n, p in parameters.items() if p.grad is not None}
  )

  model = make(dim=None, tokens="both", registers=registers, depth=depth, grid=3)
  images = jax.numpy.asarray(images)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  params = import_torch.vit(weights, empty)["params"]

  def loss(params):
    features = model.apply({"params": params}, images)
    return (features * weight).sum(), features

  grads, features = jax.jit(jax.grad(loss, has_aux=True))(params)
  assert_near(features, expected.detach().numpy(), 1e-4)
  found = weights_of({"params": grads})
  found["register_tokens"] = found.pop("reg_token", None)
  assert len(flatten_dict(grads)) == len(slopes)
  for name, slope in slopes.items():
    assert_near(found[name], slope, 1e-3)


@pytest.mark.parametrize("cells", [(3, 5), (9, 7), (4, 12)])
def test_positions_are_resampled_as_timm_resamples_them(cells):
  positions = np.random.default_rng(0).normal(size=(1, 36, 3)).astype(np.float32)
  square = torch.tensor(positions.reshape(1, 6, 6, 3).transpose(0, 3, 1, 2))
  expected = torch.nn.functional.interpolate(
    square, cells, mode="bicubic", antialias=True, align_corners=False
  )
  found = vit._resampled(jax.numpy.asarray(positions), 6, cells)
  expected = expected.numpy().transpose(0, 2, 3, 1).reshape(1, -1, 3)
  np.testing.assert_allclose(found, expected, atol=1e-5)


def assert_near(found, expected, tolerance):
  """Within a share of the largest entry."""
  error = np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()
  assert error < tolerance
