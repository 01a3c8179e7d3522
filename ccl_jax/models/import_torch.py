"""Reads weights of a PyTorch ResNet or vision transformer from a public file.

Those of a ResNet come from torchvision or timm, those of a transformer from timm or
DINOv2.

Such a file is .safetensors, or the .pth of `torch.save(model.state_dict(), path)`. A
.pth file holds a pickle, which could run any code; here it may only name tensors.
PyTorch is not needed.
"""

import io
import math
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

_BFLOAT16 = np.dtype(jnp.bfloat16)
_SAFETENSORS_TYPES = {
  "F64": np.dtype("<f8"),
  "F32": np.dtype("<f4"),
  "F16": np.dtype("<f2"),
  "BF16": _BFLOAT16,
  "I64": np.dtype("<i8"),
  "I32": np.dtype("<i4"),
  "I16": np.dtype("<i2"),
  "I8": np.dtype("i1"),
  "U8": np.dtype("u1"),
  "BOOL": np.dtype("?"),
}
_TORCH_TYPES = {
  "DoubleStorage": np.dtype("<f8"),
  "FloatStorage": np.dtype("<f4"),
  "HalfStorage": np.dtype("<f2"),
  "BFloat16Storage": _BFLOAT16,
  "LongStorage": np.dtype("<i8"),
  "IntStorage": np.dtype("<i4"),
  "ShortStorage": np.dtype("<i2"),
  "CharStorage": np.dtype("i1"),
  "ByteStorage": np.dtype("u1"),
  "BoolStorage": np.dtype("?"),
}
# The first bytes of a file from before PyTorch 1.6, which is a sequence of pickles.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_START = pickle.dumps(_LEGACY_MAGIC, protocol=2)

