"""Eight simulated CPU devices, set before JAX starts, and archives to read."""

import os

import pytest

os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")


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
