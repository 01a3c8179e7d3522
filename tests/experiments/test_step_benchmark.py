"""The contestants of the benchmark of a step, at tiny sizes."""

import importlib.util

import pytest

from experiments.benchmarks import step
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
