"""What the compiler of a TPU or GPU pod makes of a step, known before one is rented.

  python -m experiments.benchmarks.plan --topology=v5e:4x4 --classes 10000000
  python -m experiments.benchmarks.plan --topology=h100:8 --centers bank --out=plan.json
  python -m experiments.benchmarks.plan --topology=v5e:4x4 --resnet --batch=1024

The command compiles ahead of time for a machine that is only described, so that it
needs the machine's compiler and no machine (see `topology.py`); cpu:8 simulates eight
devices. It compiles the class-sharded loss, its gradient in the embeddings and the
centers' step, without a model; or with --resnet the whole data-parallel step of
ResNet-50 at 224 px (configs/sop.py).

Nothing is run. Bytes are those of one device, in the compiler's plan: what stays (the
bank, or trained centers and Adam's two moments), how much of that is written in place,
and what a step needs beside it at its peak. The time is the model of a TPU's compiler,
for computation alone; the floor is the time of the loss's matrix products, two for a
bank and four for trained centers, at the chip's peak in bfloat16.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from configs import base, sop
from experiments.benchmarks import topology
from experiments.benchmarks.collectives import collectives
from experiments.benchmarks.cycles import modelled_cycles
from experiments.benchmarks.sharded_step import compile_step


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--topology", required=True, help="v5e:4x4, h100:8, cpu:8, ...")
  parser.add_argument("--classes", type=int, nargs="+", default=[10**7], metavar="K")
  parser.add_argument(
    "--centers",
    nargs="+",
    default=["bank", "trained"],
    choices=["bank", "bank in bfloat16", "repelling bank", "trained"],
  )
  parser.add_argument("--batch", type=int, default=4096, help="B (default: 4096)")
  parser.add_argument("--dim", type=int, default=512, help="D (default: 512)")
  parser.add_argument("--resnet", action="store_true", help="the step of ResNet-50")
  parser.add_argument("--out", type=Path, help="where to write JSON")
  flags = parser.parse_args(argv)
  try:
    devices = topology.describe(flags.topology)
  except ValueError as error:
    parser.error(str(error))
  machine = f"{flags.topology} ({len(devices)} x {devices[0].device_kind})"
  sizes = f"B={flags.batch}, D={flags.dim}, jax {jax.__version__}"
  print(f"{machine}, {sizes}: compiled, and nothing was run\n")
  rows = []
  if flags.resnet:
    rows.append({"step": "ResNet-50", **plan_resnet(flags.batch, devices)})
    print_row(rows[-1])
  else:
    for num_classes in flags.classes:
      for centers in flags.centers:
        row = {"step": centers, "K": num_classes}
        row |= plan_loss(flags, num_classes, centers, devices)
        rows.append(row)
        print_row(row)
  if flags.out:
    sizes = {"topology": flags.topology, "devices": len(devices), "B": flags.batch}
    flags.out.write_text(
      json.dumps({"jax": jax.__version__, **sizes, "rows": rows}, indent=2)
    )


def plan_loss(flags, num_classes: int, centers: Any, devices: list[Any]) -> dict:
  """A row of the table, for the class-sharded loss; {"error"} if it does not fit."""
  start = time.perf_counter()
  try:
    compiled = compile_step(
      num_classes,
      None,
      rows=flags.batch,
      dim=flags.dim,
      centers=centers,
      devices=devices,
    )
  except jax.errors.JaxRuntimeError as error:
    return {"error": str(error).splitlines()[0]}
  seconds = time.perf_counter() - start
  products = 4 if centers == "trained" else 2
  flops = 2 * products * flags.batch * num_classes * flags.dim / len(devices)
  return {"compile_seconds": round(seconds, 1), **read(compiled, flags, flops)}


def plan_resnet(batch_size: int, devices: list[Any]) -> dict:
  """A row of the table, for the data-parallel step of ResNet-50 with a bank."""
  # These bring the readers of datasets, which the loss does not need.
  from ccl_jax.training import placement, step
  from experiments.run import assemble
  from experiments.run.objective import make_objective

  config = base.replace(sop.get_config(), {"batch_size": batch_size})
  model, optimizer = assemble.make_model(config), assemble.make_optimizer(config)
  objective = make_objective(config, 11318)
  place = placement.with_jit(devices)
  size = config.data.image_size
  key = jax.random.key(0)
  mesh = placement.data_mesh(devices)
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  by_rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  state = jax.eval_shape(
    lambda: step.init_state(
      key, model, objective, optimizer, jnp.zeros((size, size, 3), jnp.uint8)
    )
  )

  def described(shape, dtype, sharding):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  state = jax.tree.map(lambda leaf: described(leaf.shape, leaf.dtype, whole), state)
  batch = {
    "image": described((batch_size, size, size, 3), jnp.uint8, by_rows),
    "label": described((batch_size,), jnp.int32, by_rows),
  }
  start = time.perf_counter()
  train_step = step.make_train_step(model, objective, optimizer, key=key)
  compiled = place.compile_step(train_step).lower(state, batch).compile()
  return {"compile_seconds": round(time.perf_counter() - start, 1), **read(compiled)}


def read(compiled, flags=None, flops: float | None = None) -> dict:
  """What the compiler says of its program: bytes a device, traffic, and time."""
  memory, program = compiled.memory_analysis(), compiled.as_text()
  stays = memory.argument_size_in_bytes
  # Not every compiler knows its peak; without one, all temporaries count.
  outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
  peak = max(memory.peak_memory_in_bytes, stays + outputs + memory.temp_size_in_bytes)
  found = collectives(program)
  row = {
    "stays": stays,
    "in_place": memory.alias_size_in_bytes,
    "beside": peak - stays,
    "peak": peak,
    "moved": sum(c.bytes for c in found if c.devices > 1),
    "collectives": [c._asdict() for c in found if c.devices > 1],
  }
  chip = flags and topology.CHIPS.get(flags.topology.partition(":")[0])
  cycles = modelled_cycles(program)
  if chip and flops and cycles is not None:
    floor = flops / chip.flops_per_cycle
    row["milliseconds"] = round(1000 * cycles / chip.cycles_per_second, 2)
    row["floor_milliseconds"] = round(1000 * floor / chip.cycles_per_second, 2)
    row["times_floor"] = round(cycles / floor, 2)
  return row


TITLES = ["compile s", "stays GB", "in place", "peak", "beside MB", "model ms"]
TITLES += ["x floor", "moved MB"]


def print_row(row: dict) -> None:
  """Prints a row below the titles, then its collectives by kind and shape."""
  print(f"{'step':18}{'K':>12}" + "".join(f"{title:>11}" for title in TITLES))
  name = f"{row['step']:18}{row.get('K', ''):>12}"
  if "error" in row:
    print(f"{name}  does not compile: {row['error']}\n")
    return
  cells = [row["compile_seconds"]]
  cells += [f"{row[part] / 1e9:.3f}" for part in ("stays", "in_place", "peak")]
  cells += [f"{row['beside'] / 1e6:.0f}"]
  cells += [row.get("milliseconds", "-"), row.get("times_floor", "-")]
  cells += [f"{row['moved'] / 1e6:.2f}"]
  print(name + "".join(f"{cell:>11}" for cell in cells))
  kinds = Counter(f"{c['kind']} {c['shape']}" for c in row["collectives"])
  for kind, count in kinds.items():
    print(f"  {count} x {kind}")
  print(flush=True)


if __name__ == "__main__":
  main()
