"""Files hold the same bits, whole or not at all, and a file that was touched is rejected."""

import collections
import dataclasses
import json
import math
import os
from typing import Any, NamedTuple

import cases
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from jaxmix import Fit, Status, as_data, gmm, io, kmeans, mixture, sweep
from jaxmix.io import LoadError
from tests.frames import Frame, frame

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


COVARIANCES = (gmm.Full, gmm.Tied, gmm.Diagonal, gmm.Spherical, gmm.TiedDiagonal, gmm.TiedSpherical)
SAVED = {
    "fit": FIT,
    "restarts": jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), FIT),
    "centers": jnp.asarray(X[:3]),
    "float32": jnp.asarray(X[:3], jnp.float32),
    "data": as_data(X),
    **{
        covariance.__name__: gmm.start.from_centers(X[:3], X, problem=gmm.GaussianMixture(covariance))
        for covariance in COVARIANCES
    },
    "poisson": mixture.Mixture(jnp.zeros(1), mixture.Rates(jnp.ones((1, 2)))),
    "prior": gmm.fraley_raftery(X, 2),
    "model": gmm.GaussianMixture(gmm.Tied, prior=gmm.fraley_raftery(X, 2), assignment=gmm.Tempered(0.5)),
    "model of K-means": kmeans.KMeans("keep", jnp.asarray(2.0)),
    "model of counts": mixture.MixtureModel(mixture.Poisson(), gmm.Hard()),
    "sweep": sweep.Sweep(("k", "restart"), (jnp.arange(2), jnp.arange(3)), jnp.arange(6.0).reshape(2, 3)),
    "nested": {"a": [jnp.zeros(0), (1, 2.5, None)], "a.b": True, "a_": {"b": jnp.array(-jnp.inf)}, "b": {}},
}


@pytest.mark.parametrize("value", SAVED.values(), ids=SAVED)
def test_a_loaded_value_has_the_bits_that_were_saved(value, tmp_path):
    path = tmp_path / "saved.safetensors"
    io.save(path, value)
    loaded = io.load(path)
    same(loaded, value)
    assert type(loaded) is type(value) or isinstance(value, jax.Array)


def back(path, value, **options):
    io.save(path, value)
    return io.load(path, **options)


def native(array):
    """An array in the byte order of the machine."""
    array = np.asarray(array)
    return array.astype(array.dtype.newbyteorder("="))


def assert_same_values(loaded, value):
    """Equal nests, whose arrays have equal values, shapes and dtypes."""
    if isinstance(value, dict):
        assert isinstance(loaded, dict)
        assert list(loaded) == list(value)
        loaded, value = list(loaded.values()), list(value.values())
    if isinstance(value, (list, tuple)):
        assert isinstance(loaded, list if isinstance(value, list) else tuple)
        for left, right in zip(loaded, value, strict=True):
            assert_same_values(left, right)
    elif isinstance(value, (np.ndarray, np.generic, jax.Array)):
        assert isinstance(loaded, (np.ndarray, jax.Array))
        loaded, value = np.asarray(loaded), native(value)
        assert (loaded.dtype, loaded.shape) == (value.dtype, value.shape)
        assert loaded.tobytes() == value.tobytes()
    else:
        assert type(loaded) is type(value)
        assert loaded == value or (loaded != loaded and value != value)


ORDERED = np.arange(6.0).reshape(2, 3)
LAYOUTS: dict[str, Any] = {
    "a transposed array": ORDERED.T,
    "a Cholesky factor of scipy": scipy.linalg.cholesky(np.array([[4.0, 2.0], [2.0, 5.0]])),
    "every other column": np.arange(12.0).reshape(2, 6)[:, ::2],
    "rows backwards": ORDERED[::-1],
    "a broadcast row": np.broadcast_to(ORDERED[0], (4, 3)),
    "axes moved": np.moveaxis(np.arange(24).reshape(2, 3, 4), 0, 2),
    "big-endian": ORDERED.T.astype(">f8"),
    "big-endian integers": np.arange(-3, 3).astype(">i2"),
    "an unmasked masked array": np.ma.masked_array(ORDERED.T),
    "float64 of NumPy": np.float64(0.1),
    "not a number of NumPy": np.float64(np.nan),
    "int64 of NumPy": np.int64(2**62),
    "bool of NumPy": np.bool_(True),
    "float16 of NumPy": np.float16(0.1),
    "a string of NumPy": np.str_("word"),
}


@pytest.mark.parametrize("value", LAYOUTS.values(), ids=LAYOUTS)
def test_an_array_of_any_layout_is_loaded_with_its_values(value, tmp_path):
    expected = value if not isinstance(value, str) else str(value)
    assert_same_values(back(tmp_path / "saved.safetensors", {"x": [value]}), {"x": [expected]})


@pytest.mark.parametrize("package", ["pandas", "polars", "none"])
def test_a_frame_is_loaded_as_the_array_it_stands_for(package, tmp_path):
    value = Frame(ORDERED.T) if package == "none" else frame(package, ORDERED.T)
    assert_array_equal(back(tmp_path / "saved.safetensors", value), ORDERED.T)


