"""What the README shows is what its code prints."""

import re
from pathlib import Path

README = Path(__file__).parents[1].joinpath("README.md").read_text()


def test_the_example_prints_what_its_comments_say(capsys):
  code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
  exec(code, {})
  printed = capsys.readouterr().out.splitlines()
  said = re.findall(r"print\(.*\)  # (.*)", code)
  assert len(said) == 2
  assert printed == said
