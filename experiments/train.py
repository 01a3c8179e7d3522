"""Trains, evaluates on classes or images never seen in training, and writes a report.

  python -m experiments.train --config=configs/glyphs.py --workdir=runs/glyphs

The folder then holds config.json, metrics.jsonl (a line an event; TensorBoard's copy is
in tensorboard/), checkpoints/, result.json (metrics of the test classes) and
report.html, which opens in any browser. The same command again resumes a run that was
stopped; a finished one says so.
"""

import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from configs.base import Config
from experiments import command_line, workdir
from experiments.command_line import exit_on_bad_input


def main(argv: Sequence[str] | None = None) -> None:
  parser = command_line.parser("train", f"{__doc__}\n{command_line.fields_help()}")
  parser.add_argument("--config", required=True, help="a file of configs/")
  parser.add_argument("--workdir", required=True, type=Path, help="the run's folder")
  args, overrides = command_line.parse(parser, argv)
  with exit_on_bad_input():
    config = command_line.load_config(args.config, overrides)
    workdir.check(args.workdir, config)
  if workdir.is_finished(args.workdir):
    print(f"finished already: {workdir.summary(args.workdir)}")
  else:
    train(config, args.workdir)


def train(config: Config, folder: Path) -> None:
  """Runs a config from its newest checkpoint, or from the start, to its end."""
  # Slow to import, and not needed to refuse a mistyped field.
  from ccl_jax.checkpoint import Checkpoints
  from ccl_jax.loop import NonFiniteLoss, Stopped, fit
  from ccl_jax.run_log import RunLog
  from experiments import assemble, show

  with exit_on_bad_input():
    data = assemble.load_data(config)
    run = assemble.make_run(config, data)
    batches = assemble.train_batches(config, data.train)
    workdir.claim(folder, config)

  def evaluate(state):
    return assemble.score(config, *run.embed(state, data.validation))

  state = run.init_state()
  try:
    with Checkpoints(
      folder / workdir.CHECKPOINTS, keep=config.keep_checkpoints
    ) as saved:
      if restored := saved.restore(state):
        state, position = restored
        batches.set_state(position)
        print(f"resuming at step {state.step} of {config.steps}", file=sys.stderr)
      with RunLog(folder, step=int(state.step)) as log:
        state = fit(
          state,
          run.train_step,
          batches,
          placement=run.placement,
          steps=config.steps,
          batch_size=config.batch_size,
          evaluate=evaluate if data.validation else None,
          log=log,
          checkpoints=saved,
          log_every=config.log_every,
          eval_every=config.eval_every,
          checkpoint_every=config.checkpoint_every,
        )
        tested = assemble.test(config, run.embed, state, data)
        log.write("test", config.steps, tested.metrics)
  except NonFiniteLoss as error:
    command_line.fail(str(error), code=1)
  except Stopped as stop:
    print(f"{stop} of {config.steps}, saved; the same command again goes on")
    sys.exit(128 + stop.signal_number)

  result = {
    **tested.metrics,
    "steps": config.steps,
    "seconds": log.seconds,
    "classes": {
      "train": data.train.num_classes,
      "validation": data.validation.num_classes if data.validation else 0,
      "test": data.test.num_classes,
    },
    "versions": versions(),
  }
  if tested.cells is not None:
    result["cells"] = assemble.describe_cells(data.test, tested.cells)
  show.write_report(folder, config, log.events, result, data, state, tested.embeddings)
  workdir.finish(folder, result)
  print(f"finished: {workdir.summary(folder)}")


def versions() -> dict[str, str]:
  """Of the packages that a number may depend on."""
  packages = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow", "grain")
  found = {name: metadata.version(name) for name in packages}
  return {"python": sys.version.split()[0], **found}


if __name__ == "__main__":
  main()
