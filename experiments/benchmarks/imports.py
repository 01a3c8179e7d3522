"""How long `import ccl_jax` takes beside `import jax`, each in processes of its own.

  python -m experiments.benchmarks.imports

The two and numpy take turns, and the fastest of each counts, since a busy machine only
adds time.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.run import command_line

ROOT = Path(__file__).parents[2]
PACKAGES = ("numpy", "jax", "ccl_jax", "ccl_jax.models")
TIMED = """
import importlib, sys, time
start = time.perf_counter()
importlib.import_module(sys.argv[1])
print(time.perf_counter() - start)
"""


def main(argv: Sequence[str] | None = None) -> None:
  parser = command_line.parser("benchmarks.imports", __doc__ or "")
  parser.add_argument("--rounds", type=int, default=5, help="of each (default: 5)")
  args = parser.parse_args(argv)
  seconds: dict[str, list[float]] = {package: [] for package in PACKAGES}
  for _ in range(args.rounds):
    for package in PACKAGES:
      seconds[package].append(time_of(package))
  for package in PACKAGES:
    print(f"import {package}: {min(seconds[package]):.2f} s")


def time_of(package: str) -> float:
  """Seconds of one import in a fresh process."""
  command = [sys.executable, "-c", TIMED, package]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
  return float(done.stdout)


if __name__ == "__main__":
  main()
