"""Saved fits: safetensors files that say what they hold, written whole or not at all."""

import dataclasses
import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmix import extras, gmm, kmeans, memory, mixture, validation
from jaxmix.arrays import check_on_host, described
from jaxmix.data import Data
from jaxmix.solver import Fit
from jaxmix.sweep import Sweep

VERSION = 3
"""Of the header: code that reads this version reads all before it."""

TYPES = (
    Data,
    Fit,
    Sweep,
    kmeans.KMeans,
    mixture.Mixture,
    mixture.MixtureModel,
    mixture.Gaussian,
    mixture.Normal,
    mixture.Poisson,
    mixture.Rates,
    gmm.Full,
    gmm.Tied,
    gmm.Diagonal,
    gmm.Spherical,
    gmm.TiedDiagonal,
    gmm.TiedSpherical,
    gmm.NormalInverseWishart,
    gmm.Soft,
    gmm.Hard,
    gmm.Tempered,
)
"""What a file may hold besides arrays, numbers, strings, dictionaries, lists and tuples."""

GONE = {
    "GMM": "which an earlier jaxmix wrote, and which is a `Mixture` now. Load it with that version, save its "
    "`weights`, `means` and `covariances` as arrays, and build the mixture with `gmm.mixture`."
}
"""Types of earlier versions: what to do with a file that holds one."""

DTYPES = frozenset(
    ["bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
)
"""The dtypes of arrays that a file holds."""

_BLANK = "0" * 64
_RESERVED = "__metadata__"  # the entry of a safetensors header that is not an array
_EXACT = 2**53  # integers up to here survive every reader of JSON


class LoadError(ValueError):
    """Raised by `load` for a file that is truncated, foreign, newer than this library, or changed since."""


def save(path: str | os.PathLike[str], value: Any) -> None:
    """Writes a fit, parameters or a sweep to a file, bit for bit.

    The file is safetensors, which other programs read too: arrays by name, such as `params.means`, and a header that
    holds the version, the types and a checksum of the whole file. It is written beside its place and then renamed: a
    crash leaves the old file whole.

    Args:
      path: where to; the suffix `.safetensors` is customary.
      value: a `Fit`, a `Sweep`, a `Mixture`, a model, centers, or nested dictionaries (of string keys), lists and
        tuples of these and of the following leaves. Arrays of booleans, integers and floats of 16 to 64 bits, of any
        order and strides: JAX and NumPy arrays, NumPy scalars, and anything else that `numpy.asarray` reads as such an
        array, frames included. Python's None, booleans, integers, floats (NaN and infinity too) and strings. Named
        tuples and dataclasses of your own: give their types to `load`.

    Raises:
      ValueError: for another value, such as a PRNG key, masked entries, or an array of objects, complex numbers,
        bfloat16 or extended precision; for two types of one name; for a nest too deep, or one that holds itself; for
        a path that is none, or a traced value.
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
    where = _path(path)
    with extras.needed("io"):
        from safetensors.numpy import save as serialize

    arrays: dict[str, np.ndarray] = {}
    header: dict[str, Any] = {"version": VERSION, "type": type(value).__name__, "family": _family(value)}
    try:
        header["tree"] = _described(value, "", arrays, {cls.__name__: cls for cls in TYPES})
        text = json.dumps(header, allow_nan=False)
    except RecursionError:
        raise ValueError("`value` is nested too deeply to be saved, or holds itself. Save its parts.") from None
    content = serialize(arrays, {"jaxmix": text, "sha256": _BLANK})
    _write(where, _with_checksum(content, _BLANK, hashlib.sha256(content).hexdigest()))


def load(path: str | os.PathLike[str], types: Iterable[type] = ()) -> Any:
    """Reads what `save` wrote. Nothing in a file is executed.

    Args:
      path: where from.
      types: named tuples and dataclasses of your own that the file may hold; those of jaxmix are known.

    Returns:
      The value saved. Its arrays are JAX arrays of the same bits, and NumPy arrays where JAX would change them: those
      of 64 bits while `jax_enable_x64` is off. A subclass of a dictionary, list, tuple, number or string, such as
      `Status`, is read as the plain type.

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
    path = _path(path)
    with extras.needed("io"):
        import safetensors
        from safetensors.numpy import load as deserialize

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


def _path(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"`path` must be a path, and comes first, as in save(path, value); got {described(path)}.")
    return Path(path)


def _family(value: Any) -> str:
    """The class of the components of a mixture, or of their covariances; "" for anything else."""
    params = getattr(value, "params", value)
    if not isinstance(params, mixture.Mixture):
        return ""
    return type(getattr(params.components, "covariance", params.components)).__name__


def _described(value: Any, name: str, arrays: dict[str, np.ndarray], known: dict[str, type]) -> Any:
    """The structure of a value as JSON; its arrays go to `arrays`, each by its name, and its types to `known`."""
    if value is None:
        return None
    # NumPy's float64 is a float of Python too, and an array here like its other numbers.
    if isinstance(value, (bool, int, float, str)) and not isinstance(value, np.floating):
        return _plain(value)

    def part(item: Any, key: str) -> Any:
        return _described(item, f"{name}.{key}" if name else key, arrays, known)

    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(f"A dictionary needs strings as keys to be saved, got {list(value)}.")
        return {"dict": {key: part(item, key) for key, item in value.items()}}
    fields = _fields(value)
    if fields is not None:
        cls = type(value)
        if known.setdefault(cls.__name__, cls) is not cls:
            raise ValueError(f"Types of one name cannot be saved together, got two named `{cls.__name__}`. Rename one.")
        parts = {}
        for field in fields:
            item = getattr(value, field)
            # A field may be a class, such as the family of a model's covariances.
            of_class = isinstance(item, type) and known.get(item.__name__) is item
            parts[field] = {"class": item.__name__} if of_class else part(item, field)
        return {"type": cls.__name__, "fields": parts}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [part(item, str(i)) for i, item in enumerate(value)]}
    array = _numbers(value, name)
    # Names of arrays are UTF-8, unlike strings of Python.
    unique = (name or "value").encode(errors="replace").decode()
    while unique in arrays or unique == _RESERVED:
        unique += "_"
    arrays[unique] = array
    return {"array": unique}


