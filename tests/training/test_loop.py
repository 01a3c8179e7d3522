"""The loop's promises: what it logs, when it saves, and how it stops."""

import json
import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.training import placement
from ccl_jax.training.checkpoint import Checkpoints
from ccl_jax.training.loop import NonFiniteLoss, Stopped, embed, fit
from ccl_jax.training.run_log import RunLog, read_events
from ccl_jax.training.step import TrainState


class Numbers:
  """Batches 1, 2, 3, ...; a function of the position alone."""

  def __init__(self):
    self.position = 0

  def __next__(self):
    self.position += 1
    return {"image": np.full((8, 1), self.position, np.float32)}

  def get_state(self):
    return {"position": self.position}

  def set_state(self, state):
    self.position = state["position"]


def start():
  return TrainState(
    step=jnp.int32(0),
    params={"total": jnp.zeros(())},
    model_state={},
    objective_state={},
    opt_state={},
  )


def adding_step(state, batch):
  total = state.params["total"] + batch["image"].mean()
  loss = jnp.where(total > 300, jnp.nan, total)
  return state.replace(step=state.step + 1, params={"total": total}), {"loss": loss}


def run(folder, *, steps, step=adding_step, evaluate=None, **every):
  every = {"log_every": 2, "eval_every": 5, "checkpoint_every": 4} | every
  place = placement.with_jit()
  batches, state = Numbers(), place.make_state(start)
  with Checkpoints(folder / "checkpoints") as saved:
    if restored := saved.restore(state):
      state = restored[0]
      batches.set_state(restored[1])
    with RunLog(folder, step=int(state.step)) as log:
      return fit(
        state,
        step,
        batches,
        placement=place,
        num_steps=steps,
        batch_size=8,
        learning_rate=lambda step: step / 8,
        evaluate=evaluate,
        log=log,
        checkpoints=saved,
        **every,
      )


def events(folder, kind):
  return [e for e in read_events(folder / "metrics.jsonl") if e["event"] == kind]


def newest(folder):
  with Checkpoints(folder / "checkpoints", read_only=True) as saved:
    return saved.restore()


def test_it_trains_logs_evaluates_and_saves(tmp_path):
  seen = []

  def evaluate(state):
    seen.append(int(state.step))
    return {"recall@1": 0.25}

  state = run(tmp_path, steps=11, evaluate=evaluate)
  assert float(state.params["total"]) == sum(range(1, 12))
  assert seen == [5, 10, 11]
  assert [e["step"] for e in events(tmp_path, "train")] == [2, 4, 6, 8, 10]
  assert [e["loss"] for e in events(tmp_path, "train")] == [3, 10, 21, 36, 55]
  rates = [e["learning_rate"] for e in events(tmp_path, "train")]
  assert rates == [1 / 8, 3 / 8, 5 / 8, 7 / 8, 9 / 8]  # of the step that was taken
  assert events(tmp_path, "validation")[0]["recall@1"] == 0.25
  assert all(e["images_per_second"] > 0 for e in events(tmp_path, "train"))
  saved, position = newest(tmp_path)
  assert int(saved["step"]) == 11 and position == {"position": 11}


def test_a_nan_names_its_step_and_keeps_the_last_good_checkpoint(tmp_path):
  # 1 + 2 + ... + 24 = 300 is the last finite loss; logging comes two steps later.
  with pytest.raises(NonFiniteLoss, match="the loss of step 25 is nan"):
    run(tmp_path, steps=100, log_every=10)
  saved, _ = newest(tmp_path)
  assert int(saved["step"]) == 24
  assert np.isfinite(saved["params"]["total"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_call_goes_on(tmp_path, number):
  handler = signal.getsignal(number)
  interrupted = []

  def evaluate(state):
    if not interrupted:
      interrupted.append(int(state.step))
      os.kill(os.getpid(), number)
    return {}

  with pytest.raises(Stopped, match=f"{number.name} at step 5") as stopped:
    run(tmp_path, steps=20, evaluate=evaluate, checkpoint_every=100)
  assert stopped.value.step == 5
  assert signal.getsignal(number) is handler
  assert int(newest(tmp_path)[0]["step"]) == 5
  state = run(tmp_path, steps=20, evaluate=evaluate, checkpoint_every=100)
  assert float(state.params["total"]) == sum(range(1, 21))
  assert [e["loss"] for e in events(tmp_path, "train")] == [
    n * (n + 1) / 2 for n in range(2, 21, 2)
  ]


def test_a_second_signal_stops_at_once(tmp_path):
  def evaluate(state):
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    return {}

  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, steps=20, evaluate=evaluate)


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
  run(tmp_path, steps=6)
  before = (tmp_path / "metrics.jsonl").read_text()
  state = run(tmp_path, steps=6)
  assert int(state.step) == 6
  assert (tmp_path / "metrics.jsonl").read_text() == before
  assert json.loads(before.splitlines()[-1])["step"] == 6


def test_embed_leaves_padding_out():
  batches = [
    {"image": np.arange(3.0)[:, None]},
    {"image": np.array([[3.0], [0.0], [0.0]])},
  ]
  state = start().replace(step=jnp.int32(2))
  embeddings = embed(lambda s, images: images * int(s.step), state, iter(batches), 4)
  np.testing.assert_array_equal(embeddings[:, 0], [0, 2, 4, 6])
