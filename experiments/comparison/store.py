"""Stores the results of a study in a file of JSON lines; several processes may append.

The first line, `{"shared": {...}}`, holds defaults for all runs: config, versions and
commit. Each further line is a run: its row, its column and seed (or its trial), the
fields that differ from the defaults, the fields that it lacks, metrics, and a curve.
"""

import fcntl
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.run.command_line import InputError

Result = Mapping[str, Any]
SHARED = "config", "versions", "commit"


def read(path: Path) -> list[dict[str, Any]]:
  """All runs of a file, each with its whole config; an empty list without a file.

  A last line that a kill has cut short is left out.

  Raises:
    InputError: if a line is no JSON, or the first line is missing.
  """
  lines = path.read_text().split("\n")[:-1] if path.exists() else []
  try:
    rows = [json.loads(line) for line in lines]
    shared = rows[0]["shared"] if rows else {}
  except (ValueError, KeyError) as error:
    raise InputError(f"{path} holds a line that is no result: {error}") from error
  return [_whole(row, shared) for row in rows[1:]]


def append(path: Path, result: Result) -> None:
  """Adds a run to a file, whole or not at all; the first run also writes line one."""
  path.parent.mkdir(parents=True, exist_ok=True)
  result = {"commit": _commit(), **result}
  with path.open("a+b") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    file.seek(0)
    text = file.read()
    whole = text.rfind(b"\n") + 1
    file.truncate(whole)  # removes a line that a kill has cut short
    head = None
    if whole:
      shared = json.loads(text[: text.index(b"\n")])["shared"]
    else:
      shared = {k: result[k] for k in SHARED if k in result}
      head = json.dumps({"shared": shared})
    row = json.dumps(_own(result, shared), allow_nan=False)
    lines = [line for line in (head, row) if line is not None]
    try:
      file.write("".join(f"{line}\n" for line in lines).encode())
      file.flush()
      os.fsync(file.fileno())
    except OSError:
      os.ftruncate(file.fileno(), whole)
      raise


def _own(result: Result, shared: Result) -> dict[str, Any]:
  """A run without the values that equal the shared values."""
  result = json.loads(json.dumps(result))  # lists where a config has tuples
  known = json.loads(json.dumps(shared))
  config = {
    field: value
    for field, value in result["config"].items()
    if field not in known["config"] or known["config"][field] != value
  }
  same = ["config", *(k for k in SHARED if k in known and result.get(k) == known[k])]
  own = {name: value for name, value in result.items() if name not in same}
  if absent := sorted(known["config"].keys() - result["config"].keys()):
    own["absent"] = absent
  return own | ({"config": config} if config else {})


def _whole(row: Result, shared: Result) -> dict[str, Any]:
  """A run with the shared values filled in."""
  config = {**shared["config"], **row.get("config", {})}
  own = {name: value for name, value in row.items() if name != "absent"}
  for field in row.get("absent", ()):
    del config[field]
  return {**shared, **own, "config": config}


def _commit() -> str | None:
  """The commit of the code; None outside of a repository."""
  command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
  try:
    found = subprocess.run(command, capture_output=True, text=True)
  except OSError:
    return None
  return found.stdout.strip() or None
