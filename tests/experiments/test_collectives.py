"""The counter of collectives, against programs whose traffic is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from experiments.benchmarks.collectives import collectives

MESH = Mesh(
  np.asarray(jax.devices()[:8]).reshape(2, 4),
  ("a", "b"),
  axis_types=(AxisType.Auto,) * 2,
)


def program(function, in_specs, out_specs, rows):
  mapped = jax.shard_map(
    function, mesh=MESH, in_specs=in_specs, out_specs=out_specs, check_vma=False
  )
  array = jax.ShapeDtypeStruct((rows, 10), jnp.float32)
  return jax.jit(mapped).lower(array).compile().as_text()


SPLIT, WHOLE = PartitionSpec(("a", "b")), PartitionSpec()


@pytest.mark.parametrize(
  ("axes", "devices"), [("a", 2), ("b", 4), (("a", "b"), 8), (("b", "a"), 8)]
)
def test_bytes_of_each_kind(axes, devices):
  """Each device holds 8 rows of 10 float32 numbers: 320 bytes."""
  gather = partial(jax.lax.all_gather, axis_name=axes, tiled=True)
  (found,) = collectives(program(gather, SPLIT, WHOLE, 64))
  assert found.kind == "all-gather" and found.devices == devices
  assert found.bytes == (devices - 1) * 320
  (found,) = collectives(program(lambda x: jax.lax.psum(x, axes), WHOLE, WHOLE, 8))
  assert found.kind == "all-reduce" and found.devices == devices
  assert found.bytes == 2 * (devices - 1) * 320 / devices
  scatter = partial(jax.lax.psum_scatter, axis_name=axes, tiled=True)
  (found,) = collectives(program(scatter, WHOLE, SPLIT, 8))
  assert found.kind == "reduce-scatter" and found.devices == devices
  assert found.bytes == (devices - 1) * 320 / devices


def test_older_notations_and_a_program_without_any():
  text = "%x = (f32[2,3]{1,0}, s32[4]{0}) all-reduce(%a, %b), replica_groups="
  for groups in ("{{0,1,2},{3,4,5}}", "[2,3]<=[6]"):
    (found,) = collectives(f"{text}{groups}, to_apply=%f")
    assert found.devices == 3
    assert found.bytes == round(2 * (2 / 3) * (6 * 4 + 4 * 4))
  assert collectives("ROOT %y = f32[2]{0} add(%a, %b)") == []
  with pytest.raises(ValueError, match="no replica_groups"):
    collectives(f"{text}?")


@pytest.mark.parametrize(
  ("text", "shape", "moved"),
  [
    ("(f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%x)", "f32[8,4]", 96),
    (
      "((f32[2,4]{1,0:T(8,128)}, s32[2]{0}), (f32[8,4]{1,0:T(8,128)}, s32[8]{0})) "
      "all-gather-start(%x, %y)",
      "(f32[8,4], s32[8])",
      120,
    ),
    ("((f32[8,4]{1,0}), f32[2,4]{1,0}) reduce-scatter-start(%x)", "f32[2,4]", 96),
    ("(f32[8]{0}, f32[2]{0}) all-reduce-start(%x, %y)", "(f32[8], f32[2])", 60),
  ],
)
def test_a_start_counts_its_results_alone(text, shape, moved):
  """Over four devices. The end of an asynchronous collective names no group."""
  kind = text.split("-start")[0].split()[-1]
  program = f"%s = {text}, replica_groups={{{{0,1,2,3}}}}\n%d = {kind}-done(%s)\n"
  (found,) = collectives(program)
  assert found.kind == kind
  assert (found.shape, found.bytes) == (shape, moved)


def test_a_permutation_names_pairs():
  text = "(f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%x)"
  (found,) = collectives(
    f"%s = {text}, source_target_pairs={{{{0,1}},{{1,2}},{{2,0}}}}"
  )
  assert (found.devices, found.shape, found.bytes) == (3, "f32[4]", 16)


def test_the_steps_of_one_collective_count_once():
  """A TPU's compiler names the whole in each step; another whole has another name."""
  text = "%x = f32[8] all-gather(%a), replica_groups={{0,1}}"
  steps = [f'{text}, frontend_attributes={{chain_id="{name}"}}' for name in "001"]
  assert len(collectives("\n".join(steps))) == 2
  assert len(collectives(f"{text}\n{text}")) == 2
