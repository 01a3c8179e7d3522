"""What one GPU is to be asked, in less than ten minutes of its time.

  python -m experiments.benchmarks.gpu --out=gpu.json
  python -m experiments.benchmarks.gpu --tiny   # tries this command on a CPU

  loss     one step of the loss over 10^6 classes in float32, beside all its peers, and
           over 10^7 in bfloat16, beside two bare products (experiments.benchmarks.loss)
  resnet   images a second of ResNet-50 at 224 px, beside PyTorch's channels-last with
           autocast (experiments.benchmarks.resnet)
  search   60,502 x 60,502 x 512, the test set of Stanford Online Products, 1,000
           neighbors, beside plain JAX and faiss-gpu (experiments.benchmarks.retrieval)
  main     the whole of `experiments.train --config=configs/glyphs.py`

Parts run one after the other in processes of their own. A part that has not ended in
its time, that fails, or that lacks a package is left out with a line that says why, and
the next part runs. The packages: jax[cuda13], and torch, torchvision,
pytorch-metric-learning and faiss-gpu-cu12 for the peers. Further arguments,
--config.FIELD=VALUE, go to the main job.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]


class Part(NamedTuple):
  """One measurement: a module of this project, and how its JSON is read."""

  seconds: int  # at most
  module: str
  arguments: list[str]
  tiny: list[str]  # arguments that replace those, to try the command on a CPU
  out: str  # the argument for what it writes
  rows: Callable[[Path, float], list[Row]]  # (what it wrote, seconds) -> rows


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
  parser.add_argument("--tiny", action="store_true", help="sizes for a CPU")
  parser.add_argument("--out", type=Path, help="where to write JSON")
  flags, config = parser.parse_known_args(argv)
  if unknown := [word for word in config if not word.startswith("--config.")]:
    parser.error(f"unknown arguments: {' '.join(unknown)}")
  device = ask_for_device()
  if device["platform"] != "gpu" and not flags.tiny:
    parser.error(f"expected a GPU, but JAX finds {device['kind']}; --tiny needs none")
  print(f"{device['kind']}, jax {device['jax']}", flush=True)
  rows: list[Row] = []
  for name in flags.parts:
    found = run_part(PARTS[name], flags.tiny, config if name == "main" else [])
    for row in found:
      rows.append({"part": name, **row})
      print(as_line(rows[-1]), flush=True)
  if flags.out:
    machine = {**device, "cpus": os.cpu_count(), "processor": platform.machine()}
    told = {"machine": machine, "tiny": flags.tiny, "rows": rows}
    flags.out.write_text(json.dumps(told, indent=2) + "\n")


def ask_for_device() -> dict[str, str]:
  """What JAX finds, asked by another process: this one is to hold no GPU's memory."""
  program = "import jax, json; d = jax.devices()[0]; print(json.dumps({'platform': "
  program += "d.platform, 'kind': d.device_kind, 'jax': jax.__version__}))"
  command = [sys.executable, "-c", program]
  told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
  return json.loads(told.splitlines()[-1])


def run_part(part: Part, tiny: bool, config: list[str]) -> list[Row]:
  """The rows of a part; or one row that says why there are none."""
  with tempfile.TemporaryDirectory() as folder:
    out = Path(folder, "out")
    command = [sys.executable, "-m", part.module, f"{part.out}={out}"]
    command += [*(part.tiny if tiny else part.arguments), *config]
    start = time.perf_counter()
    limit = part.seconds * (10 if tiny else 1)  # a CPU may be busy
    # PyTorch's memory and that of several processes is not JAX's to take beforehand.
    process = subprocess.Popen(
      command,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
      env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    )
    try:
      errors = process.communicate(timeout=limit)[1]
    except subprocess.TimeoutExpired:
      os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
      process.communicate()
      return [{"missing": f"not ended after {limit} s"}]
    if process.returncode:
      last = errors.strip().rpartition("\n")[2] or f"exit code {process.returncode}"
      return [{"missing": f"failed: {last}"}]
    return part.rows(out, time.perf_counter() - start)


