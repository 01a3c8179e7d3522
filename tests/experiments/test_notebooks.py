"""The notebooks run from top to bottom, as a reader's would, only for fewer steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What `jupyter execute` does, in the notebook's own folder, with a line changed.
EXECUTE = """
import sys
import nbclient
import nbformat

path, folder, done = sys.argv[1:]
notebook = nbformat.read(path, as_version=4)
nbformat.write(nbclient.execute(notebook, cwd=folder), done)
"""


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.ipynb")))
def test_a_notebook_runs_and_shows_its_figures(path, tmp_path):
  short, done = tmp_path / "short.ipynb", tmp_path / "done.ipynb"
  text = path.read_text()
  # The steps take most of the time, and what is checked does not hang on them.
  assert text.count(r"\"steps\": 300") == 1
  short.write_text(text.replace(r"\"steps\": 300", r"\"steps\": 20"))
  # A reader has one device, where the tests simulate eight.
  environment = {
    name: value for name, value in os.environ.items() if name != "XLA_FLAGS"
  }
  run = subprocess.run(
    [sys.executable, "-c", EXECUTE, short, path.parent, done],
    env=environment,
    capture_output=True,
    text=True,
    timeout=1200,
  )
  assert run.returncode == 0, run.stderr
  before, after = (json.loads(p.read_text()) for p in (path, done))
  for stored, cell in zip(before["cells"], after["cells"], strict=True):
    assert kinds(cell) == kinds(stored), "".join(cell["source"])
    assert names(cell) == names(stored), "the stored table is an older one"
  assert {"image/png"} <= {kind for cell in after["cells"] for kind in kinds(cell)}


def names(cell):
  """The first entry of each line of a cell's tables."""
  return [
    line.split("|")[1]
    for output in cell.get("outputs", [])
    for line in "".join(output.get("data", {}).get("text/markdown", "")).splitlines()
    if line
  ]


def kinds(cell):
  """The kinds of output of a cell, without its progress bars."""
  return {
    kind
    for output in cell.get("outputs", [])
    for kind in output.get("data", {})
    if "widget" not in kind
  }
