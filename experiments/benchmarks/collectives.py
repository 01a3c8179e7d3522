"""The collectives of a compiled program, and the bytes that they bring to a device."""

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
    kind: as HLO names it.
    shape: of its result, in HLO's notation.
    devices: that take part in one group of it.
    bytes: that a device receives, by the algorithm that moves the fewest (a ring).
  """

  kind: str
  shape: str
  devices: int
  bytes: int


def collectives(program: str) -> list[Collective]:
  """The collectives in the text of a compiled program (`compiled.as_text()`).

  Those of a loop count once: the loops of this project hold none (see the tests).

  Raises:
    ValueError: for a collective whose devices the text does not tell.
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
