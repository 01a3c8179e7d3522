"""Six small fonts, cut out of the default ones."""

import pathlib

import matplotlib
from fontTools import subset
from fontTools.ttLib import TTFont

FACES = [
  "DejaVuSans.ttf",
  "DejaVuSans-Bold.ttf",
  "DejaVuSans-Oblique.ttf",
  "DejaVuSerif.ttf",
  "DejaVuSansMono.ttf",
  "STIXGeneral.ttf",
]
# Latin letters; Greek Alpha and Cyrillic A, which look like A; and a space.
CHARACTERS = [*range(0x41, 0x5B), *range(0x61, 0x7B), 0x391, 0x410, 0x20]


def write(folder):
  """Saves them in a folder, under the names of the fonts they are cut out of."""
  for name in FACES:
    font = TTFont(pathlib.Path(matplotlib.get_data_path(), "fonts/ttf", name))
    options = subset.Options()
    options.notdef_outline = True
    small = subset.Subsetter(options)
    # Only one face has z: too few for a class.
    small.populate(unicodes=[c for c in CHARACTERS if c != 0x7A or name == FACES[0]])
    small.subset(font)
    if name == FACES[1]:  # draws the box of a missing glyph for q
      for table in ("glyf", "hmtx"):
        font[table]["q"] = font[table][".notdef"]
    font.save(folder / name)
