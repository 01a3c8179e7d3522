"""The folder of a run: config.json claims it, result.json marks it finished."""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ccl_jax.training.files import write_whole
from configs import base
from configs.base import Config
from experiments.run.command_line import InputError

CONFIG, RESULT, REPORT = "config.json", "result.json", "report.html"
CHECKPOINTS, METRICS = "checkpoints", "metrics.jsonl"
CLASSES = "classes.txt"  # the name of train class i on line i + 1
LOCK = "lock"
# What a run that was killed before it had claimed its folder may leave in it.
_UNCLAIMED = {LOCK, CLASSES, "config.tmp"}


def check(folder: Path, config: Config) -> None:
  """Raises where a folder belongs to a run of another config, or to something else.

  Or where nothing can be written, which is best known before anything is built.
  """
  if (folder / CONFIG).exists():
    stored, asked = base.fields(read_config(folder)), base.fields(config)
    differing = [
      f"{name} is {stored[name]} there and {asked[name]} here"
      for name in asked
      if stored[name] != asked[name]
    ]
    if differing:
      raise InputError(
        f"{folder} holds a run of another config: {', '.join(differing)}; "
        "give another --workdir"
      )
  elif folder.exists() and (not folder.is_dir() or _names(folder) - _UNCLAIMED):
    raise InputError(f"{folder} is not empty and holds no run; give another --workdir")
  _check_writable(folder)


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
  """Keeps every other run out of a folder for as long as this one lives.

  The folder is made, and removed again if the run ends before it has claimed it. The
  lock ends with its process, so no run has to remove the lock of another. Where the
  file system has no locks, none is taken.

  Raises:
    InputError: if another run holds the folder; the message says which.
    OSError: if nothing can be written there.
  """
  is_new = not folder.exists()
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / LOCK).open("a+") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      raise InputError(
        f"{folder} is in use by {file.read().strip() or 'another run'}: wait for it, "
        "or give another --workdir"
      ) from None
    except OSError as error:
      if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EBADF, errno.EINVAL):
        raise
    if os.fstat(file.fileno()).st_nlink == 0:  # removed while this run waited for it
      raise InputError(f"{folder} was left by another run just now: start again")
    file.truncate(0)
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    file.write(f"process {os.getpid()} on {platform.node()}, since {now}\n")
    file.flush()
    try:
      yield
    finally:
      _leave_unclaimed(folder, is_new)


def _leave_unclaimed(folder: Path, is_new: bool) -> None:
  """Removes what `hold` has made, if the run left nothing else there."""
  if folder.is_dir() and _names(folder) == {LOCK}:
    (folder / LOCK).unlink()
    if is_new:
      folder.rmdir()


def _check_writable(folder: Path) -> None:
  there = folder.absolute()
  while not there.exists() and there != there.parent:
    there = there.parent
  if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
    raise InputError(
      f"{there} is no folder that can be written to: give another --workdir"
    )


def check_space(folder: Path, state_bytes: int, keep: int) -> None:
  """Raises where the disk cannot hold the run's checkpoints.

  The newest ones stay, and one more is there until the oldest is deleted. They may be
  compressed, but float32 that was trained hardly is.

  Args:
    folder: of the run.
    state_bytes: of one checkpoint.
    keep: how many checkpoints stay.
  """
  there = sum(path.name.isdecimal() for path in (folder / CHECKPOINTS).glob("*"))
  needed = max(keep + 1 - there, 1) * state_bytes
  free = shutil.disk_usage(folder).free
  if free < needed:
    raise InputError(
      f"{folder}: its disk has {free / 1e6:,.0f} MB left and the checkpoints take "
      f"{needed / 1e6:,.0f} MB ({keep + 1} of {state_bytes / 1e6:,.0f} MB): make room, "
      "give another --workdir, or lower --config.keep_checkpoints"
    )


