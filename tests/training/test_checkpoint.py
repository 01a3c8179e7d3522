"""What is saved is what comes back, on other devices and after damage too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax import centers, objectives
from ccl_jax.training import placement
from ccl_jax.training.checkpoint import Checkpoints
from ccl_jax.training.step import TrainState


def state_of(step):
  bank = centers.init(jax.random.key(step), 98, 4)
  params = {"model": {"w": jnp.full((3, 5), float(step))}, "objective": {}}
  return TrainState(
    step=jnp.int32(step),
    params=params,
    model_state={},
    objective_state=bank,
    opt_state=(jnp.arange(step), {"mu": jnp.ones(2)}),
  )


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_a_state_comes_back_whole_on_any_number_of_devices(tmp_path, devices):
  state = placement.with_jit(jax.devices()[:4]).make_state(lambda: state_of(7))
  position = {"next_index": 7, "nested": {"epoch": 1}}
  with Checkpoints(tmp_path) as saved:
    saved.save(7, state, position)
  like = placement.with_jit(jax.devices()[:devices]).make_state(lambda: state_of(7))
  with Checkpoints(tmp_path) as saved:
    restored, data = saved.restore(like)
  assert_same(restored, state)
  assert data == position
  assert restored.params["model"]["w"].sharding == like.params["model"]["w"].sharding


def test_a_memory_goes_on_where_it_was(tmp_path):
  """Its rows, and where it writes next, are state as any other."""
  objective = objectives.with_memory(
    lambda rows, labels, memory, memory_labels: (rows @ memory.T).sum(axis=1), 5, 2
  )
  _, fresh = objective.init(jax.random.key(0))
  rows = jnp.arange(6.0).reshape(3, 2)

  def visit(memory):
    return objective.apply({}, memory, rows, {"label": jnp.arange(3)})

  state = state_of(1).replace(objective_state=visit(visit(fresh)[1])[1])
  with Checkpoints(tmp_path) as saved:
    saved.save(1, state, {})
  with Checkpoints(tmp_path) as saved:
    restored, _ = saved.restore(state_of(1).replace(objective_state=fresh))
  assert int(restored.objective_state.position) == 1
  assert_same(visit(restored.objective_state), visit(state.objective_state))


def test_a_state_comes_back_without_being_described(tmp_path):
  with Checkpoints(tmp_path) as saved:
    saved.save(3, state_of(3), {})
  with Checkpoints(tmp_path, read_only=True) as saved:
    restored, _ = saved.restore()
  np.testing.assert_array_equal(restored["params"]["model"]["w"], np.full((3, 5), 3.0))
  np.testing.assert_array_equal(
    restored["objective_state"]["centers"], state_of(3).objective_state.centers
  )


def test_a_donated_state_is_saved_as_it_was(tmp_path):
  """Saving goes on in the background while the next step overwrites the state."""
  place = placement.with_jit()
  state = place.make_state(lambda: state_of(1000))
  expected = jax.device_get(state)
  step = place.compile_step(lambda s, _: (jax.tree.map(lambda x: x * 0, s), None))
  with Checkpoints(tmp_path) as saved:
    saved.save(1000, state, {})
    step(state, None)
  with Checkpoints(tmp_path) as saved:
    assert_same(saved.restore(state_of(1000))[0], expected)


def test_only_the_newest_are_kept(tmp_path):
  with Checkpoints(tmp_path, keep=2) as saved:
    for step in (1, 2, 3):
      saved.save(step, state_of(step), {})
  kept = sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit())
  assert kept == ["2", "3"]


def test_a_damaged_checkpoint_is_passed_over_and_later_replaced(tmp_path, caplog):
  with Checkpoints(tmp_path) as saved:
    for step in (4, 5):
      saved.save(step, state_of(2), {"at": step})
  for path in (tmp_path / "5" / "state").rglob("*"):
    if path.is_file():
      path.write_bytes(b"damaged")
  with Checkpoints(tmp_path) as saved:
    assert saved.restore(state_of(2))[1] == {"at": 4}
    assert "checkpoint 5 is unreadable" in caplog.text
    saved.save(5, state_of(2), {"at": "again"})
  with Checkpoints(tmp_path) as saved:
    assert saved.restore(state_of(2))[1] == {"at": "again"}


def test_nothing_readable_is_an_error_and_nothing_there_is_not(tmp_path):
  with Checkpoints(tmp_path / "empty") as saved:
    assert saved.restore(state_of(2)) is None
  with Checkpoints(tmp_path / "damaged") as saved:
    saved.save(4, state_of(2), {})
  for path in (tmp_path / "damaged" / "4" / "state").rglob("*"):
    if path.is_file():
      path.write_bytes(b"damaged")
  with Checkpoints(tmp_path / "damaged") as saved:
    with pytest.raises(RuntimeError, match=r"none of the checkpoints \[4\]"):
      saved.restore(state_of(2))
