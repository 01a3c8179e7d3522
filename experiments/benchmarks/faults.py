"""Kills, damage and wild calls: what a run and the library make of them.

  python -m experiments.benchmarks.faults --out=faults.json
  python -m experiments.benchmarks.faults --kills=20 --flips=0 --pairs=0 --calls=0

Each campaign has its size; 0 leaves it out. Runs are as small as can be, and are forked
from this process, which has imported all they need; each tenth starts as a process of
its own. The moments, bits and values come from `--seed`. The command ends with exit
code 1 if anything was silent, stuck or differing; what failed stays in `--workdir`.

- kills: SIGKILL at random moments, up to four in a row; the run must then come to its
  end with the bits of a run that nothing disturbed.
- flips: of one bit of a file of the newest checkpoint; it must be noticed, or harmless.
- pairs: of two processes one is killed; the other must end within 60 seconds, and the
  job go on, on one process or on two.
- calls: of public functions, by wild values (finite values must have finite gradients)
  and by wrong shapes and types (a ValueError or TypeError with a message).
- cost: of checksums and lock, in one run of `configs/glyphs.py`: the main job.
"""

import argparse
import atexit
import collections
import contextlib
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

LIMIT = 60  # seconds in which a process ends once another one is lost
STEPS = 8
SHORT = {
  "data.name": "folder",
  "batch_size": 8,
  "steps": STEPS,
  "log_every": 1,
  "eval_every": 4,
  "checkpoint_every": 2,
  "data.validation_fraction": 0.25,
  "recall_at": "1,2",
  "model.dim": 8,
  "model.widths": "8,8",
  "model.depth": 0,
  "loss.centers": "bank",
}
TIMES = {"images_per_second", "waiting_for_data", "seconds"}


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--kills", type=int, default=200, help="SIGKILLs (default: 200)")
  parser.add_argument("--flips", type=int, default=300, help="bits (default: 300)")
  parser.add_argument("--pairs", type=int, default=50, help="kills (default: 50)")
  parser.add_argument("--calls", type=int, default=10**5, help="default: 100,000")
  parser.add_argument("--cost", type=int, default=3500, help="steps (default: 3,500)")
  parser.add_argument("--minutes", type=float, help="for each campaign, at most")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--workdir", type=pathlib.Path, help="default: a temporary one")
  parser.add_argument("--out", type=pathlib.Path, help="where to write JSON")
  flags = parser.parse_args()
  place = flags.workdir or pathlib.Path(tempfile.mkdtemp(prefix="faults-"))
  place.mkdir(parents=True, exist_ok=True)
  make_cheap(place)

  from experiments.benchmarks import fuzz

  campaigns: dict[str, Callable[..., dict[str, Any]]] = {
    "kills": kills,
    "flips": flips,
    "pairs": pairs,
    "calls": fuzz.calls,
    "cost": cost,
  }
  found = {}
  for name, run in campaigns.items():
    if size := getattr(flags, name):
      start = time.time()
      until = start + flags.minutes * 60 if flags.minutes else float("inf")
      # Each in a process of its own: JAX once started can be forked no more.
      found[name] = in_a_fork(run, place / name, size, random.Random(flags.seed), until)
      found[name] |= {
        "at": time.strftime("%Y-%m-%d %H:%M", time.gmtime(start)),
        "minutes": round((time.time() - start) / 60, 1),
      }
      print(f"{name:8}", *(f"{k}={v}" for k, v in found[name].items()), flush=True)
      if flags.out:
        flags.out.write_text(json.dumps(found, indent=2) + "\n")
  bad = [name for name, result in found.items() if result.get("bad")]
  if bad:
    sys.exit(f"failed: {', '.join(bad)}; look at {place}")


def make_cheap(place: pathlib.Path) -> None:
  """Sets one thread, no optimization, and one cache of compiled code for all runs."""
  os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(place / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    "XLA_FLAGS": "--xla_backend_optimization_level=0"
    " --xla_cpu_multi_thread_eigen=false",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
  }
  # Whatever a run needs, so that a fork of this process does not read it again.
  import matplotlib.pyplot  # noqa: F401
  import orbax.checkpoint  # noqa: F401
  import scipy.optimize  # noqa: F401

  from ccl_jax.report import page  # noqa: F401
  from experiments import compare, evaluate, retrieve, train  # noqa: F401
  from experiments.run import assemble, datasets, show  # noqa: F401


def in_a_fork(function: Callable[..., Any], *args) -> Any:
  """What a function returns, in JSON, that may start JAX or be killed."""
  with tempfile.TemporaryFile("w+") as file:
    child = os.fork()
    if not child:
      code = 1
      try:
        json.dump(function(*args), file)
        file.flush()
        code = 0
      except BaseException:
        traceback.print_exc()
      finally:
        sys.stdout.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    if status:
      raise RuntimeError(f"{function.__name__} ended with status {status}")
    file.seek(0)
    return json.load(file)