def what_ended(error: BaseException, folder: Path) -> str | None:
  """One line where it was the disk that ended a run, and not a defect."""
  if not is_claimed(folder):
    return f"{folder} was deleted while the run went on: the same command starts anew"
  causes, cause = [], error
  while cause is not None and cause not in causes:
    causes.append(cause)
    cause = cause.__cause__ or cause.__context__
  full = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
  lost = (*full, os.strerror(errno.EROFS), os.strerror(errno.EIO))
  for cause in causes:
    # TensorStore's errors hold the system's words, and no number.
    for words in lost:
      if words in str(cause):
        return (
          f"{folder}: {words}. Nothing is lost but the steps since the newest "
          f"checkpoint: {'make room' if words in full else 'look at the disk'}, and "
          "the same command goes on"
        )
  return None


def _names(folder: Path) -> set[str]:
  return {path.name for path in folder.iterdir()}


def claim(folder: Path, config: Config, classes: Sequence[str]) -> None:
  """Writes the config, and the names of the train classes; from then on the folder is
  this run's.

  Raises:
    InputError: if the run has begun with other classes; the message names one.
  """
  before = read_classes(folder)
  if before is not None and before != list(classes) and has_checkpoint(folder):
    pairs = itertools.zip_longest(before, classes, fillvalue="none")
    label, (old, new) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
    # Other folders of classes: a label would mean another class than before.
    raise InputError(
      f"{folder} was trained on {len(before)} classes and the data now has "
      f"{len(classes)}: class {label} was {old} and is {new}; give another --workdir"
    )
  (folder / CLASSES).write_bytes(os.fsencode("".join(f"{c}\n" for c in classes)))
  text = json.dumps(base.fields(config), indent=2)
  write_whole(folder / CONFIG, f"{text}\n")


def read_classes(folder: Path) -> list[str] | None:
  """The names of a run's train classes; None where they were not written."""
  path = folder / CLASSES
  return os.fsdecode(path.read_bytes()).split("\n")[:-1] if path.exists() else None


def is_claimed(folder: Path) -> bool:
  """False too where the folder was deleted under a run."""
  return (folder / CONFIG).exists()


def has_checkpoint(folder: Path) -> bool:
  """Whether the run has saved a step; a save that was cut off has another name."""
  return any(path.name.isdecimal() for path in (folder / CHECKPOINTS).glob("*"))


def finish(folder: Path, result: dict[str, Any]) -> None:
  """Writes the result, with which the run counts as finished."""
  write_whole(folder / RESULT, json.dumps(result, indent=2) + "\n")


def is_finished(folder: Path) -> bool:
  """Whether there is a whole result; a damaged one is made again."""
  return read_result(folder) is not None


def read_result(folder: Path) -> dict[str, Any] | None:
  """Metrics, steps, versions; None where there is no result, or none that is whole."""
  try:
    result = json.loads((folder / RESULT).read_text())
  except (FileNotFoundError, ValueError):
    return None
  return result if isinstance(result, dict) and "steps" in result else None


def read_config(folder: Path) -> Config:
  """The config of the run in a folder; a field that came later takes its default.

  Raises:
    InputError: if there is none, or it has fields that this version does not know.
  """
  path = folder / CONFIG
  if not path.is_file():
    raise InputError(f"{path}: no such file; give the folder of a run")
  try:
    stored = json.loads(path.read_text())
  except ValueError as error:
    raise InputError(
      f"{path} is damaged ({error}): delete it where it is empty or cut short and the "
      "folder holds no checkpoint; else write it anew from the run's config"
    ) from error
  if unknown := sorted(stored.keys() - base.fields(Config()).keys()):
    raise InputError(
      f"{path} was written by another version, whose fields this one lacks: "
      f"{', '.join(unknown)}; go on with that version, or give another folder"
    )
  # JSON has lists where the schema has tuples.
  values = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
  return base.replace(Config(), values)


def summary(folder: Path) -> str:
  """One line: the metrics of the test classes, and where to look."""
  metrics = read_result(folder) or {}
  names = ("recall@1", "map@r", "probe accuracy", "probe unbiased")
  shown = ", ".join(f"{name} {metrics[name]:.4f}" for name in names if name in metrics)
  if not (folder / REPORT).exists():
    return (
      f"test classes {shown}; {REPORT} was not written: delete {folder / RESULT}, and "
      "the same command writes both"
    )
  return f"test classes {shown}; look at {folder / REPORT}"