SCALARS = [math.inf, -math.inf, math.nan, -0.0, 5e-324, 2**53 + 1, -(10**30), 16**5000, True, "", "\ud800 \x00 é", None]


def test_scalars_of_python_are_loaded_with_their_values(tmp_path):
    path = tmp_path / "saved.safetensors"
    loaded = back(path, SCALARS)
    assert_same_values(loaded, SCALARS)
    assert math.copysign(1, loaded[3]) == -1
    with safetensors.safe_open(path, "np") as file:
        # NaN and Infinity are not JSON, and many readers round integers past 2^53.
        json.loads(file.metadata()["jaxmix"], parse_constant=pytest.fail)
    assert back(path, [Status.CONVERGED]) == [0]


KEYS = [
    "__metadata__",
    "__metadata___",
    "",
    "value",
    "a.b",
    "a",
    "a.",
    ".",
    "sha256",
    '"sha256":"',
    "\ud800",
    "?",
    "\x00",
]


def test_dictionaries_of_any_names_are_loaded(tmp_path):
    value = {key: np.float32(i) for i, key in enumerate(KEYS)} | {"a": {"b": np.arange(3), "": {"": np.ones(2)}}}
    assert_same_values(back(tmp_path / "saved.safetensors", value), value)
    for key in KEYS:
        assert_same_values(back(tmp_path / "saved.safetensors", {key: ORDERED}), {key: ORDERED})


DTYPES = st.sampled_from(sorted(io.DTYPES)).flatmap(
    lambda name: st.sampled_from([np.dtype(name), np.dtype(name).newbyteorder()])
)


@st.composite
def arrays_of_any_layout(draw):
    array = draw(hnp.arrays(draw(DTYPES), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
    array = array.transpose(draw(st.permutations(range(array.ndim))))
    steps = draw(st.lists(st.sampled_from([-2, -1, 1, 2, None]), max_size=array.ndim))
    return array[tuple(slice(None, None, step) for step in steps)]


LEAVES = (
    arrays_of_any_layout()
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=[]), max_size=4)
)
NAMES = st.sampled_from(["a", "b", "a.b", "", "__metadata__", "0"]) | st.text(max_size=3)
NESTS = st.recursive(
    LEAVES,
    lambda parts: (
        st.lists(parts, max_size=4) | st.lists(parts, max_size=4).map(tuple) | st.dictionaries(NAMES, parts, max_size=4)
    ),
    max_leaves=12,
)


@given(value=NESTS)
def test_any_nest_of_arrays_is_loaded_with_values_shapes_and_dtypes(value, tmp_path_factory):
    assert_same_values(back(tmp_path_factory.getbasetemp() / "nest.safetensors", value), value)


def test_a_file_says_what_it_holds_to_any_reader_of_safetensors(tmp_path):
    path = tmp_path / "saved.safetensors"
    io.save(path, FIT)
    arrays = safetensors.numpy.load_file(path)
    assert_array_equal(arrays["params.components.means"], MIXTURE.means)
    with safetensors.safe_open(path, "np") as file:
        header = json.loads(file.metadata()["jaxmix"])
    assert (header["version"], header["type"], header["family"]) == (io.VERSION, "Fit", "Full")


def test_types_of_ones_own_are_named_to_be_loaded(tmp_path):
    path = tmp_path / "own.safetensors"
    io.save(path, Own(jnp.arange(3), "three"))
    same(io.load(path, types=[Own]), Own(jnp.arange(3), "three"))
    with pytest.raises(LoadError, match=r"holds a `Own`, which is not known: give its class in `types`"):
        io.load(path)


def test_types_of_one_name_are_rejected(tmp_path):
    foreign = collections.namedtuple("Fit", ["loss"])
    with pytest.raises(ValueError, match="got two named `Fit`"):
        io.save(tmp_path / "saved.safetensors", [FIT, foreign(1.0)])
    with pytest.raises(ValueError, match="got two named `Fit`"):
        io.save(tmp_path / "saved.safetensors", foreign(1.0))


@dataclasses.dataclass(frozen=True)
class Derived:
    x: float
    twice: float = dataclasses.field(init=False, default=2.0)


def test_a_dataclass_that_its_fields_cannot_build_is_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"`Derived` cannot be saved: its fields \['twice'\] are not arguments"):
        io.save(tmp_path / "saved.safetensors", Derived(1.0))


class Rows(list):
    pass


def test_a_subclass_of_a_list_is_loaded_as_a_list(tmp_path):
    assert back(tmp_path / "saved.safetensors", Rows([1, (2,)])) == [1, (2,)]


def test_a_mixture_of_an_earlier_version_is_named(tmp_path):
    fields = {name: {"array": f"params.{name}"} for name in ("log_weights", "means")}
    tree = {"type": "Fit", "fields": {"params": {"type": "GMM", "fields": fields}}}
    arrays = {f"params.{name}": np.zeros((2, 2)) for name in fields}
    path = tmp_path / "old.safetensors"
    write_file(path, arrays, {"version": 2, "type": "Fit", "family": "Full", "tree": tree})
    with pytest.raises(LoadError, match=r"holds a `GMM`, which an earlier jaxmix wrote.*`gmm.mixture`"):
        io.load(path)


