"""The log of a running training: `metrics.jsonl`, and a copy for TensorBoard."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from tensorboardX import SummaryWriter

from ccl_jax.training.files import write_whole

_LOG = logging.getLogger(__name__)
Event = dict[str, Any]  # {"event": kind, "step": int, name: number, ...}


def read_events(path: str | Path) -> list[Event]:
  """The events of a `metrics.jsonl`, in order; an empty list if there is no file.

  A last line that a kill has cut short is left out, and so is a line that is no event,
  which a warning names.

  Example:
    >>> import tempfile
    >>> from ccl_jax.training import run_log
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   with run_log.RunLog(folder, step=0) as log:
    ...     log.write("train", 20, {"loss": 7.5})
    ...   print(run_log.read_events(f"{folder}/metrics.jsonl"))
    ...
    [{'event': 'train', 'step': 20, 'loss': 7.5}]
  """
  path = Path(path)
  lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
  events = []
  for number, line in enumerate(lines, 1):
    event = _parse(line)
    if event is None:
      _LOG.warning("line %d of %s is damaged and is left out", number, path)
    else:
      events.append(event)
  return events


def _parse(line: bytes) -> Event | None:
  try:
    event = json.loads(line)
  except ValueError:
    return None
  whole = isinstance(event, dict) and {"event", "step"} <= event.keys()
  return event if whole and isinstance(event["step"], int) else None


class RunLog:
  """Appends events to `metrics.jsonl` and to a TensorBoard log; a context manager.

  Args:
    directory: the run's directory; None keeps the events in memory only, for processes
      other than the first.
    step: the step at which the run starts or resumes. Later events and the final test,
      which a killed run has left, are dropped, since the run writes them again.

  Attributes:
    events: all events of the run so far.
    board_folder: where TensorBoard looks; None without a directory.

  Example:
    >>> from ccl_jax.training.run_log import RunLog
    >>> with RunLog(None, step=0) as log:  # None: in memory; else the run's folder
    ...   log.write("train", 20, {"loss": 7.5, "seconds": 1.5})
    ...
    >>> print(log.seconds, log.events[0]["loss"])
    1.5 7.5
  """

  def __init__(self, directory: str | Path | None, *, step: int):
    self.events: list[Event] = []
    self._file = self._board = None
    self.board_folder: Path | None = None
    if directory is None:
      return
    path = Path(directory) / "metrics.jsonl"
    self.events = [
      event
      for event in read_events(path)
      if event["step"] <= step and event["event"] != "test"
    ]
    write_whole(path, "".join(json.dumps(e) + "\n" for e in self.events))
    self._file = path.open("a")
    self.board_folder = Path(directory) / "tensorboard"
    self._board = SummaryWriter(str(self.board_folder), purge_step=step)

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    if self._file and self._board:
      self._file.close()
      self._board.close()

  @property
  def seconds(self) -> float:
    """Training time up to the last event, over all sessions of the run."""
    return max((e.get("seconds", 0.0) for e in self.events), default=0.0)

  def write(self, kind: str, step: int, values: dict[str, float]) -> None:
    """Logs one event of a kind (`train`, `validation`, `test`) at a step."""
    event = {"event": kind, "step": step, **values}
    self.events.append(event)
    if not (self._file and self._board):
      return
    self._file.write(json.dumps(event) + "\n")
    self._file.flush()
    for name, value in values.items():
      # TensorBoard groups by the part before a slash and takes no "@".
      self._board.add_scalar(f"{kind}/{name.replace('@', '_at_')}", value, step)

  def picture(self, name: str, step: int, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Shows a picture in TensorBoard."""
    if self._board:
      self._board.add_image(name, image, step, dataformats="HWC")
