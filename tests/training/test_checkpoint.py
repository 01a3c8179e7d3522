"""What is saved is what comes back, on other devices and after damage too."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax import centers, objectives
from ccl_jax.training import checkpoint, placement
from ccl_jax.training.checkpoint import Checkpoints
from ccl_jax.training.step import TrainState

# Orbax leaves coroutines and futures behind where it reads a damaged checkpoint.
pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def no_leftovers():
  yield
  gc.collect()


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


def flip(path, place, bit):
  data = bytearray(path.read_bytes())
  data[place] ^= 1 << bit
  path.write_bytes(bytes(data))


def moved(step):
  """Another state of the same shapes."""
  return jax.tree.map(lambda leaf: leaf + step, state_of(3)).replace(
    step=jnp.int32(step)
  )


def test_no_flipped_bit_is_restored_in_silence(tmp_path, caplog):
  """Another checkpoint takes the place, or the same state comes back."""
  with Checkpoints(tmp_path / "whole", num_classes=98) as saved:
    for step in (4, 5):
      saved.save(step, moved(step), {"next_index": 40 + step})
  rng = np.random.default_rng(0)
  files = [p for p in (tmp_path / "whole" / "5").rglob("*") if p.stat().st_size]
  files = sorted(p for p in files if p.is_file())
  caught = 0
  for path in [*files, *rng.permutation(np.repeat(files, 3))[:15]]:
    place, bit = rng.integers(path.stat().st_size), rng.integers(8)
    flip(path, place, bit)
    with Checkpoints(tmp_path / "whole", read_only=True, num_classes=98) as saved:
      state, position = saved.restore(moved(0))
    step = int(state.step)
    assert_same(state, moved(step))
    assert position == {"next_index": 40 + step}
    caught += step == 4
    flip(path, place, bit)
  assert caught > 10
  assert "is not what was saved" in caplog.text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool", "float64"])
def test_the_checksum_of_a_leaf_knows_each_bit_and_each_place(dtype):
  with jax.enable_x64(dtype == "float64"):
    rng = np.random.default_rng(0)
    whole = np.asarray(jnp.asarray(rng.normal(size=(5, 3)) > 0, dtype))
    expected = checkpoint._checksums({"a": jnp.asarray(whole)}, 2)["a"]
    for element in range(15 if dtype != "bool" else 0):
      for bit in range(8 * whole.itemsize):
        altered = whole.copy()
        data = altered.reshape(-1).view(np.uint8)
        data[element * whole.itemsize + bit // 8] ^= 1 << bit % 8
        found = checkpoint._checksums({"a": jnp.asarray(altered)}, 2)["a"]
        differs = [a != b for a, b in zip(found, expected, strict=True)]
        assert differs == [element < 6, element >= 6]
    swapped = checkpoint._checksums({"a": jnp.asarray(whole[::-1])}, None)["a"]
    assert swapped[0] != checkpoint._checksums({"a": jnp.asarray(whole)}, None)["a"][0]


def test_a_grown_bank_is_checked_too(tmp_path):
  """Padding of another mesh and new rows are no damage, and a flipped bit is."""
  saved_state = state_of(3).replace(objective_state=centers.init(KEY, 98, 4))
  with Checkpoints(tmp_path, num_classes=97) as saved:
    saved.save(3, saved_state, {})
  for rows in (97, 98, 104):
    like = state_of(3).replace(objective_state=centers.init(KEY, rows, 4))
    with Checkpoints(tmp_path, num_classes=97) as saved:
      state, _ = saved.restore(like)
    np.testing.assert_array_equal(
      state.objective_state.centers[:97], saved_state.objective_state.centers[:97]
    )
  altered = saved_state.objective_state.centers.at[96, 3].multiply(-1)
  bank = saved_state.objective_state._replace(centers=altered)
  about = {"num_classes": 97, "leaves": checkpoint._checksums(saved_state, 97)}
  with pytest.raises(ValueError, match="objective_state/centers is not what was saved"):
    checkpoint._check(saved_state.replace(objective_state=bank), about)


def test_a_checkpoint_whose_classes_cannot_be_read_is_passed_over(tmp_path):
  with Checkpoints(tmp_path, num_classes=98) as saved:
    for step in (4, 5):
      saved.save(step, state_of(2), {"at": step})
  (tmp_path / "5" / "classes" / "metadata").write_bytes(b"{")
  with Checkpoints(tmp_path, num_classes=98) as saved:
    assert saved.num_classes() == 98
    assert saved.restore(state_of(2))[1] == {"at": 4}


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
