"""Files by their published names, wherever a user put them."""

import io
import shutil
import tarfile
import zipfile

import pytest

from ccl_jax.data.sources.archives import Tree
from tests.data.tiny_archives import write_tgz

FILES = {
  "Birds/list.txt": b"1 z/1.jpg\n2 a/2.jpg\n",
  "Birds/images/z/1.jpg": bytes(range(256)) * 64,
  "Birds/images/a/2.jpg": b"second" * 512,
}
NAMES = ["list.txt", "images/z/1.jpg", "images/a/2.jpg"]


def write_zip(path, files):
  with zipfile.ZipFile(path, "w") as archive:
    for name, content in files.items():
      archive.writestr(name, content)


def unpack(root, files):
  for name, content in files.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)


def tree(path):
  return Tree(path, archives=["birds.zip", "birds.tgz"], folders=["Birds"])


@pytest.mark.parametrize("form", ["zip", "tgz", "named", "folder", "inner folder"])
def test_any_form_gives_the_same_files(form, tmp_path):
  path = tmp_path
  if form in ("zip", "named"):
    write_zip(tmp_path / "birds.zip", FILES)
  elif form == "tgz":
    write_tgz(tmp_path / "birds.tgz", FILES)
  else:
    unpack(tmp_path, FILES)
  if form == "named":
    path = (tmp_path / "birds.zip").rename(tmp_path / "other name.zip")
  elif form == "inner folder":
    path = tmp_path / "Birds"
  files = tree(path)
  for name, content in zip(NAMES, FILES.values(), strict=True):
    assert files.place(name) is not None and files.read(name) == content
  for name in ("images", "images/z", "1.jpg", "images/z/2.jpg"):
    assert files.place(name) is None, name
  with pytest.raises(FileNotFoundError, match="holds no 1.jpg"):
    files.read("1.jpg")


@pytest.mark.parametrize("form", ["zip", "tgz"])
def test_places_follow_the_archive(form, tmp_path):
  write = {"zip": write_zip, "tgz": write_tgz}[form]
  write(tmp_path / f"birds.{form}", FILES)
  files = tree(tmp_path)
  assert sorted(reversed(NAMES), key=files.place) == NAMES


def test_an_archive_named_by_the_user_comes_before_its_folder(tmp_path):
  unpack(tmp_path, dict.fromkeys(FILES, b"in the folder"))
  write_zip(tmp_path / "birds.zip", {"Birds/list.txt": b"in the archive"})
  assert tree(tmp_path).read("list.txt") == b"in the folder"
  named = tree(tmp_path / "birds.zip")
  assert named.read("list.txt") == b"in the archive"
  assert named.read("images/z/1.jpg") == b"in the folder"


def test_lists_and_images_may_lie_in_different_archives(tmp_path):
  write_zip(tmp_path / "birds.zip", {"list.txt": b"of the zip"})
  write_tgz(tmp_path / "birds.tgz", {"./images/z/1.jpg": b"of the tgz"})
  assert tree(tmp_path).read("list.txt") == b"of the zip"
  assert tree(tmp_path).read("images/z/1.jpg") == b"of the tgz"


@pytest.mark.parametrize("form", ["zip", "tgz"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.8])
def test_an_archive_that_was_cut_short_is_named(form, kept, tmp_path):
  path = tmp_path / f"birds.{form}"
  {"zip": write_zip, "tgz": write_tgz}[form](path, FILES)
  whole = path.read_bytes()
  path.write_bytes(whole[: int(kept * len(whole))])
  with pytest.raises(ValueError, match=rf"birds.{form} cannot be read .*cut short"):
    tree(tmp_path).place("images/a/2.jpg")


def test_a_tar_that_was_cut_short_lacks_files_or_is_named(tmp_path):
  """Without compression a cut can fall between two files."""
  path = tmp_path / "birds.tar"
  with tarfile.open(path, "w") as archive:
    for name, content in FILES.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  whole = path.read_bytes()
  for cut in range(512, 20_000, 700):
    path.write_bytes(whole[:cut])
    files = tree(path)
    try:
      assert files.place("images/a/2.jpg") is None
    except ValueError as error:
      assert "cut short or damaged" in str(error)


@pytest.mark.parametrize("form", ["zip", "tgz"])
def test_damage_within_an_archive_is_named(form, tmp_path):
  path = tmp_path / f"birds.{form}"
  {"zip": write_zip, "tgz": write_tgz}[form](path, FILES)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 0xFF
  path.write_bytes(content)
  with pytest.raises(ValueError, match=f"birds.{form} cannot be read as an archive"):
    for name in NAMES:
      tree(tmp_path).read(name)


def test_a_zip_with_a_password_is_named(tmp_path):
  write_zip(tmp_path / "birds.zip", FILES)
  content = bytearray((tmp_path / "birds.zip").read_bytes())
  for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
    content[content.index(mark) + at] |= 1
  (tmp_path / "birds.zip").write_bytes(content)
  with pytest.raises(ValueError, match=r"at Birds/list.txt .*password"):
    tree(tmp_path).read("list.txt")


def test_what_is_no_archive_is_refused(tmp_path):
  (tmp_path / "birds.rar").write_bytes(b"Rar!")
  with pytest.raises(ValueError, match="birds.rar is no folder and no .zip, .tar or"):
    tree(tmp_path / "birds.rar")
  with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
    tree(tmp_path / "nowhere")
  shutil.rmtree(tmp_path)
