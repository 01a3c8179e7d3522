"""Devices of a machine that is not at hand, to compile for ahead of time.

A TPU's compiler comes with `pip install "jax[tpu]"`, a GPU's with `pip install
"jax[cuda13]"`; neither needs the hardware. What such a compiler says is its plan and
its model: nothing is run.
"""

import importlib.util
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies


class Chip(NamedTuple):
  """A device's memory, and what a generation of TPU multiplies at best, in bfloat16."""

  memory: float  # bytes
  cycles_per_second: float = 0
  flops_per_cycle: int = 0  # 0: its compiler has no model of time


# A chip's published peak is the product of the two; the second follows from the number
# and the size of its matrix units.
CHIPS = {
  "v4": Chip(32 * 2**30, 1.05e9, 2**18),
  "v5e": Chip(16 * 2**30, 1.5e9, 2**17),
  "v5p": Chip(95 * 2**30, 1.75e9, 2**18),
  "v6e": Chip(32 * 2**30, 1.75e9, 2**19),
  "h100": Chip(84942979072),
}
# The smallest machine of a generation; one chip is its first.
_SMALLEST = {"v4": "2x2x1", "v5e": "2x2", "v5p": "2x2x1", "v6e": "2x2"}

# An H100 SXM, as CUDA describes it.
_H100 = """
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3" cuda_compute_capability { major: 9 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 memory_bandwidth: 3352320000000
  l2_cache_size: 52428800 device_address_bits: 64
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
}
platform_name: "CUDA" device_description_str: "NVIDIA H100 80GB HBM3"
"""


def chip_of(name: str) -> Chip | None:
  """The device of a machine such as v5e:4x4; None for simulated ones."""
  return CHIPS.get(name.partition(":")[0])


def describe(name: str) -> list[Any]:
  """The devices of a machine; to be called before JAX is used.

  Args:
    name: a TPU by generation and shape (`v5e:4x4`, `v5p:2x2x2`; `v5e:1` is one chip),
      GPUs of one host (`h100:8`), or simulated devices (`cpu:8`).

  Raises:
    ValueError: if the machine is not known, or its compiler not installed; the message
      says what to do.
  """
  kind, _, shape = name.partition(":")
  jax.config.update("jax_platforms", "cpu")  # no accelerator is started
  if kind in ("cpu", "h100"):
    if not re.fullmatch(r"[1-9]\d*", shape):
      raise ValueError(f"{name}: expected a number of devices, as in {kind}:8")
    return _cpus(int(shape)) if kind == "cpu" else _h100s(int(shape))
  return _tpus(name, kind, shape)


def _cpus(count: int) -> list[Any]:
  if len(jax.devices()) < count:
    raise ValueError(
      f"cpu:{count}: this process has {len(jax.devices())} devices; set XLA_FLAGS="
      f"--xla_force_host_platform_device_count={count}"
    )
  return jax.devices()[:count]


def _tpus(name: str, generation: str, shape: str) -> list[Any]:
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError(
      f'{name}: a TPU\'s compiler is not installed; pip install "jax[tpu]" brings it '
      "(cpu:8 needs none)"
    )
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # this is no TPU's host
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nothing is locked either
  one = shape == "1" and generation in _SMALLEST
  described = f"{generation}:{_SMALLEST[generation]}" if one else name
  try:
    found = topologies.get_topology_desc(platform="tpu", topology_name=described)
  except Exception as error:  # each version of libtpu raises another one
    raise ValueError(
      f"{name}: libtpu knows no such machine; expected for instance v5e:1, v5e:4x4, "
      f"v5p:2x2x2, h100:8 or cpu:8 ({str(error).splitlines()[0]})"
    ) from error
  return found.devices[:1] if one else found.devices


def _h100s(count: int) -> list[Any]:
  plugins = [importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (13, 12)]
  if not any(plugins):
    raise ValueError(
      f"h100:{count}: a GPU's compiler is not installed; pip install jax-cuda13-plugin "
      "jax-cuda13-pjrt nvidia-cuda-nvcc nvidia-nvvm brings it (cpu:8 needs none)"
    )
  # Neither cuDNN nor cuBLAS is needed where nothing runs.
  os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
  flags = [os.environ.get("XLA_FLAGS", ""), "--xla_gpu_autotune_level=0"]
  if nvidia := importlib.util.find_spec("nvidia"):
    for folder in nvidia.submodule_search_locations or []:
      for toolkit in Path(folder).glob("cu1*"):
        flags.append(f"--xla_gpu_cuda_data_dir={toolkit}")
        os.environ["PATH"] = f"{toolkit / 'bin'}:{os.environ['PATH']}"
  os.environ["XLA_FLAGS"] = " ".join(flags)
  found = topologies.get_topology_desc(
    platform="cuda",
    topology_name="h100",
    topology=f"1x1x{count}",
    target_config=_H100,
  )
  return found.devices
