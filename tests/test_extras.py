"""A missing optional dependency is named with the extra that brings it; an installed wheel is whole."""

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import pytest

from jaxmix import Stream, extras, gmm, interop, io

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MIXTURE = gmm.mixture([1.0], jnp.zeros((1, 2)), jnp.eye(2)[None])


def imported(name: str) -> Callable[[], Any]:
    return lambda: importlib.import_module(name)


class Without(NamedTuple):
    """A finder of modules that finds all but one."""

    hidden: str
    finder: Any

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name == self.hidden else self.finder.find_spec(name, path, target)


MISSING: dict[str, tuple[str, str, Callable[[], Any]]] = {
    "save": ("safetensors", "io", lambda: io.save("unwritten", 1)),
    "load": ("safetensors", "io", lambda: io.load("unwritten")),
    "stream": ("pyarrow", "parquet", lambda: Stream(Path(__file__).parent)),
    "plot": ("matplotlib", "plot", imported("jaxmix.plot")),
    "centers": ("sklearn", "sklearn", lambda: interop.to_sklearn(MIXTURE.means)),
    "mixture": ("sklearn", "sklearn", lambda: interop.to_sklearn(MIXTURE)),
    "numpyro": ("numpyro", "numpyro", lambda: interop.to_numpyro(MIXTURE)),
    **{
        f"experiments, {name}": (name, "experiments", imported("experiments"))
        for name in ("joblib", "matplotlib", "rich", "sklearn", "tyro")
    },
}


@pytest.mark.parametrize(("module", "extra", "use"), MISSING.values(), ids=MISSING)
def test_a_missing_module_is_named_with_the_extra_that_brings_it(module, extra, use, monkeypatch):
    for name in list(sys.modules):
        if name.partition(".")[0] == module or name in ("jaxmix.plot", "experiments"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Without(module, finder) for finder in sys.meta_path])
    interop._any_precision.cache_clear()
    words = f"No module named '{module}', an optional dependency: pip install 'jaxmix[{extra}]'"
    with pytest.raises(ModuleNotFoundError, match=f"^{re.escape(words)}$") as raised:
        use()
    assert raised.value.name == module


def test_plot_as_an_attribute_of_jaxmix_is_told_how_to_import_it():
    code = (
        "import jaxmix\n"
        "try:\n    jaxmix.plot\nexcept AttributeError as error:\n"
        "    assert 'from jaxmix import plot' in str(error) and \"'jaxmix[plot]'\" in str(error), error\n"
        "from jaxmix import plot\n"
        "assert jaxmix.plot is plot and not hasattr(jaxmix, 'plots')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_extras_that_errors_name_are_extras_of_the_package():
    assert {extra for _, extra, _ in MISSING.values()} <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("page", ["README.md", "docs/start.md"])
def test_a_page_says_how_to_install_each_extra(page):
    text = (ROOT / page).read_text()
    assert "pip install ." in text
    for extra in {extra for _, extra, _ in MISSING.values()}:
        assert f"| `{extra}` |" in text
    for name in re.findall(r"(?:jaxmix|\.)\[([\w,]+)\]", text):
        assert set(name.split(",")) <= set(PROJECT["optional-dependencies"])


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), extras.needed("plot"):
        raise ZeroDivisionError


INSTALLED = """
import importlib, sys
import jax, jaxmix
from pathlib import Path
from jaxmix import datasets, interop, io, kmeans

folder = Path(jaxmix.__file__).parent
assert folder.is_relative_to(sys.prefix), folder
assert (folder / "py.typed").exists()
assert not {"tests", "experiments"} & {path.name for path in folder.parent.iterdir()}
x = datasets.old_faithful()
assert x.shape == (272, 2)
fit = kmeans.fit(jax.random.key(0), x, 2, restarts=2).throw()
assert fit.params.shape == (2, 2)
for use in (
    lambda: importlib.import_module("jaxmix.plot"),
    lambda: io.save("unwritten", fit),
    lambda: interop.to_sklearn(fit),
):
    try:
        use()
    except ModuleNotFoundError as error:
        print(error)
"""


def dependencies(names: list[str]) -> set[Path]:
    """The installed files and folders of distributions and of all that these need."""
    found, waiting = {}, names
    while waiting:
        name, *waiting = waiting
        if name not in found:
            with contextlib.suppress(metadata.PackageNotFoundError):  # of another platform or version of Python
                found[name] = metadata.distribution(name)
                waiting += [required(text) for text in found[name].requires or [] if "extra ==" not in text]
    return {
        Path(str(distribution.locate_file(file.parts[0])))
        for distribution in found.values()
        for file in distribution.files or []
        if file.parts[0] not in ("..", "__pycache__")
    }


def required(text: str) -> str:
    """The name in a requirement."""
    return re.split(r"[^\w.-]", text)[0]


@pytest.mark.slow
def test_a_wheel_installs_and_fits_in_an_environment_of_its_own(tmp_path):
    def run(*command: Any, folder: Path = tmp_path) -> str:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # With the build backend of the extra `test` nothing is downloaded.
    local = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", *local, "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("jaxmix-*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel)
    # Its dependencies, and they alone, are those of this environment.
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for path in dependencies([required(text) for text in PROJECT["dependencies"]]):
        if not (site / path.name).exists():
            (site / path.name).symlink_to(path)
    printed = run(python, "-c", INSTALLED).splitlines()
    assert printed == [
        f"No module named '{module}', an optional dependency: pip install 'jaxmix[{extra}]'"
        for module, extra in (("matplotlib", "plot"), ("safetensors", "io"), ("sklearn", "sklearn"))
    ]
