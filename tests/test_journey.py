"""What a journey holds until it is needed: graphs that are still being simplified, and are asked for again."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from subjects import Subject

from edgekit import pipeline, profile, sources
from edgekit.errors import EdgekitError, GateFailed, InputUnusable
from edgekit.graph.simplify import Simplified
from edgekit.graph.specialise import Sizes
from edgekit.headed import Head, Headed
from edgekit.helpers import Helpers
from edgekit.isolation import IsolationFailed
from edgekit.journey import Journey, Proven, _check_declared, _spec
from edgekit.manifest import Artifact, Manifest, Staging
from edgekit.models._counting import Counts, count
from edgekit.parity.ladder import Input
from edgekit.parity.report import Liveness, ParityReport, Rung
from edgekit.plan import Plan
from edgekit.proof import Proof, QuickTruth, Reference
from edgekit.runtimes.onnxruntime_cpu import CpuSession
from edgekit.subjects import Exported, Simplification
from edgekit.subjects import module as module_subject
from edgekit.variant import Variant

FORK = multiprocessing.get_context("fork")

pytestmark = [pytest.mark.xdist_group("ladder"), pytest.mark.usefixtures("one_thread")]

Network = Callable[[str], Subject]


@pytest.fixture(scope="module")
def helpers() -> Iterator[Helpers]:
    started = Helpers(())
    yield started
    started.close()


@dataclass
class Recorded(Helpers):
    """Helpers that hand back the graph itself, after as many failures as wanted; `log` says what was asked when."""

    failures: int = 0
    log: list[str] = field(default_factory=list)

    def simplify(self, model: bytes) -> Callable[[], Simplified]:
        self.log.append("begun")

        def wait() -> Simplified:
            self.log.append("waited for")
            if self.failures:
                self.failures -= 1
                raise InputUnusable("no way")
            return Simplified(model, 1, 1)

        return wait


# Simplification


def test_a_graph_is_simplified_from_the_start_and_waited_for_when_it_is_asked_for(network: Network) -> None:
    recorded = Recorded()
    simplification = Simplification(recorded, network("mobilenet_v2").graph())
    assert recorded.log == ["begun"]
    assert simplification.result() == network("mobilenet_v2").graph()
    assert recorded.log == ["begun", "waited for"]


@pytest.mark.parametrize("failures", [1, 2])
def test_after_a_failure_it_begins_anew_when_it_is_asked_again(network: Network, failures: int) -> None:
    recorded = Recorded(failures=failures)
    simplification = Simplification(recorded, network("mobilenet_v2").graph())
    for _ in range(failures):
        with pytest.raises(InputUnusable, match="no way"):
            simplification.result()
    assert recorded.log == ["begun", "waited for"] * failures  # nobody has asked again
    assert simplification.result() == network("mobilenet_v2").graph()
    assert recorded.log == ["begun", "waited for"] * (failures + 1)


def test_a_graph_gives_way_to_the_next_and_is_simplified_when_it_is_waited_for(
    network: Network, helpers: Helpers
) -> None:
    first, second = (network(name).graph() for name in ("mobilenet_v1", "mobilenet_v2"))
    begun = [helpers.simplify(graph.SerializeToString()) for graph in (first, second)]
    for graph, wait in reversed(list(zip((first, second), begun, strict=True))):
        weights = {held.name for held in onnx.load_model_from_string(wait().model_bytes).graph.initializer}
        assert {held.name for held in graph.graph.initializer} & weights


def test_a_simplifier_that_died_is_started_again(network: Network, helpers: Helpers) -> None:
    """The real one: the variants that follow must not all fail with the first."""
    subject = network("mobilenet_v2")
    simplification = Simplification(helpers, subject.graph())
    pid = helpers.simplifier.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(IsolationFailed):
        simplification.result()
    found = simplification.result()
    assert helpers.simplifier.pid not in (None, pid)
    feeds = subject.inputs[0].feeds
    wanted = CpuSession(subject.exported)(feeds)["logits"]
    assert abs(CpuSession(found)(feeds)["logits"] - wanted).max() < 1e-5 * abs(wanted).max()


# Exported graphs


@dataclass
class Waiting:
    """Hands the graph back, and counts how often it was asked to; fails at first as often as wanted."""

    graph: onnx.ModelProto
    failures: int = 0
    asked: int = 0

    def __call__(self) -> onnx.ModelProto:
        self.asked += 1
        if self.asked <= self.failures:
            raise EdgekitError("not yet")
        return self.graph


def exported(
    subject: Subject, simplify: Callable[[], onnx.ModelProto], quick: bool = False, half: bool = False
) -> Exported:
    reference = Reference(subject.module, subject.folded, subject.anchors, quick, half)
    wanted: Literal["yes", "no"] = "yes" if half else "no"
    return Exported("torchscript", subject.variant, True, subject.graph(), simplify, wanted, reference)


@pytest.mark.parametrize("half", [True, False])
def test_the_simplified_graph_is_waited_for_once_and_when_it_is_needed(network: Network, half: bool) -> None:
    subject = network("mobilenet_v1")
    waiting = Waiting(subject.graph())
    made = exported(subject, waiting, half=half)
    assert made.raw.graph.node
    assert waiting.asked == 0
    for resolution in (96, 64, 96):
        graphs = made.at(replace(subject.variant, resolution=resolution))
        assert graphs.simplified is not None
        assert (graphs.fp16 is not None) is half
    assert waiting.asked == 1
    assert made.fp16 is made.fp16  # converted once, too


def test_after_a_failure_it_is_waited_for_again(network: Network) -> None:
    """The next variant may be luckier; and what failed is not kept."""
    subject = network("mobilenet_v1")
    waiting = Waiting(subject.graph(), failures=1)
    made = exported(subject, waiting, half=True)
    with pytest.raises(EdgekitError, match="not yet"):
        made.at(subject.variant)
    graphs = made.at(subject.variant)
    assert None not in (graphs.simplified, graphs.fp16)
    assert waiting.asked == 2


@pytest.mark.parametrize("batch", [1, 4, None])
@pytest.mark.parametrize("resolution", [32, 160])
def test_every_graph_is_for_the_size_that_is_asked_for(network: Network, resolution: int, batch: int | None) -> None:
    subject = network("mobilenet_v1")
    graphs = exported(subject, subject.graph, half=True).at(
        replace(subject.variant, resolution=resolution, batch=batch)
    )
    for _, model, _ in graphs.rungs():
        dims = onnx.load_model_from_string(bytes(model)).graph.input[0].type.tensor_type.shape.dim
        assert [dim.dim_param or dim.dim_value for dim in dims] == [batch or "batch", 3, resolution, resolution]


def test_a_graph_that_simplification_left_alone_is_one_graph_on_both_rungs(network: Network) -> None:
    subject = network("mobilenet_v1")
    same = exported(subject, subject.graph).at(subject.variant)
    assert same.onnx is same.simplified
    changed = subject.graph()
    changed.graph.doc_string = "another"
    graphs = exported(subject, lambda: changed).at(subject.variant)
    assert graphs.onnx != graphs.simplified
    assert [name for name, _, _ in graphs.rungs()] == ["onnx", "simplified"]


def test_a_quick_climb_has_no_rung_before_simplification(network: Network) -> None:
    subject = network("mobilenet_v1")
    graphs = exported(subject, subject.graph, quick=True, half=True).at(subject.variant)
    assert [name for name, _, _ in graphs.rungs()] == ["simplified", "fp16"]


# Remedies


class Mending:
    """A subject whose graph no simplification suits, and whose values no half holds; `asked` says in which order."""

    digest, contract, notes, exporters = "", None, (), ("torchscript",)

    def __init__(self, subject: Subject) -> None:
        self.subject, self.asked = subject, list[str]()

    def export(self, variant: Variant, exporter: str) -> Exported:
        broken = self.subject.graph()
        weights = next(tensor for tensor in broken.graph.initializer if len(tensor.dims) == 4)
        weights.raw_data = bytes(len(weights.raw_data))
        return exported(self.subject, lambda: broken, half=True)

    def narrowed(self, made: Exported, variant: Variant) -> Exported:
        self.asked.append("narrowed")
        assert made.simplified == made.raw  # what the remedy before left, not what it started from
        raise InputUnusable("nothing to keep")


def test_one_remedy_starts_from_what_the_other_left(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = network("mobilenet_v2")
    mending = Mending(subject)
    journey = object.__new__(Journey)
    journey.subject = mending  # type: ignore[assignment]  # as much of one as remedies need
    journey.exported = mending.export(subject.variant, "torchscript")
    reports = iter(["simplified", "fp16", None])

    def climb(_self: Journey, variant: Variant, inputs: object, made: Exported, stage: object, *notes: str) -> Proven:
        failure = next(reports)
        rungs = () if failure is None else (replace(PASSED, name=failure, passed=False, reason="told"),)
        report = ParityReport(failure is None, "full", rungs, (), Liveness(1.0, 0.1, True))
        return Proven(made.at(variant), "torchscript", Proof(report, ()), Counts(0, 0, ()), notes)

    monkeypatch.setattr(Journey, "_climb", climb)
    proven = journey._prove(subject.variant, [], lambda graphs: None)
    assert mending.asked == ["narrowed"]
    assert proven.notes == ("the simplification was rolled back (rung simplified had failed: told)",)


PASSED = Rung("", "", True, None, None, None, 0, None, None, None, None, None)


def test_a_mistake_of_our_own_is_told_with_its_place_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = Journey.walk

    def stumbling(self: Journey, variant: Variant, tell: Callable[[str], None], then: Any) -> tuple[Manifest, Path]:
        if variant.resolution == 32:
            return walk(self, variant, lambda _: {}["missing"])
        return walk(self, variant, tell, then)

    monkeypatch.setattr(Journey, "walk", stumbling)
    plan = Plan(sources.SeedWeights(0), (profile.load("cpu"),), ("fp32",), parity="quick", out=tmp_path)
    variants = [Variant("mobilenet_v2", 0.1, side) for side in (32, 64)]
    stumbled, good = pipeline.export_grid(variants, plan)
    assert stumbled.error is not None
    assert stumbled.error.got == "KeyError: 'missing'"
    assert "test_journey.py, line" in (stumbled.error.where or "")
    assert good.error is None


@pytest.mark.parametrize("parity", ["quick", "full"])
@pytest.mark.parametrize(("tensor", "axis"), [("input", 2), ("input", 0), ("logits", 1)])
def test_a_file_that_declares_what_it_was_not_proven_with_fails(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensor: str, axis: int, parity: Literal["quick"]
) -> None:
    """As if the sizes had been written into the wrong place: no rung would see it."""
    honest = Sizes.at

    def lying(self: Sizes, resolution: int, batch: int | None) -> Headed:
        true = honest(self, resolution, batch)
        model = onnx.load_model_from_string(bytes(true))
        (value,) = (v for v in (*model.graph.input, *model.graph.output) if v.name == tensor)
        value.type.tensor_type.shape.dim[axis].dim_param = ""
        value.type.tensor_type.shape.dim[axis].dim_value = 7 if tensor == "logits" else 64 if axis else 2
        written = bytes(model.SerializeToString())
        return Headed(Head(written[:-1]), written[-1:], written, true.opened)

    monkeypatch.setattr(Sizes, "at", lying)
    plan = Plan(sources.SeedWeights(0), (profile.load("cpu"),), ("fp32",), parity=parity, out=tmp_path)
    outcome = pipeline.export_grid([Variant("mobilenet_v2", 0.1, 32)], plan)[0]
    assert outcome.error is not None
    assert not (tmp_path / outcome.variant.slug).exists()


def test_in_a_quick_climb_the_sizes_of_a_network_share_one_session(network: Network) -> None:
    subject = network("mobilenet_v1")
    made = exported(subject, subject.graph, quick=True)
    small, large = (made.at(replace(subject.variant, resolution=side)).simplified for side in (64, 96))
    assert small is not None
    assert large is not None
    session = made.reference.open(small, one_row=False)
    assert made.reference.open(large, one_row=False) is session
    for side in (64, 96):
        image = subject.inputs[0].feeds["input"][:, :, :side, :side]
        wanted = CpuSession(bytes(small if side == 64 else large))({"input": image})["logits"]
        assert abs(session({"input": image})["logits"] - wanted).max() < 1e-5 * abs(wanted).max()
    another = exported(network("mobilenet_v2"), network("mobilenet_v2").graph, quick=True).at(subject.variant)
    assert another.simplified is not None
    assert made.reference.open(another.simplified, one_row=False) is not session


def test_in_a_full_climb_every_file_is_run_as_it_is(network: Network) -> None:
    subject = network("mobilenet_v1")
    made = exported(subject, subject.graph)
    small, large = (made.at(replace(subject.variant, resolution=side)).simplified for side in (64, 96))
    assert small is not None
    assert large is not None
    assert made.reference.open(small, one_row=False) is not made.reference.open(large, one_row=False)


def test_a_worker_that_dies_when_everything_is_done_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Journey, "mould", property(lambda self: os.kill(os.getpid(), signal.SIGKILL)))
    plan = Plan(sources.SeedWeights(0), (profile.load("cpu"),), ("fp32",), parity="quick", out=tmp_path)
    variants = [Variant("mobilenet_v2", alpha, side) for alpha in (0.1, 0.2) for side in (32, 64)]
    outcomes = pipeline.export_grid(variants, plan)
    assert [outcome.error for outcome in outcomes] == [None] * 4


# One export for several workers


def exports(monkeypatch: pytest.MonkeyPatch, folder: Path, instead: Callable[[], object] = lambda: None) -> Path:
    """A file that gets a line whenever a network is exported, in any process; `instead` is called before."""
    log = folder / "exports.txt"
    log.touch()
    real = module_subject.export_onnx

    def counted(*arguments: Any) -> bytes:
        instead()
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return real(*arguments)

    monkeypatch.setattr(module_subject, "export_onnx", counted)
    return log


@pytest.mark.parametrize(("alphas", "parity", "jobs"), [((0.75, 0.5, 0.35), "quick", 3), ((0.5, 0.35), "full", 2)])
def test_workers_export_a_make_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    alphas: tuple[float, ...],
    parity: Literal["quick", "full"],
    jobs: int,
) -> None:
    log = exports(monkeypatch, tmp_path)
    plan = Plan(sources.SeedWeights(0), (profile.load("cpu"),), engines=False, parity=parity, out=tmp_path / "out")
    variants = [Variant("mobilenet_v2", alpha, side) for alpha in alphas for side in (32, 64)]
    outcomes = pipeline.export_grid(variants, plan, jobs)
    assert [outcome.error for outcome in outcomes] == [None] * len(variants)
    assert len(log.read_text().split()) == 1


def test_a_network_that_does_not_fit_is_exported_by_its_own_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MobileNet v2 at 0.25 has a shortcut more than at 0.5 and 0.75, which share theirs."""
    log = exports(monkeypatch, tmp_path)
    plan = Plan(sources.SeedWeights(0), (profile.load("cpu"),), ("fp32",), parity="quick", out=tmp_path / "out")
    variants = [Variant("mobilenet_v2", alpha, 32) for alpha in (0.75, 0.5, 0.25)]
    outcomes = pipeline.export_grid(variants, plan, jobs=3)
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert len(log.read_text().split()) == 2


