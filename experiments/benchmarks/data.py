"""Photographs a second, decoded and augmented to 224 px: ccl_jax, and plain loaders.

  python -m experiments.benchmarks.data --out=data.json

The photographs are JPEG files made from the two that scikit-learn ships, in the sizes
of CUB-200-2011 (500 x 375) and of a phone (1600 x 1200). Every contestant cuts a random
box, resizes it, may mirror it, and stacks batches. The Pillow loader is the obvious
program: the same steps for each image, in a pool of threads or processes that works one
batch ahead. The torchvision loader, with PyTorch's DataLoader, runs if it is installed.

Each contestant has its own group of processes, and contestants take turns, so that a
busy machine slows all of them alike. Between its turns a group is stopped; otherwise it
would read ahead during the turns of others. Numbers are medians of the turns. A POSIX
system is needed.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import math
import multiprocessing
import os
import platform
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent import futures
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ccl_jax.data import pipeline, views
from ccl_jax.data.examples import Examples
from ccl_jax.data.sources import folder

SIZES = {"500 x 375": (500, 375), "1600 x 1200": (1600, 1200)}
FILES, SIZE, BATCH = 32, 224, 32  # photographs per size; pixels; images in a batch
# Batches in a turn: several times those that ccl_jax works on at once (8 in threads, up
# to 16 with two workers), since they finish at about the same time.
BATCHES = 32
CORES = os.cpu_count() or 1


def write_photographs(root: Path) -> None:
  """Writes different cuts of two photographs in each size."""
  from sklearn.datasets import load_sample_images

  photographs = [Image.fromarray(image) for image in load_sample_images().images]
  rng = np.random.default_rng(0)
  for name, size in SIZES.items():
    (root / name).mkdir()
    for number in range(FILES):
      whole = photographs[number % 2]
      left, top = rng.integers(0, 100, 2)
      cut = whole.crop((left, top, left + 420, top + 315))
      cut.resize(size, Image.Resampling.BICUBIC).save(
        root / name / f"{number}.jpg", quality=90
      )


def examples_of(root: Path) -> Examples:
  return folder.unlabeled(root, image_size=SIZE)


def with_ccl_jax(root: Path, view: views.View, workers: int) -> Iterator:
  crop = partial(views.random_resized_crop, size=SIZE)
  return endless(
    lambda seed: pipeline.train_batches(
      repeated(examples_of(root)),
      batch_size=BATCH,
      seed=seed,
      view=view,
      crop=crop,
      num_workers=workers,
    )
  )


def repeated(examples: Examples) -> Examples:
  """Repeats the examples until they fill a batch."""
  rows = np.arange(BATCH) % len(examples)
  return Examples(
    source=examples.source,
    indices=examples.indices[rows],
    labels=examples.labels[rows],
    class_names=examples.class_names,
    image_size=examples.image_size,
  )


def endless(make) -> Iterator:
  return itertools.chain.from_iterable(make(seed) for seed in itertools.count())


def load_with_pillow(path: str) -> np.ndarray:
  """One image, cut, resized and mirrored; the box is drawn as torchvision draws it."""
  with Image.open(path) as opened:
    picture = opened.convert("RGB")
  width, height = picture.size
  while True:
    area = width * height * random.uniform(0.2, 1)
    ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
    across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if across <= width and down <= height:
      break
  left, top = random.randint(0, width - across), random.randint(0, height - down)
  picture = picture.crop((left, top, left + across, top + down))
  picture = picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
  return np.asarray(ImageOps.mirror(picture) if random.random() < 0.5 else picture)


def with_pillow(root: Path, pool: futures.Executor) -> Iterator:
  """Batches from a pool that always works one batch ahead."""
  paths = sorted(map(str, root.iterdir()))

  def batches():
    order = itertools.cycle(paths)
    while True:
      yield [pool.submit(load_with_pillow, next(order)) for _ in range(BATCH)]

  ahead = batches()
  waiting = [next(ahead), next(ahead)]
  while True:
    yield np.stack([future.result() for future in waiting.pop(0)])
    waiting.append(next(ahead))


def with_torchvision(root: Path) -> Iterator:
  import torch
  from torchvision import transforms  # pyright: ignore[reportMissingImports]

  change = transforms.Compose(
    [
      transforms.RandomResizedCrop(SIZE, scale=(0.2, 1)),
      transforms.RandomHorizontalFlip(),
      transforms.PILToTensor(),
    ]
  )
  paths = sorted(map(str, root.iterdir())) * (BATCH * BATCHES)

  class Photographs(torch.utils.data.Dataset):
    def __len__(self):
      return len(paths)

    def __getitem__(self, index):
      with Image.open(paths[index]) as opened:
        return change(opened.convert("RGB"))

  loader = torch.utils.data.DataLoader(
    Photographs(), BATCH, shuffle=True, num_workers=CORES
  )
  return endless(lambda _: loader)


CONTESTANTS = {
  "ccl_jax, threads": lambda root: with_ccl_jax(root, views.flip, 0),
  f"ccl_jax, {CORES} workers": lambda root: with_ccl_jax(root, views.flip, CORES),
  "ccl_jax, threads, with colors": lambda root: with_ccl_jax(
    root, views.chain(views.flip, views.color_jitter, views.gray), 0
  ),
  f"Pillow, {CORES} threads": lambda root: with_pillow(
    root, futures.ThreadPoolExecutor(CORES)
  ),
  f"Pillow, {CORES} processes": lambda root: with_pillow(
    root, futures.ProcessPoolExecutor(CORES)
  ),
  f"torchvision, {CORES} processes": with_torchvision,
}


class Contestant:
  """A loader in a process of its own, which waits between its turns."""

  def __init__(self, name: str, root: Path):
    context = multiprocessing.get_context("spawn")
    self._pipe, theirs = context.Pipe()
    self._process = context.Process(target=serve, args=(name, root, theirs))
    self._process.start()
    self._pipe.recv()  # the process now leads a group
    self.take(BATCHES)  # starts the workers

  def take(self, batches: int) -> float:
    """Loads that many batches; returns the seconds they took."""
    self._signal(signal.SIGCONT)
    self._pipe.send(batches)
    seconds = self._pipe.recv()
    self._signal(signal.SIGSTOP)
    return seconds

  def close(self) -> None:
    self._signal(signal.SIGKILL)
    self._process.join()

  def _signal(self, number: int) -> None:
    assert self._process.pid is not None
    os.killpg(self._process.pid, number)


def serve(name: str, root: Path, pipe) -> None:
  os.setpgid(0, 0)
  pipe.send("ready")
  batches = CONTESTANTS[name](root)
  with contextlib.suppress(EOFError):
    while True:
      count = pipe.recv()
      start = time.perf_counter()
      for _ in range(count):
        next(batches)
      pipe.send(time.perf_counter() - start)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--out", type=Path, help="where to write JSON")
  parser.add_argument("--turns", type=int, default=5, help="of each contestant")
  parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
  args = parser.parse_args()
  names = list(CONTESTANTS)
  if importlib.util.find_spec("torchvision") is None:
    print("torchvision is not installed: left out")
    names.pop()
  rows = {}
  with tempfile.TemporaryDirectory() as folder_name:
    write_photographs(Path(folder_name))
    for size in args.sizes:
      rows[size] = rates(names, Path(folder_name, size), args.turns)
  report(rows, args.out)


def rates(names: list[str], root: Path, turns: int) -> dict[str, list[float]]:
  """Images a second of every contestant in every turn."""
  contestants: dict[str, Contestant] = {}
  measured: dict[str, list[float]] = {name: [] for name in names}
  try:
    for name in names:
      contestants[name] = Contestant(name, root)
    for _ in range(turns):
      for name, contestant in contestants.items():
        measured[name].append(BATCHES * BATCH / contestant.take(BATCHES))
  finally:
    for contestant in contestants.values():
      contestant.close()
  return measured


def report(rows: dict[str, dict[str, list[float]]], out: Path | None) -> None:
  """Prints a table, and writes the same as JSON."""
  print(f"{'images/s, median (best)':32}" + "".join(f"{size:>22}" for size in rows))
  for name in next(iter(rows.values())):
    cells = [
      f"{statistics.median(of[name]):.0f} ({max(of[name]):.0f})" for of in rows.values()
    ]
    print(f"{name:32}" + "".join(f"{cell:>22}" for cell in cells))
  if out:
    machine = {"cpus": CORES, "processor": platform.processor() or platform.machine()}
    out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
  main()
