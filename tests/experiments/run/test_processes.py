"""Two processes train as one does, and one that is lost ends the other."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from ccl_jax.training.run_log import read_events
from experiments import train
from experiments.run import workdir
from tests.experiments.test_train import KILLED_AT, ROOT, TIMES

# Trains in a process that sends itself a signal as it reads its data.
SIGNALED = """
import os, sys
from experiments import train
from experiments.run import datasets

load = datasets.load_data

def load_data(config):
  os.kill(os.getpid(), int(sys.argv[1]))
  return load(config)

if sys.argv[1] != "0":
  datasets.load_data = load_data
train.main(sys.argv[2:])
"""


def start(argv, code, number):
  """A process of its own, with one device."""
  return subprocess.Popen(
    [sys.executable, "-c", code, str(number), *argv],
    cwd=ROOT,
    env={**os.environ, "XLA_FLAGS": ""},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def free_port():
  with socket.socket() as listener:
    listener.bind(("localhost", 0))
    return listener.getsockname()[1]


def test_a_lost_process_ends_the_other_and_one_process_goes_on_to_the_same_numbers(
  arguments, tmp_path, capsys
):
  fields = {
    "parallel": "class_sharded",
    "loss.centers": "bank",
    "data.validation_fraction": 0,
  }
  train.main(arguments(workdir=tmp_path / "whole", **fields))  # on eight devices
  argv = arguments(workdir=tmp_path / "two", **fields)
  job = [*argv, f"--coordinator=localhost:{free_port()}", "--num-processes=2"]
  first = start([*job, "--process-id=0"], KILLED_AT, -1)
  second = start([*job, "--process-id=1"], KILLED_AT, 10)
  _, told = second.communicate(timeout=300)
  assert second.returncode == -signal.SIGKILL, told
  _, told = first.communicate(timeout=60)
  assert first.returncode == 1 and "error: process 1 of 2 was lost" in told, told

  train.main(argv)
  told = capsys.readouterr().err
  # Step 8 may still have been on its way to the disk.
  assert re.search("resuming at step [48] of 12", told), told
  for event, expected in zip(
    *(read_events(tmp_path / name / "metrics.jsonl") for name in ("two", "whole")),
    strict=True,
  ):
    assert event.keys() == expected.keys()
    for name in event.keys() - TIMES - {"event"}:
      assert event[name] == pytest.approx(expected[name], rel=1e-4), (name, event)
  result = json.loads((tmp_path / "two" / "result.json").read_text())
  assert result["steps"] == 12


def told_by(process):
  """The one line with which a process ends."""
  _, told = process.communicate(timeout=120)
  lines = [line for line in told.splitlines() if line.startswith("error: ")]
  assert len(lines) == 1 and "Traceback" not in told, told
  return lines[0]


def test_a_process_alone_says_whom_it_waits_for_and_gives_up(arguments):
  first, second = free_port(), free_port()
  jobs = {
    f"process 1 to connect to localhost:{first}": (first, 0),
    f"process 0 to listen at localhost:{second} ([Errno": (second, 1),
  }
  alone = [
    start(
      [
        *arguments(),
        f"--coordinator=localhost:{port}",
        "--num-processes=2",
        f"--process-id={index}",
        "--wait=2",
      ],
      SIGNALED,
      0,
    )
    for port, index in jobs.values()
  ]
  for process, whom in zip(alone, jobs, strict=True):
    told = told_by(process)
    assert told.startswith(f"error: gave up after 2 s of waiting for {whom}"), told
    assert process.returncode == 2


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_port_in_use_is_named(is_shared, arguments, capsys):
  with socket.socket() as listener:
    # As another job's first process listens: the second would be let in beside it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, is_shared)
    listener.bind(("", 0))
    listener.listen()
    address = f"localhost:{listener.getsockname()[1]}"
    job = [f"--coordinator={address}", "--num-processes=2", "--process-id=0"]
    with pytest.raises(SystemExit) as stop:
      train.main([*arguments(), *job])
  assert stop.value.code == 2
  told = f"error: --coordinator={address}: process 0 cannot listen there ([Errno"
  assert told in capsys.readouterr().err


@pytest.mark.parametrize(
  ("ending", "number"), [(0, signal.SIGTERM), (1, signal.SIGKILL)]
)
def test_a_process_that_ends_in_set_up_ends_the_other(arguments, ending, number):
  job = [*arguments(), f"--coordinator=localhost:{free_port()}", "--num-processes=2"]
  both = [
    start([*job, f"--process-id={i}"], SIGNALED, number if i == ending else 0)
    for i in (0, 1)
  ]
  told = told_by(both[1 - ending])
  assert told.startswith(f"error: process {ending} of 2 was lost"), told
  both[ending].communicate(timeout=120)
  assert [process.returncode for process in both] == (
    [-number, 1] if ending == 0 else [1, -number]
  )


def test_a_refused_first_process_leaves_no_other_waiting(arguments, tmp_path):
  job = [*arguments(), f"--coordinator=localhost:{free_port()}", "--num-processes=2"]
  with workdir.hold(tmp_path / "run"):
    both = [start([*job, f"--process-id={i}"], SIGNALED, 0) for i in (0, 1)]
    told = [told_by(process) for process in both]
  assert "run is in use by process" in told[0]
  assert told[1].startswith("error: process 0 of 2 ended: ") and "in use" in told[1]
  assert [process.returncode for process in both] == [2, 2]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--process-id=0"], "go together"),
    (
      ["--coordinator=here:1", "--num-processes=2", "--process-id=2"],
      "--process-id=2 of --num-processes=2: expected 0 to 1",
    ),
    (
      ["--coordinator=here", "--num-processes=2", "--process-id=0"],
      "--coordinator=here: expected HOST:PORT",
    ),
    (
      ["--coordinator=h:1", "--num-processes=1", "--process-id=0", "--single-process"],
      "exclude each other",
    ),
  ],
)
def test_addresses_that_cannot_be_are_refused(arguments, flags, message, capsys):
  with pytest.raises(SystemExit) as stop:
    train.main([*arguments(), *flags])
  assert stop.value.code == 2
  assert message in capsys.readouterr().err
