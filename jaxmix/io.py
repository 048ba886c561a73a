"""Saved fits: safetensors files that say what they hold, written whole or not at all."""

import dataclasses
import hashlib
import json
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmix import gmm, memory
from jaxmix.sweep import Sweep
from jaxmix.types import Data, Fit

VERSION = 1
"""Of the header: what reads this version reads all before it."""

TYPES = (
    Data,
    Fit,
    Sweep,
    gmm.GMM,
    gmm.Full,
    gmm.Tied,
    gmm.Diagonal,
    gmm.Spherical,
    gmm.TiedDiagonal,
    gmm.TiedSpherical,
    gmm.NormalInverseWishart,
)
"""What a file may hold besides arrays, numbers, strings, dictionaries, lists and tuples."""

RESERVED = "__metadata__"
"""What safetensors calls its own entry: no array may bear this name."""

_BLANK = "0" * 64


class LoadError(ValueError):
    """Raised by `load` for a file that is truncated, foreign, newer than this library, or changed since."""


def save(path: str | os.PathLike[str], value: Any) -> None:
    """Writes a fit, parameters or a sweep to a file, bit for bit.

    The file is safetensors, which other programs read too: arrays by name, such as `params.means`, and a header that
    holds the version, the types and a checksum of the whole file. It is written beside its place and then renamed: a
    crash leaves the old file whole.

    Args:
      path: where to; the suffix `.safetensors` is customary.
      value: a `Fit`, a `Sweep`, a `GMM`, centers, or nested dictionaries (of string keys), lists and tuples of
        these, of arrays, numbers, strings and None. Arrays may have any order in memory. Named tuples and dataclasses
        of your own, too: `load` wants their types.

    Raises:
      ValueError: for what is none of these, such as a PRNG key or an array of objects.
      ModuleNotFoundError: without the package `safetensors`, which `pip install 'jaxmix[io]'` brings.

    Example:
      >>> import os, tempfile
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import io, kmeans
      >>> fit = kmeans.fit(jax.random.key(0), jnp.arange(6.0)[:, None], 2)
      >>> path = os.path.join(tempfile.mkdtemp(), "fit.safetensors")
      >>> io.save(path, fit)
      >>> bool((io.load(path).params == fit.params).all())
      True
    """
    from safetensors.numpy import save as serialize

    arrays: dict[str, np.ndarray] = {}
    tree = _described(value, "", arrays)
    params = getattr(value, "params", value)
    family = type(params.covariance).__name__ if isinstance(params, gmm.GMM) else ""
    header = {"version": VERSION, "type": type(value).__name__, "family": family, "tree": tree}
    content = serialize(arrays, {"jaxmix": json.dumps(header), "sha256": _BLANK})
    _write(Path(path), _with_checksum(content, _BLANK, hashlib.sha256(content).hexdigest()))


