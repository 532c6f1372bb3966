"""A network's options come from the signature of its build."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from edgekit import models
from edgekit.errors import UsageError
from edgekit.models import _options
from edgekit.models._options import forms, options, parse_options


@pytest.mark.parametrize("name", models.names())
def test_the_options_of_every_network_can_be_read(name: str) -> None:
    for option in options(name):
        assert option.default in option.values() or not option.values()
        for value in option.values():
            assert parse_options(name, {option.name: str(value)}) == {option.name: value}


def test_values_are_typed() -> None:
    given = {"rounding": "published", "shortcut_act": "No"}
    assert parse_options("c_mobilenet_v2", given) == {"rounding": "published", "shortcut_act": False}
    assert parse_options("mobilenet_v2", {}) == {}


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("roundig", "published", "rounding"),
        ("rounding", "publishd", "published"),
        ("rounding", "", "divisible8"),
        ("shortcut_act", "maybe", "true"),
        ("num_classes", "10", "rounding"),
        ("alpha", "1", "rounding"),
    ],
)
def test_a_wrong_option_is_named_with_what_was_meant(key: str, value: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_options("c_mobilenet_v2", {key: value})
    assert caught.value.exit_code == 2
    assert hint in str(caught.value)


def stand_in(monkeypatch: pytest.MonkeyPatch, build: object) -> None:
    monkeypatch.setattr(_options, "load", lambda name: SimpleNamespace(build=build))


def test_numbers_are_read_and_bad_ones_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*, depth: int = 100, reduction: float = 0.5) -> None: ...

    stand_in(monkeypatch, build)
    assert parse_options("any", {"depth": "40", "reduction": "1e-1"}) == {"depth": 40, "reduction": 0.1}
    for key, text in [
        ("depth", "4.5"),
        ("depth", "ten"),
        ("reduction", "nan"),
        ("reduction", "inf"),
        ("reduction", ""),
    ]:
        with pytest.raises(UsageError, match=key):
            parse_options("any", {key: text})


def test_an_option_that_cannot_be_typed_on_a_command_line_is_a_fault_of_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(*, layers: list[int] = [1]) -> None: ...  # noqa: B006

    stand_in(monkeypatch, build)
    with pytest.raises(TypeError, match="layers"):
        parse_options("any", {})


def test_forms_are_all_combinations_with_the_default_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*, tail: Literal["plain", "published"] = "published", wide: bool = True, depth: int = 3) -> None: ...

    stand_in(monkeypatch, build)
    assert forms("any") == [{}, {"wide": False}, {"tail": "plain"}, {"tail": "plain", "wide": False}]


def test_names_options_and_sources_load_nothing_heavy(tmp_path: Path) -> None:
    checkpoint = tmp_path / "weights.pt"
    checkpoint.write_bytes(b"x")
    code = f"""
import sys
from pathlib import Path
from edgekit import models, sources
from edgekit.models._options import parse_options
from edgekit.variant import Variant
for name in models.names():
    models.info(name), models.check_resolution(name, models.info(name).default_resolution)
parse_options("mobilenet_v2", {{"rounding": "published"}})
sources.check(Variant("mobilenet_v2", 1.0, 224), sources.parse_weights("default", model="mobilenet_v2"))
sources.identity(sources.parse_weights({str(checkpoint)!r}, model="mobilenet_v2"))
heavy = {{"torch", "torchvision", "numpy", "onnx", "onnxruntime"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=Path(__file__).parents[2])
