"""Weights come in by name and shape, from whole files, and no code runs on the way."""

import base64
import collections
import io
import json
import os
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from ccl_jax.models import import_torch
from ccl_jax.models.resnet import ResNet
from tests.models import oracles, torch_files

FILES = {
  name: base64.b64decode(text)
  for name, text in json.loads(torch_files.PATH.read_text())["files"].items()
}
READABLE = FILES.keys() - {"whole model", "training state"}
TINY = dict(depths=(1, 1), bottleneck=False, width=4)
TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}


def safetensors(tensors):
  """A file in the format of https://github.com/huggingface/safetensors."""
  header, body = {"__metadata__": {"format": "pt"}}, b""
  for name, value in tensors.items():
    ends = [len(body), len(body) + value.nbytes]
    kind = TYPES[value.dtype.name]
    header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": ends}
    body += value.tobytes()
  start = json.dumps(header).encode()
  return len(start).to_bytes(8, "little") + start + body


def read(tmp_path, data):
  path = tmp_path / "weights"
  path.write_bytes(data)
  return import_torch.read(path)


def assert_is_stored(found):
  expected = torch_files.tensors()
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    assert found[name].dtype == np.float32
    np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("kind", sorted(READABLE))
def test_files_of_pytorch_are_read(kind, tmp_path):
  assert_is_stored(read(tmp_path, FILES[kind]))


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_safetensors_are_read(kind, tmp_path):
  tensors = torch_files.tensors()
  typed = {name: value.astype(jnp.dtype(kind)) for name, value in tensors.items()}
  assert_is_stored(read(tmp_path, safetensors(typed)))


@pytest.mark.parametrize(
  ("data", "says"),
  [
    (b"", "no kind of weights file"),
    (b"<!DOCTYPE html><html>Not found</html>", "no kind of weights file"),
    (FILES["zip"][:-300], "zip"),
    (FILES["legacy"][:-9], "larger than its storage"),
    (FILES["legacy"][:200], ""),
    (safetensors(torch_files.tensors())[:-1], "file not fully covered"),
    (FILES["whole model"], "asks for torch.nn"),
    (FILES["training state"], "entry 'epoch' is no tensor"),
  ],
)
def test_what_is_no_whole_file_of_tensors_is_refused(data, says, tmp_path):
  with pytest.raises(ValueError, match="weights is not a whole .safetensors") as stop:
    read(tmp_path, data)
  assert says in str(stop.value)


def test_a_changed_byte_is_noticed(tmp_path):
  data = bytearray(FILES["zip"])
  data[data.index(torch_files.tensors()["b.bias"].tobytes())] ^= 1
  with pytest.raises(ValueError, match="CRC"):
    read(tmp_path, bytes(data))


class Touches:
  """Pickled, it is a call that makes a file."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_runs_no_code(legacy, tmp_path):
  harm = {"a.weight": Touches(str(tmp_path / "harm"))}
  if legacy:
    data = FILES["legacy"][:15] + pickle.dumps(harm, 2) * 4
  else:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
      archive.writestr("archive/data.pkl", pickle.dumps(harm, 2))
    data = file.getvalue()
  with pytest.raises(ValueError, match="asks for .*mkdir, and only tensors are read"):
    read(tmp_path, data)
  assert not (tmp_path / "harm").exists()
  pickle.loads(pickle.dumps(harm, 2))
  assert (tmp_path / "harm").exists(), "the pickle would have done no harm anywhere"


def test_a_tensor_cannot_leave_its_storage(tmp_path):
  """Shape (3,) pickled as (7,), over a storage of 3 numbers."""
  with zipfile.ZipFile(io.BytesIO(FILES["zip"])) as archive:
    entries = {name: archive.read(name) for name in archive.namelist()}
  (name,) = (name for name in entries if name.endswith("data.pkl"))
  short = b"K\x03\x85"  # the tuple (3,)
  assert entries[name].count(short) == 1
  entries[name] = entries[name].replace(short, b"K\x07\x85")
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive:
    for entry, content in entries.items():
      archive.writestr(entry, content)
  with pytest.raises(ValueError, match="larger than its storage"):
    read(tmp_path, file.getvalue())


@pytest.fixture(scope="module")
def variables():
  model = ResNet(dim=6, **TINY)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.uint8)
  )
  return jax.tree.map(lambda leaf: jnp.full(leaf.shape, 9.0, leaf.dtype), shapes)


def test_every_array_of_the_backbone_is_filled_and_the_head_kept(variables, tmp_path):
  weights = oracles.random_weights(**TINY)
  weights["fc.weight"] = np.zeros((10, 8), np.float32)
  weights["bn1.num_batches_tracked"] = np.array(7)
  found = import_torch.resnet(read(tmp_path, safetensors(weights)), variables)
  assert jax.tree.structure(found) == jax.tree.structure(variables)
  flat = flatten_dict(found)
  for (kind, part, *_), leaf in flat.items():
    assert leaf.dtype == jnp.float32
    assert (np.asarray(leaf) == 9).all() == (part == "head"), kind
  np.testing.assert_array_equal(
    flat["params", "backbone", "layer2_0", "downsample_0", "kernel"][0, 0],
    weights["layer2.0.downsample.0.weight"][:, :, 0, 0].T,
  )
  np.testing.assert_array_equal(
    flat["batch_stats", "backbone", "layer1_0", "bn2", "var"],
    weights["layer1.0.bn2.running_var"],
  )


def renamed(weights):
  return {f"module.{name}": value for name, value in weights.items()}


def without_one(weights):
  return {n: value for n, value in weights.items() if n != "layer2.0.bn2.running_var"}


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (renamed, "the weights lack bn1.bias of shape (4,)"),
    (without_one, "the weights lack layer2.0.bn2.running_var of shape (8,)"),
    (
      lambda w: w | {"layer3.0.conv1.weight": np.zeros((8, 8, 3, 3), np.float32)},
      "the weights hold layer3.0.conv1.weight of shape (8, 8, 3, 3), which",
    ),
    (
      lambda w: w | {"conv1.weight": np.zeros((4, 3, 3, 3), np.float32)},
      "conv1.weight of the weights is float32 of shape (4, 3, 3, 3), expected float of"
      " shape (4, 3, 7, 7)",
    ),
    (
      lambda w: w | {"bn1.bias": np.zeros(4, np.int8)},
      "bn1.bias of the weights is int8 of shape (4,), expected float of shape (4,)",
    ),
    (
      lambda w: oracles.random_weights((1, 1), bottleneck=True, width=4),
      "layer1.0.conv1.weight of the weights is float32 of shape (4, 4, 1, 1), expected"
      " float of shape (4, 4, 3, 3)",
    ),
  ],
)
def test_weights_of_another_network_are_refused_by_name_and_shape(
  change, says, variables
):
  weights = change(oracles.random_weights(**TINY))
  with pytest.raises(ValueError) as stop:
    import_torch.resnet(weights, variables)
  assert says in str(stop.value)
  assert "same ResNet from torchvision or timm" in str(stop.value)


def test_a_resnet_saved_by_pytorch_is_read_whole(variables, tmp_path):
  torch = pytest.importorskip("torch", reason="saves with a live PyTorch")
  theirs = oracles.torch_resnet(**TINY)
  state = theirs.state_dict()
  for legacy in (False, True):
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    read_back = import_torch.read(tmp_path / "w.pth")
    assert isinstance(state, collections.OrderedDict) and list(read_back) == list(state)
    for name, value in state.items():
      np.testing.assert_array_equal(read_back[name], value.numpy())
    import_torch.resnet(read_back, variables)
