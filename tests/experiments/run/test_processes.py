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
from tests.experiments.test_train import KILLED_AT, ROOT, TIMES

# A lost process is missed sooner than in a job, so that the test need not wait.
SOON = """
from experiments.run import processes
processes.HEARTBEAT_TIMEOUT = 10
"""


def start(argv, *, killed_at):
  """A process of its own, with one device."""
  return subprocess.Popen(
    [sys.executable, "-c", SOON + KILLED_AT, str(killed_at), *argv],
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
  first = start([*job, "--process-id=0"], killed_at=-1)
  second = start([*job, "--process-id=1"], killed_at=10)
  _, told = second.communicate(timeout=300)
  assert second.returncode == -signal.SIGKILL, told
  _, told = first.communicate(timeout=60)
  # JAX itself may notice first, says so too, and aborts.
  assert first.returncode in (1, -signal.SIGABRT)
  assert re.search("process 0 of 2 lost another one|another task died", told), told

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
