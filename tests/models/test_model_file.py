"""A trained network comes out of its file as it went in, or the file is named."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax import export

from ccl_jax import models
from ccl_jax.models import model_file
from ccl_jax.models.conv_net import ConvNet
from ccl_jax.models.glyph_net import GlyphNet
from ccl_jax.models.projection import Projected
from ccl_jax.models.resnet import ResNet

NETWORKS = {
  "GlyphNet": GlyphNet(dim=5, widths=(4, 6), depth=2),
  "ConvNet": ConvNet(dim=5, widths=(4, 4)),
  "ResNet": ResNet(
    dim=5, depths=(1, 1), bottleneck=False, width=4, dtype=jnp.bfloat16, axis_name="i"
  ),
}
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 1), np.uint8)


def of_one_device(network):
  return network.clone(axis_name=None) if hasattr(network, "axis_name") else network


def embedder(name, **about):
  network = NETWORKS[name]
  drawn = of_one_device(network).init(jax.random.key(1), jnp.array(PICTURES))
  return models.Embedder(network, drawn, (16, 24, 1), about)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_embeds_after_its_file_as_before(name, tmp_path):
  saved = embedder(name, data="random pictures")
  models.save(tmp_path / "model", saved)
  loaded = models.load(tmp_path / "model")
  assert loaded.about == {"data": "random pictures"}
  assert loaded.image_shape == (16, 24, 1)
  assert loaded.network == of_one_device(saved.network)
  found = loaded(PICTURES)
  assert found.dtype == jnp.float32
  # By the same compiled program: another one may round otherwise.
  network = of_one_device(saved.network)
  before = models.Embedder(network, saved.variables, saved.image_shape, saved.about)
  np.testing.assert_array_equal(found, before(PICTURES))


@pytest.mark.parametrize("name", NETWORKS)
def test_stablehlo_takes_any_number_of_pictures(name):
  saved = embedder(name)
  exported = export.deserialize(bytearray(model_file.stablehlo(saved)))
  assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
  for count in (1, 3):
    expected = saved(PICTURES[:count])
    # Other programs, whose bfloat16 may be rounded at other places.
    np.testing.assert_allclose(exported.call(PICTURES[:count]), expected, atol=2e-2)


def refused(path):
  with pytest.raises(ValueError) as stop:
    models.load(path)
  assert str(path) in str(stop.value)
  return str(stop.value)


def test_a_damaged_or_foreign_file_is_named(tmp_path):
  path = tmp_path / "model"
  models.save(path, embedder("GlyphNet"))
  whole = path.read_bytes()
  for data in (b"", b"<!DOCTYPE html>", whole[:-1], whole[:200]):
    path.write_bytes(data)
    assert "is no whole .safetensors file" in refused(path)
  for place in (whole.index(b'"dim') + 8, len(whole) - 9):
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    refused(path)
  assert "was altered" in refused(path)
  safetensors.numpy.save_file({"fc.weight": np.ones(3)}, path, {"format": "pt"})
  assert "which network its 1 tensors are of" in refused(path)
  with pytest.raises(FileNotFoundError):
    models.load(tmp_path / "none")


@pytest.mark.parametrize(
  ("changed", "says"),
  [
    ({"network": "Transformer"}, "a Transformer, which this version does not know"),
    ({"settings": json.dumps({"dim": 7, "widths": [4, 6]})}, "do not fit its GlyphNet"),
    ({"settings": json.dumps({"depth": 10**12})}, "do not fit its GlyphNet"),
    ({"settings": json.dumps({"heads": 8})}, "do not fit its GlyphNet"),
  ],
)
def test_a_header_that_does_not_fit_its_tensors_is_named(changed, says, tmp_path):
  path = tmp_path / "model"
  models.save(path, embedder("GlyphNet"))
  with safetensors.safe_open(path, "np") as file:
    metadata = {**file.metadata(), **changed}
  tensors = safetensors.numpy.load_file(path)
  del metadata["sha256"]
  metadata["sha256"] = model_file._digest(tensors, metadata)
  safetensors.numpy.save_file(tensors, path, metadata)
  assert says in refused(path)


@pytest.mark.parametrize(
  "pictures",
  [PICTURES[0], PICTURES[:, :8], PICTURES / 255, np.repeat(PICTURES, 3, 3)],
)
def test_pictures_of_another_kind_are_refused(pictures, monkeypatch):
  monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
  with pytest.raises(ValueError, match=r"expected uint8 \[B, 16, 24, 1\], 0 to 255"):
    embedder("GlyphNet")(pictures)


def test_a_network_of_somebody_else_is_not_written(tmp_path):
  network = Projected(GlyphNet(dim=4), (3,))
  with pytest.raises(ValueError, match="Projected is none of the networks ConvNet,"):
    models.save(tmp_path / "model", models.Embedder(network, {}, (8, 8, 1)))
  assert not any(tmp_path.iterdir())
