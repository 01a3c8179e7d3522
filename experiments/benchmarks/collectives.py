"""The collectives of a compiled program, and the bytes that a device receives."""

import math
import re
from typing import NamedTuple

# One instruction of the HLO text: result type, then the operation.
_INSTRUCTION = re.compile(
  r"^\s*(?:ROOT )?\S+ = (?P<result>\(.*?\)|\S+) (?P<kind>all-gather|all-reduce|"
  r"reduce-scatter|all-to-all|collective-permute|collective-broadcast|ragged-all-to-all)"
  r"(?P<starts>-start)?\((?P<rest>.*)$",
  re.MULTILINE,
)
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_LISTED_GROUP = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_COUNTED_GROUPS = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_PAIRS = re.compile(r"source_target_pairs=\{\{(.*?)\}\}")
# A TPU's compiler may cut one collective into steps, each with this name of the whole.
_CHAIN = re.compile(r'chain_id="([^"]*)"')
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

  An asynchronous collective counts once, wherever its start, its steps and its end lie.
  A collective in a loop counts once too; the loops of this project have none of their
  own (see the tests).

  Raises:
    ValueError: if the text does not say which devices take part.
  """
  found, chains = [], set()
  for match in _INSTRUCTION.finditer(program):
    kind, result = match["kind"], match["result"]
    if chain := _CHAIN.search(match["rest"]):
      if (kind, chain[1]) in chains:
        continue
      chains.add((kind, chain[1]))
    if match["starts"] and kind != "all-reduce":
      result = _parts(result)[1]  # operands, results, and whatever the end needs
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


def _parts(shape: str) -> list[str]:
  """The parts of a tuple's shape, which may be tuples themselves."""
  parts, depth = [""], 0
  for character in shape[1:-1]:
    depth += (character in "([{") - (character in ")]}")
    if character == "," and depth == 0:
      parts.append("")
    else:
      parts[-1] += character
  return [part.strip() for part in parts]


def _group_size(rest: str) -> int:
  if listed := _LISTED_GROUP.search(rest):
    return len(listed[1].split(","))
  if counted := _COUNTED_GROUPS.search(rest):
    return int(counted[1])
  if named := _MESH_GROUPS.search(rest):
    sizes = dict(axis.split("=") for axis in named[1].split(","))
    if all(axis in sizes for axis in named[2].split(",")):
      return math.prod(int(sizes[axis]) for axis in named[2].split(","))
  if pairs := _PAIRS.search(rest):
    return len(set(re.findall(r"\d+", pairs[1])))
  raise ValueError(f"no replica_groups in a collective: {rest[:200]}")


def _bytes_of(dtype: str, bits: str, dimensions: str) -> float:
  size = math.prod(int(n) for n in dimensions.split(",") if n)
  return size * (1 if dtype == "pred" else int(bits) / 8)
