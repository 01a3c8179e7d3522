"""Files that are there whole, or not at all, even after a loss of power."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
  """Replaces a file at once; text and name are on the disk when this returns.

  Example:
    >>> import pathlib, tempfile
    >>> from ccl_jax.training import files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, "result.json")
    ...   files.write_whole(path, "{}")
    ...   print(path.read_text())
    ...
    {}
  """
  unfinished = path.with_suffix(".tmp")
  with unfinished.open("w") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  unfinished.replace(path)
  folder = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(folder)
  finally:
    os.close(folder)
