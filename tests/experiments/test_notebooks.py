"""The notebooks run from top to bottom, and print what is stored in them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What `jupyter execute` does, in the notebook's own folder.
EXECUTE = """
import sys
import nbclient
import nbformat

path, folder, done = sys.argv[1:]
notebook = nbformat.read(path, as_version=4)
nbformat.write(nbclient.execute(notebook, cwd=folder), done)
"""
# A number of another processor or version of JAX may differ by so much: Recall@1 and
# losses after a training, which amplifies the last bit.
TOLERANCE = 0.05
NUMBER = re.compile(r"(?<![\w.])\d+\.\d+")


@pytest.mark.parametrize(
  "path", sorted(ROOT.glob("experiments/**/*.ipynb")), ids=lambda path: path.stem
)
def test_a_notebook_runs_and_prints_what_is_stored(path, tmp_path):
  done = tmp_path / "done.ipynb"
  # A reader has one device, where the tests simulate eight, and has installed ccl_jax.
  environment = {
    name: value for name, value in os.environ.items() if name != "XLA_FLAGS"
  }
  run = subprocess.run(
    [sys.executable, "-c", EXECUTE, path, path.parent, done],
    env=environment | {"PYTHONPATH": str(ROOT), "JAX_NUMPY_RANK_PROMOTION": "allow"},
    capture_output=True,
    text=True,
    timeout=1200,
  )
  assert run.returncode == 0, run.stderr
  before, after = (json.loads(p.read_text()) for p in (path, done))
  for stored, cell in zip(before["cells"], after["cells"], strict=True):
    assert kinds(cell) == kinds(stored), "".join(cell["source"])
    assert_printed(printed(cell), printed(stored))


def assert_printed(found, expected):
  """Equal, but for numbers with a fraction, which may differ a little."""
  assert NUMBER.sub("#", found) == NUMBER.sub("#", expected)
  for new, old in zip(NUMBER.findall(found), NUMBER.findall(expected), strict=True):
    assert float(new) == pytest.approx(float(old), rel=TOLERANCE, abs=TOLERANCE)


def test_preparing_a_dataset_is_no_part_of_what_a_cell_prints():
  text = ["\x1b[1mDownloading dataset to /tmp/#.0...\x1b[0m\n", "recall 0.50\n"]
  cell = {"outputs": [{"name": "stdout", "text": text}]}
  assert printed(cell) == "recall 0.50\n"


def test_another_number_or_word_is_noticed():
  assert_printed("loss 0.52, 3 of 4", "loss 0.50, 3 of 4")
  for other in ("loss 0.70, 3 of 4", "loss 0.50, 2 of 4", "lost 0.50, 3 of 4"):
    with pytest.raises(AssertionError):
      assert_printed(other, "loss 0.50, 3 of 4")


def printed(cell):
  """What a cell prints, and its tables; progress bars are on stderr.

  Whoever first needs a dataset sees tensorflow_datasets prepare it, in bold.
  """
  texts = []
  for output in cell.get("outputs", []):
    if output.get("name") == "stdout":
      texts += output["text"]
    texts += output.get("data", {}).get("text/markdown", [])
  return re.sub(r"\x1b\[1m.*?\x1b\[0m\n?", "", "".join(texts))


def kinds(cell):
  """The kinds of output of a cell, without its progress bars."""
  return {
    kind
    for output in cell.get("outputs", [])
    for kind in output.get("data", {})
    if "widget" not in kind
  }
