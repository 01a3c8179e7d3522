"""Joins the processes of a job; the first process writes for all of them.

On TPU pods, under Slurm and Open MPI, and in a Kubernetes job, JAX finds the processes
by itself. Elsewhere, arguments give each process the address of the first process and
its own number.
"""

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from experiments.run.command_line import InputError

HEARTBEAT_TIMEOUT = 30  # seconds of silence after which a process counts as lost


def add_arguments(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("several processes, where JAX does not find them")
  group.add_argument(
    "--coordinator", metavar="HOST:PORT", help="where process 0 is to listen"
  )
  group.add_argument("--num-processes", type=int, metavar="N", help="of the job")
  group.add_argument("--process-id", type=int, metavar="I", help="of this one: 0..N-1")
  group.add_argument(
    "--single-process",
    action="store_true",
    help="look for no others, as inside of a cluster job that this run is no part of",
  )


def join(args: argparse.Namespace) -> None:
  """Connects to the other processes, if there are any; before any other use of JAX.

  Raises:
    InputError: if only part of the arguments is given, or they contradict each other.
  """
  given = (args.coordinator, args.num_processes, args.process_id)
  if any(value is not None for value in given):
    _check(args)
    jax.distributed.initialize(
      *given,
      cluster_detection_method="deactivate",
      heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
    )
  elif not args.single_process:
    try:
      jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT)
    except (ValueError, RuntimeError) as error:
      # JAX found no job to join, or is in use already, as in a notebook.
      alone = ("coordinator_address", "must be called before")
      if not any(reason in str(error) for reason in alone):
        raise


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
def end_with_the_others() -> Iterator[None]:
  """Ends this process at once, with a clear message, if another process is lost.

  An orderly end would save and disconnect, and so wait for the lost process forever.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if jax.process_count() == 1:
      raise
    traceback.print_exc()
    print(
      f"error: process {jax.process_index()} of {jax.process_count()} lost another one "
      f"({str(error).splitlines()[0][:200]}). The checkpoints are whole: start the job "
      "again, on as many processes as you like, with the same command",
      file=sys.stderr,
      flush=True,
    )
    os._exit(1)
