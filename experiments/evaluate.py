"""Scores a run's newest checkpoint on its test classes.

  python -m experiments.evaluate --workdir=runs/glyphs

Prints one line of JSON: the metrics, and the step they belong to. It changes nothing in
the run. With --save-embeddings=FOLDER, the embeddings stay as .npy files for
experiments.retrieve --embeddings=FOLDER; of a benchmark with a gallery, in its folders
query and gallery. With --split=all too, train and test images are embedded and nothing
is scored: a head is trained on the folder by configs/features.py. With --config=FILE,
the images are those of another config, in the size that the run's network takes.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from configs.base import Config
from experiments.run import command_line, workdir
from experiments.run.command_line import exit_on_bad_input


def main(argv: Sequence[str] | None = None) -> None:
  parser = command_line.parser("evaluate", __doc__ or "")
  parser.add_argument("--workdir", required=True, type=Path, help="the run's folder")
  parser.add_argument(
    "--split",
    choices=("test", "validation", "all"),
    default="test",
    help="which classes to search (default: test); all: train and test, to be saved",
  )
  parser.add_argument(
    "--config",
    help="a file of configs/ whose images are embedded, in place of the run's",
  )
  parser.add_argument(
    "--flip",
    action="store_true",
    help="embed each picture and its mirror image, and take the mean",
  )
  parser.add_argument(
    "--nmi",
    action="store_true",
    help="NMI and AMI of k-means too; slow where classes are many",
  )
  parser.add_argument(
    "--thresholds",
    action="store_true",
    help="thresholds on the cosine of two pictures, and their error rates",
  )
  parser.add_argument(
    "--save-embeddings",
    type=Path,
    metavar="FOLDER",
    help="where to write embeddings, labels and ids as .npy files",
  )
  args, overrides = command_line.parse(parser, argv)
  with exit_on_bad_input():
    config = workdir.read_config(args.workdir)
    if args.config:
      config = with_data_of(config, command_line.load_config(args.config, overrides))
    elif overrides:
      raise ValueError(f"{[*overrides][0]} is given without --config=FILE")
    if args.split == "all" and not args.save_embeddings:
      raise ValueError("--split=all has nothing to score: add --save-embeddings=FOLDER")
    if args.flip and config.data.name == "features":
      raise ValueError(
        "--flip: the run's rows are embeddings, and have no mirror image"
      )

  from experiments.run import assemble, datasets, embeddings, scoring

  with exit_on_bad_input():
    state = assemble.restore(args.workdir)
    data = datasets.load_data(config)
    if args.split == "validation":
      if data.validation is None:
        raise ValueError("the run holds out nothing to validate on: its fraction is 0")
      data = data._replace(test=data.validation, gallery=None)
    if args.save_embeddings:
      args.save_embeddings.mkdir(parents=True, exist_ok=True)
  embed = assemble.make_embed(config, flip=args.flip, num_views=config.data.test_views)
  about = {"split": args.split, "step": int(state.step), "flip": args.flip}
  if args.split == "all":
    run = {"workdir": str(args.workdir), **about}
    parts = {"train": data.train, "test": data.test, "gallery": data.gallery}
    embeddings.save_splits(
      args.save_embeddings,
      {name: part for name, part in parts.items() if part},
      lambda part: embed(state, part)[0],
      run,
    )
    print(json.dumps(about))
    return
  tested = scoring.test(config, embed, state, data)
  embedded = tested.embedded
  if args.save_embeddings:
    folder, run = args.save_embeddings, {"workdir": str(args.workdir), **about}
    if data.gallery is None:
      embeddings.save(folder, data.test, embedded.queries, run)
    else:
      embeddings.save(folder / "query", data.test, embedded.queries, run)
      embeddings.save(folder / "gallery", data.gallery, embedded.gallery, run)
  metrics = tested.metrics
  if args.nmi:
    metrics |= scoring.score_clusters(config, embedded)
  if args.thresholds and (calibration := scoring.calibrate(config, embedded)):
    metrics["eer"] = calibration.eer
    for far, (threshold, frr) in scoring.chosen(calibration).items():
      metrics |= {f"threshold at far {far:g}": threshold, f"frr at far {far:g}": frr}
  print(json.dumps({**about, **metrics}))


def with_data_of(config: Config, other: Config) -> Config:
  """The config with the images of another one, as this one's network takes them."""
  kept = {
    name: getattr(config.data, name)
    for name in ("image_size", "channels", "shorter_side")
  }
  return dataclasses.replace(
    config,
    probe="none",
    few_shot_tasks=0,
    data=dataclasses.replace(other.data, validation_fraction=0.0, **kept),
  )


if __name__ == "__main__":
  main()