# Names of a module's arrays, ours -> PyTorch's.
_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The tensors of a .safetensors or .pth file by name, floats widened to float32.

  The first bytes of the file tell its kind, not its name.

  Raises:
    OSError: if there is no such file.
    ValueError: if the file is of another kind, is damaged, or names more than tensors.

  Example:
    >>> import tempfile
    >>> import numpy as np
    >>> import safetensors.numpy
    >>> from ccl_jax.models import import_torch
    >>> with tempfile.NamedTemporaryFile() as file:
    ...   safetensors.numpy.save_file({"fc.bias": np.ones(2, np.float16)}, file.name)
    ...   weights = import_torch.read(file.name)
    ...
    >>> print(weights)
    {'fc.bias': array([1., 1.], dtype=float32)}
  """
  data = Path(path).read_bytes()
  try:
    if data.startswith(b"PK\x03\x04"):
      tensors = _read_torch(data)
    elif data.startswith(_LEGACY_START):
      tensors = _read_legacy_torch(data)
    else:
      tensors = _read_safetensors(data)
  except Exception as error:  # damaged bytes make their readers raise a dozen kinds
    raise ValueError(
      f"{path} is not a whole .safetensors file, nor a .pth file of named tensors"
      f" ({error}): fetch it again, or save model.state_dict()"
    ) from error
  return {
    name: tensor.astype(np.float32, copy=False) if _is_float(tensor) else tensor
    for name, tensor in tensors.items()
  }


def resnet(weights: Mapping[str, np.ndarray], variables: PyTree) -> PyTree:
  """The variables of a `ResNet` with its backbone taken from PyTorch's weights.

  The weights must hold every array of the backbone by its name and shape, and nothing
  else. Only the classifier `fc` and PyTorch's count of batches are skipped.

  Args:
    weights: from `read`.
    variables: from `ResNet.init`, for the names and shapes; the head is kept.

  Raises:
    ValueError: if a name is missing or unknown, or its shape or type differs; the
      message names the first.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax.models import import_torch
    >>> from ccl_jax.models.resnet import resnet18
    >>> pictures = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    >>> variables = jax.eval_shape(resnet18().init, jax.random.key(0), pictures)
    >>> try:
    ...   import_torch.resnet({}, variables)  # weights of import_torch.read
    ... except ValueError as error:
    ...   print(str(error).split(":")[0])
    the weights lack bn1.bias of shape (64,)
  """

  def ignored(name):
    return name.startswith("fc.") or name.endswith(".num_batches_tracked")

  advice = ": give a file of the same ResNet from torchvision or timm"
  return _filled(weights, variables, _torch_name, ignored, advice)


def vit(weights: Mapping[str, np.ndarray], variables: PyTree) -> PyTree:
  """The variables of a `ViT` with its backbone taken from timm's or DINOv2's weights.

  The weights must hold every array of the backbone by its name and shape, and nothing
  else. Only the classifier `head` and DINOv2's `mask_token` are skipped. Of a file
  without LayerScale, or without a position of the class token, these become 1 and 0,
  which is the same network.

  Args:
    weights: from `read`.
    variables: from `ViT.init`, for the names and shapes; the head is kept.

  Raises:
    ValueError: as `resnet` does.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax.models import import_torch
    >>> from ccl_jax.models.vit import ViT
    >>> network = ViT(width=12, depth=0, heads=2, patch=8, grid=4)
    >>> pictures = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    >>> variables = jax.eval_shape(network.init, jax.random.key(0), pictures)
    >>> try:
    ...   import_torch.vit({}, variables)  # weights of import_torch.read
    ... except ValueError as error:
    ...   print(str(error).split(":")[0])
    the weights lack cls_token of shape (1, 1, 12)
  """
  weights = dict(weights)
  if "register_tokens" in weights:  # DINOv2's name of timm's
    weights["reg_token"] = weights.pop("register_tokens")
  backbone = variables["params"]["backbone"]
  if not any(".ls1." in name or ".ls2." in name for name in weights):
    for name in backbone:
      if name.startswith("blocks_"):
        ones = np.ones_like(backbone[name]["ls1_gamma"])
        for gain in ("ls1", "ls2"):
          weights[f"{name.replace('_', '.')}.{gain}.gamma"] = ones
  found, expected = weights.get("pos_embed"), backbone["pos_embed"].shape
  if found is not None and found.shape == (1, expected[1] - 1, expected[2]):
    weights["pos_embed"] = np.pad(found, ((0, 0), (1, 0), (0, 0)))

  def ignored(name):
    return name.startswith("head.") or name == "mask_token"

  advice = ": give a file of the same ViT from timm or DINOv2, and its patch, grid and"
  advice += " registers"
  return _filled(weights, variables, _vit_name, ignored, advice)


def _filled(
  weights: Mapping[str, np.ndarray],
  variables: PyTree,
  torch_name: Callable[[tuple[str, ...]], str],
  ignored: Callable[[str], bool],
  advice: str,
) -> PyTree:
  """The variables with the backbone's arrays replaced by the weights of their names."""
  flat: dict[Any, Any] = dict(flatten_dict(variables))
  expected = {torch_name(path): path for path in flat if path[1] == "backbone"}
  for name, path in sorted(expected.items()):
    is_kernel = path[-1] == "kernel"
    shape = _torch_shape(flat[path].shape, is_kernel)
    if name not in weights:
      raise ValueError(f"the weights lack {name} of shape {shape}{advice}")
    found = weights[name]
    if found.shape != shape or found.dtype != np.float32:
      raise ValueError(
        f"{name} of the weights is {found.dtype} of shape {found.shape}, expected"
        f" float of shape {shape}{advice}"
      )
    # PyTorch has the outputs of a kernel first, and its inputs next.
    axes = (*range(2, found.ndim), 1, 0) if is_kernel else range(found.ndim)
    flat[path] = jnp.array(found.transpose(*axes))
  for name, tensor in weights.items():
    if name not in expected and not ignored(name):
      raise ValueError(
        f"the weights hold {name} of shape {tensor.shape}, which the network has"
        f" not{advice}"
      )
  return unflatten_dict(flat)


def _torch_name(path: tuple[str, ...]) -> str:
  """("params", "backbone", "layer1_0", "bn1", "scale") -> layer1.0.bn1.weight."""
  _, _, *modules, leaf = path
  return ".".join([*modules, ""]).replace("_", ".") + _LEAVES[leaf]


def _vit_name(path: tuple[str, ...]) -> str:
  """(..., "blocks_0", "attn_qkv", "kernel") -> blocks.0.attn.qkv.weight."""
  _, _, *modules, leaf = path
  if not modules:  # tokens and positions
    return leaf
  known = {"patch_embed_proj": "patch_embed.proj"}
  names = [known.get(module, module.replace("_", ".")) for module in modules]
  return ".".join([*names, _LEAVES.get(leaf, leaf.replace("_", "."))])


def _torch_shape(shape: tuple[int, ...], is_kernel: bool) -> tuple[int, ...]:
  return (shape[-1], shape[-2], *shape[:-2]) if is_kernel else tuple(shape)


