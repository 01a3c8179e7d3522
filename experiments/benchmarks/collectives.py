"""The collectives of a compiled program, and the bytes that a device receives."""

import math
import re
from typing import NamedTuple

# One instruction of the HLO text: result type, then the operation.
_INSTRUCTION = re.compile(
  r"^\s*(?:ROOT )?\S+ = (?P<result>\(.*?\)|\S+) (?P<kind>all-gather|all-reduce|"
  r"reduce-scatter|all-to-all|collective-permute|collective-broadcast|ragged-all-to-all)"
  r"(?:-start)?\((?P<rest>.*)$",
  re.MULTILINE,
)
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_LISTED_GROUP = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_COUNTED_GROUPS = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")


class Collective(NamedTuple):
  """One collective operation.

  Attributes:
    kind: its name in HLO.
    shape: shape of its result, in HLO's notation.
    devices: number of devices in a group.
    bytes: bytes that a device receives, by the algorithm that moves fewest (a ring).
  """

  kind: str
  shape: str
  devices: int
  bytes: int


def collectives(program: str) -> list[Collective]:
  """The collectives in the text of a compiled program (`compiled.as_text()`).

  A collective in a loop counts once; the loops of this project have no collectives (see
  the tests).

  Raises:
    ValueError: if the text does not say which devices take part.
  """
  found = []
  for match in _INSTRUCTION.finditer(program):
    kind, result = match["kind"], match["result"]
    devices = _group_size(match["rest"])
    held = sum(_bytes_of(*array) for array in _ARRAY.findall(result))
    share = (devices - 1) / devices
    received = {
      "all-gather": share * held,
      "all-reduce": 2 * share * held,
      "reduce-scatter": (devices - 1) * held,  # the operand is `devices` results
      "all-to-all": share * held,
    }.get(kind, held)
    shape = re.sub(r"\{[^}]*\}", "", result)
    found.append(Collective(kind, shape, devices, round(received)))
  return found


def _group_size(rest: str) -> int:
  if listed := _LISTED_GROUP.search(rest):
    return len(listed[1].split(","))
  if counted := _COUNTED_GROUPS.search(rest):
    return int(counted[1])
  if named := _MESH_GROUPS.search(rest):
    sizes = dict(axis.split("=") for axis in named[1].split(","))
    if all(axis in sizes for axis in named[2].split(",")):
      return math.prod(int(sizes[axis]) for axis in named[2].split(","))
  raise ValueError(f"no replica_groups in a collective: {rest[:200]}")


def _bytes_of(dtype: str, bits: str, dimensions: str) -> float:
  size = math.prod(int(n) for n in dimensions.split(",") if n)
  return size * (1 if dtype == "pred" else int(bits) / 8)
