"""The script for a GPU, tried on a CPU at tiny sizes."""

import json
import sys

import pytest

from experiments.benchmarks import gpu
from tests.experiments.conftest import SHORT


def test_every_part_at_tiny_sizes(pictures, tmp_path, capsys):
  short = {**SHORT, "data.images": pictures}
  out = tmp_path / "gpu.json"
  fields = [f"--config.{name}={value}" for name, value in short.items()]
  gpu.main(["--tiny", f"--out={out}", *fields])
  told = json.loads(out.read_text())
  rows = told["rows"]
  assert told["tiny"] and told["machine"]["platform"] == "cpu"
  assert {row["part"] for row in rows} == set(gpu.PARTS)
  ours = [row for row in rows if row.get("what", "").endswith(": ccl_jax")]
  assert [row["times_ours"] for row in ours] == [1, 1, 1, 1]
  assert all(row["value"] > 0 for row in ours)
  assert any(row["part"] == "main" and row["value"] > 1 for row in rows)
  # Peers that no requirements file of the tests brings.
  missing = {row["what"] for row in rows if "missing" in row}
  assert "600 rows, k=5: faiss-gpu" in missing
  printed = capsys.readouterr().out
  assert all(row["what"] in printed for row in rows)


PART = gpu.Part(20, "this", ["1"], ["2"], "--out", lambda out, seconds: [])


@pytest.mark.parametrize(
  ("program", "message"),
  [
    ("raise ValueError('no such thing')", "failed: ValueError: no such thing"),
    ("raise SystemExit(3)", "failed: exit code 3"),
    ("import time; time.sleep(60)", "not ended after 3 s"),
  ],
)
def test_a_part_that_does_not_end_well_is_one_line(program, message, monkeypatch):
  popen = gpu.subprocess.Popen

  def run(command, **options):
    assert command[1:] == ["-m", "this", f"--out={command[3][6:]}", "1"]
    return popen([sys.executable, "-c", program], **options)

  monkeypatch.setattr(gpu.subprocess, "Popen", run)
  part = PART._replace(seconds=3) if "sleep" in program else PART
  assert gpu.run_part(part, tiny=False, config=[]) == [{"missing": message}]


def test_all_parts_together_take_less_than_ten_minutes():
  assert sum(part.seconds for part in gpu.PARTS.values()) < 600


def test_a_machine_without_a_gpu_is_refused(capsys):
  with pytest.raises(SystemExit):
    gpu.main([])
  assert "expected a GPU, but JAX finds cpu" in capsys.readouterr().err


def test_an_unknown_argument_is_no_field_of_the_config(capsys):
  with pytest.raises(SystemExit):
    gpu.main(["--tinny"])
  assert "unknown arguments: --tinny" in capsys.readouterr().err
