"""Files hold the same bits, whole or not at all, and a file that was touched is refused."""

import json
import os
from typing import NamedTuple

import cases
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from numpy.testing import assert_array_equal

from jaxmix import Fit, as_data, gmm, io, kmeans, sweep
from jaxmix.io import LoadError

X = cases.blobs(60, 2, 3)
MIXTURE = gmm.start.from_centers(X[:3], X)
FIT = Fit(
    MIXTURE, jnp.array(-0.0), jnp.array(2, jnp.int32), jnp.array(7, jnp.int32), jnp.array(7.5), jnp.array([jnp.nan, 1])
)


class Own(NamedTuple):
    weights: jax.Array
    name: str


def same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        assert np.asarray(a).shape == np.asarray(b).shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


FAMILIES = (gmm.Full, gmm.Tied, gmm.Diagonal, gmm.Spherical, gmm.TiedDiagonal, gmm.TiedSpherical)
SAVED = {
    "fit": FIT,
    "restarts": jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), FIT),
    "centers": jnp.asarray(X[:3]),
    "float32": jnp.asarray(X[:3], jnp.float32),
    "data": as_data(X),
    **{family.__name__: gmm.start.from_centers(X[:3], X, family=family) for family in FAMILIES},
    "prior": gmm.fraley_raftery(X, 2),
    "sweep": sweep.Sweep(("k", "restart"), (jnp.arange(2), jnp.arange(3)), jnp.arange(6.0).reshape(2, 3)),
    "nested": {"a": [jnp.zeros(0), (1, 2.5, None)], "a.b": True, "a_": {"b": jnp.array(-jnp.inf)}, "b": {}},
}


@pytest.mark.parametrize("value", SAVED.values(), ids=SAVED)
def test_what_is_loaded_is_what_was_saved_to_the_bit(value, tmp_path):
    path = tmp_path / "saved.safetensors"
    io.save(path, value)
    loaded = io.load(path)
    same(loaded, value)
    assert type(loaded) is type(value) or isinstance(value, jax.Array)


def test_a_file_says_what_it_holds_to_any_reader_of_safetensors(tmp_path):
    path = tmp_path / "saved.safetensors"
    io.save(path, FIT)
    arrays = safetensors.numpy.load_file(path)
    assert_array_equal(arrays["params.means"], MIXTURE.means)
    with safetensors.safe_open(path, "np") as file:
        header = json.loads(file.metadata()["jaxmix"])
    assert (header["version"], header["type"], header["family"]) == (io.VERSION, "Fit", "Full")


def test_types_of_ones_own_are_named_to_be_loaded(tmp_path):
    path = tmp_path / "own.safetensors"
    io.save(path, Own(jnp.arange(3), "three"))
    same(io.load(path, types=[Own]), Own(jnp.arange(3), "three"))
    with pytest.raises(LoadError, match=r"holds a `Own`, which is not known: give its class in `types`"):
        io.load(path)


def test_a_touched_or_truncated_file_is_refused_every_time(tmp_path):
    path = tmp_path / "saved.safetensors"
    io.save(path, FIT)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for turn in range(1000):
        content = bytearray(whole)
        if turn % 4 == 0:
            del content[rng.integers(len(whole)) :]
        else:
            content[rng.integers(len(whole))] ^= rng.integers(1, 256)
        path.write_bytes(content)
        with pytest.raises(LoadError, match=str(path)):
            io.load(path)


def header_of(path, **changes):
    """The file again with another header, its checksum right: what only somebody who means to can write."""
    with safetensors.safe_open(path, "np") as file:
        header = json.loads(file.metadata()["jaxmix"])
    content = safetensors.numpy.save(
        safetensors.numpy.load_file(path), {"jaxmix": json.dumps({**header, **changes}), "sha256": io._BLANK}
    )
    digest = io.hashlib.sha256(content).hexdigest()
    path.write_bytes(io._with_checksum(content, io._BLANK, digest))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": io.VERSION + 1}, "written by a newer jaxmix: version 2"),
        ({"tree": {"type": "os.system", "fields": {}}}, "holds a `os.system`, which is not known"),
        ({"tree": {"code": "1"}}, "holds a 'code'"),
        ({"tree": {"array": "missing"}}, "damaged one"),
        ({"tree": {"type": "GMM", "fields": {"means": {"array": "loss"}}}}, "damaged one"),
        ({"tree": 3}, "damaged one"),
        ({"version": "1"}, "damaged one"),
    ],
)
def test_a_header_that_cannot_be_meant_is_refused(changes, message, tmp_path):
    path = tmp_path / "saved.safetensors"
    io.save(path, FIT)
    header_of(path, **changes)
    with pytest.raises(LoadError, match=message):
        io.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (b"{}", "truncated"),
        (b"PK\x03\x04" + b"\x00" * 100, "no safetensors file"),
        (safetensors.numpy.save({"a": np.zeros(3)}), "not one that"),
        (safetensors.numpy.save({"a": np.zeros(3)}, {"jaxmix": "["}), "no file that"),
        (b"\x02" + b"\x00" * 7 + b"[]", "no file that"),
    ],
)
def test_a_foreign_file_is_refused(content, message, tmp_path):
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(LoadError, match=message):
        io.load(path)