def start(argv: list[str], log: pathlib.Path, *, command: str = "train") -> int:
  """Starts a command in a fork that writes to a log; returns its process."""
  sys.stdout.flush()
  if child := os.fork():
    return child
  code = 1
  try:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1), os.dup2(file, 2)
    _run(argv, command)
    code = 0
  except SystemExit as stop:
    code = stop.code if isinstance(stop.code, int) else 1
  except BaseException:
    traceback.print_exc()
  finally:
    # As an interpreter ends, but for the modules that `main` has loaded.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(argv: list[str], command: str) -> None:
  import importlib

  importlib.import_module(f"experiments.{command}").main(argv)


def start_afresh(argv: list[str], log: pathlib.Path) -> int:
  """As `start`, in a new interpreter."""
  with log.open("w") as file:
    command = [sys.executable, "-m", "experiments.train", *argv]
    return subprocess.Popen(command, stdout=file, stderr=file).pid


def wait(child: int, seconds: float) -> int | None:
  """The exit code, negative for a signal; None where it does not come in time."""
  until = time.time() + seconds
  while True:
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
      return os.waitstatus_to_exitcode(status)
    if time.time() >= until:
      return None
    time.sleep(0.002)


def end(child: int) -> None:
  with contextlib.suppress(ProcessLookupError):
    os.kill(child, signal.SIGKILL)
  with contextlib.suppress(ChildProcessError):
    os.waitpid(child, 0)


