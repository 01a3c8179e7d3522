"""Eight simulated CPU devices, set before JAX starts, and archives to read."""

import atexit
import os
import shutil
import tempfile

import pytest

os.environ["XLA_FLAGS"] = " ".join(
  [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
    # On a busy machine a device's thread may wait for its turn longer than XLA's 40 s.
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    # Tests compile much and compute little: a quarter of their time was optimization.
    "--xla_backend_optimization_level=0",
  ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Axes are added only where the code says so, in processes too. (Types are strict where
# losses are tested: optax raises floats to integer powers, flax mixes bfloat16.)
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

# What a run would take for a job of several processes, and wait for the others of.
_JOB = ("SLURM_", "OMPI_", "KUBERNETES_", "TPU_", "MEGASCALE_", "JAX_COORDINATOR_")
for name in [name for name in os.environ if name.startswith(_JOB)]:
  del os.environ[name]
os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # nor is a TPU's host asked for them

# What one test compiles serves the others, in pytest's workers and in processes that a
# test starts as well: all inherit the folder from the first process, which drops it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="xla-")
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], True)

# No test writes to the user's cache, or finds there what another run has checked.
if "PYTEST_XDIST_WORKER" not in os.environ:
  os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="cache-")
  atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], True)


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
  """Name -> the folder of a tiny archive, written when it is first asked for."""
  from tests.data import tiny_archives

  written = {}

  def get(name):
    if name not in written:
      written[name] = tmp_path_factory.mktemp(name)
      tiny_archives.WRITE[name](written[name])
    return written[name]

  return get
