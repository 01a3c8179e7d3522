"""Eight simulated CPU devices, set before JAX starts, and archives to read."""

import os

import pytest

os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# What a run would take for a job of several processes, and wait for the others of.
_JOB = ("SLURM_", "OMPI_", "KUBERNETES_", "TPU_", "MEGASCALE_", "JAX_COORDINATOR_")
for name in [name for name in os.environ if name.startswith(_JOB)]:
  del os.environ[name]
os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # nor is a TPU's host asked for them


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