def pictures(root: pathlib.Path) -> pathlib.Path:
  """Sixteen classes of four pictures: a bright spot in a place of its class."""
  import numpy as np
  from PIL import Image

  rng = np.random.default_rng(0)
  for label in range(16):
    (root / f"class_{label:02d}").mkdir(parents=True, exist_ok=True)
    for copy in range(4):
      pixels = rng.integers(0, 60, (32, 32), np.uint8)
      y, x = 8 * (label // 4), 8 * (label % 4)
      pixels[y : y + 8, x : x + 8] += 180
      Image.fromarray(pixels).save(root / f"class_{label:02d}" / f"{copy}.png")
  return root


def arguments(images: pathlib.Path, workdir: pathlib.Path, **fields) -> list[str]:
  """Of a run that takes seconds."""
  fields = {**SHORT, "data.images": images, **fields}
  return [
    "--config=configs/glyphs.py",
    f"--workdir={workdir}",
    *(f"--config.{name}={value}" for name, value in fields.items()),
  ]


def undisturbed(place: pathlib.Path, **fields) -> tuple[pathlib.Path, float]:
  """A whole run that nothing disturbs, and the seconds that it takes when compiled."""
  images = pictures(place / "pictures")
  for name in ("first", "whole"):
    begun = time.time()
    argv = arguments(images, place / name, **fields)
    code = wait(start(argv, place / f"{name}.log"), 1200)
    if code != 0:
      raise RuntimeError(f"{place / name}.log: the run ended with {code}")
  shutil.rmtree(place / "first")
  return place / "whole", time.time() - begun


# The phase of a run, by what lies in its folder.
def phase_of(folder: pathlib.Path) -> str:
  if (folder / "result.json").exists():
    return "report"
  if not (folder / "lock").exists():
    return "start-up"
  if not (folder / "config.json").exists():
    return "build"
  saved = [path.name for path in (folder / "checkpoints").glob("*")]
  if any("tmp" in name for name in saved):
    return "save"
  return "test" if str(STEPS) in saved else "training"


def kills(
  place: pathlib.Path, size: int, rng: random.Random, until: float
) -> dict[str, Any]:
  """SIGKILLs at random moments, some in a row; then the run must come to its end."""
  whole, typical = undisturbed(place)
  images, begun_at = place / "pictures", collections.Counter()
  done = stuck = differing = runs = most = 0
  while done < size and time.time() < until:
    folder, log = place / f"run{runs}", place / f"run{runs}.log"
    argv = arguments(images, folder)
    launch = start_afresh if runs % 10 == 9 else start
    in_a_row = min(rng.choice((1, 2, 3, 4)), size - done)
    for number in range(in_a_row):
      child = launch(argv, log)
      phase = _kill_at_random(child, folder, typical, rng)
      if phase is None:  # it came to its end before
        break
      begun_at[phase] += 1
      done, most = done + 1, max(most, number + 1)
    runs += 1
    child = launch(argv, log)
    if wait(child, 20 * typical + 120) != 0:
      end(child)
      stuck += 1
      print(f"kills: {log} did not come to its end", flush=True)
    if runs % 20 == 0:
      print(f"kills: {done} in {runs} runs, {stuck} stuck", dict(begun_at), flush=True)
  expected = in_a_fork(contents, [whole])[0]
  folders = [place / f"run{number}" for number in range(runs)]
  for folder, found in zip(folders, in_a_fork(contents, folders), strict=True):
    if found == expected:
      shutil.rmtree(folder)
    else:
      differing += 1
      print(f"kills: {folder} differs", flush=True)
  return {
    "kills": done,
    "runs": runs,
    "most in a row": most,
    **{f"during {phase}": count for phase, count in sorted(begun_at.items())},
    "stuck": stuck,
    "differing": differing,
    "seconds a run": round(typical, 1),
    "bad": stuck + differing,
  }


def _kill_at_random(
  child: int, folder: pathlib.Path, typical: float, rng: random.Random
) -> str | None:
  """Kills a run, and returns its phase; None where it ends before.

  Half of the kills wait for a phase that is drawn, the others for a time.
  """
  moment = time.time() + rng.uniform(0, typical)
  phase = rng.choice((None, None, None, "build", "save", "test"))
  latest = time.time() + 2 * typical
  while time.time() < (latest if phase else moment):
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
      if status:
        print(f"kills: {folder} ended by itself, status {status}", flush=True)
      return None
    if phase and phase_of(folder) == phase:
      time.sleep(rng.uniform(0, 0.02 if phase == "save" else typical / 10))
      break
    time.sleep(0.001)
  found = phase_of(folder)
  end(child)
  return found


def contents(folders: list[pathlib.Path]) -> list[Any]:
  """What runs have computed: bits of the state, events and metrics, but no times."""
  from ccl_jax.training.checkpoint import Checkpoints
  from ccl_jax.training.run_log import read_events

  found = []
  for folder in folders:
    try:
      with Checkpoints(folder / "checkpoints", read_only=True) as saved:
        bits = digest(saved.restore())
      events = read_events(folder / "metrics.jsonl")
      timeless = [{k: v for k, v in e.items() if k not in TIMES} for e in events]
      result = json.loads((folder / "result.json").read_text())
      found.append(
        [bits, timeless, {k: v for k, v in result.items() if k != "seconds"}]
      )
    except (OSError, ValueError, RuntimeError) as error:
      found.append(str(error))
  return found


def digest(restored: Any) -> str:
  """Of the bits of a state and of the iterator's position."""
  import jax
  import numpy as np

  state, position = restored
  bits = hashlib.sha256(json.dumps(position, sort_keys=True).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    bits.update(jax.tree_util.keystr(path).encode())
    bits.update(np.asarray(leaf).tobytes())
  return bits.hexdigest()


def flips(
  place: pathlib.Path, size: int, rng: random.Random, until: float
) -> dict[str, Any]:
  """Single bits flipped in all files of the newest checkpoint, and what is restored."""
  from ccl_jax.training.checkpoint import Checkpoints

  whole, _ = undisturbed(place)
  folder = whole / "checkpoints"
  newest, older = sorted((p for p in folder.iterdir() if p.name.isdigit()), key=_step)[
    :-3:-1
  ]
  files = sorted(path for path in newest.rglob("*") if path.stat().st_size)
  files = [path for path in files if path.is_file()]
  sizes = [path.stat().st_size for path in files]

  def restored() -> str:
    with Checkpoints(folder, read_only=True) as saved:
      return digest(saved.restore())

  truth = restored()
  kept = newest.rename(place / "kept")
  before = restored()
  kept.rename(newest)
  found = collections.Counter()
  number = 0
  while number < size and time.time() < until:
    # By files, so that small ones are met, and by bytes, as a disk would.
    by_bytes = number % 2
    path = rng.choices(files, sizes)[0] if by_bytes else files[number // 2 % len(files)]
    data = path.read_bytes()
    place_in_file = rng.randrange(8 * len(data))
    _flip(path, data, place_in_file)
    try:
      bits = restored()
    except (RuntimeError, ValueError, OSError) as error:
      found["no state restored"] += 1
      print(f"flips: {path} bit {place_in_file}: {str(error)[:200]}", flush=True)
    else:
      kinds = {truth: "harmless", before: "the one before restored"}
      found[kinds.get(bits, "silent")] += 1
      if bits not in kinds:
        print(f"flips: {path} bit {place_in_file} was silent", flush=True)
    path.write_bytes(data)
    number += 1
  return {
    "flips": number,
    "files": len(files),
    **found,
    "silent": found["silent"],
    "bad": found["silent"] + found["no state restored"],
  }


def _step(path: pathlib.Path) -> int:
  return int(path.name)


def _flip(path: pathlib.Path, data: bytes, bit: int) -> None:
  changed = bytearray(data)
  changed[bit // 8] ^= 1 << bit % 8
  path.write_bytes(changed)


def pairs(
  place: pathlib.Path, size: int, rng: random.Random, until: float
) -> dict[str, Any]:
  """One of two processes is killed; the other must end, and the job go on."""
  fields = {"parallel": "class_sharded", "data.validation_fraction": 0}
  whole, typical = undisturbed(place, **fields)
  expected = _losses(whole)
  found = collections.Counter()
  slowest = number = 0.0
  while number < size and time.time() < until:
    folder = place / f"run{int(number)}"
    argv = arguments(place / "pictures", folder, **fields)
    both = _start_two(argv, folder)
    lost = rng.randrange(2)
    # From joining on; two processes take longer than one.
    time.sleep(rng.uniform(0, 2 * typical))
    if any(wait(child, 0) is not None for child in both):
      found["had ended before"] += 1
      for child in both:
        end(child)
      shutil.rmtree(folder, ignore_errors=True)
      continue
    found[f"during {phase_of(folder)}"] += 1
    end(both[lost])
    begun = time.time()
    code = wait(both[1 - lost], LIMIT)
    slowest = max(slowest, time.time() - begun)
    if code is None:
      found["stuck"] += 1
      print(f"pairs: {folder}: process {1 - lost} goes on", flush=True)
      end(both[1 - lost])
    told = (place / f"{folder.name}.{1 - lost}.log").read_text(errors="replace")
    found["ended in one line" if "error: " in told else "ended otherwise"] += 1
    if "error: " not in told:
      print(f"pairs: {folder}: code {code}: {told[-300:]}", flush=True)
    resumed = number % 2
    again = (
      _start_two(argv, folder) if resumed else [start(argv, folder.with_suffix(".log"))]
    )
    codes = [wait(child, 40 * typical + 120) for child in again]
    if any(codes) or not _is_close(_losses(folder), expected):
      found["not resumed"] += 1
      print(f"pairs: {folder} was not resumed: {codes}", flush=True)
      for child in again:
        end(child)
    else:
      found[f"resumed by {1 + int(resumed)}"] += 1
      shutil.rmtree(folder)
    number += 1
    if number % 10 == 0:
      print(f"pairs: {int(number)}", dict(found), flush=True)
  return {
    "kills": int(number),
    **found,
    "slowest end in s": round(slowest, 1),
    "bad": found["stuck"] + found["not resumed"],
  }


def _start_two(argv: list[str], folder: pathlib.Path) -> list[int]:
  with socket.socket() as listener:
    listener.bind(("localhost", 0))
    port = listener.getsockname()[1]
  job = [f"--coordinator=localhost:{port}", "--num-processes=2", "--wait=40"]
  return [
    start(
      [*argv, *job, f"--process-id={index}"],
      folder.with_name(f"{folder.name}.{index}.log"),
    )
    for index in (0, 1)
  ]


def _losses(folder: pathlib.Path) -> list[float]:
  from ccl_jax.training.run_log import read_events

  events = read_events(folder / "metrics.jsonl")
  return [event["loss"] for event in events if event["event"] == "train"]


def _is_close(found: list[float], expected: list[float]) -> bool:
  """Two processes add in another order than one."""
  return len(found) == len(expected) and all(
    abs(a - b) <= 1e-3 * abs(b) for a, b in zip(found, expected, strict=True)
  )


def cost(
  place: pathlib.Path, size: int, rng: random.Random, until: float
) -> dict[str, Any]:
  """The share of a run's time that its checksums and its lock take."""
  from ccl_jax.training import checkpoint
  from experiments import train
  from experiments.run import workdir

  seconds: dict[str, float] = collections.defaultdict(float)
  saves = 0

  @contextlib.contextmanager
  def timed(name: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    seconds[name] += time.perf_counter() - begun

  del os.environ["XLA_FLAGS"]  # as a user's run is compiled
  checksums, hold = checkpoint._checksums, workdir.hold

  def timed_checksums(*args):
    nonlocal saves
    saves += 1
    with timed("checksums"):
      return checksums(*args)

  @contextlib.contextmanager
  def timed_hold(folder):
    held = hold(folder)
    with timed("lock"):
      held.__enter__()
    yield
    with timed("lock"):
      held.__exit__(None, None, None)

  checkpoint._checksums, workdir.hold = timed_checksums, timed_hold
  with timed("run"):
    train.main(
      [
        "--config=configs/glyphs.py",
        f"--workdir={place / 'run'}",
        f"--config.steps={size}",
      ]
    )
  share = (seconds["checksums"] + seconds["lock"]) / seconds["run"]
  return {
    "steps": size,
    "saves": saves,
    **{f"{name} s": round(taken, 3) for name, taken in seconds.items()},
    "share": round(share, 5),
    "bad": int(share >= 0.02),
  }


if __name__ == "__main__":
  main()
