"""Files by somebody else ask for no more than their own bytes and their own folder."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from ccl_jax.data import examples
from ccl_jax.data.sources import archives, folder, tfds_images
from ccl_jax.models import import_torch


def test_a_tensor_larger_than_its_storage_is_refused():
  stored = import_torch._Stored("0", np.dtype("<f4"), 0, (2**31,), (0,))
  with pytest.raises(ValueError, match="is larger than its storage of 4 bytes"):
    stored.of(b"1234")


@pytest.mark.parametrize(
  "name", ["../secret.txt", "a/../../secret.txt", "/etc/hostname"]
)
def test_a_name_outside_of_the_folder_is_refused(tmp_path, name):
  (tmp_path / "secret.txt").write_text("secret")
  (tmp_path / "images").mkdir()
  with pytest.raises(ValueError, match="lies outside of"):
    archives.Tree(tmp_path / "images").read(name)


def test_a_hard_link_to_nothing_is_refused_by_name(tmp_path):
  with tarfile.open(tmp_path / "images.tar", "w") as archive:
    link = tarfile.TarInfo("a.jpg")
    link.type, link.linkname = tarfile.LNKTYPE, "missing.jpg"
    archive.addfile(link, io.BytesIO())
  tree = archives.Tree(tmp_path / "images.tar")
  with pytest.raises(ValueError, match="a.jpg is a hard link to a file that is not"):
    tree.read("a.jpg")


@pytest.mark.parametrize("entries", [2, 3])
def test_tensors_larger_than_their_file_are_refused(tmp_path, entries):
  """Many names for the same bytes would each be a copy."""
  entry = {"dtype": "F16", "shape": [500], "data_offsets": [0, 1000]}
  header = json.dumps({f"t{n}": entry for n in range(entries)}).encode()
  path = tmp_path / "weights.safetensors"
  path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(1000))
  with pytest.raises(ValueError, match="invalid offset for tensor"):
    import_torch.read(path)


def test_offsets_before_the_first_byte_are_refused(tmp_path):
  entry = {"dtype": "U8", "shape": [4], "data_offsets": [-4, 8]}
  header = json.dumps({"t": entry}).encode()
  path = tmp_path / "weights.safetensors"
  path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
  with pytest.raises(ValueError, match="integer `-4`"):
    import_torch.read(path)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(examples, "MOST_PIXELS", 32 * 31)
  Image.new("L", (32, 32)).save(tmp_path / "large.png")
  pictures = folder.unlabeled(tmp_path, image_size=32)
  monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("was decoded"))
  with pytest.raises(ValueError, match="large.png .*32 x 32 pixels are more than 992"):
    folder.verify(pictures)


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
def test_a_dataset_that_names_code_is_refused_before_it_is_imported(tmp_path, key):
  place = tmp_path / "birds" / "1.0.0"
  place.mkdir(parents=True)
  (place / "features.json").write_text(json.dumps({"a": [{key: "antigravity.Birds"}]}))
  with pytest.raises(ValueError, match="features.json names antigravity.Birds, which"):
    tfds_images.load("birds", tmp_path)
  known = "tensorflow_datasets.core.features.image_feature.Image"
  (place / "features.json").write_text(json.dumps({key: known}))
  tfds_images.check_features(tmp_path)
