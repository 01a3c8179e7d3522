"""The bytes that a class-sharded step moves between devices, by classes and mesh.

  python -m experiments.benchmarks.communication --out=communication.json

The command compiles the loss, its gradient in the embeddings and the centers' step for
eight simulated devices, and reads every collective from the program. Bytes are those
that one device receives in a step, by a ring; B x D is the size of the global batch in
float32. Nothing is run, so that many classes need no memory.
"""

import argparse
import json
from pathlib import Path

import jax

from experiments.benchmarks.collectives import collectives
from experiments.benchmarks.sharded_step import compile_step, simulate_devices

DEVICES = 8


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--batch", type=int, default=1024, help="B (default: 1024)")
  parser.add_argument("--dim", type=int, default=512, help="D (default: 512)")
  parser.add_argument(
    "--classes", type=int, nargs="+", default=[10**4, 10**6], metavar="K"
  )
  parser.add_argument("--out", type=Path, help="where to write JSON")
  flags = parser.parse_args()
  simulate_devices(DEVICES)
  batch_bytes = 4 * flags.batch * flags.dim
  print(f"B={flags.batch}, D={flags.dim}: B x D is {batch_bytes / 1e6:.2f} MB\n")
  print(f"{'centers':15}{'mesh':>6}{'K':>10}{'with D, MB':>12}{'x B x D':>9}", end="")
  print(f"{'rest, MB':>10}  collectives of an array with D")
  results = []
  for centers in ("bank", "repelling bank", "trained"):
    for shards in (8, 4, 2, 1):
      for num_classes in flags.classes:
        program = compile_step(
          num_classes, shards, rows=flags.batch, dim=flags.dim, centers=centers
        ).as_text()
        found = collectives(program)
        with_dim = [c for c in found if f",{flags.dim}]" in c.shape]
        moved = sum(c.bytes for c in with_dim)
        rest = sum(c.bytes for c in found) - moved
        mesh = f"{DEVICES // shards}x{shards}"
        print(
          f"{centers:15}{mesh:>6}{num_classes:>10}{moved / 1e6:>12.2f}"
          f"{moved / batch_bytes:>9.2f}{rest / 1e6:>10.3f}  "
          + ", ".join(f"{c.kind} {c.shape}" for c in with_dim if c.devices > 1)
        )
        results.append(
          {
            "centers": centers,
            "mesh": mesh,
            "K": num_classes,
            "bytes_with_dim": moved,
            "bytes_rest": rest,
            "collectives": [c._asdict() for c in found],
          }
        )
  if flags.out:
    sizes = {"B": flags.batch, "D": flags.dim, "devices": DEVICES}
    flags.out.write_text(
      json.dumps({"jax": jax.__version__, **sizes, "rows": results}, indent=2)
    )


if __name__ == "__main__":
  main()