def test_what_is_no_number_is_refused_and_leaves_no_file(tmp_path):
    path = tmp_path / "saved.safetensors"
    with pytest.raises(ValueError, match=r"Only real numbers can be saved, got .* at `key` .*key_data"):
        io.save(path, {"key": jax.random.key(0)})
    with pytest.raises(ValueError, match="Only real numbers can be saved, got object"):
        io.save(path, object())
    with pytest.raises(ValueError, match="needs strings as keys"):
        io.save(path, {1: jnp.zeros(1)})
    assert not list(tmp_path.iterdir())


def test_a_crash_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "saved.safetensors"
    io.save(path, MIXTURE)

    def crash(*_):
        raise OSError("no room")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, step, crash)
            with pytest.raises(OSError, match="no room"):
                io.save(path, FIT)
        same(io.load(path), MIXTURE)
        assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_arrays_of_64_bits_stay_numpy_without_x64(tmp_path):
    path = tmp_path / "saved.safetensors"
    value = {"float64": np.array([0.1]), "int64": np.array([2**40]), "number": np.float64(0.1)}
    with jax.enable_x64(False):
        io.save(path, value)
        loaded = io.load(path)
    assert all(isinstance(array, np.ndarray) for array in loaded.values())
    same(loaded, jax.tree.map(np.asarray, value))


def test_arrays_that_do_not_lie_row_by_row_keep_their_places(tmp_path):
    path = tmp_path / "saved.safetensors"
    io.save(path, np.arange(6.0).reshape(2, 3).T)
    assert_array_equal(io.load(path), [[0, 3], [1, 4], [2, 5]])


DTYPES = (np.float16, np.float32, np.float64, ">f8", np.int8, ">i4", np.int64, np.uint8, np.bool_)


@st.composite
def strided(draw):
    """Arrays of up to three axes, of any dtype, order, byte order and stride; some are empty."""
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    size = draw(st.integers(0, 2**16))
    array = (np.arange(size, size + np.prod(shape, dtype=int)) % 97).astype(dtype).reshape(shape)
    array = np.asarray(array, order=draw(st.sampled_from("CF")))
    array = array.transpose(draw(st.permutations(range(array.ndim))))
    steps = draw(st.lists(st.sampled_from([1, -1, 2]), min_size=array.ndim, max_size=array.ndim))
    return array[tuple(slice(None, None, step) for step in steps)]


KEYS = st.sampled_from(["", "a", "b", "a.b", "a_", "__metadata__", "value", "é"])
NESTS = st.recursive(
    strided() | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=6,
)


@hypothesis.given(NESTS)
def test_any_nest_of_arrays_comes_back_equal(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "nest.safetensors"
    io.save(path, value)
    loaded = io.load(path)
    is_leaf = lambda node: node is None or isinstance(node, str)  # noqa: E731
    assert jax.tree.structure(loaded, is_leaf=is_leaf) == jax.tree.structure(value, is_leaf=is_leaf)
    for a, b in zip(jax.tree.leaves(loaded, is_leaf=is_leaf), jax.tree.leaves(value, is_leaf=is_leaf), strict=True):
        if isinstance(b, np.ndarray | np.generic):
            assert (a.shape, a.dtype) == (b.shape, b.dtype.newbyteorder("="))
            assert_array_equal(a, b)
        else:
            assert type(a) is type(b)
            assert a == b or (a != a and b != b)


def test_masked_entries_and_extended_precision_are_refused(tmp_path):
    path = tmp_path / "saved.safetensors"
    with pytest.raises(ValueError, match="at `a` has masked entries"):
        io.save(path, {"a": np.ma.array([1.0, 2.0], mask=[False, True])})
    with pytest.raises(ValueError, match=f"dtype {np.dtype(np.longdouble)}.*extended precision as float64"):
        io.save(path, np.ones(2, np.longdouble))


def test_a_fit_goes_on_from_where_it_was_saved(tmp_path):
    path = tmp_path / "centers.safetensors"
    half = kmeans.fit(jax.random.key(0), X, 3, init=X[:3], max_steps=1)
    io.save(path, half)
    going = kmeans.fit(jax.random.key(0), X, 3, init=io.load(path).params)
    whole = kmeans.fit(jax.random.key(0), X, 3, init=X[:3])
    assert_array_equal(going.params, whole.params)
