"""A step of a head on many stored embeddings, beside pytorch-metric-learning's.

  python -m experiments.benchmarks.features

Writes random embeddings to a file in a temporary folder, and trains the same linear
head with ArcFace over trained class vectors in both: batches drawn at random from the
mapped file, AdamW for the head and Adam for the class vectors. Each side runs in a
process of its own, in turns; the medians over the steps after the first ten, and the
largest resident memory of the process, mapped pages of the file included, are printed.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BATCH, DIM, WARM = 256, 128, 10


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rows", type=int, default=500_000)
  parser.add_argument("--width", type=int, default=768)
  parser.add_argument("--classes", type=int, default=50_000)
  parser.add_argument("--steps", type=int, default=60)
  parser.add_argument("--rounds", type=int, default=2)
  parser.add_argument("--side", choices=("jax", "torch"), help="one side alone")
  parser.add_argument("--folder", type=Path, help="where the embeddings are")
  args = parser.parse_args()
  if args.side:
    measure = by_jax if args.side == "jax" else by_torch
    seconds = measure(args.folder, args.classes, args.steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    told = {"ms": 1e3 * statistics.median(seconds[WARM:]), "peak_gb": peak / 1e9}
    print(json.dumps(told))
    return
  with tempfile.TemporaryDirectory() as name:
    write(Path(name), args.rows, args.width, args.classes)
    for _ in range(args.rounds):
      for side in ("jax", "torch"):
        command = [sys.executable, "-m", "experiments.benchmarks.features"]
        command += [*sys.argv[1:], f"--side={side}", f"--folder={name}"]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        told = json.loads(run.stdout.splitlines()[-1])
        print(f"{side}: {told['ms']:.1f} ms a step, {told['peak_gb']:.2f} GB at most")


def write(folder: Path, rows: int, width: int, classes: int) -> None:
  """Random embeddings, a part at a time, with classes of equal size."""
  rng = np.random.default_rng(0)
  file = folder / "embeddings.npy"
  stored = np.lib.format.open_memmap(file, "w+", np.float32, (rows, width))
  for start in range(0, rows, 10_000):
    part = stored[start : start + 10_000]
    part[:] = rng.standard_normal(part.shape, np.float32)
  stored.flush()
  np.save(folder / "labels.npy", np.arange(rows) % (2 * classes))
  split = np.where(np.arange(rows) % (2 * classes) < classes, "train", "test")
  np.save(folder / "split.npy", split)


def by_jax(folder: Path, classes: int, steps: int) -> list[float]:
  """Seconds of each step by a run of this project."""
  from configs import base, features
  from experiments.run import assemble, datasets

  config = base.replace(
    features.get_config(),
    {
      "batch_size": BATCH,
      "steps": steps,
      "data.features": str(folder),
      "data.validation_fraction": 0.0,
      "loss.name": "arcface",
      "loss.centers": "trained",
      "model.dim": DIM,
    },
  )
  data = datasets.load_data(config)
  assert data.train.num_classes == classes
  run = assemble.make_run(config, data)
  seconds, start = [], time.perf_counter()
  for step in assemble.steps(run, config, data):
    step.metrics["loss"].block_until_ready()
    seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
  return seconds


def by_torch(folder: Path, classes: int, steps: int) -> list[float]:
  """Seconds of each step by PyTorch and pytorch-metric-learning."""
  import torch
  from pytorch_metric_learning.losses import ArcFaceLoss

  embeddings = np.load(folder / "embeddings.npy", mmap_mode="r")
  labels = np.load(folder / "labels.npy")
  rows = np.flatnonzero(np.load(folder / "split.npy") == "train")
  order = np.random.default_rng(0).permutation(rows)
  head = torch.nn.Linear(embeddings.shape[1], DIM)
  loss_fn = ArcFaceLoss(classes, DIM)
  optimizers = [
    torch.optim.AdamW(head.parameters(), 1e-3, weight_decay=0.02),
    torch.optim.Adam(loss_fn.parameters(), 0.03),
  ]
  seconds, start = [], time.perf_counter()
  for step in range(steps):
    taken = order[step * BATCH : (step + 1) * BATCH]
    batch = torch.nn.functional.normalize(torch.from_numpy(embeddings[taken]))
    batch = batch * embeddings.shape[1] ** 0.5
    loss = loss_fn(head(batch), torch.from_numpy(labels[taken]))
    for optimizer in optimizers:
      optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
      optimizer.step()
    loss.item()
    seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
  return seconds


if __name__ == "__main__":
  main()
