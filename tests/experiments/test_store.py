"""Results of a study as JSON lines: what is written comes back, whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.comparison import store
from experiments.run.command_line import InputError

ROOT = Path(__file__).parents[2]


def result(seed, **fields):
  return {
    "row": "CCL",
    "column": "10 steps",
    "seed": seed,
    "metrics": {"recall@1": seed / 10},
    "seconds": 1.5,
    "versions": {"jax": "0.10"},
    "config": {"seed": seed, "widths": (64, 128), "scale": 16.0, **fields},
  }


def test_a_row_holds_only_what_it_does_not_share(tmp_path):
  path = tmp_path / "new" / "main.jsonl"
  runs = [result(0), result(1), result(2, scale=8.0), result(3, rho=0.5)]
  runs[2]["versions"] = {"jax": "0.12"}
  for run in runs:
    store.append(path, run)
  head, *rows = map(json.loads, path.read_text().splitlines())
  assert head["shared"]["config"] == {"seed": 0, "widths": [64, 128], "scale": 16.0}
  assert [row.get("config") for row in rows] == [
    None,
    {"seed": 1},
    {"seed": 2, "scale": 8.0},
    {"seed": 3, "rho": 0.5},
  ]
  assert [row.get("versions") for row in rows] == [None, None, {"jax": "0.12"}, None]
  found = store.read(path)
  commit = found[0].pop("commit")
  assert commit is None or len(commit) == 40
  for run, stored in zip(runs, found, strict=True):
    stored.pop("commit", None)
    assert stored == json.loads(json.dumps(run))


def test_a_field_that_a_row_lacks_is_not_given_to_it(tmp_path):
  """As when another version, without the field, adds a run to the file."""
  path, lacking = tmp_path / "main.jsonl", result(1)
  del lacking["config"]["scale"]
  for run in (result(0), lacking):
    store.append(path, run)
  assert [sorted(run["config"]) for run in store.read(path)] == [
    ["scale", "seed", "widths"],
    ["seed", "widths"],
  ]
  assert "absent" not in store.read(path)[1]


def test_a_line_that_a_kill_has_cut_short_is_dropped(tmp_path):
  path = tmp_path / "main.jsonl"
  for seed in (0, 1):
    store.append(path, result(seed))
  path.write_bytes(path.read_bytes()[:-20])
  assert [run["seed"] for run in store.read(path)] == [0]
  store.append(path, result(2))
  assert [run["seed"] for run in store.read(path)] == [0, 2]
  assert path.read_text().count("\n") == 3
  # Cut within the very first line, it is a new file.
  path.write_bytes(path.read_bytes()[:10])
  assert store.read(path) == []
  store.append(path, result(3))
  assert [run["seed"] for run in store.read(path)] == [3]


def test_a_row_that_does_not_fit_the_disk_leaves_the_others(tmp_path, monkeypatch):
  path = tmp_path / "main.jsonl"
  store.append(path, result(0))
  before = path.read_bytes()

  def full(descriptor):
    raise OSError("no space left")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(OSError, match="no space left"):
    store.append(path, result(1))
  assert path.read_bytes() == before


def test_two_processes_append_to_one_file(tmp_path):
  path = tmp_path / "main.jsonl"
  code = (
    "import pathlib, sys; from experiments.comparison import store;"
    "from tests.experiments.test_store import result\n"
    "for seed in range(int(sys.argv[2]), int(sys.argv[2]) + 20):"
    " store.append(pathlib.Path(sys.argv[1]), result(seed))"
  )
  both = [
    subprocess.Popen([sys.executable, "-c", code, path, str(first)], cwd=ROOT)
    for first in (0, 20)
  ]
  assert [process.wait() for process in both] == [0, 0]
  assert sorted(run["seed"] for run in store.read(path)) == [*range(40)]


def test_what_is_no_result_is_refused(tmp_path):
  path = tmp_path / "main.jsonl"
  assert store.read(path) == []
  for text in ('{"row": "CCL"}\n', "half a line\n"):
    path.write_text(text)
    with pytest.raises(InputError, match="main.jsonl holds a line that is no result"):
      store.read(path)


def test_a_run_of_another_commit_says_so(tmp_path, monkeypatch):
  path = tmp_path / "main.jsonl"
  for seed, commit in enumerate(("a", "b", "a")):
    monkeypatch.setattr(store, "_commit", lambda commit=commit: commit)
    store.append(path, result(seed))
  assert [run["commit"] for run in store.read(path)] == ["a", "b", "a"]
