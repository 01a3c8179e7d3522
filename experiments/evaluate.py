"""Scores a run's newest checkpoint on its test classes.

  python -m experiments.evaluate --workdir=runs/glyphs

Prints one line of JSON: the metrics, and the step they belong to. It changes nothing.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from experiments import command_line, workdir
from experiments.command_line import exit_on_bad_input


def main(argv: Sequence[str] | None = None) -> None:
  parser = command_line.parser("evaluate", __doc__ or "")
  parser.add_argument("--workdir", required=True, type=Path, help="the run's folder")
  parser.add_argument(
    "--split",
    choices=("test", "validation"),
    default="test",
    help="which classes to search (default: test)",
  )
  args = parser.parse_args(argv)
  with exit_on_bad_input():
    config = workdir.read_config(args.workdir)

  from experiments import assemble

  with exit_on_bad_input():
    state = assemble.restore(args.workdir)
    data = assemble.load_data(config)
    examples = data.test if args.split == "test" else data.validation
    if examples is None:
      raise ValueError("the run holds out nothing to validate on: its fraction is 0")
  embed = assemble.make_embed(config)
  metrics = assemble.test(config, embed, state, data, examples).metrics
  print(json.dumps({"split": args.split, "step": int(state.step), **metrics}))


if __name__ == "__main__":
  main()
