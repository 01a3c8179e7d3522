"""The main job from its command line: it ends, resumes to the same bits, and shows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ccl_jax.checkpoint import Checkpoints
from ccl_jax.run_log import read_events
from experiments import evaluate, retrieve, train

ROOT = Path(__file__).parents[2]
TIMES = {"images_per_second", "waiting_for_data", "seconds"}

# Trains in a process that kills itself as it asks for the batch of a given step.
KILLED_AT = """
import os, signal, sys
from experiments import assemble, train

make_batches, last = assemble.train_batches, int(sys.argv[1])

class Batches:
  def __init__(self, *args):
    self.wrapped, self.step = make_batches(*args), 0
  def __next__(self):
    self.step += 1
    if self.step == last:
      os.kill(os.getpid(), signal.SIGKILL)
    return next(self.wrapped)
  def get_state(self):
    return self.wrapped.get_state()
  def set_state(self, state):
    self.wrapped.set_state(state)
    self.step = state["next_index"]

assemble.train_batches = Batches
train.main(sys.argv[2:])
"""


def run_alone(argv, *, killed_at):
  """Trains in a process of its own, on one device."""
  return subprocess.run(
    [sys.executable, "-c", KILLED_AT, str(killed_at), *argv],
    cwd=ROOT,
    env={**os.environ, "XLA_FLAGS": ""},
    capture_output=True,
    text=True,
  )


def state_of(workdir):
  with Checkpoints(workdir / "checkpoints", read_only=True) as saved:
    return saved.restore()


def timeless(workdir):
  """The events of a run without what a clock says."""
  events = read_events(workdir / "metrics.jsonl")
  return [{k: v for k, v in event.items() if k not in TIMES} for event in events]


@pytest.mark.parametrize("centers", ["bank"])
def test_a_killed_run_resumes_to_the_same_bits(arguments, tmp_path, centers):
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  done = run_alone(arguments(workdir=whole, centers=centers), killed_at=-1)
  assert done.returncode == 0, done.stderr
  argv = arguments(workdir=killed, centers=centers)
  for killed_at in (3, 10, -1):
    process = run_alone(argv, killed_at=killed_at)
    assert process.returncode == (-9 if killed_at > 0 else 0), process.stderr
  # Step 8 may still have been on its way to the disk.
  assert re.search("resuming at step [48] of 12", process.stderr), process.stderr
  (expected, position), (state, resumed_position) = state_of(whole), state_of(killed)
  assert position == resumed_position
  jax.tree.map(np.testing.assert_array_equal, state, expected)
  assert timeless(killed) == timeless(whole)
  results = [json.loads((d / "result.json").read_text()) for d in (whole, killed)]
  assert results[0]["recall@1"] == results[1]["recall@1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pictures):
  from tests.experiments.conftest import SHORT

  workdir = tmp_path_factory.mktemp("runs") / "run"
  fields = {**SHORT, "images": pictures, "steps": 60, "log_every": 10}
  argv = ["--config=configs/glyphs.py", f"--workdir={workdir}"]
  argv += [f"--config.{name}={value}" for name, value in fields.items()]
  train.main(argv)
  return workdir, argv


def test_a_run_leaves_its_config_metrics_result_and_report(finished):
  workdir, _ = finished
  assert json.loads((workdir / "config.json").read_text())["steps"] == 60
  result = json.loads((workdir / "result.json").read_text())
  assert result["steps"] == 60 and result["seconds"] > 0
  assert result["classes"] == {"train": 6, "validation": 2, "test": 8}
  assert 0 <= result["map@r"] <= result["recall@2"] <= 1
  assert result["versions"]["jax"] == jax.__version__
  kinds = [event["event"] for event in read_events(workdir / "metrics.jsonl")]
  assert kinds.count("train") == 6 and kinds.count("test") == 1
  assert (workdir / "report.html").read_text().count("<svg") >= 2
  assert any((workdir / "tensorboard").iterdir())


def test_it_learns(finished):
  """Classes are told apart by the place of a spot; chance is 3 of 31."""
  result = json.loads((finished[0] / "result.json").read_text())
  assert result["recall@1"] > 0.5


def test_a_finished_run_says_so(finished, capsys):
  workdir, argv = finished
  before = (workdir / "metrics.jsonl").read_text()
  train.main(argv)
  assert "finished already: test classes recall@1" in capsys.readouterr().out
  assert (workdir / "metrics.jsonl").read_text() == before


def test_evaluate_finds_what_training_reported(finished, capsys):
  workdir, _ = finished
  evaluate.main([f"--workdir={workdir}"])
  scores = json.loads(capsys.readouterr().out.splitlines()[-1])
  result = json.loads((workdir / "result.json").read_text())
  assert scores["step"] == 60
  for name in ("recall@1", "recall@2", "map@r", "r_precision"):
    assert scores[name] == pytest.approx(result[name], abs=1e-6)
  evaluate.main([f"--workdir={workdir}", "--split=validation"])
  scores = json.loads(capsys.readouterr().out.splitlines()[-1])
  last = [
    e for e in read_events(workdir / "metrics.jsonl") if e["event"] == "validation"
  ]
  assert scores["map@r"] == pytest.approx(last[-1]["map@r"], abs=1e-6)


def test_retrieve_lists_the_nearest_and_draws_them(
  finished, pictures, capsys, tmp_path
):
  workdir, _ = finished
  query = pictures / "class_09" / "1.png"
  argv = [f"--workdir={workdir}", f"--images={pictures}", f"--query={query}"]
  retrieve.main([*argv, "--k=3", f"--out={tmp_path / 'found.png'}"])
  lines = capsys.readouterr().out.splitlines()[-4:]
  cosines = [float(line.split()[0]) for line in lines[:3]]
  assert cosines == sorted(cosines, reverse=True)
  names = [line.split(maxsplit=1)[1] for line in lines[:3]]
  assert str(Path("class_09", "1.png")) not in names, "the query found itself"
  assert sum(name.startswith("class_09") for name in names) >= 2
  with Image.open(tmp_path / "found.png") as picture:
    assert min(picture.size) > 100


def test_pmap_trains_too(arguments, tmp_path):
  train.main(arguments(parallel="pmap", centers="bank"))
  result = json.loads((tmp_path / "run" / "result.json").read_text())
  assert 0 < result["recall@1"] <= 1
