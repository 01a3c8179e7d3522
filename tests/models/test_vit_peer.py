"""The vision transformer beside timm's, at random weights."""

import importlib.abc
import importlib.machinery
import sys
from unittest import mock

import jax
import numpy as np
import pytest

from ccl_jax.models import import_torch, vit
from ccl_jax.models.resnet import MEAN, STANDARD_DEVIATION
from tests.models.test_vit import weights_of

torch = pytest.importorskip("torch")


class NoTorchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """Stands for torchvision, whose wheel does not load beside a torch without CUDA.

  timm needs it to read pictures, not for its networks.
  """

  def find_spec(self, fullname, path, target=None):
    del path, target
    if fullname.split(".")[0] == "torchvision":
      return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
    return None

  def create_module(self, spec):
    return mock.MagicMock(name=spec.name, __path__=[], __spec__=spec)

  def exec_module(self, module):
    del module


@pytest.fixture(scope="module")
def timm():
  finder = NoTorchvision()
  sys.meta_path.insert(0, finder)
  try:
    return pytest.importorskip("timm")
  finally:
    sys.meta_path.remove(finder)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
      del sys.modules[name]


@pytest.mark.parametrize(
  ("name", "make", "patch", "registers", "depth"),
  # The depth is cut, but for the smallest, to save time.
  [
    ("vit_small_patch14_dinov2", vit.vit_small, 14, 0, 12),
    ("vit_base_patch14_reg4_dinov2", vit.vit_base, 14, 4, 2),
    ("vit_large_patch16_224", vit.vit_large, 16, 0, 2),
  ],
)
def test_features_and_gradients_are_those_of_timm(
  timm, name, make, patch, registers, depth
):
  side = 3 * patch
  peer = timm.create_model(name, num_classes=0, img_size=side, depth=depth).eval()
  torch.manual_seed(0)
  with torch.no_grad():
    for parameter_name, parameter in peer.named_parameters():
      parameter.normal_(0, 0.03)
      if "gamma" in parameter_name or (
        parameter_name.endswith("weight") and "norm" in parameter_name
      ):
        parameter.add_(0.7)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, side, side, 3), np.uint8)
  weight = rng.normal(size=(2, 2 * peer.embed_dim)).astype(np.float32)

  pixels = ((images / 255 - MEAN) / STANDARD_DEVIATION).transpose(0, 3, 1, 2)
  out = peer.forward_features(torch.tensor(pixels.astype(np.float32)))
  expected = torch.cat([out[:, 0], out[:, 1 + registers :].mean(dim=1)], dim=1)
  (expected * torch.tensor(weight)).sum().backward()
  parameters = dict(peer.named_parameters())
  weights = {name: p.detach().numpy() for name, p in parameters.items()}
  slopes = {name: p.grad.numpy() for name, p in parameters.items()}

  model = make(
    dim=None, tokens="both", registers=registers, depth=depth, patch=patch, grid=3
  )
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
  if "pos_embed" in slopes and slopes["pos_embed"].shape[1] == 9:  # none of the class
    found["pos_embed"] = found["pos_embed"][:, 1:]
  for parameter_name, slope in slopes.items():
    assert_near(found[parameter_name], slope, 1e-3)


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
