"""golden.npz: what is packed comes back, whatever tensors are called and shaped; what is no such file is refused."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit import golden
from edgekit.arrays import list_arrays
from edgekit.errors import InputUnusable
from edgekit.parity.ladder import Input
from edgekit.parity.metrics import AnyArray

# As networks call them: "boxes.0", "layer4.1.conv2", "3". Dots and digits are also what the archive's own keys end in.
NAMES = st.text("ab.01", min_size=1, max_size=4)
DTYPES = st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.bool_])
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)


@st.composite
def columns(draw: st.DrawFn, count: int) -> list[dict[str, AnyArray]]:
    """Named arrays for each of `count` inputs: some names have one shape, others another for every input."""
    rows: list[dict[str, AnyArray]] = [{} for _ in range(count)]
    for name in draw(st.lists(NAMES, min_size=1, max_size=4, unique=True)):
        dtype, alike = draw(DTYPES), draw(SHAPES) if draw(st.booleans()) else None
        for row in rows:
            row[name] = draw(hnp.arrays(dtype, draw(SHAPES) if alike is None else alike, elements={"allow_nan": False}))
    return rows


@st.composite
def climbs(draw: st.DrawFn) -> tuple[list[Input], list[dict[str, AnyArray]]]:
    count = draw(st.integers(1, 3))
    feeds, outputs = draw(columns(count)), draw(columns(count))
    labels = draw(st.lists(st.text("natural-0é", min_size=1), min_size=count, max_size=count))
    return [Input(label, feed, draw(st.booleans())) for label, feed in zip(labels, feeds, strict=True)], outputs


def same(ours: Mapping[str, AnyArray], theirs: Mapping[str, AnyArray]) -> bool:
    return set(ours) == set(theirs) and all(
        isinstance(array, np.ndarray)
        and array.dtype == theirs[name].dtype
        and array.shape == theirs[name].shape
        and np.array_equal(array, theirs[name])
        for name, array in ours.items()
    )


def unpacked(data: bytes, folder: Path) -> golden.Golden:
    path = folder / "golden.npz"
    path.write_bytes(data)
    return golden.unpack(path)


def plain(count: int = 2, **more: AnyArray) -> bytes:
    """A climb with one image input and one row of scores, and `more` outputs, which are the same for all inputs."""
    rng = np.random.default_rng(0)
    inputs = [Input(f"i{n}", {"input": rng.random((1, 3, 2, 2), np.float32)}, n == 0) for n in range(count)]
    return golden.pack(inputs, [{"logits": rng.random((1, 5)), **more} for _ in range(count)])


def archive(**arrays: AnyArray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def stored(data: bytes) -> dict[str, AnyArray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)


def without(key: str) -> bytes:
    return archive(**{name: array for name, array in stored(plain()).items() if name != key})


def replacing(**changed: AnyArray) -> bytes:
    return archive(**{**stored(plain()), **changed})


def unlike() -> dict[str, AnyArray]:
    """The arrays of a climb whose boxes have another shape for each of its two inputs."""
    inputs = [Input(str(n), {"input": np.full((1, 2), n)}) for n in range(2)]
    return stored(golden.pack(inputs, [{"boxes": np.full((n, 4), n), "logits": np.zeros((1, 5))} for n in range(2)]))


def boxes_of_one_input_lost() -> bytes:
    arrays = unlike()
    del arrays[[key for key in arrays if "boxes" in key][-1]]
    return archive(**arrays)


def boxes_of_an_input_that_is_not_there() -> bytes:
    return archive(**{key: array if "boxes" in key else array[:1] for key, array in unlike().items()})


def one_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 5)))
    return buffer.getvalue()


@settings(max_examples=150, deadline=None)
@given(climbs())
def test_what_is_packed_comes_back(
    tmp_path_factory: pytest.TempPathFactory, climb: tuple[list[Input], list[dict[str, AnyArray]]]
) -> None:
    inputs, outputs = climb
    found = unpacked(golden.pack(inputs, outputs), tmp_path_factory.getbasetemp())
    assert [(it.name, it.ordinary) for it in found.inputs] == [(it.name, it.ordinary) for it in inputs]
    assert len(found.outputs) == len(outputs)
    for ours, theirs in zip(found.inputs, inputs, strict=True):
        assert same(ours.feeds, theirs.feeds)
    for row, wanted in zip(found.outputs, outputs, strict=True):
        assert same(row, wanted)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("names", [("boxes.0", "boxes.1", "boxes.2"), ("0", "1"), ("a", "a.0"), ("a.0", "a.0.0")])
def test_names_that_end_in_numbers_are_names(count: int, names: tuple[str, ...], tmp_path: Path) -> None:
    """Every output has the same shape for all inputs: none is one array for each."""
    inputs = [Input(str(n), {"input": np.zeros(1)}) for n in range(count)]
    outputs = [{name: np.full((1, 2 + i), 10.0 * n + i) for i, name in enumerate(names)} for n in range(count)]
    for row, wanted in zip(unpacked(golden.pack(inputs, outputs), tmp_path).outputs, outputs, strict=True):
        assert same(row, wanted)


def test_outputs_of_unlike_shapes_come_back_each_with_its_own(tmp_path: Path) -> None:
    """Eleven inputs: the tenth is not the first."""
    inputs = [Input(str(n), {"input": np.full((1, 2), n)}) for n in range(11)]
    outputs = [{"boxes": np.full((n, 4), n), "scores": np.full((1, 3), n)} for n in range(11)]
    found = unpacked(golden.pack(inputs, outputs), tmp_path).outputs
    assert all(same(row, wanted) for row, wanted in zip(found, outputs, strict=True))


def test_the_keys_are_those_that_are_documented(tmp_path: Path) -> None:
    """Others read this file without edgekit: `input.NAME` has the ladder's inputs along its first axis."""
    path = tmp_path / "golden.npz"
    images = [np.full((1, 3, 4, 4), value) for value in (0.0, 1.0)]
    inputs = [Input("natural-0", {"image": images[0]}), Input("loud", {"image": images[1]}, ordinary=False)]
    path.write_bytes(golden.pack(inputs, [{"logits": np.full((1, 5), n), "boxes": np.zeros((n, 4))} for n in range(2)]))
    with np.load(path, allow_pickle=False) as arrays:
        assert np.array_equal(arrays["input.image"], np.stack(images))
        assert np.array_equal(arrays["output.logits"], [np.zeros((1, 5)), np.ones((1, 5))])
        assert list(arrays["names"]) == ["natural-0", "loud"]
        assert list(arrays["ordinary"]) == [True, False]
    assert {spec.dtype for spec in list_arrays(path)} == {"text", "bool", "float64", "int64"}


