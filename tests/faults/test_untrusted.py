"""Files by somebody else ask for no more than their own bytes and their own folder."""

import io
import tarfile

import numpy as np
import pytest

from ccl_jax.data.sources import archives
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
