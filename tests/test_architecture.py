"""Who may import whom: the table that keeps the house in order."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ccl_jax

ROOT = Path(__file__).parents[1]
# From the ground up; a module imports only from rows above its own: not sideways.
ROWS = [
  {"accumulate", "vectors"},
  {"labels"},
  {"class_mesh"},
  {"centers"},
  {"losses.blocks"},
  {"losses.proxy"},
  {"losses.center"},
  {"losses.pair"},
  {"losses.prefix", "losses.view"},
  {"losses"},
  {"few_shot", "retrieval", "thresholds"},
  {"objectives"},
  {"probe"},
  {
    "models.conv_net",
    "models.glyph_net",
    "models.head",
    "models.projection",
    "models.resnet",
  },
  {"models.import_torch", "models.model_file", "models.vit"},
  {"models"},
  {"data.draws"},
  {"data.views", "data.examples"},
  {"data.corrupt", "data.pipeline", "data.splits", "data.turned_classes"},
  {"data"},
  {"data.sources"},
  {
    "data.sources.archives",
    "data.sources.features",
    "data.sources.folder",
    "data.sources.typefaces",
  },
  {"data.sources.tfds_images"},
  {"data.sources.published", "data.sources.glyphs"},
  {"data.sources.cars", "data.sources.cub", "data.sources.inshop", "data.sources.sop"},
  {"data.sources.biased_glyphs"},
  {"data.sources.biased_mnist", "data.sources.omniglot", "data.sources.utkface"},
  {"training.files", "training.optim", "training.placement"},
  {"training.step"},
  {"training.checkpoint", "training.run_log"},
  {"training.loop"},
  {"training"},
  {"report.figures"},
  {"report.neighbors"},
  {"report.page"},
  {"report"},
]
# Which third-party packages a room may use; every room may use the standard library.
LIGHT = {"jax", "jaxtyping", "numpy"}
ALLOWED = {
  "probe": LIGHT | {"optax", "sklearn", "threadpoolctl"},
  "models": LIGHT | {"flax", "safetensors"},
  "data": {
    "absl",
    "numpy",
    "grain",
    "PIL",
    "tensorflow_datasets",
    "matplotlib",
    "scipy",
    "tqdm",
  },
  "training.optim": {"jax", "optax"},
  "training.step": LIGHT | {"flax", "optax"},
  "training.checkpoint": LIGHT | {"orbax"},
  "training.run_log": {"jaxtyping", "numpy", "tensorboardX"},
  "training.loop": LIGHT | {"tqdm"},
  "report.figures": {
    "matplotlib",
    "numpy",
    "jaxtyping",
    "PIL",
    "sklearn",
    "threadpoolctl",
  },
  "report.neighbors": {"numpy", "jaxtyping"},
  "report.page": {"matplotlib", "numpy", "jaxtyping"},
}
MODULES = {
  ".".join(path.relative_to(ROOT / "ccl_jax").with_suffix("").parts): path
  for path in (ROOT / "ccl_jax").rglob("*.py")
}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}
MODULES.pop("__init__")


def imports(path):
  """Dotted names of all that a file imports."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def row(module):
  return next(i for i, members in enumerate(ROWS) if module in members)


def room_of(dotted):
  """`ccl_jax.losses.proxy.cosface` -> `losses.proxy`."""
  parts = dotted.split(".")[1:]
  while ".".join(parts) not in MODULES:
    parts.pop()
  return ".".join(parts)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_above(module):
  packages = ALLOWED.get(module) or ALLOWED.get(module.split(".")[0], LIGHT)
  allowed = packages | set(sys.stdlib_module_names) | {"ccl_jax"}
  for name in imports(MODULES[module]):
    assert name.split(".")[0] in allowed, f"{module} imports {name}"
    if name.startswith("ccl_jax."):
      assert row(room_of(name)) < row(module), f"{module} imports {name}"


def test_the_loss_works_where_only_its_own_packages_are_installed():
  used = LIGHT.union(*ALLOWED.values())
  absent = sorted(used - LIGHT - {"scipy"})  # jax itself needs scipy
  assert {"flax", "optax", "orbax", "tensorflow_datasets", "matplotlib"} <= {*absent}
  code = f"""
import sys
sys.modules |= dict.fromkeys({absent})  # importing them raises ImportError
import jax, jax.numpy as jnp, ccl_jax
bank = ccl_jax.centers.init(jax.random.key(0), 3, 2)
ccl_jax.center_contrastive_loss(jnp.eye(2), jnp.arange(2), bank)
ccl_jax.retrieval.evaluate(jnp.eye(2), jnp.zeros(2, int), ks=[1])
try:
  ccl_jax.models
except ModuleNotFoundError as error:
  told = str(error)
  assert told == "ccl_jax.models needs flax: pip install 'ccl_jax[training]'", told
else:
  raise AssertionError
"""
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_what_is_heavy_is_imported_when_it_is_used():
  code = """
import sys, ccl_jax
assert not {"flax", "optax", "matplotlib"} & {*sys.modules}
assert ccl_jax.models.load and ccl_jax.probe.linear and "flax" in sys.modules
"""
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
  without = "import sys, ccl_jax; sys.modules['flax'] = None; ccl_jax.models"
  run = subprocess.run(
    [sys.executable, "-c", without], cwd=ROOT, capture_output=True, text=True
  )
  assert "ccl_jax.models needs flax: pip install 'ccl_jax[training]'" in run.stderr
  with pytest.raises(AttributeError, match="has no attribute 'models_'"):
    ccl_jax.models_  # noqa: B018


def test_the_extra_holds_what_the_library_imports_by_name():
  lines = (ROOT / "requirements.txt").read_text().splitlines()
  listed = {re.split("[<>=]", line)[0] for line in lines if line[:1] not in ("", "#")}
  used = LIGHT.union(*ALLOWED.values())
  spelled = {"PIL": "pillow", "sklearn": "scikit-learn", "orbax": "orbax-checkpoint"}
  names = {spelled.get(name, name.replace("_", "-")) for name in used}
  names -= {"absl"}  # comes with orbax-checkpoint
  # tensorflow_datasets reads by array_record, jax.export writes by flatbuffers, and
  # pytest runs the tests.
  assert listed == names | {"array-record", "flatbuffers", "pytest"}


def test_the_version_is_that_of_the_pages_about_it():
  version = ccl_jax.__version__
  assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
  assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_a_tagged_commit_is_the_version_of_its_tag():
  command = ["git", "tag", "--points-at", "HEAD", "v*"]
  tags = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
  assert set(tags.split()) <= {f"v{ccl_jax.__version__}"}


def test_every_file_that_is_no_module_is_installed_too():
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())
  listed = project["tool"]["setuptools"]["package-data"]["ccl_jax"]
  package = ROOT / "ccl_jax"
  files = (path for path in package.rglob("*") if path.is_file())
  others = (path for path in files if path.suffix not in (".py", ".pyc"))
  assert set(listed) == {path.relative_to(package).as_posix() for path in others}
