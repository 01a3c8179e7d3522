"""Times one step of the loss over many classes, in ccl_jax and in its peers.

  python -m experiments.benchmarks.loss --out=loss.json
  python -m experiments.benchmarks.loss --size 256 131072 512
  python -m experiments.benchmarks.loss --size 1024 1000000 512 --dtype=bfloat16  # GPU

All contestants compute the CosFace loss of the same arrays, its gradient in the
embeddings, and a step of the centers: ccl_jax moves its bank, the others take the
gradient in the centers and a step of plain SGD. The first losses are compared before
anything is timed. Contestants take turns, so that a busy machine slows all of them
alike. Beside them stands our bank's step without the loss. The floor is two bare matrix
products of that size, which every exact loss with a gradient needs. Memory is the peak
that a step adds to its arguments, measured in a separate process (Linux, or JAX on an
accelerator). PyTorch uses a GPU too if there is one. Everything is float32, except that
`--dtype` sets the type of our bank, of our products and of the floor. A contestant for
which the memory is not enough says so; `--contestants` and `--no-memory` spare time
where there are many classes.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax import centers, losses, objectives
from ccl_jax.centers import CenterBank
from ccl_jax.vectors import unit

SCALE, MARGIN, MOMENTUM, LEARNING_RATE = 64.0, 0.35, 0.5, 0.1
SIZES = [[128, 11264, 512], [256, 131072, 512]]
FLOOR, OURS, ARCFACE = "two matrix products", "ccl_jax", "ccl_jax, ArcFace"
UPDATE = "its bank's update alone"
# A step returns its loss, or None for the floor, which has no loss.
Step = Callable[[], float | None]


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
    "--size", type=int, nargs=3, action="append", metavar=("B", "K", "D")
  )
  parser.add_argument("--turns", type=int, default=9)
  parser.add_argument("--out", type=Path, help="where to write JSON")
  parser.add_argument(
    "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the bank"
  )
  parser.add_argument(
    "--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS)
  )
  parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
  parser.add_argument("--memory-of", choices=CONTESTANTS, help=argparse.SUPPRESS)
  flags = parser.parse_args(argv)
  if not {FLOOR, OURS} <= set(flags.contestants):
    parser.error(f"--contestants must name {FLOOR!r} and {OURS!r}")
  sizes = flags.size or SIZES
  if flags.memory_of:
    print(step_memory(flags.memory_of, flags.dtype, *sizes[0]))
    return
  results = []
  for size in sizes:
    rows = compare(*size, flags)
    print_table(size, rows)
    sizes_of = dict(zip("BKD", size, strict=True))
    results.append({**sizes_of, "dtype": flags.dtype, "rows": rows})
  if flags.out:
    machine = {
      "cpus": os.cpu_count(),
      "processor": platform.processor() or platform.machine(),
      "load": os.getloadavg(),
      "device": jax.devices()[0].device_kind,
      "jax": jax.__version__,
    }
    flags.out.write_text(json.dumps({"machine": machine, "sizes": results}, indent=2))


def draw(num_rows: int, num_classes: int, dim: int):
  rng = np.random.default_rng(0)
  embeddings = rng.standard_normal((num_rows, dim), np.float32)
  vectors = rng.standard_normal((num_classes, dim), np.float32)
  return embeddings, rng.integers(num_classes, size=num_rows), vectors


def bare_products(dtype, embeddings, labels, vectors) -> Step:
  del labels
  products = jax.jit(lambda z, c: (z @ c.T) @ c)
  arrays = jnp.asarray(embeddings, dtype), jnp.asarray(vectors, dtype)
  products = products.lower(*arrays).compile()

  def step():
    jax.block_until_ready(products(*arrays))

  return step


def with_bank(
  dtype, embeddings, labels, vectors, *, loss=losses.cosface, **over
) -> Step:
  """Value, gradient in the embeddings, and the bank after the batch."""
  loss = partial(loss, scale=SCALE, margin=MARGIN, **over)
  objective = objectives.with_bank(loss, *vectors.shape, momentum=MOMENTUM)

  def train(bank, embeddings, labels):
    def mean_loss(z):
      values, new_bank = objective.apply({}, bank, z, {"label": labels})
      return values.mean(), new_bank

    (value, bank), gradient = jax.value_and_grad(mean_loss, has_aux=True)(embeddings)
    return bank, value, gradient

  return jax_step(train, _bank(dtype, vectors), embeddings, labels)


def _bank(dtype, vectors) -> CenterBank:
  counts = jnp.zeros(len(vectors), jnp.int32)
  return CenterBank(unit(jnp.asarray(vectors)).astype(dtype), counts)


def update_alone(dtype, embeddings, labels, vectors) -> Step:
  """The step of the bank by the default rule, which `with_bank` contains."""

  def train(bank, embeddings, labels):
    return centers.update(bank, embeddings, labels, momentum=MOMENTUM), 0.0, None

  return jax_step(train, _bank(dtype, vectors), embeddings, labels)


def plain_jax(dtype, embeddings, labels, vectors) -> Step:
  """The loss in plain JAX, with trained centers."""

  def train(vectors, embeddings, labels):
    def mean_loss(vectors, z):
      z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
      c = vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)
      logits = SCALE * (z @ c.T - MARGIN * jax.nn.one_hot(labels, len(c)))
      shares = jax.nn.log_softmax(logits)
      return -jnp.take_along_axis(shares, labels[:, None], axis=1).mean()

    value, (by_vectors, gradient) = jax.value_and_grad(mean_loss, (0, 1))(
      vectors, embeddings
    )
    return vectors - LEARNING_RATE * by_vectors, value, gradient

  return jax_step(train, jnp.asarray(vectors), embeddings, labels)


def jax_step(train, state, embeddings, labels) -> Step:
  arrays = jnp.asarray(embeddings), jnp.asarray(labels, jnp.int32)
  train = jax.jit(train, donate_argnums=0).lower(state, *arrays).compile()

  def step():
    nonlocal state
    state, value, gradient = jax.block_until_ready(train(state, *arrays))
    return float(value)

  return step


def plain_torch(dtype, embeddings, labels, vectors) -> Step:
  import torch
  from torch.nn import functional as F

  def loss(z, labels, vectors):
    logits = F.normalize(z) @ F.normalize(vectors).T
    logits = logits - MARGIN * F.one_hot(labels, len(vectors))
    return F.cross_entropy(SCALE * logits, labels)

  vectors = torch.nn.Parameter(torch.from_numpy(vectors).to(torch_device()))
  return torch_step(partial(loss, vectors=vectors), vectors, embeddings, labels)


def pytorch_metric_learning(dtype, embeddings, labels, vectors) -> Step:
  import torch
  from pytorch_metric_learning.losses import CosFaceLoss

  loss = CosFaceLoss(*vectors.shape, margin=MARGIN, scale=SCALE)
  # This library holds the classes as columns.
  columns = torch.from_numpy(vectors.T.copy()).to(torch_device())
  loss.W = torch.nn.Parameter(columns)
  return torch_step(loss, loss.W, embeddings, labels)


def torch_device() -> str:
  import torch

  return "cuda" if torch.cuda.is_available() else "cpu"


def torch_step(loss, vectors, embeddings, labels) -> Step:
  import torch

  torch.set_num_threads(os.cpu_count() or 1)
  z = torch.nn.Parameter(torch.from_numpy(embeddings).to(torch_device()))
  labels = torch.from_numpy(labels).to(torch_device())
  optimizer = torch.optim.SGD([vectors], lr=LEARNING_RATE)

  def step():
    z.grad = None
    optimizer.zero_grad()
    value = loss(z, labels)
    value.backward()
    optimizer.step()
    return value.item()

  return step


CONTESTANTS: dict[str, Callable[..., Step]] = {
  FLOOR: bare_products,
  OURS: lambda dtype, *arrays: with_bank(dtype, *arrays, product_dtype=dtype),
  ARCFACE: lambda dtype, *arrays: with_bank(
    dtype, *arrays, loss=losses.arcface, product_dtype=dtype
  ),
  UPDATE: update_alone,
  "ccl_jax, all at once": partial(with_bank, block_size=2**31),
  "JAX, trained centers": plain_jax,
  "PyTorch": plain_torch,
  "pytorch-metric-learning": pytorch_metric_learning,
}


def compare(
  num_rows: int, num_classes: int, dim: int, flags: argparse.Namespace
) -> dict[str, dict]:
  """A row of the table for each contestant; {"missing"} if it cannot take part."""
  size, dtype = (num_rows, num_classes, dim), flags.dtype
  arrays = draw(*size)
  steps: dict[str, Step] = {}
  first: dict[str, float | None] = {}
  missing: dict[str, str] = {}
  for name in flags.contestants:
    try:
      # A contestant may train the array that it is given.
      step = CONTESTANTS[name](dtype, *(array.copy() for array in arrays))
      first[name], steps[name] = step(), step
    except ImportError:
      missing[name] = "not installed"
      print(f"{name} is not installed: see experiments/benchmarks/requirements.txt")
    except RuntimeError as error:  # of JAX and of PyTorch
      if not re.search("out of memory|RESOURCE_EXHAUSTED", str(error), re.IGNORECASE):
        raise
      missing[name] = "out of memory"
  del arrays
  for name in steps.keys() - {FLOOR, ARCFACE, UPDATE}:  # which compute other functions
    near = 1e-4 if dtype == "float32" else 1e-2
    np.testing.assert_allclose(first[name], first[OURS], rtol=near, err_msg=name)

  start = time.perf_counter()
  steps[FLOOR]()
  repeats = max(1, round(0.1 / (time.perf_counter() - start)))
  times: dict[str, list[float]] = {name: [] for name in steps}
  for _ in range(flags.turns):
    for name, step in steps.items():
      start = time.perf_counter()
      for _ in range(repeats):
        step()
      times[name].append((time.perf_counter() - start) / repeats)
  del steps, step
  medians = {name: statistics.median(values) for name, values in times.items()}
  products = 4 * num_rows * num_classes * dim  # operations of the two products
  return {
    name: {
      "milliseconds": round(1000 * medians[name], 2),
      "fastest_milliseconds": round(1000 * min(times[name]), 2),
      "times_floor": round(medians[name] / medians[FLOOR], 2),
      "times_ours": round(medians[name] / medians[OURS], 2),
      "teraflops": None
      if name == UPDATE  # which has no such products
      else round(products / medians[name] / 1e12, 3),
      "megabytes": memory_in_a_process(name, dtype, size) if flags.memory else None,
    }
    if name in times
    else {"missing": missing[name]}
    for name in flags.contestants
  }


def memory_in_a_process(
  name: str, dtype: str, size: tuple[int, int, int]
) -> float | None:
  on_cpu = jax.default_backend() == "cpu"
  # JAX cannot read PyTorch's memory on a GPU.
  if "orch" in name and not on_cpu or not Path("/proc/self/clear_refs").exists():
    return None
  command = [sys.executable, "-m", "experiments.benchmarks.loss", "--memory-of", name]
  command += ["--size", *map(str, size), f"--dtype={dtype}"]
  output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
  return float(output)


def step_memory(name: str, dtype: str, *size: int) -> float:
  """Megabytes that three steps add, at their peak, to the memory before them."""
  step = CONTESTANTS[name](dtype, *draw(*size))
  if statistics_of := jax.devices()[0].memory_stats():  # an accelerator's
    before = statistics_of["bytes_in_use"]
    for _ in range(3):
      step()
    peak = (jax.devices()[0].memory_stats() or {})["peak_bytes_in_use"]
    return round((peak - before) / 1e6, 1)
  Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the present memory

  def resident(which: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{which}:\s+(\d+) kB", status)[1]) / 1000

  before = resident("VmRSS")
  for _ in range(3):
    step()
  return round(resident("VmHWM") - before, 1)


def print_table(size: list[int], rows: dict[str, dict]) -> None:
  print("\nB={}, K={}, D={}".format(*size))
  titles = ["ms a step", "fastest", "x floor", "x ccl_jax", "TFLOP/s", "MB"]
  print(f"{'':26}" + "".join(f"{title:>12}" for title in titles))
  for name, row in rows.items():
    if "missing" in row:
      print(f"{name:26}{row['missing']:>24}")
      continue
    print(
      f"{name:26}" + "".join(f"{'-' if v is None else v:>12}" for v in row.values())
    )


if __name__ == "__main__":
  main()