def test_where_there_is_no_mould_to_be_had_nobody_waits_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second and the third worker are told so by the first, and export at the same time."""
    gate, both = FORK.Barrier(2), FORK.Value("i", 0)

    def meet() -> None:
        with both.get_lock():
            both.value += 1
            first = both.value == 1
        if not first:
            gate.wait(60)  # breaks, and fails the variant, where they come one after the other

    log = exports(monkeypatch, tmp_path, meet)
    monkeypatch.setattr(Exported, "mould", lambda self: None)
    plan = Plan(sources.SeedWeights(0), (profile.load("cpu"),), ("fp32",), parity="quick", out=tmp_path / "out")
    variants = [Variant("mobilenet_v2", alpha, 32) for alpha in (0.5, 0.4, 0.35)]
    outcomes = pipeline.export_grid(variants, plan, jobs=3)
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert len(log.read_text().split()) == 3


def test_a_worker_that_dies_in_its_turn_leaves_it_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = tmp_path / "died"

    def die_once() -> None:
        if not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    log = exports(monkeypatch, tmp_path, die_once)
    plan = Plan(sources.SeedWeights(0), (profile.load("cpu"),), ("fp32",), parity="quick", out=tmp_path / "out")
    variants = [Variant("mobilenet_v2", alpha, side) for alpha in (0.5, 0.35) for side in (32, 64)]
    outcomes = pipeline.export_grid(variants, plan, jobs=2)
    failed = [outcome for outcome in outcomes if outcome.error]
    assert len(failed) == 1
    assert "SIGKILL" in str(failed[0].error)
    assert log.read_text()


def test_what_cannot_be_foreseen_is_one_variants_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = QuickTruth.answers

    def failing(self: QuickTruth, inputs: Sequence[Input], *rest: Any) -> object:
        if inputs[0].feeds["input"].shape[-1] == 64:
            raise RuntimeError("no room for 64 pixels")
        return answers(self, inputs, *rest)

    monkeypatch.setattr(QuickTruth, "answers", failing)
    plan = Plan(sources.SeedWeights(0), (profile.load("cpu"),), ("fp32",), parity="quick", out=tmp_path)
    variants = [Variant("mobilenet_v2", alpha, side) for alpha in (0.5, 0.35) for side in (64, 32)]
    outcomes = pipeline.export_grid(variants, plan, jobs=2)
    assert [outcome.error is None for outcome in outcomes] == [False, True, False, True]
    assert "no room for 64 pixels" in str(outcomes[0].error.details())  # type: ignore[union-attr]


def test_the_next_variant_is_foreseen_while_the_disk_is_waited_for(
    helpers: Helpers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    answers, commit = QuickTruth.answers, Staging.commit

    def asked(self: QuickTruth, inputs: Sequence[Input], *rest: Any) -> object:
        order.append(f"truth {inputs[0].feeds['input'].shape[-1]}")
        return answers(self, inputs, *rest)

    def committed(self: Staging, found: Manifest) -> None:
        order.append(f"commit {found.variant.resolution}")
        commit(self, found)

    monkeypatch.setattr(QuickTruth, "answers", asked)
    monkeypatch.setattr(Staging, "commit", committed)
    plan = Plan(sources.SeedWeights(0), (profile.load("cpu"),), ("fp32",), parity="quick", out=tmp_path)
    small, large = (Variant("mobilenet_v2", 0.1, side) for side in (32, 64))
    journey = Journey(small, plan, helpers)
    assert journey.walk(small, lambda _: None, [large])[0].passed
    assert order[-2:] == ["truth 64", "commit 32"]
    assert journey.walk(large, lambda _: None)[0].passed
    assert order[-1] == "commit 64"


def test_what_a_stranger_raises_at_the_next_size_is_that_sizes_failure(
    helpers: Helpers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = QuickTruth.answers

    def picky(self: QuickTruth, inputs: Sequence[Input], *rest: Any) -> object:
        if inputs[0].feeds["input"].shape[-1] == 64:
            raise ValueError("only 32 pixels, please")
        return answers(self, inputs, *rest)

    monkeypatch.setattr(QuickTruth, "answers", picky)
    plan = Plan(sources.SeedWeights(0), (profile.load("cpu"),), ("fp32",), parity="quick", out=tmp_path)
    small, large = (Variant("mobilenet_v2", 0.1, side) for side in (32, 64))
    journey = Journey(small, plan, helpers)
    assert journey.walk(small, lambda _: None, [large])[0].passed
    with pytest.raises(ValueError, match="only 32 pixels"):
        journey.walk(large, lambda _: None)


def test_what_was_prepared_is_exported_once(helpers: Helpers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folded: list[str] = []
    fold = module_subject.fold_batch_norms

    def counted(*given: Any) -> object:
        folded.append("once more")
        return fold(*given)

    monkeypatch.setattr(module_subject, "fold_batch_norms", counted)
    plan = Plan(sources.SeedWeights(0), (profile.load("cpu"),), ("fp32",), parity="quick", out=tmp_path)
    variant = Variant("mobilenet_v2", 0.35, 32)
    journey = Journey(variant, plan, helpers)
    journey.prepare()
    journey.export(())
    assert len(folded) == 1
    assert journey.walk(variant, lambda _: None)[0].passed
    journey.export(())  # at another size, or with another exporter: what was prepared is gone, and is made again
    assert len(folded) == 2


def test_inputs_that_were_foreseen_are_kept_until_their_variant_is_walked(helpers: Helpers, tmp_path: Path) -> None:
    plan = Plan(sources.SeedWeights(0), (profile.load("cpu"),), ("fp32",), parity="quick", out=tmp_path)
    variants = [Variant("mobilenet_v2", 0.35, side) for side in (32, 64)]
    journey = Journey(variants[0], plan, helpers)
    journey.foresee(variants)
    assert isinstance(journey.subject, module_subject.ModuleSubject)
    truth = journey.subject.truth
    assert truth is not None
    rows: list[int] = []
    truth.trace.module.register_forward_hook(lambda *_: rows.append(1))
    for variant in variants:
        found, _ = journey.walk(variant, lambda _: None)
        assert found.passed
        assert found.macs == count(journey.subject.loaded.module, variant.resolution or 0).macs
    assert rows == []
    assert not truth._foreseen


def test_what_a_file_leaves_open_is_open() -> None:
    shape: list[int | str | None] = [1, "batch", None]
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    assert _spec(value).shape == (1, "batch", "?")
    _check_declared(Artifact("onnx-fp32", "f", "", 0, "", 1, (_spec(value),)), {"x": np.zeros((1, 5, 7))})
    with pytest.raises(GateFailed, match="another tensor"):
        _check_declared(Artifact("onnx-fp32", "f", "", 0, "", 1, (_spec(value),)), {"x": np.zeros((2, 5, 7))})
