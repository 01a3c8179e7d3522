"""The contestants of the benchmarks of a step and of a loss, at tiny sizes."""

import importlib.util
import json

import pytest

from experiments.benchmarks import loss, step
from tests.experiments.conftest import SHORT


class Pipe:
  """Asks for a few turns, and then closes."""

  def __init__(self, *turns):
    self.turns, self.sent = list(turns), []

  def recv(self):
    if not self.turns:
      raise EOFError
    return self.turns.pop(0)

  def send(self, answer):
    self.sent.append(answer)


def test_contestants_take_their_turns_from_the_same_loss(pictures, monkeypatch):
  tiny = {**SHORT, "data.images": pictures, "model.dim": 128}
  tiny = {name: str(value) for name, value in tiny.items()}
  monkeypatch.setattr(step, "SETTINGS", step.SETTINGS | tiny)
  first = {}
  for name in step.CONTESTANTS:
    if name == "PyTorch" and importlib.util.find_spec("torch") is None:
      continue
    pipe = Pipe(1, 2)
    step.serve(name, pipe)
    (first[name], _), (later, seconds) = pipe.sent
    assert later != first[name] and seconds > 0
  assert len(first) >= 2
  assert first == pytest.approx(dict.fromkeys(first, first["ccl_jax"]), rel=1e-3)


def test_the_contestants_over_many_classes_have_one_loss(tmp_path, capsys):
  out = tmp_path / "loss.json"
  loss.main(["--size", "4", "30", "8", "--turns=1", "--no-memory", f"--out={out}"])
  (found,) = json.loads(out.read_text())["sizes"]
  assert {k: found[k] for k in "BKD"} == {"B": 4, "K": 30, "D": 8}
  assert list(found["rows"]) == list(loss.CONTESTANTS)
  timed = {name: row for name, row in found["rows"].items() if "missing" not in row}
  assert {loss.FLOOR, loss.OURS, loss.ARCFACE, loss.UPDATE} <= timed.keys()
  assert all(row["milliseconds"] > 0 for row in timed.values())
  assert timed[loss.UPDATE]["teraflops"] is None and timed[loss.OURS]["teraflops"] >= 0
  printed = capsys.readouterr().out
  assert all(name in printed for name in found["rows"])


def test_contestants_that_differ_are_not_timed(monkeypatch):
  fields = ["--size", "4", "30", "8", "--no-memory", "--contestants"]
  arcface = loss.CONTESTANTS[loss.ARCFACE]
  monkeypatch.setitem(loss.CONTESTANTS, "PyTorch", arcface)
  with pytest.raises(AssertionError, match="PyTorch"):
    loss.main([*fields, loss.FLOOR, loss.OURS, "PyTorch"])
