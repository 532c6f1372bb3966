"""A plan says what is to be done; its key changes with everything that the result depends on, and with nothing else."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import plan as plans
from edgekit import profile
from edgekit.errors import InputUnusable, UsageError
from edgekit.plan import PRECISIONS, Plan, code_digest, tool_versions
from edgekit.sources import CheckpointWeights, SeedWeights
from edgekit.variant import Variant

CPU, RTX, TURING = profile.load("cpu"), profile.load("rtx"), profile.load("rtx-turing")
NANO, ORIN = profile.load("jetson-nano-jp46"), profile.load("jetson-orin-jp62")
PLAN = Plan(SeedWeights(0), (RTX,))
VARIANT = Variant("mobilenet_v2", 0.5, 160)

# --- the key


@pytest.mark.parametrize(
    "other",
    [
        replace(VARIANT, model="mobilenet_v1"),
        replace(VARIANT, alpha=0.75),
        replace(VARIANT, resolution=192),
        replace(VARIANT, batch=2),
        replace(VARIANT, batch=None),
        replace(VARIANT, num_classes=10),
        replace(VARIANT, options=(("round", "divisible8"),)),
    ],
)
def test_every_part_of_the_variant_is_in_the_key(other: Variant) -> None:
    assert PLAN.key(other) != PLAN.key(VARIANT)


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAN, weights=SeedWeights(1)),
        replace(PLAN, profiles=(CPU,)),
        replace(PLAN, profiles=(RTX, CPU)),
        replace(PLAN, profiles=(replace(RTX, opset=16),)),
        replace(PLAN, precisions=("fp32",)),
        replace(PLAN, engines=False),
        replace(PLAN, parity="quick"),
        replace(PLAN, exporter="dynamo"),
    ],
)
def test_every_option_that_changes_files_is_in_the_key(other: Plan) -> None:
    assert other.key(VARIANT) != PLAN.key(VARIANT)


@pytest.mark.parametrize("same", [replace(PLAN, out=Path("elsewhere")), replace(PLAN, force=True), replace(PLAN)])
def test_where_and_how_often_it_is_done_is_not(same: Plan) -> None:
    assert same.key(VARIANT) == PLAN.key(VARIANT)


def test_keys_are_hashes_and_no_two_of_a_grid_are_equal() -> None:
    grid = [Variant("mobilenet_v2", a, r, b) for a, r, b in itertools.product((1.0, 0.5), (96, 224), (1, 2, None))]
    keys = [PLAN.key(variant) for variant in grid]
    assert len(set(keys)) == len(grid)
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in keys)


def test_the_content_of_a_checkpoint_is_in_the_key_and_its_name_is_not(tmp_path: Path) -> None:
    def key(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return Plan(CheckpointWeights(tmp_path / name), (RTX,)).key(VARIANT)

    assert key("a.pt", b"one") == key("b.pt", b"one")
    assert key("a.pt", b"one") != key("a.pt", b"two")


def test_the_content_and_the_order_of_images_are_in_the_key(tmp_path: Path) -> None:
    def key(*contents: bytes) -> str:
        paths = tuple(tmp_path / f"{number}.png" for number in range(len(contents)))
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        return replace(PLAN, images=paths).key(VARIANT)

    keys = [key(), key(b"one"), key(b"two"), key(b"one", b"two"), key(b"two", b"one")]
    assert len(set(keys)) == 5
    assert key(b"one") == keys[1]


def test_a_file_that_changes_during_a_run_does_not_change_the_runs_key(tmp_path: Path) -> None:
    """Otherwise files made from the old weights would be kept as if they had been made from the new ones."""
    weights, image = tmp_path / "last.pt", tmp_path / "a.png"
    weights.write_bytes(b"epoch 1")
    image.write_bytes(b"before")
    running = Plan(CheckpointWeights(weights), (RTX,), images=(image,))
    before = running.key(VARIANT)
    weights.write_bytes(b"epoch 2")
    assert running.key(VARIANT) == before
    assert replace(running).key(VARIANT) != before
    weights.write_bytes(b"epoch 1")
    assert replace(running).key(VARIANT) == before
    image.write_bytes(b"after")
    assert running.key(VARIANT) == before
    assert replace(running).key(VARIANT) != before


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for broken in (
        replace(PLAN, weights=CheckpointWeights(tmp_path / "gone")),
        replace(PLAN, images=(tmp_path / "gone",)),
        replace(PLAN, images=(tmp_path,)),
    ):
        with pytest.raises(InputUnusable) as caught:
            broken.key(VARIANT)
        assert str(tmp_path) in (caught.value.where or "")
        assert caught.value.got


def changed_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "tool_versions", lambda: tool_versions() | {"torch": "99.0"})


def changed_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "code_digest", lambda: "0" * 64)


@pytest.mark.parametrize("change", [changed_tools, changed_code])
def test_another_tool_or_another_edgekit_is_in_the_key(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None]
) -> None:
    before = PLAN.key(VARIANT)
    change(monkeypatch)
    assert PLAN.key(VARIANT) != before


def test_the_key_is_the_same_in_every_process() -> None:
    code = (
        "from edgekit import profile; from edgekit.plan import Plan; from edgekit.sources import SeedWeights;"
        "from edgekit.variant import Variant;"
        "print(Plan(SeedWeights(0), (profile.load('rtx'),)).key(Variant('mobilenet_v2', 0.5, 160)));"
        "import sys; sys.exit(' '.join(m for m in ('torch', 'numpy', 'onnx', 'onnxruntime') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, PLAN.key(VARIANT), "")


def test_the_versions_are_those_of_what_is_installed() -> None:
    import importlib.metadata

    found = tool_versions()
    assert {"edgekit-trt", "torch", "onnx", "onnxsim", "numpy"} <= set(found)
    assert found["torch"] == importlib.metadata.version("torch")


# A package of its own to look at: changing edgekit's own files would disturb everybody else.
def copied(root: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> str:
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(plans, "__file__", str(root / "plan.py"))
    return code_digest.__wrapped__()


def test_a_change_of_the_code_is_seen_unless_it_only_shows_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copied(tmp_path, monkeypatch, plan="", graph__fp16="a = 1", cli__export="b = 1")
    assert copied(tmp_path, monkeypatch, cli__export="b = 2") == before
    assert copied(tmp_path, monkeypatch, graph__fp16="a = 2") != before
    assert copied(tmp_path, monkeypatch, graph__fp16="a = 1") == before
    assert copied(tmp_path, monkeypatch, graph__int8="") != before


# --- what it asks of the profiles


def test_the_opset_is_one_that_every_target_takes() -> None:
    assert replace(PLAN, profiles=(RTX,)).opset == RTX.opset
    assert replace(PLAN, profiles=(RTX, NANO)).opset == min(RTX.opset, NANO.opset) == 13


@pytest.mark.parametrize("precisions", [("fp32", "fp16"), ("fp16", "fp32")])
def test_an_engine_takes_the_fastest_precision_whatever_the_order(precisions: tuple[plans.Precision, ...]) -> None:
    plan = replace(PLAN, precisions=precisions)
    assert plan.engine_precision(RTX) == "fp16"
    assert plan.engine_precision(replace(RTX, precisions=("fp32",))) == "fp32"


def test_an_engine_takes_only_what_was_asked_for() -> None:
    assert replace(PLAN, precisions=("fp32",)).engine_precision(RTX) == "fp32"
    assert replace(PLAN, precisions=("fp32",)).engine_precision(TURING) is None


def test_a_target_that_can_run_nothing_of_it_is_refused() -> None:
    plan = replace(PLAN, profiles=(RTX, TURING), precisions=("fp32",))
    with pytest.raises(UsageError) as caught:
        plan.check()
    assert "rtx-turing" in caught.value.what
    assert (caught.value.where, caught.value.got, caught.value.wanted) == ("--precision", "fp32", "one of fp16")


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        replace(PLAN, profiles=(TURING,)),
        replace(PLAN, profiles=(TURING,), precisions=("fp32",), engines=False),
        replace(PLAN, profiles=(CPU,), precisions=("fp32",)),
        replace(PLAN, profiles=(ORIN, NANO)),
    ],
)
def test_a_plan_that_can_be_done_is_accepted(plan: Plan) -> None:
    plan.check()


@given(st.sets(st.sampled_from(PRECISIONS), min_size=1))
def test_a_half_precision_graph_is_made_when_it_was_asked_for(chosen: set[plans.Precision]) -> None:
    assert replace(PLAN, precisions=tuple(chosen)).half == ("fp16" in chosen)


def test_quick_is_the_quick_ladder() -> None:
    assert replace(PLAN, parity="quick").quick
    assert not PLAN.quick


# --- where it goes


def test_failed_variants_never_go_where_good_ones_are_expected() -> None:
    plan = replace(PLAN, out=Path("some") / "where")
    assert plan.folder(VARIANT) == Path("some/where/mobilenet_v2-a0.50-r160")
    assert plan.failed_folder(VARIANT) == Path("some/where/mobilenet_v2-a0.50-r160.failed")