def _plain(value: bool | int | float | str) -> dict[str, Any]:
    """A Python scalar as JSON that every reader reads as this value."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": value.hex()}
    if isinstance(value, int) and abs(value) > _EXACT:
        return {"int": hex(value)}
    return {"value": value}


def _fields(value: Any) -> tuple[str, ...] | None:
    """The fields of a named tuple or dataclass, all of which its type takes as arguments."""
    if isinstance(value, tuple):
        return getattr(value, "_fields", None)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return None
    fields = dataclasses.fields(value)
    if not all(field.init for field in fields):
        raise ValueError(
            f"`{type(value).__name__}` cannot be saved: its fields {[f.name for f in fields if not f.init]} are not "
            "arguments of its constructor, so it could not be built again."
        )
    return tuple(field.name for field in fields)


def _numbers(value: Any, name: str) -> np.ndarray:
    """The array as it is written: contiguous, in C order and the machine's byte order; a number keeps its shape ()."""
    check_on_host("save", value)
    is_key = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    array = None if is_key else np.asarray(validation.as_array(value, name or "value"))
    if array is None or array.dtype.name not in DTYPES:
        where = f"at `{name}` " if name else ""
        raise ValueError(
            f"Only real numbers of at most 64 bits can be saved, got {type(value).__name__} {where}of dtype "
            f"{getattr(value, 'dtype', None) if array is None else array.dtype}. Of a key save "
            "jax.random.key_data(key); convert bfloat16 to float32, and extended precision to float64."
        )
    return np.asarray(array, array.dtype.newbyteorder("="), order="C")


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
        cls = _type(tree["type"], known)
        return cls(**{field: _rebuilt(part, arrays, known) for field, part in tree["fields"].items()})
    ((kind, content),) = tree.items()
    if kind == "class":
        return _type(content, known)
    if kind == "value":
        return content
    if kind == "float":
        return float.fromhex(content)
    if kind == "int":
        return int(content, 16)
    if kind == "dict":
        return {key: _rebuilt(part, arrays, known) for key, part in content.items()}
    if kind in ("list", "tuple"):
        items = [_rebuilt(part, arrays, known) for part in content]
        return items if kind == "list" else tuple(items)
    if kind != "array":
        raise LoadError(f"holds a {kind!r}, which this version does not know.")
    array = arrays[content]
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        return np.array(array)  # JAX would round it; a copy may be written to
    return memory.copied(array)


def _type(name: str, known: dict[str, type]) -> type:
    if name in known:
        return known[name]
    if name in GONE:
        raise LoadError(f"holds a `{name}`, {GONE[name]}")
    raise LoadError(f"holds a `{name}`, which is not known: give its class in `types`.")


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
