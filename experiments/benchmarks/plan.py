"""What the compiler of a TPU or GPU pod makes of a step, known before one is rented.

  python -m experiments.benchmarks.plan --topology=v5e:4x4 --classes 10000000
  python -m experiments.benchmarks.plan --topology=v5e:4x4 --resnet --batch=1024
  python -m experiments.benchmarks.plan --topology=h100:8 --centers bank \
    --results=experiments/results/plan --write experiments/benchmarks/README.md

The command compiles ahead of time for a machine that is only described, so that it
needs the machine's compiler and no machine (see `topology.py`); cpu:8 simulates eight
devices. It compiles the class-sharded loss, its gradient in the embeddings and the
centers' step, without a model; or with --resnet the whole data-parallel step of
ResNet-50 at 224 px (configs/sop.py). --results stores the rows, and compiles none that
is stored already; --write puts their table into the pages that ask for it, and needs no
--topology.

Nothing is run. Bytes are those of one device, in the compiler's plan: what stays (the
bank, or trained centers and Adam's two moments), how much of that is written in place,
and what a step needs beside it at its peak. A step whose centers alone are more than a
device holds is not compiled. The time is the model of a TPU's compiler, for computation
alone; the floor is the time of the loss's matrix products, two for a bank and four for
trained centers, or of ResNet-50's convolutions, at the chip's peak in bfloat16.
"""

import argparse
import importlib.metadata
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ccl_jax.training import placement
from experiments.benchmarks import resnet, topology
from experiments.benchmarks.collectives import collectives
from experiments.benchmarks.cycles import modelled_cycles
from experiments.benchmarks.sharded_step import compile_step
from experiments.comparison import pages, store
from experiments.run import command_line

STUDY = "pods"
CENTERS = ["bank", "bank in bfloat16", "repelling bank", "trained"]
RESNET = "ResNet-50"
# Operations of a step for one image at 224 px: 4.1e9 multiply-adds forward (He et al.,
# 2016, Table 1 has 3.8e9, of the version whose stride is in the first convolution of a
# block), and twice as many backward.
RESNET_FLOPS = 3 * 2 * 4.1e9


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--topology", help="v5e:4x4, h100:8, cpu:8, ...")
  parser.add_argument("--classes", type=int, nargs="+", default=[10**7], metavar="K")
  parser.add_argument(
    "--centers", nargs="+", default=["bank", "trained"], choices=CENTERS
  )
  parser.add_argument("--batch", type=int, default=4096, help="B (default: 4096)")
  parser.add_argument("--dim", type=int, default=512, help="D (default: 512)")
  parser.add_argument("--resnet", action="store_true", help="the step of ResNet-50")
  parser.add_argument("--results", type=Path, help="folder where rows are stored")
  parser.add_argument(
    "--code",
    default="now",
    choices=["now", "before"],
    help="name of the library's code",
  )
  parser.add_argument(
    "--write", type=Path, nargs="+", help="pages whose table is made anew"
  )
  flags = parser.parse_args(argv)
  if not flags.topology and not (flags.write and flags.results):
    parser.error("expected --topology, or --results with --write")
  path = flags.results / f"{STUDY}.jsonl" if flags.results else None
  if flags.topology:
    try:
      devices = topology.describe(flags.topology)
    except ValueError as error:
      parser.error(str(error))
    with command_line.exit_on_bad_input():
      stored = store.read(path) if path else []
    plan_all(flags, devices, stored, path)
  if flags.write:
    with command_line.exit_on_bad_input():
      shown = table(store.read(path))
      pages.write_study(flags.write, flags.results.name, STUDY, shown)


def plan_all(
  flags, devices: list[Any], stored: Sequence[store.Result], path: Path | None
) -> None:
  """Compiles every step that the flags ask for, prints it, and stores it in `path`."""
  machine = f"{flags.topology} ({len(devices)} x {devices[0].device_kind})"
  sizes = f"B={flags.batch}, D={flags.dim}, jax {jax.__version__}"
  print(f"{machine}, {sizes}: compiled, and nothing was run\n")
  asked = [(name, K) for K in flags.classes for name in flags.centers]
  if flags.resnet:
    asked = [(RESNET, resnet.CLASSES)]
  done = {identity(row) for row in stored}
  for name, num_classes in asked:
    row = {
      "topology": flags.topology,
      "devices": len(devices),
      "step": name,
      "B": flags.batch,
      "K": num_classes,
      "code": flags.code,
      "config": {"dim": flags.dim},
      "versions": versions(),
    }
    if identity(row) in done:
      print(f"{name}, K={num_classes}: stored already")
      continue
    if flags.resnet:
      row |= plan_resnet(flags, devices)
    else:
      row |= plan_loss(flags, num_classes, name, devices)
    print_row(row)
    if path:
      store.append(path, row)


