"""Finds the pictures that are most like a given one, with a trained run.

  python -m experiments.retrieve --workdir=runs/glyphs --images=FOLDER --query=IMAGE
  python -m experiments.retrieve --workdir=runs/glyphs --embeddings=FOLDER --query=IMAGE

Searches a folder of pictures; or what experiments.evaluate --save-embeddings=FOLDER
wrote, where the query may also be the id of one of its pictures (see its ids.npy).
Prints the nearest pictures, one a line with its cosine, and draws them beside the query
in a PNG (neighbors.png in the run's folder, unless --out says otherwise).
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.run import command_line, workdir
from experiments.run.command_line import exit_on_bad_input


def main(argv: Sequence[str] | None = None) -> None:
  parser = command_line.parser("retrieve", __doc__ or "")
  parser.add_argument("--workdir", required=True, type=Path, help="the run's folder")
  searched = parser.add_mutually_exclusive_group(required=True)
  searched.add_argument(
    "--images", type=Path, help="folder of pictures, searched with all below"
  )
  searched.add_argument(
    "--embeddings", type=Path, help="folder of saved embeddings of this run"
  )
  parser.add_argument("--query", required=True, type=Path, help="the picture to find")
  parser.add_argument("--k", type=int, default=10, help="how many (default: 10)")
  parser.add_argument("--out", type=Path, help="where to write the PNG")
  args = parser.parse_args(argv)
  with exit_on_bad_input():
    config = workdir.read_config(args.workdir)
    if args.images and not args.query.is_file():
      raise ValueError(f"--query={args.query}: no such file")
    if args.k < 1:
      raise ValueError(f"--k={args.k}: expected 1 or more")

  from ccl_jax import retrieval
  from ccl_jax.report import figures
  from experiments.run import assemble, datasets, embeddings, show

  with exit_on_bad_input():
    # The state takes longest to read: what cannot be searched is refused before.
    saved = embeddings.load(args.embeddings) if args.embeddings else None
    pictures = None if saved else datasets.load_pictures(config, args.images)
    state = assemble.restore(args.workdir)
    if saved:
      pictures = embeddings.pictures_of(saved, state, datasets.load_data(config))
      names = pictures.ids
    else:
      names = [str(Path(path).relative_to(args.images)) for path in pictures.ids]
    own = row_of(args.query, pictures.ids)
    if own is None and not args.query.is_file():
      raise ValueError(
        f"--query={args.query}: no such file, nor an id of what is saved"
      )
    query = datasets.load_pictures(config, args.query) if own is None else None
  embed = assemble.make_embed(
    config,
    flip=saved is not None and saved.about["flip"],
    num_views=config.data.test_views,
  )
  searched = saved.embeddings if saved else embed(state, pictures)[0]
  wanted = embed(state, query)[0] if query else searched[[own]]
  # The query may lie among the pictures; it would only find itself.
  others = [row for row in range(len(pictures)) if row != own]
  k = min(args.k, len(others))
  similarities, found = retrieval.search(wanted, searched[others], k=k)
  rows = [others[index] for index in found[0]]
  for similarity, row in zip(similarities[0], rows, strict=True):
    print(f"{similarity:.4f}  {names[row]}")
  out = args.out or args.workdir / "neighbors.png"
  figures.picture_of_neighbors(
    out,
    show.picture(query[0]["image"] if query else pictures[own]["image"]),
    [show.picture(pictures[row]["image"]) for row in rows],
    similarities[0],
    [names[row] for row in rows],
  )
  print(f"look at {out}")


def row_of(query: Path, ids: Sequence[str]) -> int | None:
  """The row of a picture among others, by its id or as the same file."""
  place = query.resolve()
  for row, name in enumerate(ids):
    if name == str(query) or Path(name).resolve() == place:
      return row
  return None


if __name__ == "__main__":
  main()