def write_file(path, arrays, header):
    """A file of any header, with a right checksum."""
    content = safetensors.numpy.save(arrays, {"jaxmix": json.dumps(header), "sha256": "0" * 64})
    digest = io.hashlib.sha256(content).hexdigest()
    path.write_bytes(content.replace(b'"' + b"0" * 64 + b'"', f'"{digest}"'.encode()))


def test_a_file_of_version_1_is_loaded(tmp_path):
    tree = {
        "dict": {
            "x": {"array": "x"},
            "numbers": {"list": [{"value": math.nan}, {"value": 10**30}, None, {"tuple": [{"array": "numbers.3.0"}]}]},
        }
    }
    header = {"version": 1, "type": "dict", "family": "", "tree": tree}
    arrays = {"x": ORDERED, "numbers.3.0": np.arange(3, dtype=np.int32)}
    path = tmp_path / "old.safetensors"
    write_file(path, arrays, header)
    expected = {"x": ORDERED, "numbers": [math.nan, 10**30, None, (arrays["numbers.3.0"],)]}
    assert_same_values(io.load(path), expected)


def test_a_touched_or_truncated_file_is_rejected_every_time(tmp_path):
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
        ({"version": io.VERSION + 1}, f"written by a newer jaxmix: version {io.VERSION + 1}"),
        ({"tree": {"type": "os.system", "fields": {}}}, "holds a `os.system`, which is not known"),
        ({"tree": {"code": "1"}}, "holds a 'code'"),
        ({"tree": {"array": "missing"}}, "damaged one"),
        ({"tree": {"type": "Mixture", "fields": {"means": {"array": "loss"}}}}, "damaged one"),
        ({"tree": {"class": "os.system"}}, "holds a `os.system`, which is not known"),
        ({"tree": 3}, "damaged one"),
        ({"version": "1"}, "damaged one"),
    ],
)
def test_an_invalid_header_is_rejected(changes, message, tmp_path):
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
def test_a_foreign_file_is_rejected(content, message, tmp_path):
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(LoadError, match=message):
        io.load(path)


def test_values_other_than_numbers_are_rejected_and_leave_no_file(tmp_path):
    path = tmp_path / "saved.safetensors"
    with pytest.raises(ValueError, match=r"Only real numbers .* can be saved, got .* at `key` .*key_data"):
        io.save(path, {"key": jax.random.key(0)})
    with pytest.raises(ValueError, match="Only real numbers of at most 64 bits can be saved, got object"):
        io.save(path, object())
    with pytest.raises(ValueError, match="needs strings as keys"):
        io.save(path, {1: jnp.zeros(1)})
    with pytest.raises(ValueError, match=r"`x.1` has masked entries"):
        io.save(path, {"x": [1.0, np.ma.masked_equal(ORDERED, 3.0)]})
    numbers = (np.longdouble(1) / 3, jnp.ones(2, jnp.bfloat16), ORDERED + 1j, np.array(["word"]))
    for wrong in (*numbers, mixture.Mixture, gmm.Full):
        with pytest.raises(ValueError, match="Only real numbers of at most 64 bits can be saved, got"):
            io.save(path, [wrong])
    nest: list = []
    nest.append(nest)
    with pytest.raises(ValueError, match="nested too deeply"):
        io.save(path, nest)
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


def test_64_bits_are_not_cut_to_32(tmp_path):
    path = tmp_path / "saved.safetensors"
    values = {"x": ORDERED.T, "n": np.arange(3), "u": np.uint64(2**63), "f": np.float64(0.1), "h": np.ones(2, np.int32)}
    with jax.enable_x64(False):
        loaded = back(path, {**values, "own": jnp.ones(2)})
        assert_same_values(loaded, {**values, "own": np.ones(2, np.float32)})
        assert [type(leaf) is np.ndarray for leaf in loaded.values()] == [True] * 4 + [False] * 2
        loaded["x"][0, 0] = 7.0
        loaded = back(path, jax.tree.map(np.asarray, MIXTURE))
    same(loaded, MIXTURE)


def test_a_fit_goes_on_from_where_it_was_saved(tmp_path):
    path = tmp_path / "centers.safetensors"
    half = kmeans.fit(jax.random.key(0), X, 3, init=X[:3], max_steps=1)
    io.save(path, half)
    going = kmeans.fit(jax.random.key(0), X, 3, init=io.load(path).params)
    whole = kmeans.fit(jax.random.key(0), X, 3, init=X[:3])
    assert_array_equal(going.params, whole.params)


def test_traced_values_and_paths_in_the_place_of_values_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="`save` is for the host"):
        jax.jit(lambda x: io.save(tmp_path / "saved.safetensors", {"x": x}))(jnp.zeros(2))
    untyped: Any = io
    with pytest.raises(ValueError, match=r"`path` must be a path, and comes first, as in save\(path, value\); got"):
        untyped.save(FIT, "saved.safetensors")
    with pytest.raises(ValueError, match="`path` must be a path"):
        untyped.load(FIT)
    assert not list(tmp_path.iterdir())
