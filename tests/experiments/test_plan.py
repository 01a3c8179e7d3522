"""What a pod's compiler is asked for; with libtpu installed, what it answers."""

import importlib.util
import re
from functools import partial

import pytest

from ccl_jax.models.resnet import ResNet
from experiments.benchmarks import plan, resnet, topology
from experiments.benchmarks.cycles import modelled_cycles
from experiments.benchmarks.sharded_step import compile_step
from experiments.comparison import store

WITH_LIBTPU = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu: see tests/tpu.txt"
)


def test_the_plan_of_a_small_step(tmp_path, capsys):
  argv = ["--topology=cpu:4", "--classes", "4001", "--batch=64", "--dim=32"]
  plan.main([*argv, f"--results={tmp_path}"])
  printed = capsys.readouterr().out
  assert "nothing was run" in printed and "all-gather f32[64,32]" in printed
  bank, trained = store.read(tmp_path / "pods.jsonl")
  of_bank = 1001 * (4 * 32 + 4)  # a quarter of the centers and counts, padded to four
  assert 0 <= bank["stays"] - of_bank < 64 * 36
  assert 0 <= bank["in_place"] - of_bank < 64
  assert 0 <= trained["stays"] - 3 * 1001 * 4 * 32 < 64 * 36
  assert bank["peak"] == bank["stays"] + bank["beside"]
  assert bank["moved"] == sum(c["bytes"] for c in bank["collectives"]) > 0
  assert "milliseconds" not in bank  # only a TPU's compiler has a model

  plan.main([*argv, f"--results={tmp_path}"])
  assert capsys.readouterr().out.count("stored already") == 2
  assert store.read(tmp_path / "pods.jsonl") == [bank, trained]


def test_the_plan_of_a_resnet_has_its_own_classes(tmp_path, monkeypatch):
  tiny = partial(ResNet, depths=(1,), bottleneck=False, width=4)
  monkeypatch.setattr("ccl_jax.models.resnet.resnet18", tiny)
  monkeypatch.setattr(
    resnet, "make_config", partial(resnet.make_config, side=16, network="resnet18")
  )
  monkeypatch.setattr(resnet, "CLASSES", 40)
  plan.main(["--topology=cpu:4", "--resnet", "--batch=8", f"--results={tmp_path}"])
  (row,) = store.read(tmp_path / "pods.jsonl")
  assert (row["step"], row["B"], row["K"]) == ("ResNet-50", 8, 40)
  # The bank is whole on each device, and so are the network and Adam's two moments.
  assert row["stays"] > 4 * 40 * 512 + 3 * 4 * 512 * 4
  moved = " ".join(c["shape"] for c in row["collectives"])
  assert "f32[512,4]" in moved, "the gradient of the head"
  assert "[40,512]" not in moved, "the bank"


def test_centers_that_no_device_holds_are_not_compiled(monkeypatch, tmp_path, capsys):
  def refuse(*args, **kwargs):
    raise AssertionError("compiled")

  monkeypatch.setattr(plan, "compile_step", refuse)
  monkeypatch.setitem(topology.CHIPS, "cpu", topology.Chip(memory=12 * 1000 * 32))
  argv = ["--topology=cpu:2", "--dim=32", "--centers", "trained"]
  with pytest.raises(AssertionError, match="compiled"):
    plan.main([*argv, "--classes", "2000"])
  page = tmp_path / "README.md"
  page.write_text(f"<!-- table: {tmp_path.name}/pods -->\n<!-- end -->\n")
  argv += [f"--results={tmp_path}", f"--write={page}"]
  plan.main([*argv, "--classes", "4000"])
  assert "does not compile" in capsys.readouterr().out
  assert "does not fit: 0.77 MB stay on a device of 0.38 MB" in page.read_text()


def stored_row(code="now", **own):
  row = {"topology": "v5e:4x4", "step": "bank", "B": 4096, "K": 10**7, "code": code}
  row |= {"config": {"dim": 512}, "stays": 1.28e9, "beside": 64e6, "moved": 8.25e6}
  row |= {"devices": 16, "peak": 1.35e9, "memory": 17e9}
  return row | own


