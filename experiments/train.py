"""Trains, evaluates on classes or images never seen in training, and writes a report.

  python -m experiments.train --config=configs/glyphs.py --workdir=runs/glyphs

The folder then holds config.json, metrics.jsonl (a line an event), tensorboard/ (the
same, pictures of queries with their neighbors, and the trace of some steps with
--config.profile_steps=N), checkpoints/, result.json (metrics of the test classes) and
report.html, which opens in any browser. The same command again resumes a run that was
stopped; a finished one says so.

With --init-from=DIR, a run starts from another one's. If the two differ in their steps
alone, it trains that run for longer: step count, optimizer, class vectors and the place
in the data go on, and the learning rate is that of the longer schedule. Otherwise it
fine-tunes that run's model from step 0, with its class vectors if the classes are the
same.

Several processes train one model: the same command in each, with a folder that they
share. Each reads its own part of the images; the first one writes the logs.
"""

import contextlib
import shutil
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from configs.base import Config
from experiments.run import command_line, processes, workdir
from experiments.run.command_line import exit_on_bad_input

if TYPE_CHECKING:
  from ccl_jax.report.figures import CenterMap
  from ccl_jax.training.checkpoint import Checkpoints
  from ccl_jax.training.loop import BatchIterator
  from ccl_jax.training.run_log import Event
  from ccl_jax.training.step import TrainState
  from experiments.run.assemble import Run
  from experiments.run.datasets import Data
  from experiments.run.scoring import Tested


def main(argv: Sequence[str] | None = None) -> None:
  parser = command_line.parser("train", f"{__doc__}\n{command_line.fields_help()}")
  parser.add_argument("--config", required=True, help="a file of configs/")
  parser.add_argument("--workdir", required=True, type=Path, help="the run's folder")
  parser.add_argument("--init-from", metavar="DIR", help="a run's folder to start from")
  processes.add_arguments(parser)
  args, overrides = command_line.parse(parser, argv)
  if args.init_from:
    overrides["init_from"] = args.init_from
  with exit_on_bad_input():
    config = command_line.load_config(args.config, overrides)
    workdir.check(args.workdir, config)
  if workdir.is_finished(args.workdir):
    print(f"finished already: {workdir.summary(args.workdir)}")
    return
  with exit_on_bad_input():
    processes.join(args)
  train(config, args.workdir)


class Prepared(NamedTuple):
  """All that a run needs to start or to go on."""

  data: "Data"
  run: "Run"
  state: "TrainState"  # of step 0, or of the run that is trained for longer
  batches: "BatchIterator"  # from the step after it on


class Trained(NamedTuple):
  """What a run at its end is reported from."""

  tested: "Tested"
  centers: "CenterMap | None"
  seconds: float
  events: "list[Event]"


def train(config: Config, folder: Path) -> None:
  """Runs a config from its newest checkpoint, or from the start, to its end."""
  # Slow to import, and not needed to refuse a mistyped field.
  from ccl_jax.training.loop import NonFiniteLoss, Stopped

  with processes.ending_together(), contextlib.ExitStack() as held:
    with exit_on_bad_input():
      if processes.is_first():
        held.enter_context(workdir.hold(folder))
      prepared = prepare(config, folder)
    try:
      trained = train_and_test(config, folder, prepared)
      if processes.is_first():
        write_results(config, folder, prepared.data, trained)
    except NonFiniteLoss as error:
      command_line.fail(str(error), code=1)
    except Stopped as stop:
      if processes.is_first():
        print(f"{stop} of {config.steps}, saved; the same command again goes on")
      sys.exit(128 + stop.signal_number)
    except Exception as error:
      if told := what_ended(error, folder):
        command_line.fail(told)
      raise


def what_ended(error: BaseException, folder: Path) -> str | None:
  """One line where it was the disk or a picture that ended a run, and no defect."""
  from ccl_jax.data.examples import UnreadableImage

  if isinstance(error, UnreadableImage):
    return str(error)
  return workdir.what_ended(error, folder)


def prepare(config: Config, folder: Path) -> Prepared:
  """Reads the data, draws a fresh state, and makes the folder that of this run."""
  import jax

  from experiments.run import assemble, datasets, inherit

  with processes.first_goes_first("data"):
    data = datasets.load_data(config)
  run = assemble.make_run(config, data)
  batches = assemble.train_batches(config, data.train)
  state = run.init_state()
  is_new = not workdir.has_checkpoint(folder)
  if is_new:
    state = assemble.load_weights(config, state)
    if config.init_from:
      state = inherit.take_over(config, [*data.train.class_names], state, batches)
  if processes.is_first():
    workdir.check_space(
      folder,
      sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
      config.keep_checkpoints,
    )
    workdir.claim(folder, config, data.train.class_names)
    if is_new and state.step > 0:  # the events of the steps before, too
      shutil.copy(Path(config.init_from or "") / workdir.METRICS, folder)
  return Prepared(data, run, state, batches)


