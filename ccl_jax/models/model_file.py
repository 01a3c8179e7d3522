"""A trained network in one file of safetensors, which says how to build it again."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export
from jaxtyping import Array, Float, PyTree, UInt8

from ccl_jax.models.conv_net import ConvNet
from ccl_jax.models.glyph_net import GlyphNet
from ccl_jax.models.resnet import ResNet

__all__ = ["Embedder", "load", "save", "stablehlo"]

_NETWORKS: dict[str, Any] = {
  network.__name__: network for network in (ConvNet, GlyphNet, ResNet)
}
# Of a Flax module, or of the devices that trained it: not of the network.
_UNSAVED = {"parent", "name", "axis_name"}


@dataclasses.dataclass(frozen=True)
class Embedder:
  """A function from pictures to embeddings: `Embedder(...)(pictures)`.

  Attributes:
    network: a module of `ccl_jax.models`, whose call embeds.
    variables: its parameters and its other variables, as `network.init` nests them.
    image_shape: (H, W, C) of a picture that the network was trained on.
    about: what else its file says: the data, metrics, versions.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax import models
    >>> from ccl_jax.models.glyph_net import GlyphNet
    >>> pictures = jnp.zeros((2, 16, 16, 1), jnp.uint8)
    >>> network = GlyphNet(dim=8)
    >>> variables = network.init(jax.random.key(0), pictures)
    >>> embed = models.Embedder(network, variables, image_shape=(16, 16, 1))
    >>> print(embed(pictures).shape)
    (2, 8)
  """

  network: nn.Module
  variables: PyTree
  image_shape: tuple[int, int, int]
  about: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def __call__(self, images: UInt8[Any, "B H W C"]) -> Float[Array, "B D"]:
    """Embeds pictures u8[B,H,W,C], JAX or NumPy; the embeddings are not normalized.

    It is compiled once for each B, so give pictures in batches of one size.

    Raises:
      ValueError: if the pictures are of another shape or type.
    """
    shape, dtype = jnp.shape(images), jnp.result_type(images)
    if shape[1:] != self.image_shape or dtype != jnp.uint8:
      height, width, channels = self.image_shape
      raise ValueError(
        f"pictures are {dtype} of shape {shape}; expected uint8 [B, {height}, {width},"
        f" {channels}], 0 to 255"
      )
    return _embed(self.network, self.variables, images)


@jax.jit(static_argnums=0)
def _embed(network: Any, variables: PyTree, images) -> Float[Array, "B D"]:
  return jnp.asarray(network.apply(variables, images, train=False), jnp.float32)


def save(path: str | os.PathLike, embedder: Embedder) -> None:
  """Writes a network of `ccl_jax.models` to a .safetensors file, for `load`.

  Its header names the network, its settings, the shape of a picture, and `about`, and
  holds a checksum of all of it.

  Raises:
    ValueError: if the network is none of this library's.

  Example:
    >>> import tempfile
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax import models
    >>> from ccl_jax.models.glyph_net import GlyphNet
    >>> pictures = jnp.zeros((2, 16, 16, 1), jnp.uint8)
    >>> network = GlyphNet(dim=8)
    >>> variables = network.init(jax.random.key(0), pictures)
    >>> embed = models.Embedder(network, variables, image_shape=(16, 16, 1))
    >>> with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
    ...   models.save(file.name, embed)
    ...   loaded = models.load(file.name)
    ...
    >>> print(bool((loaded(pictures) == embed(pictures)).all()))
    True
  """
  kind = type(embedder.network).__name__
  if type(embedder.network) is not _NETWORKS.get(kind):
    raise ValueError(f"{kind} is none of the networks {', '.join(_NETWORKS)}")
  flat: dict[str, Any] = flatten_dict(embedder.variables, sep="/")
  # A copy, since safetensors writes what lies in memory: rows one after another.
  tensors = {name: np.array(value, order="C") for name, value in flat.items()}
  metadata = {
    **embedder.about,
    "network": kind,
    "settings": json.dumps(_settings(embedder.network)),
    "image_shape": json.dumps(embedder.image_shape),
  }
  metadata["sha256"] = _digest(tensors, metadata)
  safetensors.numpy.save_file(tensors, path, metadata)


def load(path: str | os.PathLike) -> Embedder:
  """Reads a trained network; the result is a function from pictures to embeddings.

  Nothing of the file is run: it names a network of this library and its settings.

  Args:
    path: a .safetensors file that `save` or `python -m experiments.export` wrote.

  Raises:
    OSError: if there is no such file.
    ValueError: if the file is of another kind, or damaged.

  Example:
    >>> import tempfile
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax import models
    >>> from ccl_jax.models.glyph_net import GlyphNet
    >>> pictures = jnp.zeros((2, 16, 16, 1), jnp.uint8)
    >>> network = GlyphNet(dim=8)
    >>> variables = network.init(jax.random.key(0), pictures)
    >>> embed = models.Embedder(network, variables, image_shape=(16, 16, 1))
    >>> with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
    ...   models.save(file.name, embed)
    ...   loaded = models.load(file.name)
    ...
    >>> print(loaded.network.dim, loaded.image_shape, loaded(pictures).shape)
    8 (16, 16, 1) (2, 8)
  """
  try:
    with safetensors.safe_open(path, framework="np") as file:
      metadata = file.metadata() or {}
      tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except FileNotFoundError:
    raise
  except Exception as error:
    raise ValueError(f"{path} is no whole .safetensors file ({error})") from error
  if not {"network", "settings", "image_shape", "sha256"} <= metadata.keys():
    raise ValueError(
      f"{path} does not say which network its {len(tensors)} tensors are of: give a"
      " file of experiments.export; models.import_torch reads those of PyTorch"
    )
  if metadata.pop("sha256") != _digest(tensors, metadata):
    raise ValueError(f"{path} was altered, or its disk is failing: fetch it again")
  network = metadata.pop("network")
  if network not in _NETWORKS:
    raise ValueError(f"{path} holds a {network}, which this version does not know")
  settings, shape = (json.loads(metadata.pop(n)) for n in ("settings", "image_shape"))
  # JSON has lists where a module has tuples.
  settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
  if "dtype" in settings:
    settings["dtype"] = jnp.dtype(settings["dtype"])
  variables = jax.tree.map(jnp.asarray, unflatten_dict(tensors, sep="/"))
  try:
    embedder = Embedder(
      _NETWORKS[network](**settings), variables, tuple(shape), metadata
    )
    jax.eval_shape(embedder, jax.ShapeDtypeStruct((1, *shape), jnp.uint8))
  except Exception as error:  # a dozen kinds, of a module built wrongly
    raise ValueError(
      f"{path}: its tensors do not fit its {network} ({error})"
    ) from error
  return embedder


def stablehlo(embedder: Embedder) -> bytes:
  """The function as `jax.export` serializes it, weights included, for other programs.

  It runs on CPU, CUDA and TPU, on any number of pictures:
  `jax.export.deserialize(bytearray(data)).call(pictures)`. JAX promises to read such
  bytes for six months; `save` keeps a model for longer.

  Example:
    >>> import jax.export
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax import models
    >>> from ccl_jax.models.glyph_net import GlyphNet
    >>> pictures = jnp.zeros((2, 16, 16, 1), jnp.uint8)
    >>> network = GlyphNet(dim=8)
    >>> variables = network.init(jax.random.key(0), pictures)
    >>> embed = models.Embedder(network, variables, image_shape=(16, 16, 1))
    >>> data = models.model_file.stablehlo(embed)
    >>> print(jax.export.deserialize(bytearray(data)).call(pictures).shape)
    (2, 8)
  """
  (batch,) = export.symbolic_shape("batch")
  images = jax.ShapeDtypeStruct((batch, *embedder.image_shape), jnp.uint8)

  def embed(images):
    return _embed(embedder.network, embedder.variables, images)

  platforms = ("cpu", "cuda", "tpu")
  exported = export.export(jax.jit(embed), platforms=platforms)(images)
  return bytes(exported.serialize())


def _settings(network: nn.Module) -> dict[str, Any]:
  """The attributes of a module, as JSON can hold them."""
  settings = {
    field.name: getattr(network, field.name)
    for field in dataclasses.fields(network)
    if field.name not in _UNSAVED
  }
  if "dtype" in settings:
    settings["dtype"] = jnp.dtype(settings["dtype"]).name
  return settings


def _digest(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
  """SHA-256 of names, types, shapes, values and the rest of the header."""
  found = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
  for name in sorted(tensors):
    value = tensors[name]
    found.update(f"{name} {value.dtype} {value.shape}".encode())
    found.update(np.ascontiguousarray(value).data)
  return found.hexdigest()