def identity(row: store.Result) -> tuple:
  """What two rows of one table differ in."""
  names = "topology", "step", "B", "K", "code"
  return *(row[name] for name in names), row["config"]["dim"]


def versions() -> dict[str, str]:
  """The compilers' versions, of those that are installed."""
  found = {"jax": jax.__version__}
  for name in ("libtpu", "jax-cuda13-plugin"):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def plan_loss(flags, num_classes: int, centers: Any, devices: list[Any]) -> dict:
  """A row of the table, for the class-sharded loss; {"error"} if it does not fit."""
  copies = 3 if centers == "trained" else 1  # trained: Adam's two moments too
  width = 2 if centers == "bank in bfloat16" else 4
  stays = copies * width * flags.dim * -(-num_classes // len(devices))
  chip = topology.chip_of(flags.topology)
  if chip and stays > chip.memory:
    return {"error": f"{size(stays)} stay on a device of {size(chip.memory)}"}
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
  return {"compile_seconds": round(seconds, 1), **read(compiled, chip, flops)}


def plan_resnet(flags, devices: list[Any]) -> dict:
  """A row of the table, for the data-parallel step of ResNet-50 with a bank."""
  config = resnet.make_config(flags.batch)
  init, train_step = resnet.make_step(config)
  place, mesh = placement.with_jit(devices), placement.data_mesh(devices)
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  by_rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))

  def described(shape, dtype, sharding):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  state = jax.tree.map(
    lambda leaf: described(leaf.shape, leaf.dtype, whole), jax.eval_shape(init)
  )
  side = config.data.image_size
  batch = {
    "image": described((flags.batch, side, side, 3), jnp.uint8, by_rows),
    "label": described((flags.batch,), jnp.int32, by_rows),
  }
  start = time.perf_counter()
  compiled = place.compile_step(train_step).lower(state, batch).compile()
  seconds = round(time.perf_counter() - start, 1)
  chip, flops = topology.chip_of(flags.topology), RESNET_FLOPS * flags.batch
  return {"compile_seconds": seconds, **read(compiled, chip, flops / len(devices))}


def read(compiled, chip: topology.Chip | None, flops: float) -> dict:
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
  if chip:
    row["memory"] = chip.memory
  cycles = modelled_cycles(program)
  if chip and chip.flops_per_cycle and cycles is not None:
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


COLUMNS = ["machine", "step", "B", "K", "stays, GB", "beside, MB", "received, MB"]
COLUMNS += ["model, ms", "x floor"]
COLUMNS += [f"before: {title}" for title in ("beside, MB", "model, ms", "x floor")]


def table(stored: Sequence[store.Result]) -> str:
  """Today's rows by machine, step and classes, and beside them those of before."""
  before = {identity({**row, "code": "now"}): row for row in stored if is_before(row)}
  kinds, steps = [*topology.CHIPS, "cpu"], [*CENTERS, RESNET]
  rows = sorted(
    (row for row in stored if not is_before(row)),
    key=lambda row: (
      kinds.index(row["topology"].partition(":")[0]),
      row["devices"],
      steps.index(row["step"]),
      row["K"],
      row["B"],
    ),
  )
  lines = ["| " + " | ".join(COLUMNS) + " |", "| --- " * len(COLUMNS) + "|"]
  for row in rows:
    cells = [row["topology"], row["step"], f"{row['B']:,}", f"{row['K']:,}"]
    cells += cells_of(row, ("stays", "beside", "moved", *TIMES))
    cells += cells_of(before.get(identity(row)), ("beside", *TIMES))
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines)


TIMES = "milliseconds", "times_floor"


def size(count: float) -> str:
  return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


def is_before(row: store.Result) -> bool:
  return row["code"] == "before"


def cells_of(row: store.Result | None, fields: Sequence[str]) -> list[str]:
  """Cells of a row, where it was compiled; one that does not fit says so at first."""
  empty = [""] * (len(fields) - 1)
  if row is None:
    return ["", *empty]
  if "error" in row:
    return [f"does not fit: {row['error']}", *empty]
  scales = {"stays": (1e9, 2), "beside": (1e6, 0), "moved": (1e6, 1)}
  scales |= {"milliseconds": (1, 1), "times_floor": (1, 2)}
  cells = []
  for field in fields:
    scale, digits = scales[field]
    cells.append(f"{row[field] / scale:,.{digits}f}" if field in row else "no model")
  if row["peak"] > row.get("memory", row["peak"]):
    cells[fields.index("beside")] += f", does not fit in {size(row['memory'])}"
  return cells


if __name__ == "__main__":
  main()
