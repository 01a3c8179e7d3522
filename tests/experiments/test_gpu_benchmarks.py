"""The script for a GPU, tried on a CPU at tiny sizes."""

import json
import sys
from functools import partial

import pytest

from ccl_jax.models.resnet import ResNet
from experiments.benchmarks import gpu, resnet
from tests.experiments.conftest import SHORT


def test_the_parts_at_tiny_sizes(pictures, tmp_path, capsys):
  """All but ResNet, whose compilation takes as long as all of them: see below."""
  parts = [name for name in gpu.PARTS if name != "resnet"]
  short = {**SHORT, "data.images": pictures}
  out = tmp_path / "gpu.json"
  fields = [f"--config.{name}={value}" for name, value in short.items()]
  gpu.main(["--tiny", f"--out={out}", *fields, "--parts", *parts])
  told = json.loads(out.read_text())
  rows = told["rows"]
  assert told["tiny"] and told["machine"]["platform"] == "cpu"
  assert {row["part"] for row in rows} == set(parts)
  ours = [row for row in rows if row.get("what", "").endswith(": ccl_jax")]
  assert [row["times_ours"] for row in ours] == [1, 1, 1]
  assert all(row["value"] > 0 for row in ours)
  assert any(row["part"] == "main" and row["value"] > 1 for row in rows)
  # Peers that no requirements file of the tests brings.
  missing = {row["what"] for row in rows if "missing" in row}
  assert "600 rows, k=5: faiss-gpu" in missing
  printed = capsys.readouterr().out
  assert all(row["what"] in printed for row in rows)


def test_a_resnet_takes_its_steps(monkeypatch):
  tiny = partial(ResNet, depths=(1,), bottleneck=False, width=4)
  monkeypatch.setattr("ccl_jax.models.resnet.resnet18", tiny)
  monkeypatch.setattr(resnet, "CLASSES", 40)
  config = resnet.make_config(4, side=16, network="resnet18")
  seconds = resnet.measure(resnet.with_jax, config, turns=2, steps=1)
  assert len(seconds) == 2 and min(seconds) > 0


def quick(config, images, labels):
  return lambda steps: 0.5


def broken(config, images, labels):
  raise RuntimeError("no such operator\nand a long text")


def test_a_peer_of_resnet_that_fails_leaves_our_number(monkeypatch, tmp_path):
  peers = {"PyTorch": (None, broken), "other": ("no_such_package", quick)}
  monkeypatch.setattr(resnet, "CONTESTANTS", {"ccl_jax": (None, quick), **peers})
  out = tmp_path / "resnet.json"
  resnet.main(["--batch=2", "--side=4", "--steps=1", "--turns=1", f"--out={out}"])
  ours, *others = gpu.of_resnet(out, 1.0)
  assert ours["times_ours"] == 1
  assert [row["missing"] for row in others] == [
    "failed: no such operator",
    "no_such_package is not installed",
  ]
  monkeypatch.setattr(resnet, "CONTESTANTS", {"ccl_jax": (None, broken)})
  with pytest.raises(RuntimeError, match="no such operator"):
    resnet.main(["--batch=2", "--side=4"])


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
