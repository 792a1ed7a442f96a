"""The wheel: what is in it, what it asks for, and that it works without the checkout."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import optimkit

ROOT = Path(__file__).parent.parent
LEFT_OUT = shutil.ignore_patterns(".git", ".*cache", ".venv*", ".hypothesis", "build", "dist", "*.egg-info")

# Runs in a fresh interpreter: imports all modules while the packages named in its arguments cannot be imported.
IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    sys.modules[name] = None
import optimkit
for module in pkgutil.walk_packages(optimkit.__path__, "optimkit."):
    importlib.import_module(module.name)
print(optimkit.__file__)
print(optimkit.__version__)
"""


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The source distribution of a copy of the checkout, built without jax and without the network."""
    folder = tmp_path_factory.mktemp("sdist")
    # A copy, because setuptools leaves folders behind and would pack what old ones still hold.
    shutil.copytree(ROOT, folder / "source", ignore=LEFT_OUT)
    run_without_jax([sys.executable, "setup.py", "--quiet", "sdist"], cwd=folder / "source")
    (path,) = (folder / "source" / "dist").glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(sdist):
    """The wheel, built from the source distribution as a release is, by the setuptools of this environment."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", sdist.name]
    run_without_jax(command, cwd=sdist.parent)
    (path,) = sdist.parent.glob("*.whl")
    return path


def run_without_jax(command, cwd):
    """Run a build where importing jax fails: in an isolated build, which reads the version, there is none."""
    (cwd / "no_jax").mkdir()
    (cwd / "no_jax" / "jax.py").write_text("raise ImportError('the build imported jax')")
    environment = {**os.environ, "PYTHONPATH": str(cwd / "no_jax")}
    built = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def requirements(metadata, *, extra):
    """Return the names required with no extra (``None``) or by one extra."""
    lines = metadata.get_all("Requires-Dist")
    if extra is None:
        lines = [line for line in lines if "extra ==" not in line]
    else:
        lines = [line for line in lines if re.search(rf"extra == ['\"]{extra}['\"]", line)]
    return {re.match(r"[A-Za-z0-9._-]+", line)[0] for line in lines}


def test_the_wheel_works_outside_of_the_checkout_with_nothing_but_its_requirements(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    extras = ["optax", "flax", "haiku", "equinox", "sklearn", "matplotlib", "tqdm", "pytest", "hypothesis"]
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_EVERYTHING, *extras],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    file, version = ran.stdout.splitlines()
    assert Path(file).is_relative_to(tmp_path)
    assert version == optimkit.__version__


def test_the_wheel_holds_every_module_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = ROOT / "optimkit"
    modules = {path.relative_to(ROOT).as_posix() for path in package.rglob("*.py")}
    assert packed == modules | {"optimkit/py.typed"}


def test_the_source_distribution_holds_its_own_tests(sdist):
    with tarfile.open(sdist) as archive:
        packed = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert tests | {"Makefile", "setup.cfg", "LICENSE", "README.md", "CHANGELOG.md"} <= packed


def test_the_wheel_asks_for_jax_jaxlib_and_numpy_only(metadata):
    assert requirements(metadata, extra=None) == {"jax", "jaxlib", "numpy"}
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_demo_needs_no_tools_of_developers(metadata):
    assert requirements(metadata, extra="demo") == {"scikit-learn", "matplotlib", "tqdm"}


def test_the_wheel_carries_version_licence_and_readme(wheel, metadata):
    assert (metadata["Name"], metadata["Version"]) == ("optimkit", optimkit.__version__)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert metadata.get_payload(decode=True).decode("utf-8").strip() == readme.strip()
    with zipfile.ZipFile(wheel) as archive:
        assert any(re.search(r"\.dist-info/(licenses/)?LICENSE$", name) for name in archive.namelist())
