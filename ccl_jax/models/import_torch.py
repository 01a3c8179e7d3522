"""Reads ImageNet weights of a PyTorch ResNet from a torchvision or timm file.

Such a file is .safetensors, or the .pth of `torch.save(model.state_dict(), path)`. A
.pth file holds a pickle, which could run any code; here it may only name tensors.
PyTorch is not needed.
"""

import io
import json
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
  """
  flat: dict[Any, Any] = dict(flatten_dict(variables))
  expected = {_torch_name(path): path for path in flat if path[1] == "backbone"}
  for name, path in sorted(expected.items()):
    shape = _torch_shape(flat[path].shape)
    if name not in weights:
      raise ValueError(f"the weights lack {name} of shape {shape}{_ADVICE}")
    found = weights[name]
    if found.shape != shape or found.dtype != np.float32:
      raise ValueError(
        f"{name} of the weights is {found.dtype} of shape {found.shape}, expected"
        f" float of shape {shape}{_ADVICE}"
      )
    flat[path] = jnp.array(found.transpose(2, 3, 1, 0) if found.ndim == 4 else found)
  for name, tensor in weights.items():
    ignored = name.startswith("fc.") or name.endswith(".num_batches_tracked")
    if name not in expected and not ignored:
      raise ValueError(
        f"the weights hold {name} of shape {tensor.shape}, which the network has"
        f" not{_ADVICE}"
      )
  return unflatten_dict(flat)


_ADVICE = ": give a file of the same ResNet from torchvision or timm"


def _torch_name(path: tuple[str, ...]) -> str:
  """("params", "backbone", "layer1_0", "bn1", "scale") -> layer1.0.bn1.weight."""
  _, _, *modules, leaf = path
  return ".".join([*modules, ""]).replace("_", ".") + _LEAVES[leaf]


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
  return tuple(shape[i] for i in (3, 2, 0, 1)) if len(shape) == 4 else tuple(shape)


def _is_float(tensor: np.ndarray) -> bool:
  return tensor.dtype == _BFLOAT16 or np.issubdtype(tensor.dtype, np.floating)


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
  """Length of a JSON header (u64), the header, then the tensors' bytes."""
  start = 8 + int.from_bytes(data[:8], "little")
  if start > len(data):
    raise ValueError("it starts like no kind of weights file")
  header, body = json.loads(data[8:start]), memoryview(data)[start:]
  tensors, total = {}, 0
  for name, entry in header.items():
    if name == "__metadata__":
      continue
    first, last = entry["data_offsets"]
    if not 0 <= first <= last <= len(body):
      raise ValueError(f"{name} lies at bytes {first} to {last} of {len(body)}")
    total += last - first
    if total > len(body):  # many names for the same bytes would be many copies
      raise ValueError(f"its tensors are larger than its {len(body)} bytes")
    flat = np.frombuffer(body[first:last], _SAFETENSORS_TYPES[entry["dtype"]])
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
