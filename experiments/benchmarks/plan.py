"""The memory that a device needs for very many classes, known before it is rented.

  python -m experiments.benchmarks.plan --out=plan.json
  python -m experiments.benchmarks.plan --size 8 10000000

The command compiles the loss, its gradient in the embeddings and the centers' step for
simulated devices, and prints the memory that the compiler plans for each device: what
stays (the bank, or trained centers and Adam's two moments), and what the step needs in
addition. The model and its activations are not included. The plan is that of XLA for
CPUs; other back ends differ in the temporaries, which are the smaller part.
"""

import argparse
import json
from pathlib import Path

import jax

from experiments.benchmarks.sharded_step import compile_step, simulate_devices

SIZES = [[8, 10**7], [64, 10**8]]


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--size", type=int, nargs=2, action="append", metavar=("DEVICES", "K")
  )
  parser.add_argument("--batch", type=int, default=4096, help="B (default: 4096)")
  parser.add_argument("--dim", type=int, default=512, help="D (default: 512)")
  parser.add_argument("--out", type=Path, help="where to write JSON")
  flags = parser.parse_args()
  sizes = flags.size or SIZES
  simulate_devices(max(devices for devices, _ in sizes))
  print(f"B={flags.batch}, D={flags.dim}, classes over all devices; GB a device\n")
  print(f"{'devices':>7}{'K':>12}  {'centers':18}{'stays':>8}{'step':>8}{'in all':>8}")
  rows = []
  for devices, num_classes in sizes:
    for centers in ("bank in bfloat16", "bank", "trained"):
      memory = compile_step(
        num_classes,
        None,
        rows=flags.batch,
        dim=flags.dim,
        centers=centers,
        devices=jax.devices()[:devices],
      ).memory_analysis()
      # Outputs that do not reuse the memory of the old state.
      new = memory.output_size_in_bytes - memory.alias_size_in_bytes
      row = {
        "devices": devices,
        "K": num_classes,
        "centers": centers,
        "stays": memory.argument_size_in_bytes,
        "step": memory.temp_size_in_bytes + new,
      }
      shown = [row["stays"], row["step"], row["stays"] + row["step"]]
      print(
        f"{devices:>7}{num_classes:>12}  {centers:18}"
        + "".join(f"{value / 1e9:>8.3f}" for value in shown)
      )
      rows.append(row)
  if flags.out:
    sizes = {"B": flags.batch, "D": flags.dim}
    flags.out.write_text(
      json.dumps({"jax": jax.__version__, **sizes, "rows": rows}, indent=2)
    )


if __name__ == "__main__":
  main()
