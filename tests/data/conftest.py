"""Fonts to draw from."""

import pytest

from tests.data import small_fonts


@pytest.fixture(scope="session")
def fonts(tmp_path_factory):
  """The folder of six small fonts."""
  folder = tmp_path_factory.mktemp("fonts")
  small_fonts.write(folder)
  return folder
