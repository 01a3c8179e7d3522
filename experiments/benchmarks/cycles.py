"""The time of a compiled TPU program, by its compiler's own model."""

import re

_COMPUTATION = re.compile(r"(ENTRY )?%(\S+) \(.*\{$")
_LOOP = re.compile(r" while\(.*condition=%([\w.-]+), body=%([\w.-]+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


def modelled_cycles(program: str) -> int | None:
  """The cycles that XLA:TPU estimates for each fusion, times the trips of its loops.

  Collectives and custom calls have no estimate and count as 0, so that this is less
  than the time of a step, and says nothing of a network.

  Args:
    program: the text of a compiled program (`compiled.as_text()`).

  Returns:
    The cycles; None for a program that has no estimates, which other compilers make.
  """
  bodies: dict[str, list[str]] = {}
  entry, lines = "", []
  for line in program.splitlines():
    if head := _COMPUTATION.match(line):
      lines = bodies[head[2]] = []
      entry = head[2] if head[1] else entry
    else:
      lines.append(line)

  def total(name: str) -> int:
    cycles = 0
    for line in bodies[name]:
      if loop := _LOOP.search(line):
        # The condition compares a counter with the number of trips.
        limits = re.findall(r"constant\((\d+)\)", "".join(bodies[loop[1]]))
        cycles += max(map(int, limits), default=1) * total(loop[2])
      elif estimate := _CYCLES.search(line):
        cycles += int(estimate[1])
    return cycles

  return total(entry) if _CYCLES.search(program) else None
