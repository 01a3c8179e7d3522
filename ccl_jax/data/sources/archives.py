"""Finds files by their published names in folders, .zip and .tar archives."""

import functools
import lzma
import os
import pathlib
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

_DAMAGE = (
  EOFError,
  OSError,
  RuntimeError,  # zipfile, at a password
  lzma.LZMAError,
  tarfile.TarError,
  zipfile.BadZipFile,
  zlib.error,
)


@runtime_checkable
class _Container(Protocol):
  def place(self, name: str) -> int | None:
    """Where a file lies among the others, or None if there is no such file."""

  def read(self, name: str) -> bytes: ...


class Tree:
  """The files of a folder and of the archives in it, as if all were unpacked there.

  Args:
    path: a folder; or an archive in a folder, which is then searched first.
    archives: paths of further archives to search, relative to the folder.
    folders: names of folders that an archive unpacks to. Their files are found without
      the folder's name, both in the folder and in the archives.

  Raises:
    FileNotFoundError: if there is no such file or folder.

  Example:
    >>> import os, tempfile, zipfile
    >>> from ccl_jax.data.sources.archives import Tree
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   with zipfile.ZipFile(os.path.join(folder, "birds.zip"), "w") as archive:
    ...     archive.writestr("birds/list.txt", "owl wren")
    ...   tree = Tree(folder, archives=["birds.zip"], folders=["birds"])
    ...   print(tree.read("list.txt"), tree.place("more.txt"))
    ...
    b'owl wren' None
  """

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    archives: Sequence[str] = (),
    folders: Sequence[str] = (),
  ):
    self.path = pathlib.Path(path).expanduser()
    if not self.path.exists():
      raise FileNotFoundError(f"{self.path}: no such file or folder")
    root = self.path if self.path.is_dir() else self.path.parent
    paths = [root / name for name in archives if (root / name).is_file()]
    self._containers: list[_Container] = [_Folder(root), *map(_open, paths)]
    if self.path != root:
      self._containers.insert(0, _open(self.path))
    self._prefixes = ("", *(f"{folder}/" for folder in folders))

  def place(self, name: str) -> tuple[int, int] | None:
    """A key that sorts files for fast reading; None if there is no such file."""
    if found := self._find(name):
      return found[0], found[2]
    return None

  def read(self, name: str) -> bytes:
    """The content of a file.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the archive is damaged there, or the name leads out of the folder.
    """
    found = self._find(name)
    if found is None:
      raise FileNotFoundError(f"{self.path} holds no {name}")
    return self._containers[found[0]].read(found[1])

  def _find(self, name: str) -> tuple[int, str, int] | None:
    if os.path.isabs(name) or ".." in pathlib.PurePosixPath(name).parts:
      raise ValueError(
        f"a list names {name}, which lies outside of {self.path}: it was altered; fetch"
        " it again"
      )
    for number, container in enumerate(self._containers):
      for prefix in self._prefixes:
        place = container.place(prefix + name)
        if place is not None:
          return number, prefix + name, place
    return None


class _Folder:
  def __init__(self, root: pathlib.Path):
    self._root = root

  def place(self, name: str) -> int | None:
    return 0 if os.path.isfile(os.path.join(self._root, name)) else None

  def read(self, name: str) -> bytes:
    return pathlib.Path(self._root, name).read_bytes()


class _Zip:
  def __init__(self, path: pathlib.Path):
    self._path = path

  @functools.cached_property
  def _file(self) -> zipfile.ZipFile:
    try:
      return zipfile.ZipFile(self._path)
    except _DAMAGE as error:
      raise _damaged(self._path, error) from error

  def place(self, name: str) -> int | None:
    found = self._file.NameToInfo.get(name)
    return found.header_offset if found and not found.is_dir() else None

  def read(self, name: str) -> bytes:
    try:
      return self._file.read(name)
    except _DAMAGE as error:
      raise _damaged(self._path, error, name) from error


class _Tar:
  def __init__(self, path: pathlib.Path):
    self._path = path

  def __del__(self):  # zipfile closes its file itself, tarfile does not.
    if "_file" in self.__dict__:
      self._file.close()

  @functools.cached_property
  def _file(self) -> tarfile.TarFile:
    try:
      return tarfile.open(self._path)
    except _DAMAGE as error:
      raise _damaged(self._path, error) from error

  @functools.cached_property
  def _members(self) -> dict[str, tarfile.TarInfo]:
    # This reads the archive to its end, so any damage shows here.
    try:
      members = self._file.getmembers()
    except _DAMAGE as error:
      raise _damaged(self._path, error) from error
    return {m.name.removeprefix("./"): m for m in members if m.isreg() or m.islnk()}

  def place(self, name: str) -> int | None:
    found = self._members.get(name)
    return found.offset if found else None

  def read(self, name: str) -> bytes:
    try:
      content = self._file.extractfile(self._members[name])
      assert content is not None
      return content.read()
    except (KeyError, RecursionError) as error:
      raise ValueError(
        f"{self._path}: {name} is a hard link to a file that is not in the archive: it"
        " is incomplete or was altered; fetch it again"
      ) from error
    except _DAMAGE as error:
      raise _damaged(self._path, error, name) from error


def _open(path: pathlib.Path) -> _Container:
  """Chooses the reader by the file's extension; the archive is read at first use."""
  if path.suffix.lower() == ".zip":
    return _Zip(path)
  if path.suffix.lower() in (".tar", ".tgz", ".gz", ".bz2", ".xz"):
    return _Tar(path)
  raise ValueError(f"{path} is no folder and no .zip, .tar or .tgz archive")


def _damaged(path: pathlib.Path, error: Exception, name: str = "") -> ValueError:
  where = f" at {name}" if name else ""
  return ValueError(
    f"{path} cannot be read as an archive{where} ({error}): it is cut short or"
    " damaged; compare its size with the published one, and fetch it again"
  )
