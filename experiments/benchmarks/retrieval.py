"""Times exact cosine search among all rows in ccl_jax, plain JAX and faiss.

  python -m experiments.benchmarks.retrieval --rows=20000 --dim=512 --k 100 1000

Seconds are the best of --repeats. CPU s is the time of all cores together in that run,
which a busy machine distorts less. Each contestant runs in a process of its own, after
a warm-up that compiles, and contestants take turns. Peak memory is what a search adds
to the process that holds the embeddings, including the code of the library. Agreement
is the share of the neighbors of 64 rows that float64 NumPy finds too; random embeddings
have near ties, so that rounding alone makes it a little less than 1.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Search = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
CHECKED_ROWS = 64


def with_ccl_jax(queries: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
  from ccl_jax import retrieval

  if queries is gallery:
    return retrieval.search(gallery, k=k)[1]
  return retrieval.search(queries, gallery, k=k)[1]


def with_plain_jax(queries: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
  """The obvious program: a product and a top_k, by blocks of queries."""
  import jax
  import jax.numpy as jnp

  @jax.jit
  def nearest(block, gallery):
    return jax.lax.top_k(block @ gallery.T, k + 1)[1]

  gallery_on_device = jnp.asarray(gallery)
  starts = range(0, len(queries), 512)
  blocks = [nearest(queries[a : a + 512], gallery_on_device) for a in starts]
  return np.concatenate(blocks)[:, 1:]


def with_faiss(queries: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
  import faiss  # pyright: ignore[reportMissingImports]

  index = faiss.IndexFlatIP(gallery.shape[1])
  index.add(gallery)
  return index.search(queries, k + 1)[1][:, 1:]


def with_faiss_gpu(queries: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
  import faiss  # pyright: ignore[reportMissingImports]

  index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(gallery.shape[1]))
  index.add(gallery)
  return index.search(queries, k + 1)[1][:, 1:]


CONTESTANTS: dict[str, Search] = {
  "ccl_jax": with_ccl_jax,
  "plain JAX": with_plain_jax,
  "faiss-cpu": with_faiss,
  "faiss-gpu": with_faiss_gpu,
}


def is_installed(name: str) -> bool:
  """Whether a contestant's package is there, and for faiss-gpu a GPU that it sees."""
  if not name.startswith("faiss"):
    return True
  if importlib.util.find_spec("faiss") is None:
    return False
  import faiss  # pyright: ignore[reportMissingImports]

  return name == "faiss-cpu" or getattr(faiss, "get_num_gpus", lambda: 0)() > 0


def random_embeddings(rows: int, dim: int) -> np.ndarray:
  embeddings = np.random.default_rng(0).standard_normal((rows, dim), np.float32)
  return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def agreement(embeddings: np.ndarray, found: np.ndarray) -> float:
  k = found.shape[1]
  exact = embeddings[:CHECKED_ROWS].astype(np.float64) @ embeddings.T.astype(np.float64)
  np.fill_diagonal(exact, -np.inf)
  expected = np.argpartition(-exact, k - 1, axis=1)[:, :k]
  return float(
    np.mean([np.isin(*pair).mean() for pair in zip(found, expected, strict=True)])
  )


def measure(name: str, rows: int, dim: int, k: int) -> dict[str, float]:
  """Times one search; to be called in a fresh process."""
  embeddings, search = random_embeddings(rows, dim), CONTESTANTS[name]
  kib_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  search(embeddings[:1024], embeddings, k)
  started, cpu_started = time.perf_counter(), time.process_time()
  found = search(embeddings, embeddings, k)
  seconds = time.perf_counter() - started
  cpu_seconds = time.process_time() - cpu_started
  kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - kib_before
  return {
    "seconds": seconds,
    "cpu_seconds": cpu_seconds,
    "peak_gb": kib * 1024 / 1e9,
    "agreement": agreement(embeddings, found[:CHECKED_ROWS]),
  }


def measure_all(args: argparse.Namespace) -> list[dict]:
  names = [name for name in args.contestants if is_installed(name)]
  context = multiprocessing.get_context("spawn")
  results = []
  for k in args.k:
    runs = {name: [] for name in names}
    for _ in range(args.repeats):
      for name in names:
        with context.Pool(1) as pool:
          runs[name].append(pool.apply(measure, (name, args.rows, args.dim, k)))
    for name in args.contestants:
      row = {"contestant": name, "rows": args.rows, "dim": args.dim, "k": k}
      if name in runs:
        row |= min(runs[name], key=lambda run: run["seconds"])
        row["all_seconds"] = [run["seconds"] for run in runs[name]]
      results.append(row)
      print(as_line(row), flush=True)
  return results


def as_line(row: dict) -> str:
  start = f"{row['contestant']:<10} {row['rows']:>8,} {row['dim']:>5} {row['k']:>6}"
  if "seconds" not in row:
    return f"{start}   not installed"
  return (
    f"{start} {row['seconds']:>9.2f} {row['cpu_seconds']:>8.2f}"
    f" {row['peak_gb']:>14.2f} {row['agreement']:>11.5f}"
  )


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--rows", type=int, default=20_000)
  parser.add_argument("--dim", type=int, default=512)
  parser.add_argument("--k", type=int, nargs="+", default=[100, 1000])
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument(
    "--contestants",
    nargs="+",
    choices=CONTESTANTS,
    default=["ccl_jax", "plain JAX", "faiss-cpu"],
  )
  parser.add_argument("--out", type=Path, help="JSON file to write")
  args = parser.parse_args()

  print(f"{os.cpu_count()} CPU cores, {platform.machine()}, best of {args.repeats}")
  print(
    "contestant     rows   dim      k   seconds    CPU s  peak GB added   agreement"
  )
  results = measure_all(args)
  if args.out:
    machine = {"cpu_cores": os.cpu_count(), "machine": platform.machine()}
    args.out.write_text(json.dumps({**machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
  main()