def test_the_table_sets_before_beside_now():
  times = {"milliseconds": 35.07, "times_floor": 1.318}
  rows = [
    stored_row(K=10**8, peak=18e9, **times),
    stored_row("before", beside=89e6, milliseconds=64.9, times_floor=2.44),
    stored_row(topology="h100:8", devices=8),
    stored_row(**times),
    stored_row(topology="v5e:1", devices=1, **times),
  ]
  lines = [line.split(" | ") for line in plan.table(rows).splitlines()[2:]]
  assert [line[:4] for line in lines] == [
    ["| v5e:1", "bank", "4,096", "10,000,000"],
    ["| v5e:4x4", "bank", "4,096", "10,000,000"],
    ["| v5e:4x4", "bank", "4,096", "100,000,000"],
    ["| h100:8", "bank", "4,096", "10,000,000"],
  ]
  assert lines[1][4:] == ["1.28", "64", "8.2", "35.1", "1.32", "89", "64.9", "2.44 |"]
  assert lines[2][5] == "64, does not fit in 17.0 GB"
  assert lines[3][7:9] == ["no model", "no model"]


def test_a_command_without_a_machine_only_writes(tmp_path, capsys):
  with pytest.raises(SystemExit):
    plan.main([f"--results={tmp_path}"])
  assert "expected --topology, or --results with --write" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("cpu:many", "expected a number of devices, as in cpu:8"),
    ("cpu:9000", "this process has 8 devices"),
    ("h100", "expected a number of devices, as in h100:8"),
  ],
)
def test_a_machine_that_cannot_be_described(name, message, capsys):
  with pytest.raises(SystemExit):
    plan.main([f"--topology={name}"])
  assert message in capsys.readouterr().err


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("v5e:4x4", r'pip install "jax\[tpu\]"'),
    ("h100:8", "pip install jax-cuda13-plugin"),
  ],
)
def test_a_compiler_that_is_not_installed(name, message, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match=message):
    topology.describe(name)


def test_a_loop_counts_as_often_as_it_turns():
  """And a fusion of no estimate not at all."""
  cost = 'backend_config={"estimated_cycles":"%s"}'
  program = "\n".join(
    [
      "%body (p: s32[]) -> s32[] {",
      f"  %a = f32[8] fusion(%p), {cost % 100}",
      f"  %b = f32[8] fusion(%a), {cost % 20}",
      "}",
      "%condition (p: s32[]) -> pred[] {",
      "  %limit = s32[] constant(7)",
      "}",
      "ENTRY %main (x: f32[8]) -> f32[8] {",
      f"  %c = f32[8] fusion(%x), {cost % 3}",
      "  %d = f32[8] custom-call(%c)",
      "  %w = s32[] while(%d), condition=%condition, body=%body",
      "}",
    ]
  )
  assert modelled_cycles(program) == 3 + 7 * 120
  assert modelled_cycles("ENTRY %main (x: f32[8]) -> f32[8] {\n}") is None


@WITH_LIBTPU
def test_an_unknown_tpu_is_named():
  with pytest.raises(ValueError, match="v5e:3x77: libtpu knows no such machine"):
    topology.describe("v5e:3x77")


@WITH_LIBTPU
@pytest.mark.parametrize("name", ["v5e:1", "v5e:2x4"])
def test_a_tpu_holds_one_bank_and_little_beside_it(name):
  """Compiled for the TPU, which writes the bank in place and never makes it anew."""
  devices = topology.describe(name)
  per_device, dim, rows = 500_000, 128, 128
  num_classes = per_device * len(devices)
  step = compile_step(num_classes, None, rows=rows, dim=dim, devices=devices)
  memory, program = step.memory_analysis(), step.as_text()
  bank = per_device * 4 * dim
  assert bank <= memory.alias_size_in_bytes
  assert memory.peak_memory_in_bytes - memory.argument_size_in_bytes < bank / 10
  whole = rf"= \w+\[(\d+,)?{per_device},{dim}\]\S* (copy|convert|transpose|all-gather)"
  assert re.findall(whole, program) == []
  assert rf"[{per_device},{dim}]" in program
