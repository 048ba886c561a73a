"""Experiments: one script, one question. Run one with `python -m experiments.NAME`."""

from importlib.util import find_spec

# Looked for and not imported: jobs that measure memory and first calls import this package.
for _name in ("joblib", "matplotlib", "rich", "sklearn", "tyro"):
    if find_spec(_name) is None:
        raise ModuleNotFoundError(
            f"No module named {_name!r}, an optional dependency: pip install 'jaxmix[experiments]'", name=_name
        )