def load(path: str | os.PathLike[str], types: Iterable[type] = ()) -> Any:
    """Reads what `save` wrote. Nothing in a file is executed.

    Args:
      path: where from.
      types: named tuples and dataclasses of your own that the file may hold; those of jaxmix are known.

    Returns:
      The value saved, its arrays JAX arrays of the same bits. Arrays of 64 bits are NumPy arrays while
      `jax_enable_x64` is off.

    Raises:
      LoadError: for a file that is truncated, foreign, newer than this library, or changed since it was saved, or a
        type that is not known.
      OSError: for a file that cannot be read.

    Example:
      >>> import os, tempfile
      >>> import jax.numpy as jnp
      >>> from jaxmix import io
      >>> path = os.path.join(tempfile.mkdtemp(), "centers.safetensors")
      >>> io.save(path, {"centers": jnp.zeros((2, 3)), "seed": 7})
      >>> io.load(path)["seed"], io.load(path)["centers"].shape
      (7, (2, 3))
    """
    import safetensors
    from safetensors.numpy import load as deserialize

    path = Path(path)
    content = path.read_bytes()
    try:
        header = _header(content)
        arrays = deserialize(content)
        known = {cls.__name__: cls for cls in (*TYPES, *types)}
        return _rebuilt(header["tree"], arrays, known)
    except LoadError as error:
        raise LoadError(f"{path}: {error}") from None
    except (
        safetensors.SafetensorError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise LoadError(f"{path}: no file that `jaxmix.io.save` wrote, or a damaged one ({error}).") from error


def _described(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """The structure of a value as JSON; its arrays go to `arrays`, each by its name."""
    if value is None:
        return None
    # Numbers of NumPy that are Python's too, such as float64, keep their dtype: they are arrays of no axis.
    if isinstance(value, (bool, int, float, str)) and not isinstance(value, np.generic):
        return {"value": value}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(f"A dictionary needs strings as keys to be saved, got {list(value)}.")
        return {"dict": {key: _described(item, _join(name, key), arrays) for key, item in value.items()}}
    fields = _fields(value)
    if fields is not None:
        parts = {field: _described(getattr(value, field), _join(name, field), arrays) for field in fields}
        return {"type": type(value).__name__, "fields": parts}
    if isinstance(value, (list, tuple)):
        items = [_described(item, _join(name, str(i)), arrays) for i, item in enumerate(value)]
        return {type(value).__name__: items}
    array = _numbers(value, name)
    name = name or "value"
    while name in arrays or name == RESERVED:
        name += "_"
    arrays[name] = array
    return {"array": name}


def _fields(value: Any) -> tuple[str, ...] | None:
    if dataclasses.is_dataclass(value):
        return tuple(field.name for field in dataclasses.fields(value))
    return getattr(value, "_fields", None)


def _numbers(value: Any, name: str) -> np.ndarray:
    is_key = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    if np.ma.is_masked(value):
        raise ValueError(f"The array at `{name or 'value'}` has masked entries. Save its data and its mask.")
    # Safetensors writes memory as it lies: rows first, little-endian. `ascontiguousarray` would give a number an axis.
    array = None if is_key else np.array(value, order="C")
    if array is not None and array.dtype.kind in "fiub" and array.dtype.itemsize <= 8:
        return array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array is None or array.dtype.itemsize > 8 or array.dtype.kind not in "fiub":
        where = f"at `{name}` " if name else ""
        raise ValueError(
            f"Only real numbers can be saved, got {type(value).__name__} {where}of dtype "
            f"{getattr(value, 'dtype', None) if array is None else array.dtype}. "
            "Of a key save jax.random.key_data(key); bfloat16 save as float32, extended precision as float64."
        )
    return array


def _join(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def _header(content: bytes) -> dict[str, Any]:
    """The header of a file of known version, whose checksum is right."""
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 + size:
        raise LoadError("no safetensors file, or a truncated one.")
    metadata = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    if "jaxmix" not in metadata:
        raise LoadError("a safetensors file, but not one that `jaxmix.io.save` wrote.")
    header = json.loads(metadata["jaxmix"])
    if header["version"] > VERSION:
        raise LoadError(
            f"written by a newer jaxmix: version {header['version']} of the format, this one reads up to {VERSION}. "
            "Update jaxmix."
        )
    digest = metadata["sha256"]
    if hashlib.sha256(_with_checksum(content, digest, _BLANK)).hexdigest() != digest:
        raise LoadError("changed since it was saved, or damaged: its checksum does not match.")
    return header


def _with_checksum(content: bytes, old: str, new: str) -> bytes:
    """A file with another checksum, which is taken of the whole file with zeros in its place."""
    # Within a string the quotes would be escaped: there is one such key.
    key = b'"sha256":"'
    place = content.index(key + old.encode() + b'"') + len(key)
    return content[:place] + new.encode() + content[place + len(old) :]


def _rebuilt(tree: Any, arrays: dict[str, np.ndarray], known: dict[str, type]) -> Any:
    if tree is None:
        return None
    if "type" in tree:
        if tree["type"] not in known:
            raise LoadError(f"holds a `{tree['type']}`, which is not known: give its class in `types`.")
        fields = {field: _rebuilt(part, arrays, known) for field, part in tree["fields"].items()}
        return known[tree["type"]](**fields)
    ((kind, content),) = tree.items()
    if kind == "value":
        return content
    if kind == "dict":
        return {key: _rebuilt(part, arrays, known) for key, part in content.items()}
    if kind in ("list", "tuple"):
        items = [_rebuilt(part, arrays, known) for part in content]
        return items if kind == "list" else tuple(items)
    if kind != "array":
        raise LoadError(f"holds a {kind!r}, which this version does not know.")
    array = arrays[content]
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        return array  # JAX would cut its bits: it stays NumPy's
    return memory.copied(array)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
