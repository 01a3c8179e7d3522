"""Exports a finished run's network, with a card that says what it is and how good.

  python -m experiments.export --workdir=runs/glyphs

Writes three files to the run's folder `export`, or to --out=FOLDER: model.safetensors,
which `ccl_jax.models.load` reads; model.stablehlo, the same function with its weights
as `jax.export` serializes it, for CPU, CUDA and TPU and any number of pictures; and
README.md, the card. The class vectors and the optimizer's state stay in the run.
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.run import command_line, workdir
from experiments.run.command_line import exit_on_bad_input


def main(argv: Sequence[str] | None = None) -> None:
  parser = command_line.parser("export", __doc__ or "")
  parser.add_argument("--workdir", required=True, type=Path, help="the run's folder")
  parser.add_argument("--out", type=Path, help="where to write (default: its export/)")
  args = parser.parse_args(argv)
  with exit_on_bad_input():
    config = workdir.read_config(args.workdir)
    result = workdir.read_result(args.workdir)
    if result is None:
      raise ValueError(f"{args.workdir} has no result yet: let its run end")

  from ccl_jax.models import model_file
  from experiments.run import assemble, card

  folder = args.out or args.workdir / "export"
  with exit_on_bad_input():
    state = assemble.restore(args.workdir)
    embedder = assemble.make_embedder(config, state, about=card.about(config, result))
    folder.mkdir(parents=True, exist_ok=True)
    model_file.save(folder / card.MODEL, embedder)
    (folder / card.STABLEHLO).write_bytes(model_file.stablehlo(embedder))
    (folder / card.CARD).write_text(card.text(config, result, embedder))
  for name in (card.MODEL, card.STABLEHLO, card.CARD):
    print(f"{(folder / name).stat().st_size / 1e6:8.2f} MB  {folder / name}")


if __name__ == "__main__":
  main()