BROKEN = {
    "empty": b"",
    "text": b"hello, world",
    "a zip's beginning": b"PK\x03\x04" + bytes(200),
    "cut short": plain()[:-40],
    "cut in half": plain()[: len(plain()) // 2],
    "changed inside": plain().replace(b"\x93NUMPY", b"\x93NUMBY"),
    "a single array": one_array(),
    "other arrays": archive(inputs=np.zeros((2, 1, 3, 4, 4)), outputs=np.zeros((2, 5))),
    "no names": without("names"),
    "no flags": without("ordinary"),
    "no inputs": without("input.input"),
    "no outputs": without("output.logits"),
    "nothing at all": archive(names=np.array([], "U1"), ordinary=np.array([], bool)),
    "more names than inputs": replacing(names=np.array(["a", "b", "c"])),
    "fewer flags than inputs": replacing(ordinary=np.array([True])),
    "names that are no list": replacing(names=np.array("a")),
    "flags that are no list": replacing(ordinary=np.array(True)),
    "an input that is no list": replacing(**{"input.input": np.array(1.0)}),
    "an output for too few inputs": replacing(**{"output.logits": np.zeros((1, 1, 5))}),
    "an output for an input that is not there": boxes_of_an_input_that_is_not_there(),
    "an output for one of two inputs": boxes_of_one_input_lost(),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_such_archive_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputUnusable, match="cannot read the stored inputs") as refused:
        unpacked(data, tmp_path)
    assert refused.value.where == str(tmp_path / "golden.npz")
    assert refused.value.got


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **{**stored(plain()), "names": np.array([{}, {}], object)})
    with pytest.raises(InputUnusable, match="cannot read the stored inputs"):
        unpacked(buffer.getvalue(), tmp_path)


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputUnusable, match="cannot read the stored inputs"):
        golden.unpack(tmp_path / "gone.npz")