def of_loss(out: Path, seconds: float) -> list[Row]:
  del seconds
  (size,) = json.loads(out.read_text())["sizes"]
  what = f"B={size['B']}, K={size['K']:,}, {size['dtype']}"
  return [
    {"what": f"{what}: {name}"}
    | (
      {"missing": row["missing"]}
      if "missing" in row
      else {
        "value": row["milliseconds"],
        "unit": "ms a step",
        "times_ours": row["times_ours"],
        "times_floor": row["times_floor"],
      }
    )
    for name, row in size["rows"].items()
  ]


def of_resnet(out: Path, seconds: float) -> list[Row]:
  del seconds
  read = json.loads(out.read_text())
  ours = read["rows"]["ccl_jax"]["images_per_second"]
  rows = []
  for name, row in read["rows"].items():
    rows.append({"what": f"{read['network']}, batch {read['batch']}: {name}"})
    if "missing" in row:
      rows[-1]["missing"] = row["missing"]
      continue
    speed = row["images_per_second"]
    rows[-1] |= {"value": speed, "unit": "images/s", "times_ours": speed / ours}
  return rows


def of_search(out: Path, seconds: float) -> list[Row]:
  del seconds
  read = json.loads(out.read_text())["results"]
  ours = next(row["seconds"] for row in read if row["contestant"] == "ccl_jax")
  rows = []
  for row in read:
    rows.append({"what": f"{row['rows']:,} rows, k={row['k']}: {row['contestant']}"})
    if "seconds" not in row:
      rows[-1]["missing"] = "not installed"
      continue
    rows[-1] |= {"value": row["seconds"], "unit": "s"}
    rows[-1] |= {"times_ours": row["seconds"] / ours, "agreement": row["agreement"]}
  return rows


def of_main(out: Path, seconds: float) -> list[Row]:
  result = json.loads((out / "result.json").read_text())
  what = f"recall@1 {result['recall@1']:.3f}, map@r {result['map@r']:.3f}"
  return [{"what": what, "value": seconds, "unit": "s in all"}]


_LOSS = "experiments.benchmarks.loss"
_FEW = ["--contestants", "two matrix products", "ccl_jax", "ccl_jax, ArcFace"]
_MAIN = ["--config=configs/glyphs.py"]
# Together less than ten minutes, which is why no memory is measured: that takes every
# contestant a second process, and `plan` has the compiler's word on it.
PARTS = {
  "loss": Part(
    110,
    _LOSS,
    ["--size", "1024", "1000000", "512", "--turns=3", "--no-memory"],
    ["--size", "8", "96", "16", "--turns=1", "--no-memory"],
    "--out",
    of_loss,
  ),
  "loss of 10^7": Part(
    190,  # a minute of which draws the numbers
    _LOSS,
    ["--size", "1024", "10000000", "512", "--turns=3", "--dtype=bfloat16"]
    + ["--no-memory", *_FEW],
    ["--size", "8", "96", "16", "--turns=1", "--dtype=bfloat16", "--no-memory", *_FEW],
    "--out",
    of_loss,
  ),
  "resnet": Part(
    120,
    "experiments.benchmarks.resnet",
    ["--batch=256"],
    ["--batch=2", "--side=32", "--network=resnet18", "--steps=1", "--turns=1"],
    "--out",
    of_resnet,
  ),
  "search": Part(
    70,
    "experiments.benchmarks.retrieval",
    ["--rows=60502", "--dim=512", "--k", "1000", "--repeats=1"]
    + ["--contestants", "ccl_jax", "plain JAX", "faiss-gpu"],
    ["--rows=600", "--dim=8", "--k", "5", "--repeats=1"]
    + ["--contestants", "ccl_jax", "faiss-gpu"],
    "--out",
    of_search,
  ),
  "main": Part(100, "experiments.train", _MAIN, _MAIN, "--workdir", of_main),
}


def as_line(row: Row) -> str:
  """One line of the table."""
  start = f"{row['part']:13}{row.get('what', ''):58}"
  if "missing" in row:
    return f"{start}{row['missing']}"
  times = f"{row['times_ours']:>8.2f} x ours" if "times_ours" in row else ""
  times += f"{row['times_floor']:>8.2f} x floor" if "times_floor" in row else ""
  return f"{start}{row['value']:>12,.2f} {row['unit']:10}{times}"


if __name__ == "__main__":
  main()
