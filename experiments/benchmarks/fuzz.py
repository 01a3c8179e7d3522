"""Wild calls of the library's public functions.

`experiments.benchmarks.faults` runs them. Most calls have the right shapes and wild
values: rows that are zero, tiny, equal, opposite or near the largest number of their
type, labels that pad or are all equal. Many such calls share one compiled function,
mapped over them. One call in twenty has a shape, type or number that does not fit; it
runs alone, traced by JAX but not computed.
"""

import collections
import functools
import inspect
import pathlib
import random
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ccl_jax
from ccl_jax import centers, few_shot, losses, objectives, retrieval, vectors

B, D, K = 6, 4, 5
AT_ONCE = 512  # calls of one compiled function
TYPES = ("float32", "bfloat16", "float16")
Draw = np.random.Generator


def calls(
  place: pathlib.Path, size: int, rng: random.Random, until: float
) -> dict[str, Any]:
  """Most calls by wild values, one in twenty by wrong shapes and types."""
  draw = np.random.default_rng(rng.randrange(2**32))
  found, wrong = collections.Counter(), max(size // 20, 1)
  middle = time.time() + (until - time.time()) / 2
  known, number = {**functions(), **of_the_host()}, 0
  names = list(known)
  while number < wrong and time.time() < middle:
    _call_wrongly(known[names[number % len(names)]], draw, found)
    number += 1
  # A function is compiled once for each type, and then called over and over.
  kinds = [(name, dtype) for name in functions() for dtype in TYPES]
  turns = -(-(size - wrong) // (AT_ONCE * len(kinds)))
  for name, dtype in kinds:
    for _ in range(turns):
      if time.time() < until:
        _call_by_values(name, dtype, draw, found)
  reported = {
    key: found[key]
    for key in ("by value", "not finite", "refused", "accepted", "other exceptions")
  }
  return {
    "calls": found["by value"] + number,
    "functions": len(known),
    **reported,
    "bad": found["not finite"] + found["other exceptions"],
  }


def functions() -> dict[str, tuple[Callable[..., Any], tuple[str, ...]]]:
  """Name -> what gives a loss for each example, and the arrays that it takes."""
  found: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {}
  for name in losses.__all__:
    function = getattr(losses, name)
    if name in ("Over", "matryoshka", "mean_over_examples"):
      continue
    read = list(inspect.signature(function).parameters)
    third = "proxies" if "proxies" in read else "centers"
    if name in ("nt_xent", "contex"):
      takes = ("embeddings", "labels", "images")
    elif name == "soft_triple":
      takes = ("embeddings", "labels", "several")
    elif third in read:
      takes = ("embeddings", "labels", "centers")
    else:
      takes = ("embeddings", "labels")
      found[f"{name}, memory"] = (
        _with_memory(function),
        ("embeddings", "labels", "memory", "labels"),
      )
    found[name] = function, takes
    if "over" in read:
      found[f"{name}, blocks"] = functools.partial(function, block_size=2), takes
  found["triplet, semi_hard"] = (
    functools.partial(losses.triplet, mining="semi_hard"),
    ("embeddings", "labels"),
  )
  for name in ("center_contrastive", "supcon"):
    found[f"{name}, prefixes"] = (
      losses.matryoshka(getattr(losses, name), (1, D)),
      found[name][1],
    )
  for rule in (centers.repulsion, centers.class_means):
    found[f"center_contrastive_loss, {rule.__name__}"] = (
      functools.partial(_loss_and_bank, rule=rule),
      ("embeddings", "labels", "centers"),
    )
  return found


def _with_memory(function: Callable[..., Any]) -> Callable[..., Any]:
  def call(embeddings, labels, memory, memory_labels):
    return function(embeddings, labels, memory=memory, memory_labels=memory_labels)

  return call


def _loss_and_bank(embeddings, labels, class_vectors, *, rule):
  """The loss, spoilt where the new bank is not finite."""
  if np.ndim(class_vectors) == 2:  # a bank's rows have unit length
    class_vectors = vectors.unit(jnp.asarray(class_vectors))
  counts = np.arange(len(class_vectors)) if np.ndim(class_vectors) else np.zeros(())
  bank = centers.CenterBank(class_vectors, jnp.asarray(counts))
  loss, bank = ccl_jax.center_contrastive_loss(embeddings, labels, bank, rule=rule)
  whole = jnp.isfinite(bank.centers).all()
  return jnp.where(whole, loss, jnp.nan)[None]


def of_the_host() -> dict[str, tuple[Callable[..., Any], tuple[str, ...]]]:
  """Functions that take NumPy arrays, or whose arguments are no embeddings."""
  tasks = functools.partial(few_shot.draw, ways=2, shots=1, queries=1, tasks=2, seed=0)
  key = jax.random.key(0)
  return {
    "search": (functools.partial(retrieval.search, k=2), ("embeddings",)),
    "search a gallery": (
      functools.partial(retrieval.search, k=2),
      ("embeddings", "memory"),
    ),
    "evaluate": (
      functools.partial(retrieval.evaluate, ks=(1, 2)),
      ("embeddings", "labels"),
    ),
    "few_shot.draw": (tasks, ("labels",)),
    "check_labels": (
      functools.partial(ccl_jax.check_labels, num_classes=K),
      ("labels",),
    ),
    "mean_over_examples": (losses.mean_over_examples, ("images", "labels")),
    "centers.init": (
      lambda n: centers.init(key, int(np.ravel(n)[0]) if np.size(n) else 0, D),
      ("labels",),
    ),
    "with_memory": (
      lambda rows, labels: _applied(
        objectives.with_memory(losses.supcon, 2 * B, D), rows, labels
      ),
      ("embeddings", "labels"),
    ),
    "with_classifier": (
      lambda rows, labels: _applied(objectives.with_classifier(K, D), rows, labels),
      ("embeddings", "labels"),
    ),
  }


def _applied(objective: objectives.Objective, rows, labels):
  key = jax.random.key(0)
  return objective.apply(*objective.init(key), rows, {"label": labels}, key)


def _call_by_values(
  name: str, dtype: str, draw: Draw, found: collections.Counter
) -> None:
  function, takes = functions()[name]
  arrays = [wild(kind, dtype, draw) for kind in takes]
  loss, gradients = _compiled(name)(*arrays)
  finite = np.isfinite(np.asarray(loss, np.float32)).reshape(AT_ONCE, -1).all(1)
  for gradient in gradients:
    whole = np.isfinite(np.asarray(gradient, np.float32))
    finite &= whole.reshape(AT_ONCE, -1).all(1)
  found["by value"] += AT_ONCE
  if not finite.all():
    found["not finite"] += int((~finite).sum())
    row = int(np.argmin(finite))
    example = [np.asarray(a[row], np.float64).tolist() for a in arrays]
    print(f"calls: {name} in {dtype} is not finite at {example}", flush=True)


@functools.cache
def _compiled(name: str) -> Callable[..., Any]:
  """Mean loss, and its gradients in all arrays of floats, mapped over many calls."""
  function, takes = functions()[name]
  by = tuple(n for n, kind in enumerate(takes) if kind not in ("labels", "images"))

  def mean(*arrays):
    each = function(*arrays)
    labels = arrays[1]
    return each[0] if each.shape == (1,) else losses.mean_over_examples(each, labels)

  return jax.jit(jax.vmap(jax.value_and_grad(mean, argnums=by)))


SHAPES = {
  "embeddings": (B, D),
  "labels": (B,),
  "images": (B,),
  "centers": (K, D),
  "several": (K, 2, D),
  "memory": (B, D),
}


def wild(kind: str, dtype: str, draw: Draw) -> Any:
  """Arrays of one kind for `AT_ONCE` calls."""
  shape = (AT_ONCE, *SHAPES[kind])
  if kind == "images":
    return jnp.asarray(draw.integers(0, B // 2, shape), jnp.int32)
  if kind == "labels":
    labels = draw.integers(0, K, shape)
    padded = draw.random(shape) < draw.choice([0, 0.3, 1], (AT_ONCE, 1))
    same = draw.random((AT_ONCE, 1)) < 0.2
    labels = np.where(same, labels[:, :1], labels)
    return jnp.asarray(np.where(padded, -1, labels), jnp.int32)
  largest = float(jnp.finfo(dtype).max)
  smallest = float(jnp.finfo(dtype).smallest_subnormal)
  rows = shape[:-1]
  lengths = draw.choice(
    [0, smallest, 1e-6, 1e-3, 1, 1, 1, 1e3, 1e18, 1e30, largest], (*rows, 1)
  )
  values = draw.normal(size=shape)
  axis = draw.integers(0, D, (*rows, 1))
  sparse = np.where(np.arange(D) == axis, np.sign(values), 0)
  values = np.where(draw.random((*rows, 1)) < 0.3, sparse, values)
  alike = draw.random((AT_ONCE, *[1] * (len(shape) - 1))) < 0.2
  values = np.where(alike, values[:, :1] * draw.choice([-1, 1], (*rows, 1)), values)
  with np.errstate(over="ignore"):
    values = np.clip(values * lengths, -largest, largest)
  return jnp.asarray(values.astype(jnp.dtype(dtype)))


def _call_wrongly(
  known: tuple[Callable[..., Any], tuple[str, ...]],
  draw: Draw,
  found: collections.Counter,
) -> None:
  """One call of which an array at least does not fit, traced by JAX where it can be."""
  function, takes = known
  arrays = [_plain(kind, draw) for kind in takes]
  for place in {int(draw.integers(len(takes))), int(draw.integers(len(takes)))}:
    arrays[place] = _misfit(arrays[place], draw)
  try:
    if all(isinstance(a, np.ndarray) and a.dtype != object for a in arrays):
      if function in [f for f, _ in functions().values()]:
        jax.eval_shape(function, *map(jnp.asarray, arrays))
      else:
        function(*arrays)
    else:
      function(*arrays)
  except (ValueError, TypeError) as error:
    found["refused"] += 1
    if not str(error).strip():
      found["other exceptions"] += 1
  except Exception as error:
    found["other exceptions"] += 1
    if found["other exceptions"] < 20:
      told = [getattr(a, "shape", f"{a!r:.30}") for a in arrays]
      print(f"calls: {function} of {told}: {error!r:.200}", flush=True)
  else:
    found["accepted"] += 1


def _plain(kind: str, draw: Draw) -> np.ndarray:
  if kind in ("labels", "images"):
    return draw.integers(-1, K, SHAPES[kind]).astype(np.int32)
  return draw.normal(size=SHAPES[kind]).astype(np.float32)


def _misfit(array: np.ndarray, draw: Draw) -> Any:
  """Another shape, type or kind of value."""
  kind = draw.integers(10)
  if kind == 0:
    return array[:-1]
  if kind == 1:
    return array[None]
  if kind == 2:
    return array[..., 0]
  if kind == 3:
    return array[:0]
  if kind == 4:
    return array.astype(draw.choice(["float32", "int8", "uint8", "bool", "complex64"]))
  if kind == 5:
    return array.tolist()
  if kind == 6:
    return draw.choice([0, 1.5, 3])
  if kind == 7:
    return None if draw.random() < 0.5 else "rows"
  if kind == 8:
    return np.concatenate([array, array], axis=-1)
  return array.reshape(-1)