def _is_float(tensor: np.ndarray) -> bool:
  return tensor.dtype == _BFLOAT16 or np.issubdtype(tensor.dtype, np.floating)


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
  if 8 + int.from_bytes(data[:8], "little") > len(data):
    raise ValueError("it starts like no kind of weights file")
  tensors = {}
  # Not safetensors.numpy, which knows no bfloat16.
  for name, entry in safetensors.deserialize(data):
    flat = np.frombuffer(entry["data"], _SAFETENSORS_TYPES[entry["dtype"]])
    tensors[name] = flat.reshape(entry["shape"])
  return tensors


class _Stored(NamedTuple):
  """A tensor whose storage has not been read yet."""

  storage: str
  dtype: np.dtype
  offset: int  # in elements, as the strides are
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  def of(self, data: bytes) -> np.ndarray:
    """The tensor as a view of its storage; NumPy raises if it leaves the storage."""
    item = self.dtype.itemsize
    if item * math.prod(self.shape) > len(data):
      # With strides of 0, a few bytes would be widened into gigabytes.
      raise ValueError(
        f"a tensor of shape {self.shape} is larger than its storage of {len(data)}"
        " bytes"
      )
    strides = tuple(item * stride for stride in self.strides)
    return np.ndarray(self.shape, self.dtype, data, item * self.offset, strides)


class _Unpickler(pickle.Unpickler):
  """Reads a pickle that may name tensors and ordered dicts, and nothing else."""

  def find_class(self, module: str, name: str, /) -> Any:
    if (module, name) == ("collections", "OrderedDict"):
      return OrderedDict
    if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
      return self._tensor
    if (module, name) == ("torch._utils", "_rebuild_parameter"):
      return self._parameter
    if module == "torch" and name in _TORCH_TYPES:
      return name
    raise ValueError(f"it asks for {module}.{name}, and only tensors are read")

  def persistent_load(self, pid: Any, /) -> tuple[str, np.dtype]:
    kind, type_name, key, *_ = pid
    # The old format may cut a part out of a storage, which no current file does.
    if kind != "storage" or (len(pid) == 6 and pid[5] is not None):
      raise ValueError(f"it stores {kind} in a way that is not read")
    return key, _TORCH_TYPES[type_name]

  def _tensor(self, storage, offset, shape, strides, *_) -> _Stored:
    key, dtype = storage
    return _Stored(key, dtype, offset, tuple(shape), tuple(strides))

  def _parameter(self, tensor: _Stored, *_) -> _Stored:
    return tensor


def _read_torch(data: bytes) -> dict[str, np.ndarray]:
  """A zip archive: FOLDER/data.pkl names the storages FOLDER/data/KEY."""
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    names = archive.namelist()
    folder = next(n for n in names if n.endswith("data.pkl")).removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in names and archive.read(order) != b"little":
      raise ValueError("its numbers are big-endian")
    for entry in archive.infolist():
      # PyTorch stores without compression: what grows is no file of its.
      if entry.file_size > len(data):
        raise ValueError(
          f"{entry.filename} would unpack to {entry.file_size} bytes, out of a file of "
          f"{len(data)}"
        )
    stored = _Unpickler(archive.open(f"{folder}data.pkl")).load()
    return _tensors(stored, lambda key: archive.read(f"{folder}data/{key}"))


def _read_legacy_torch(data: bytes) -> dict[str, np.ndarray]:
  """Pickles in a row (magic, version, system, tensors, keys), then the storages."""
  file = io.BytesIO(data)
  _, _, system, stored, keys = (_Unpickler(file).load() for _ in range(5))
  if not system["little_endian"]:
    raise ValueError("its numbers are big-endian")
  types = {tensor.storage: tensor.dtype for tensor in _checked(stored).values()}
  storages = {}
  for key in keys:
    size = types[key].itemsize * int.from_bytes(file.read(8), "little")
    storages[key] = file.read(size)
  return _tensors(stored, storages.__getitem__)


def _checked(stored: Any) -> dict[str, _Stored]:
  """The content of a pickle, which must be a dict of tensors."""
  if not isinstance(stored, dict):
    raise ValueError(f"it holds a {type(stored).__name__}, no dict of tensors")
  for name, value in stored.items():
    if not isinstance(name, str) or not isinstance(value, _Stored):
      raise ValueError(f"its entry {name!r} is no tensor")
  return stored


def _tensors(
  stored: Any, read_storage: Callable[[str], bytes]
) -> dict[str, np.ndarray]:
  checked = _checked(stored)
  storages = {key: read_storage(key) for key in {t.storage for t in checked.values()}}
  return {name: tensor.of(storages[tensor.storage]) for name, tensor in checked.items()}