def train_and_test(config: Config, folder: Path, prepared: Prepared) -> Trained:
  """Trains to the last step, with checkpoints and a log, and tests the final state.

  Raises:
    NonFiniteLoss, Stopped: see `ccl_jax.training.loop.fit`.
  """
  from ccl_jax.training.checkpoint import Checkpoints
  from ccl_jax.training.loop import NonFiniteLoss, Stopped, fit
  from ccl_jax.training.run_log import RunLog
  from experiments.run import assemble, scoring, show

  data, run, _, batches = prepared

  with (
    Checkpoints(
      folder / workdir.CHECKPOINTS,
      keep=config.keep_checkpoints,
      num_classes=data.train.num_classes,
    ) as saved,
    # Within the checkpoints, whose end waits for those of the other processes.
    processes.ending_together(
      lambda error: what_ended(error, folder), in_order=(NonFiniteLoss, Stopped)
    ),
  ):
    state = resume(config, folder, prepared, saved)
    log_folder = folder if processes.is_first() else None
    with RunLog(log_folder, step=int(state.step)) as log:

      def evaluate(state):
        embedded = scoring.Embedded(*run.embed(state, data.validation))
        metrics, neighbors = scoring.score_with_neighbors(config, embedded)
        sheet = show.sheet_of_neighbors(data.validation, neighbors)
        log.picture("validation/neighbors", int(state.step), sheet)
        return metrics

      with processes.stopping_together():
        state = fit(
          state,
          run.train_step,
          batches,
          placement=run.placement,
          num_steps=config.steps,
          batch_size=config.batch_size,
          learning_rate=assemble.learning_rate(config),
          evaluate=evaluate if data.validation else None,
          log=log,
          checkpoints=saved,
          log_every=config.log_every,
          eval_every=config.eval_every,
          checkpoint_every=config.checkpoint_every,
          profile_steps=config.profile_steps,
        )
      show.tell(f"searching {len(data.test):,} test pictures")
      tested = scoring.test(config, run.embed_test, state, data)
      log.write("test", config.steps, tested.metrics)
      centers = show.map_of(data.train, run.class_vectors(state))
  return Trained(tested, centers, log.seconds, log.events)


def resume(
  config: Config, folder: Path, prepared: Prepared, saved: "Checkpoints"
) -> "TrainState":
  """The state of the newest checkpoint, on the devices of the fresh state, or the fresh
  state where there is no checkpoint. The batches are set to the same step."""
  import jax

  num_classes = prepared.data.train.num_classes
  if (known := saved.num_classes()) not in (None, num_classes):
    # Other folders of classes: a label would mean another class than before.
    command_line.fail(
      f"{folder} was trained on {known} classes and the data now has "
      f"{num_classes}; give another --workdir"
    )
  restored = saved.restore(prepared.state)
  if restored is None:
    return prepared.state
  for leaf in jax.tree.leaves(prepared.state):
    leaf.delete()  # or a second state would fill the devices' memory to the end
  state, position = restored
  prepared.batches.set_state(position)
  if processes.is_first():
    print(f"resuming at step {state.step} of {config.steps}", file=sys.stderr)
    warn_of_lost_events(config, folder, int(state.step))
  return state


def warn_of_lost_events(config: Config, folder: Path, step: int) -> None:
  """Says where metrics.jsonl was deleted or emptied while the checkpoints went on."""
  from ccl_jax.training.run_log import read_events
  from experiments.run import show

  for told in show.lost_events(config, read_events(folder / "metrics.jsonl"), step):
    print(f"warning: {folder}: {told}", file=sys.stderr)


def write_results(config: Config, folder: Path, data: "Data", trained: Trained) -> None:
  """Writes result.json, with which the run counts as finished, and report.html."""
  from experiments.run import scoring, show

  tested = trained.tested
  result = {
    **tested.metrics,
    "steps": config.steps,
    "seconds": trained.seconds,
    "classes": {
      "train": data.train.num_classes,
      "validation": data.validation.num_classes if data.validation else 0,
      "test": data.test.num_classes,
    },
    "versions": versions(),
  }
  if tested.cells is not None:
    result["cells"] = scoring.describe_cells(data.test, tested.cells)
  workdir.finish(folder, result)
  show.tell("drawing the report")
  try:
    calibration = scoring.calibrate(config, tested.embedded)
    show.write_report(
      folder,
      config,
      trained.events,
      result,
      data,
      trained.centers,
      tested.neighbors,
      calibration,
    )
  except Exception as error:  # of drawing; what was trained for is in the result
    told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    print(f"error: the report cannot be drawn ({told})", file=sys.stderr)
  print(f"finished: {workdir.summary(folder)}")


def versions() -> dict[str, str]:
  """Versions of Python and of the packages that a number may depend on."""
  packages = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow", "grain")
  found = {name: metadata.version(name) for name in packages}
  return {"python": sys.version.split()[0], **found}


if __name__ == "__main__":
  main()
