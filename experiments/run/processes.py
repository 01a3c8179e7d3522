"""Joins the processes of a job; the first process writes for all of them.

On TPU pods, under Slurm and Open MPI, and in a Kubernetes job, JAX finds the processes
by itself. Elsewhere, arguments give each process the address of the first process and
its own number.
"""

import argparse
import atexit
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

import jax
from jax._src import distributed  # the store that the processes share is not public
from jax.experimental import multihost_utils

from experiments.run.command_line import Failed, InputError
from experiments.run.lifeline import Address, Lifeline

HEARTBEAT_TIMEOUT = 30  # seconds of silence after which JAX counts a process as lost
_SAY_AFTER = 5  # seconds of waiting for the others
_lifeline: Lifeline | None = None  # to the other processes of the job


def add_arguments(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("several processes, where JAX does not find them")
  group.add_argument(
    "--coordinator", metavar="HOST:PORT", help="where process 0 is to listen"
  )
  group.add_argument("--num-processes", type=int, metavar="N", help="of the job")
  group.add_argument("--process-id", type=int, metavar="I", help="of this one: 0..N-1")
  group.add_argument(
    "--wait", type=int, default=300, metavar="SECONDS", help="for the others to start"
  )
  group.add_argument(
    "--single-process",
    action="store_true",
    help="look for no others, as inside of a cluster job that this run is no part of",
  )


def join(args: argparse.Namespace) -> None:
  """Connects to the other processes, if there are any; before any other use of JAX.

  Ends this process with one line where the others do not come in time.

  Raises:
    InputError: if only part of the arguments is given, or they contradict each other.
  """
  given = (args.coordinator, args.num_processes, args.process_id)
  if any(value is not None for value in given):
    _check(args)
    if args.process_id == 0:
      _check_port(args.coordinator)
    with _waiting(args.wait):
      _initialize(args.wait, *given, cluster_detection_method="deactivate")
  elif not args.single_process:
    try:
      with _waiting(args.wait):
        _initialize(args.wait)
    except (ValueError, RuntimeError) as error:
      # JAX found no job to join, or is in use already, as in a notebook.
      alone = ("coordinator_address", "must be called before")
      if not any(reason in str(error) for reason in alone):
        raise
  if distributed.global_state.num_processes > 1:
    _hold_together()


def _initialize(wait: int, *given, **how) -> None:
  # A SIGTERM is to end the set-up at once; `stop_together` changes that.
  jax.config.update("jax_enable_preemption_service", False)
  # JAX ends the process with a stack of C++ when its time is over: ours is over before.
  jax.distributed.initialize(
    *given,
    **how,
    initialization_timeout=wait + 60,
    heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
  )


@contextlib.contextmanager
def _waiting(seconds: int) -> Iterator[None]:
  """Says whom a block waits for, and ends the process where it waits for too long."""
  joined = threading.Event()

  def watch():
    said = min(_SAY_AFTER, seconds)
    if not joined.wait(said):
      print(f"waiting for {_missing()}, {seconds - said} s more", file=sys.stderr)
    if not joined.wait(seconds - said):
      print(
        f"error: gave up after {seconds} s of waiting for {_missing()}: start all"
        " processes with the same --coordinator and --num-processes, or give more"
        " time by --wait",
        file=sys.stderr,
        flush=True,
      )
      os._exit(2)

  threading.Thread(target=watch, daemon=True).start()
  # Python would see Ctrl-C only once JAX has joined.
  is_main = threading.current_thread() is threading.main_thread()
  before = signal.signal(signal.SIGINT, signal.SIG_DFL) if is_main else None
  try:
    yield
  finally:
    joined.set()
    if before is not None:
      signal.signal(signal.SIGINT, before)


def _missing() -> str:
  """Whom this process waits for, and where."""
  known = distributed.global_state
  if known.coordinator_address is None:
    return (
      "the other processes of the job, which JAX looks for (--single-process: none)"
    )
  if known.process_id == 0:
    last = known.num_processes - 1
    others = "process 1" if last == 1 else f"some of processes 1 to {last}"
    return f"{others} to connect to {known.coordinator_address}"
  host, _, port = known.coordinator_address.rpartition(":")
  try:
    socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
  except OSError as error:
    return f"process 0 to listen at {known.coordinator_address} ({error})"
  return f"the others of {known.num_processes} processes; process 0 is there"


def _hold_together() -> None:
  """Connects the processes, so that each of them learns of the end of another."""
  global _lifeline
  job, name = distributed.global_state, "ccl_jax/lifeline"
  store, index = job.client, job.process_id
  assert store is not None and job.coordinator_address is not None
  _lifeline = Lifeline(index, job.num_processes)
  # Before JAX disconnects, which waits for the others.
  atexit.register(_lifeline.done)
  try:
    if index == 0:
      store.key_value_set(name, json.dumps(_lifeline.listen()))
    else:
      host = job.coordinator_address.rpartition(":")[0]
      address = Address(*json.loads(store.blocking_key_value_get(name, 60_000)))
      _lifeline.connect(host.strip("[]"), address)
  except OSError as error:  # such as ports that are closed between the machines
    print(
      f"warning: no connection between processes 0 and {index} ({error}):"
      f" a process that is lost is noticed after {HEARTBEAT_TIMEOUT} s",
      file=sys.stderr,
    )


def _check(args: argparse.Namespace) -> None:
  if None in (args.coordinator, args.num_processes, args.process_id):
    raise InputError(
      "--coordinator, --num-processes and --process-id go together: give all three, "
      "or none where JAX finds the processes by itself"
    )
  if args.single_process:
    raise InputError("--single-process and --coordinator exclude each other")
  if not 0 <= args.process_id < args.num_processes:
    raise InputError(
      f"--process-id={args.process_id} of --num-processes={args.num_processes}: "
      f"expected 0 to {args.num_processes - 1}"
    )
  host, _, port = args.coordinator.rpartition(":")
  if not host or not port.isdigit():
    raise InputError(f"--coordinator={args.coordinator}: expected HOST:PORT")


def _check_port(coordinator: str) -> None:
  """Raises where another program listens, as JAX may not: it shares ports of its kind.

  Two jobs at one port would then get each other's processes.
  """
  with socket.socket() as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      listener.bind(("", int(coordinator.rpartition(":")[2])))
    except (OSError, OverflowError) as error:
      raise InputError(
        f"--coordinator={coordinator}: process 0 cannot listen there ({error}): choose"
        " a port that is free"
      ) from error


def is_first() -> bool:
  """Whether this process writes the logs and the report."""
  return jax.process_index() == 0


@contextlib.contextmanager
def first_goes_first(what: str) -> Iterator[None]:
  """Runs a block in the first process, then in the others when the first is done.

  It is for work that the others then find done, such as a dataset on a shared disk.
  """
  several = jax.process_count() > 1
  if several and not is_first():
    multihost_utils.sync_global_devices(what)
  yield
  if several and is_first():
    multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def stopping_together() -> Iterator[None]:
  """Within it, a SIGTERM to one process stops all at the same step of `fit`."""
  several = jax.process_count() > 1
  if several:
    jax.config.update("jax_enable_preemption_service", True)
    distributed.global_state.initialize_preemption_sync_manager()
  yield
  if several and (manager := distributed.global_state.preemption_sync_manager):
    manager.shutdown()
    distributed.global_state.preemption_sync_manager = None


@contextlib.contextmanager
def ending_together(
  explain: Callable[[Exception], str | None] = lambda error: None,
  *,
  in_order: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
  """Ends all processes if a block fails in this one.

  Its exception would else run into an orderly end, which waits for the others.

  Args:
    explain: one line for an exception that needs no traceback, or None.
    in_order: exceptions that all processes raise together, and that pass.
  """
  if _lifeline is None:
    yield
    return
  name = f"process {jax.process_index()} of {jax.process_count()}"
  try:
    yield
  except in_order:
    raise
  except Failed as failed:
    _lifeline.end(f"{name} ended: {failed.told}", failed.exit_code, is_printed=True)
  except KeyboardInterrupt:
    _lifeline.end(f"{name} was stopped by Ctrl-C", 130)
  except Exception as error:
    if isinstance(error, jax.errors.JaxRuntimeError):
      time.sleep(5)  # if another process is lost, the lifeline ends this one now
    if told := explain(error):
      _lifeline.end(f"{name} ended: {told}", 2)
    traceback.print_exc()
    told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    _lifeline.end(f"{name} ended: {told}", 1)
