"""The ladder on a toy network in plain numpy: what it lets pass, what it catches, and which tensor it names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.parity.ladder import QUICK, Climb, FloorRun, Floors, Input, Rules, Step, Tracer, climb
from edgekit.parity.metrics import AnyArray, Distance, Feeds, image_figures
from edgekit.parity.report import Rung
from edgekit.parity.tolerance import Precision, tolerance

Trace = dict[str, AnyArray]
Fault = Callable[[str, AnyArray], AnyArray]
CHANNELS, CLASSES, SIDE = 8, 5, 6
TENSORS = ("first", "second", "output")


@dataclass(frozen=True)
class Toy:
    """Two pointwise convolutions with a clipped activation, a pooling, and a classifier that ignores one channel.

    `fault` may replace any layer's result, and the layers behind it then work with that. Half precision is done as
    edgekit does it: computed in float32, every result rounded to float16.
    """

    dtype: type[np.floating] = np.float32
    half: bool = False
    reverse: bool = False
    seed: int = 0
    fault: Fault = lambda name, values: values
    only: tuple[str, ...] = TENSORS

    def __call__(self, feeds: Feeds) -> Trace:
        rng = np.random.default_rng(self.seed)
        w1, w2 = (rng.standard_normal((CHANNELS, rows)) for rows in (3, CHANNELS))
        w3 = rng.standard_normal((CLASSES, CHANNELS))
        w3[:, 2] = 0.0
        trace: Trace = {}
        x = self._keep(trace, "first", self._sum(w1, self._rounded(feeds["image"])))
        x = self._keep(trace, "second", self._sum(w2, np.clip(x, 0, 6)))
        self._keep(trace, "output", self._sum(w3, x.mean(axis=(2, 3), dtype=self.dtype)))
        return {name: trace[name] for name in self.only}

    def _sum(self, weight: AnyArray, x: AnyArray) -> AnyArray:
        """A pointwise convolution, its terms added in the order of the channels or in the reverse of it."""
        order = range(x.shape[1])[:: -1 if self.reverse else 1]
        kernel = self._rounded(weight)
        terms = [kernel[:, c].reshape(1, -1, *[1] * (x.ndim - 2)) * x[:, c : c + 1] for c in order]
        total = np.zeros_like(terms[0])
        for term in terms:
            total = total + term
        return total

    def _keep(self, trace: Trace, name: str, values: AnyArray) -> AnyArray:
        trace[name] = self.fault(name, self._rounded(values))
        return trace[name]

    def _rounded(self, values: AnyArray) -> AnyArray:
        with np.errstate(over="ignore"):
            return (values.astype(np.float16) if self.half else values).astype(self.dtype)


FP64, FP32, FP16 = Toy(np.float64), Toy(), Toy(half=True)
TRUTH = Step("truth", FP64, "fp32")
FLOORS: Mapping[Precision, Tracer] = {"fp32": FP32, "fp16": FP16}
FULL = Rules()


def inputs(count: int = 3, rows: int = 1, gain: float = 1.0, ordinary: bool = True, seed: int = 0) -> list[Input]:
    rng = np.random.default_rng(seed)
    shape = (rows, 3, SIDE, SIDE)
    values = [(gain * rng.standard_normal(shape)).astype(np.float32) for _ in range(count)]
    return [Input(f"i{n}", {"image": image}, ordinary) for n, image in enumerate(values)]


def extreme(gain: float = 8.0) -> Input:
    return replace(inputs(1, gain=gain, ordinary=False)[0], name="extreme")


def key(feeds: Feeds) -> bytes:
    """What tells the inputs from one another."""
    return feeds["image"].tobytes()


def only_at(layer: str, change: Fault) -> Fault:
    return lambda name, values: change(name, values.copy()) if name == layer else values


def off(first: float = 1.0, second: float = 1.0, output: float = 1.0) -> Tracer:
    """The truth's tensors, each scaled on its own: a fault in one does not reach the others."""
    factors = {"first": first, "second": second, "output": output}
    return lambda feeds: {name: array * factors[name] for name, array in FP64(feeds).items()}


def times(values: AnyArray, factor: float) -> AnyArray:
    return np.asarray(values * values.dtype.type(factor))


def scaled_channel(channel: int, factor: float) -> Fault:
    def fault(_: str, values: AnyArray) -> AnyArray:
        values[:, channel] *= values.dtype.type(factor)
        return values

    return fault


def put(value: float) -> Fault:
    def fault(_: str, values: AnyArray) -> AnyArray:
        values.flat[3] = value
        return values

    return fault


@pytest.fixture(autouse=True)
def _as_large_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """These networks are toys, and their few numbers stand for many: small tensors have a test of their own."""
    monkeypatch.setattr("edgekit.parity.tolerance.FEW", 0)


def one_run(floors: Mapping[Precision, Tracer]) -> Floors:
    """Floors of one run each."""
    return {precision: [FloorRun(run)] for precision, run in floors.items()}


def up(
    *steps: Toy | Tracer,
    given_inputs: Sequence[Input] | None = None,
    precision: Precision = "fp32",
    truth: Step = TRUTH,
    floors: Mapping[Precision, Tracer] = FLOORS,
    rules: Rules = FULL,
) -> Climb:
    named = [Step(f"step-{number}", step, precision) for number, step in enumerate(steps)]
    return climb(truth, one_run(floors), named, given_inputs or inputs(), ["output"], rules)


def against_truth(result: Climb, name: str = "step-0") -> Rung:
    return next(rung for rung in result.rungs if rung.name == name and rung.against == "truth")


# --- what passes


@settings(deadline=None)
@given(st.integers(0, 300), st.sampled_from(["fp32", "fp16"]))
def test_a_correct_step_that_adds_in_another_order_passes(seed: int, precision: Precision) -> None:
    given_inputs = [*inputs(seed=seed), extreme()]
    other = Toy(half=precision == "fp16", reverse=True)
    result = up(other, given_inputs=given_inputs, precision=precision)
    rung = against_truth(result)
    assert rung.passed, rung.reason
    assert rung.reason is None
    assert rung.error is not None
    assert rung.tolerance is not None
    assert 0 < rung.error <= rung.tolerance
    assert rung.tensors == 3


def test_every_step_is_held_against_the_truth_and_against_the_step_before() -> None:
    result = up(FP32, Toy(reverse=True))
    pairs = [(rung.name, rung.against) for rung in result.rungs]
    assert pairs == [
        ("pytorch-fp32", "truth"),
        ("step-0", "truth"),
        ("step-0", "pytorch-fp32"),
        ("step-1", "truth"),
        ("step-1", "step-0"),
    ]
    assert all(rung.passed for rung in result.rungs)
    assert [rung.tensors for rung in result.rungs] == [3, 3, 1, 3, 1]


def test_a_quick_climb_starts_at_the_truth_and_has_no_rung_for_the_floor() -> None:
    outputs = replace(FP32, only=("output",))
    floors: Mapping[Precision, Tracer] = {"fp32": replace(outputs, reverse=True)}
    result = up(outputs, outputs, truth=Step("truth", outputs, "fp32"), floors=floors, rules=QUICK)
    assert [(r.name, r.against) for r in result.rungs] == [
        ("step-0", "truth"),
        ("step-1", "truth"),
        ("step-1", "step-0"),
    ]
    assert all(rung.passed and rung.tensor == "output" for rung in result.rungs)


def test_the_figures_of_a_rung_are_those_of_the_outputs() -> None:
    rung = against_truth(up(only := Toy(reverse=True)))
    truth = np.concatenate([FP64(it.feeds)["output"] for it in inputs()])
    actual = np.concatenate([only(it.feeds)["output"] for it in inputs()])
    assert rung.max_abs == np.abs(truth - actual).max()
    assert rung.top1_agreement == 1.0
    assert rung.cosine == pytest.approx(1.0)
    assert rung.snr_db is not None
    assert rung.snr_db > 100


def test_the_outputs_handed_back_are_the_truths_of_all_inputs_in_their_order() -> None:
    given_inputs = [*inputs(rows=2), replace(inputs(1, rows=2)[0], ordinary=False)]
    result = up(FP32, given_inputs=given_inputs)
    assert result.truth == "truth"
    truths = [found["output"] for found in result.outputs["truth"]]
    assert {array.dtype for array in truths} == {np.dtype(np.float64)}
    assert np.array_equal(np.stack(truths), np.stack([FP64(it.feeds)["output"] for it in given_inputs]))


def test_the_outputs_of_every_rung_are_handed_back_and_nothing_else() -> None:
    result = up(FP32, Toy(half=True))
    assert set(result.outputs) == {"truth", "pytorch-fp32", "step-0", "step-1"}
    for name, run in (("pytorch-fp32", FP32), ("step-0", FP32), ("step-1", Toy(half=True))):
        for found, it in zip(result.outputs[name], inputs(), strict=True):
            assert set(found) == {"output"}
            assert np.array_equal(found["output"], run(it.feeds)["output"])


def test_the_tolerance_at_the_output_is_the_widest_of_the_ordinary_inputs() -> None:
    far = {"i0": 1e-3, "i1": 3e-3, "extreme": 0.5}
    names = {key(it.feeds): it.name for it in [*inputs(2), extreme()]}

    def floor(feeds: Feeds) -> Trace:
        trace = FP64(feeds)
        return trace | {"output": trace["output"] * (1 + far[names[key(feeds)]])}

    found = up(given_inputs=[*inputs(2), extreme()], floors={"fp32": FP32, "fp16": floor}).tolerances
    wanted = tolerance(Distance(3e-3, 3e-3), "fp16")
    assert found["fp16"]["output"].overall == pytest.approx(wanted.overall)
    assert found["fp32"]["output"].overall < 1e-5


# --- what is caught, and how it is named


def test_a_fault_that_the_outputs_hide_is_caught_in_its_tensor_and_channel() -> None:
    hidden = Toy(fault=only_at("second", scaled_channel(2, 1.01)))
    result = up(hidden)
    rung = against_truth(result)
    assert not rung.passed
    assert rung.tensor == "second"
    assert rung.error == pytest.approx(0.01, rel=1e-3)
    assert "second is in one channel" in (rung.reason or "")
    # The outputs are the same, so that the comparison of outputs alone sees nothing.
    assert next(r for r in result.rungs if r.against == "pytorch-fp32").passed
    outputs = replace(hidden, only=("output",))
    assert against_truth(up(outputs, truth=Step("truth", replace(FP64, only=("output",)), "fp32"))).passed


@pytest.mark.parametrize("layer", TENSORS)
def test_the_first_tensor_in_the_order_of_execution_is_named(layer: str) -> None:
    rung = against_truth(up(Toy(fault=only_at(layer, scaled_channel(1, 1.05)))))
    assert (rung.passed, rung.tensor) == (False, layer)


def test_the_first_tensor_is_named_although_a_later_one_is_worse() -> None:
    """Also when it is only just out of its tolerance."""
    floors: Mapping[Precision, Tracer] = {"fp32": FP32, "fp16": off(1.01, 1.01, 1.01)}
    rung = against_truth(up(off(1.03, 1.5, 100.0), precision="fp16", floors=floors))
    assert (rung.passed, rung.tensor) == (False, "first")
    assert rung.error == pytest.approx(0.03)
    assert rung.reason == "first is 1.5 times further away than its tolerance"


def test_a_passing_rung_shows_the_tensor_that_is_nearest_to_its_tolerance() -> None:
    floors: Mapping[Precision, Tracer] = {"fp32": FP32, "fp16": off(1.003, 1.003, 1.003)}
    rung = against_truth(up(off(1.002, 1.004, 1.003), precision="fp16", floors=floors))
    assert (rung.passed, rung.tensor) == (True, "second")
    assert rung.error == pytest.approx(0.004, rel=1e-6)
    assert rung.tolerance == pytest.approx(0.006, rel=1e-6)


def test_a_limit_that_is_lost_shows_on_a_saturating_input_only() -> None:
    def unlimited(feeds: Feeds) -> Trace:
        class Unclipped(Toy):
            def _sum(self, weight: AnyArray, x: AnyArray) -> AnyArray:
                return super()._sum(weight, np.maximum(first, 0) if weight.shape[1] == CHANNELS and x.ndim > 2 else x)

        first = FP32(feeds)["first"]
        return Unclipped()(feeds)

    tame, strong = inputs(gain=0.1), extreme(gain=8.0)
    assert against_truth(up(unlimited, given_inputs=tame)).passed
    rung = against_truth(up(unlimited, given_inputs=[*tame, strong]))
    assert (rung.passed, rung.tensor) == (False, "second")


def test_a_fault_that_only_the_last_input_shows_is_kept() -> None:
    last = key(inputs()[-1].feeds)

    def sometimes(feeds: Feeds) -> Trace:
        return Toy(fault=scaled_channel(0, 1.02))(feeds) if key(feeds) == last else FP32(feeds)

    assert not against_truth(up(sometimes)).passed


@pytest.mark.parametrize("layer", TENSORS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_fail_by_name(layer: str, bad: float) -> None:
    def broken(feeds: Feeds) -> Trace:
        trace = FP32(feeds)
        return trace | {layer: put(bad)(layer, trace[layer].copy())}

    rung = against_truth(up(broken))
    assert (rung.passed, rung.tensor, rung.error) == (False, layer, None)
    assert rung.reason == f"{layer} has values that are not finite, or another shape"


@pytest.mark.parametrize("layer", TENSORS)
def test_another_shape_fails_by_name(layer: str) -> None:
    def cropped(feeds: Feeds) -> Trace:
        trace = FP32(feeds)
        return trace | {layer: trace[layer][..., :-1]}

    rung = against_truth(up(cropped))
    assert (rung.passed, rung.tensor) == (False, layer)
    assert "another shape" in (rung.reason or "")


@pytest.mark.parametrize("layer", TENSORS)
def test_a_missing_tensor_fails_by_name(layer: str) -> None:
    kept = tuple(name for name in TENSORS if name != layer)
    result = up(replace(FP32, only=kept), FP32)
    rung = against_truth(result)
    assert (rung.passed, rung.tensor, rung.error) == (False, layer, None)
    assert rung.reason == f"tensor {layer} is missing from step-0"
    assert against_truth(result, "step-1").passed


def test_a_rung_without_outputs_cannot_vouch_for_the_next_one() -> None:
    result = up(replace(FP32, only=("first", "second")), FP32)
    pair = next(rung for rung in result.rungs if (rung.name, rung.against) == ("step-1", "step-0"))
    assert (pair.passed, pair.tensors, pair.reason) == (False, 0, "nothing was compared")
    assert (pair.max_abs, pair.cosine) == (None, None)


def test_an_output_that_is_missing_for_one_input_is_not_taken_from_another() -> None:
    gone = key(inputs()[1].feeds)

    def sometimes(feeds: Feeds) -> Trace:
        return replace(FP32, only=("first", "second"))(feeds) if key(feeds) == gone else FP32(feeds)

    result = up(sometimes, FP32)
    assert against_truth(result).reason == "tensor output is missing from step-0"
    assert (against_truth(result).max_abs, against_truth(result).cosine) == (None, None)
    assert against_truth(result, "step-1").passed


def test_an_output_of_another_shape_for_one_input_is_caught() -> None:
    odd = key(inputs()[1].feeds)

    def sometimes(feeds: Feeds) -> Trace:
        trace = FP32(feeds)
        return trace | {"output": trace["output"][:, :-1]} if key(feeds) == odd else trace

    rung = against_truth(up(sometimes))
    assert (rung.passed, rung.tensor, rung.cosine) == (False, "output", None)


def test_several_missing_tensors_are_named_by_the_first() -> None:
    assert against_truth(up(replace(FP32, only=("output",)))).tensor == "first"


def test_a_wrong_tensor_is_named_before_a_missing_one_behind_it() -> None:
    def wrong(feeds: Feeds) -> Trace:
        trace = off(first=1.03)(feeds)
        return {name: trace[name] for name in ("first", "output")}

    floors: Mapping[Precision, Tracer] = {"fp32": FP32, "fp16": off(1.01, 1.01, 1.01)}
    rung = against_truth(up(wrong, precision="fp16", floors=floors))
    assert (rung.passed, rung.tensor) == (False, "first")
    assert rung.error == pytest.approx(0.03)


def test_tensors_that_the_truth_does_not_name_do_not_matter() -> None:
    extra: Tracer = lambda feeds: FP32(feeds) | {"helper": np.full(3, math.nan)}  # noqa: E731
    assert against_truth(up(extra)).passed


def test_a_step_may_agree_with_the_truth_and_be_too_far_from_the_step_before() -> None:
    """Both are within the tolerance, on opposite sides of the truth."""
    floors: Mapping[Precision, Tracer] = {"fp32": FP32, "fp16": off(1.01, 1.01, 1.01)}
    result = up(off(output=0.985), off(output=1.015), precision="fp16", floors=floors)
    assert against_truth(result, "step-0").passed
    assert against_truth(result, "step-1").passed
    pair = next(rung for rung in result.rungs if (rung.name, rung.against) == ("step-1", "step-0"))
    assert (pair.passed, pair.tensor) == (False, "output")


def test_each_step_is_judged_by_its_own_precision() -> None:
    assert against_truth(up(Toy(half=True, reverse=True), precision="fp16")).passed
    assert not against_truth(up(Toy(half=True, reverse=True), precision="fp32")).passed


def test_a_network_that_float32_cannot_compute_fails_at_the_base() -> None:
    """Its floor, and with it every tolerance, would be so wide that nothing could fail."""
    noisy = off(1.01, 1.01, 1.01)
    result = up(noisy, floors={"fp32": noisy})
    base, step = against_truth(result, "pytorch-fp32"), against_truth(result)
    assert (base.passed, base.tensor) == (False, "first")
    assert step.passed


def test_a_tensor_that_half_precision_overflows_is_never_passed() -> None:
    """The graph at hand may compute it in float32 and look fine; on the device it is infinite."""
    overflowing = only_at("first", lambda _, values: times(values, 1e6))

    def back(toy: Toy) -> Toy:
        return replace(toy, fault=overflowing)

    half: Tracer = lambda feeds: {n: _to_half(a) for n, a in back(FP32)(feeds).items()}  # noqa: E731
    floors: Mapping[Precision, Tracer] = {"fp32": back(FP32), "fp16": half}
    for step, reason in (
        (back(FP32), "first overflows in this precision: there is no noise floor to judge it by"),
        (half, "first has values that are not finite, or another shape"),
    ):
        result = up(step, precision="fp16", truth=Step("truth", back(FP64), "fp32"), floors=floors)
        rung = against_truth(result)
        assert (rung.passed, rung.tensor, rung.tolerance) == (False, "first", None)
        assert rung.reason == reason


def _to_half(values: AnyArray) -> AnyArray:
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


# --- the largest class


def tied(lead: float) -> Tracer:
    """The truth with two equal classes far above the others, but for the first one's lead (in units of the output)."""

    def run(feeds: Feeds) -> Trace:
        trace = FP64(feeds)
        scores = trace["output"].copy()
        scores[:, :2] = 100 + lead * np.array([1, -1])
        return trace | {"output": scores}

    return run


def test_a_flip_between_classes_as_near_as_the_noise_is_not_held_against_a_step() -> None:
    floors: Mapping[Precision, Tracer] = {"fp32": tied(1e-5)}
    rung = against_truth(up(tied(-5e-6), truth=Step("truth", tied(5e-6), "fp32"), floors=floors))
    assert (rung.passed, rung.top1_agreement) == (True, None)


def test_how_near_is_near_depends_on_the_precision() -> None:
    floors: Mapping[Precision, Tracer] = {"fp32": tied(1e-2), "fp16": tied(1.5e-2)}
    steps = [Step("single", tied(1e-2), "fp32"), Step("half", tied(-1e-2), "fp16")]
    result = climb(Step("truth", tied(1e-2), "fp32"), one_run(floors), steps, inputs(), ["output"])
    assert against_truth(result, "single").top1_agreement == 1.0
    assert against_truth(result, "half").top1_agreement is None
    assert all(rung.passed for rung in result.rungs)


def test_classes_that_flip_within_a_wide_tolerance_are_a_failure_of_their_own() -> None:
    """The noise of an extreme input may allow any output there, but the clear winner must still win."""
    strong = key(extreme().feeds)

    def at_the_extreme(factor: float) -> Tracer:
        def run(feeds: Feeds) -> Trace:
            trace = FP64(feeds)
            return trace | {"output": trace["output"] * (factor if key(feeds) == strong else 1.0)}

        return run

    floors: Mapping[Precision, Tracer] = {"fp32": FP32, "fp16": at_the_extreme(1.6)}
    result = up(at_the_extreme(-0.1), given_inputs=[*inputs(), extreme()], precision="fp16", floors=floors)
    rung = against_truth(result)
    assert (rung.passed, rung.top1_agreement) == (False, 0.75)
    assert rung.reason == "the largest class differs on 25% of the inputs with a clear one"


def test_a_step_that_picks_other_classes_says_on_how_many_inputs() -> None:
    turned = Toy(fault=only_at("output", lambda _, values: -values))
    rung = against_truth(up(turned))
    assert not rung.passed
    assert rung.top1_agreement == 0.0
    assert rung.cosine == pytest.approx(-1.0)


# --- life


def dead(dtype: type[np.floating]) -> Toy:
    """Its outputs move by a ten-millionth of their size, as those of an uncalibrated network do."""
    fault = only_at("output", lambda _, values: 1 + times(values, 1e-8))
    return Toy(dtype, fault=fault)


def test_a_dead_network_is_refused_although_every_rung_agrees() -> None:
    result = up(dead(np.float32), truth=Step("truth", dead(np.float64), "fp32"), floors={"fp32": dead(np.float32)})
    assert all(rung.passed for rung in result.rungs)
    assert not result.liveness.passed
    assert result.liveness.spread < result.liveness.wanted


def test_a_live_network_is_seen_to_be_alive() -> None:
    result = up(FP32)
    assert result.liveness.passed
    assert result.liveness.spread > 0.1
    assert result.liveness.wanted == 3 * max(it["output"].overall for it in result.tolerances.values())


def test_an_extreme_input_does_not_make_a_dead_network_alive() -> None:
    def numb(dtype: type[np.floating]) -> Tracer:
        def run(feeds: Feeds) -> Trace:
            trace = Toy(dtype)(feeds)
            return trace | {"output": np.full_like(trace["output"], 10.0 if abs(feeds["image"]).max() > 15 else 1.0)}

        return run

    given_inputs = [*inputs(rows=2), replace(inputs(1, rows=2, gain=9.0)[0], ordinary=False)]
    truth = Step("truth", numb(np.float64), "fp32")
    result = up(numb(np.float32), given_inputs=given_inputs, truth=truth, floors={"fp32": numb(np.float32)})
    assert result.liveness.spread == 0.0
    assert not result.liveness.passed
    assert all(rung.passed for rung in result.rungs)


def test_equal_inputs_are_no_evidence() -> None:
    assert not up(FP32, given_inputs=inputs(1) * 3).liveness.passed


def test_outputs_that_are_not_finite_are_not_alive() -> None:
    broken = Toy(np.float64, fault=only_at("output", put(math.nan)))
    result = up(broken, truth=Step("truth", broken, "fp32"), floors={"fp32": broken})
    assert not result.liveness.passed
    assert not any(rung.passed for rung in result.rungs)
    assert against_truth(result).cosine == 0.0


def test_two_rungs_may_be_one_graph_that_is_run_once() -> None:
    latest: dict[bytes, Trace] = {}

    def once(feeds: Feeds) -> Trace:
        if key(feeds) not in latest:
            latest.clear()
            latest[key(feeds)] = Toy(half=True, fault=only_at("second", scaled_channel(0, 1.001)))(feeds)
        return latest[key(feeds)]

    steps = [Step("as fp32", once, "fp32"), Step("as fp16", once, "fp16")]
    result = climb(TRUTH, one_run(FLOORS), steps, inputs(), ["output"])
    single, half = against_truth(result, "as fp32"), against_truth(result, "as fp16")
    assert (single.passed, half.passed) == (False, True)
    assert single.tensors == half.tensors == 3


def test_the_inputs_come_one_after_the_other_through_all_rungs() -> None:
    """Only one input's tensors are in memory at a time; and a tracer's arrays may be reused by its next run."""
    calls: list[str] = []
    reused: dict[str, AnyArray] = {}

    def tracer(name: str, toy: Toy) -> Tracer:
        def run(feeds: Feeds) -> Trace:
            calls.append(name)
            for tensor, array in toy(feeds).items():
                reused.setdefault(name + tensor, np.empty_like(array))[...] = array
            return {tensor: reused[name + tensor] for tensor in TENSORS}

        return run

    floors: Mapping[Precision, Tracer] = {"fp32": tracer("fp32", FP32)}
    result = up(tracer("step", FP32), truth=Step("truth", tracer("truth", FP64), "fp32"), floors=floors)
    assert calls == ["truth", "fp32", "step"] * 3
    assert all(rung.passed for rung in result.rungs)
    assert result.liveness.passed


def test_the_tracers_are_handed_the_inputs_themselves() -> None:
    """Not copies: by these, what was run ahead is found again."""
    given_inputs = inputs()
    seen: list[int] = []

    def run(feeds: Feeds) -> Trace:
        seen.append(id(feeds))
        return FP32(feeds)

    up(run, given_inputs=given_inputs)
    assert seen == [id(it.feeds) for it in given_inputs]


# --- several outputs


def headed(run: Tracer, **heads: Callable[[Mapping[str, AnyArray]], AnyArray]) -> Tracer:
    """`run` with more outputs, each made of its tensors."""

    def both(feeds: Feeds) -> Trace:
        trace = dict(run(feeds))
        return trace | {name: head(trace) for name, head in heads.items()}

    return both


def anchors(_: Mapping[str, AnyArray]) -> AnyArray:
    """The same for every input, as a detector's are."""
    return np.arange(1.0, 13.0).reshape(1, 4, 3)


def mask(trace: Mapping[str, AnyArray]) -> AnyArray:
    return trace["second"][:, :2]


def labels(trace: Mapping[str, AnyArray]) -> AnyArray:
    """A class for every pixel and channel: whole numbers, 288 for each row."""
    return np.digitize(trace["second"], [-3.0, 0.0, 3.0])


def up_with(
    outputs: Sequence[str],
    *steps: Tracer,
    truth: Tracer,
    floor: Tracer,
    precision: Precision = "fp32",
) -> Climb:
    """A climb in which the truth and the floor have more outputs than the toy's."""
    named = [Step(f"step-{number}", step, precision) for number, step in enumerate(steps)]
    floors: Mapping[Precision, Tracer] = {"fp32": floor if precision == "fp32" else truth, precision: floor}
    return climb(Step("truth", truth, "fp32"), one_run(floors), named, inputs(), outputs)


BOTH = ("output", "mask")
FP64_BOTH, FP32_BOTH = headed(FP64, mask=mask), headed(FP32, mask=mask)


def test_every_output_is_compared_and_handed_back_with_its_tolerance() -> None:
    other = headed(Toy(reverse=True), mask=mask)
    result = up_with(BOTH, other, truth=FP64_BOTH, floor=FP32_BOTH)
    assert [(r.name, r.against, r.passed, r.tensors) for r in result.rungs] == [
        ("pytorch-fp32", "truth", True, 4),
        ("step-0", "truth", True, 4),
        ("step-0", "pytorch-fp32", True, 2),
    ]
    assert set(result.tolerances["fp32"]) == set(BOTH)
    assert result.dead == ()
    for name, run in (("truth", FP64_BOTH), ("step-0", other)):
        for found, it in zip(result.outputs[name], inputs(), strict=True):
            assert set(found) == set(BOTH)
            assert all(np.array_equal(found[output], run(it.feeds)[output]) for output in BOTH)


@pytest.mark.parametrize("output", BOTH)
def test_a_fault_in_one_of_the_outputs_is_caught_by_its_name(output: str) -> None:
    wrong = headed(FP32, mask=mask)

    def faulty(feeds: Feeds) -> Trace:
        trace = dict(wrong(feeds))
        return trace | {output: times(trace[output], 1.001)}

    result = up_with(BOTH, FP32_BOTH, faulty, truth=FP64_BOTH, floor=FP32_BOTH)
    assert against_truth(result).passed
    for against in ("truth", "step-0"):
        rung = next(r for r in result.rungs if (r.name, r.against) == ("step-1", against))
        assert (rung.passed, rung.tensor) == (False, output)


def test_each_output_has_its_own_tolerance() -> None:
    """The noise of one is no licence for the other."""

    def scaled(output: float, of_mask: float) -> Tracer:
        return headed(off(output=output), mask=lambda trace: mask(trace) * of_mask)

    floor = scaled(1.01, 1.0001)
    good = up_with(BOTH, scaled(1.015, 1.00015), truth=FP64_BOTH, floor=floor, precision="fp16")
    bad = up_with(BOTH, scaled(1.0001, 1.01), truth=FP64_BOTH, floor=floor, precision="fp16")
    assert against_truth(good).passed
    assert (against_truth(bad).passed, against_truth(bad).tensor) == (False, "mask")
    allowed = good.tolerances["fp16"]
    assert allowed["output"].overall == pytest.approx(2 * 0.01)
    assert allowed["mask"].overall == pytest.approx(2 * 2**-11)  # no tolerance is below the unit roundoff's


def test_the_figures_are_over_all_outputs_end_to_end() -> None:
    rung = against_truth(up_with(BOTH, other := headed(Toy(half=True), mask=mask), truth=FP64_BOTH, floor=FP32_BOTH))
    pairs = [(other(it.feeds)[name], FP64_BOTH(it.feeds)[name]) for name in BOTH for it in inputs()]
    actual, truth = (np.concatenate([side.ravel() for side in sides]) for sides in zip(*pairs, strict=True))
    assert rung.max_abs == np.abs(actual - truth).max()
    assert rung.max_rel == pytest.approx(np.abs(actual - truth).max() / np.abs(truth).max())
    assert rung.snr_db == pytest.approx(10 * math.log10(truth @ truth / np.square(actual - truth).sum()))
    assert rung.cosine == pytest.approx(actual @ truth / math.sqrt((actual @ actual) * (truth @ truth)))


@pytest.mark.parametrize("output", BOTH)
def test_an_output_that_is_missing_fails_by_its_name(output: str) -> None:
    def lacking(feeds: Feeds) -> Trace:
        return {name: array for name, array in FP32_BOTH(feeds).items() if name != output}

    result = up_with(BOTH, lacking, FP32_BOTH, truth=FP64_BOTH, floor=FP32_BOTH)
    rung = against_truth(result)
    assert (rung.passed, rung.tensor, rung.error) == (False, output, None)
    assert rung.reason == f"tensor {output} is missing from step-0"
    assert (rung.max_abs, rung.cosine) == (None, None)
    # The other one is compared all the same, here and with the step behind.
    assert rung.tensors == 3
    pair = next(r for r in result.rungs if (r.name, r.against) == ("step-1", "step-0"))
    assert (pair.tensors, pair.passed) == (1, True)


@pytest.mark.parametrize("outputs", [("output", "second head"), ("second head", "output")])
def test_agreement_on_the_largest_class_is_the_least_of_all_outputs(outputs: tuple[str, ...]) -> None:
    """The second head picks another class on one of three inputs."""
    turned = key(inputs()[1].feeds)

    def with_head(run: Tracer, sign: float = 1.0) -> Tracer:
        def both(feeds: Feeds) -> Trace:
            trace = dict(run(feeds))
            return trace | {"second head": trace["output"][:, ::-1] * (sign if key(feeds) == turned else 1.0)}

        return both

    result = up_with(outputs, with_head(FP32), with_head(FP32, -1.0), truth=with_head(FP64), floor=with_head(FP32))
    assert (against_truth(result).passed, against_truth(result).top1_agreement) == (True, 1.0)
    rung = against_truth(result, "step-1")
    assert (rung.passed, rung.tensor) == (False, "second head")
    assert rung.top1_agreement == pytest.approx(2 / 3)


def test_an_output_that_is_no_row_of_scores_has_no_say_in_the_largest_class() -> None:
    result = up_with(("mask",), FP32_BOTH, truth=FP64_BOTH, floor=FP32_BOTH)
    assert against_truth(result).top1_agreement is None
    assert against_truth(up_with(BOTH, FP32_BOTH, truth=FP64_BOTH, floor=FP32_BOTH)).top1_agreement == 1.0


def test_one_output_that_looks_at_its_input_is_enough_and_the_other_is_named() -> None:
    truth, floor = headed(FP64, anchors=anchors), headed(FP32, anchors=anchors)
    for outputs in (("output", "anchors"), ("anchors", "output")):
        result = up_with(outputs, floor, truth=truth, floor=floor)
        assert all(rung.passed for rung in result.rungs)
        assert result.liveness.passed
        assert result.liveness.spread == up(FP32).liveness.spread
        assert result.dead == ("anchors",)


def grid(_: Mapping[str, AnyArray]) -> AnyArray:
    """The same for every input, and without a row for each: what differs from row to row says nothing of the input."""
    return np.arange(1.0, 11.0).reshape(5, 2)


@pytest.mark.parametrize("unmoved", [anchors, grid])
def test_outputs_that_all_ignore_their_input_are_a_dead_network(
    unmoved: Callable[[Mapping[str, AnyArray]], AnyArray],
) -> None:
    truth, floor = headed(dead(np.float64), anchors=unmoved), headed(dead(np.float32), anchors=unmoved)
    result = up_with(("anchors", "output"), floor, truth=truth, floor=floor)
    assert all(rung.passed for rung in result.rungs)
    assert not result.liveness.passed
    assert result.dead == ("anchors", "output")


def test_an_output_is_alive_by_its_own_tolerance() -> None:
    """The spread over what is wanted decides, not the spread: a tenth may be much, and all of it little."""

    def jittery(amount: float) -> Callable[[Mapping[str, AnyArray]], AnyArray]:
        return lambda trace: 1 + amount * np.sign(trace["output"])

    truth = headed(FP64, faint=jittery(0.1), loud=lambda trace: trace["output"])
    floor = headed(FP32, faint=jittery(0.1), loud=lambda trace: 2 * trace["output"])
    result = up_with(("loud", "faint"), floor, truth=truth, floor=floor)
    assert result.dead == ("loud",)
    assert result.liveness.passed
    assert result.liveness.spread < 0.2


def test_outputs_whose_shape_depends_on_the_input_are_compared_one_by_one() -> None:
    """As many rows as there are boxes found: no figures over all of them, but every comparison there is."""
    order = {key(it.feeds): number + 1 for number, it in enumerate(inputs())}

    def boxes(run: Tracer, factor: float = 1.0) -> Tracer:
        def found(feeds: Feeds) -> Trace:
            trace = dict(run(feeds))
            return trace | {"boxes": factor * trace["second"][0, :4, : order[key(feeds)], 0]}

        return found

    for factor, passed in ((1.0, True), (1.001, False)):
        result = up_with(("boxes",), boxes(FP32, factor), truth=boxes(FP64), floor=boxes(FP32))
        rung = against_truth(result)
        assert rung.passed is passed
        assert (rung.tensors, rung.max_abs, rung.top1_agreement) == (4, None, None)
        assert result.liveness.passed
        assert [found["boxes"].shape[1] for found in result.outputs["truth"]] == [1, 2, 3]


def test_single_numbers_are_outputs_too() -> None:
    def score(trace: Mapping[str, AnyArray]) -> AnyArray:
        return np.asarray(np.square(trace["output"]).mean())

    good, bad = headed(FP32, score=score), headed(FP32, score=lambda trace: score(trace) * 1.001)
    result = up_with(("score",), good, bad, truth=headed(FP64, score=score), floor=good)
    assert (against_truth(result).passed, against_truth(result, "step-1").passed) == (True, False)
    assert result.liveness.passed


# --- whole numbers


def test_whole_numbers_that_are_all_the_same_pass() -> None:
    truth, floor = headed(FP64, labels=labels), headed(FP32, labels=labels)
    result = up_with(("labels",), floor, truth=truth, floor=floor)
    assert all(rung.passed for rung in result.rungs)
    assert result.liveness.passed
    assert result.liveness.spread > 0.5


@pytest.mark.parametrize("change", [1, 1000])
def test_one_whole_number_of_many_that_differs_fails_in_float32(change: int) -> None:
    def one_off(trace: Mapping[str, AnyArray]) -> AnyArray:
        found = labels(trace)
        found.flat[123] += change
        return found

    truth, floor = headed(FP64, labels=labels), headed(FP32, labels=labels)
    rung = against_truth(up_with(("labels",), headed(FP32, labels=one_off), truth=truth, floor=floor))
    assert (rung.passed, rung.tensor) == (False, "labels")
    assert rung.error == pytest.approx(1 / 288)


def test_half_precision_may_differ_in_as_many_as_its_floor_shows() -> None:
    def off_in(count: int) -> Tracer:
        def some(trace: Mapping[str, AnyArray]) -> AnyArray:
            found = labels(trace)
            found[:, :, 0, 0].flat[:count] += 1
            return found

        return headed(off(1.01, 1.01, 1.01), labels=some)

    truth = headed(FP64, labels=labels)
    for count, passed in ((2, True), (4, True), (5, False)):
        result = up_with(("labels",), off_in(count), truth=truth, floor=off_in(2), precision="fp16")
        assert against_truth(result).passed is passed, count


# --- images


def picture(scale: float = 1.0) -> Callable[[Mapping[str, AnyArray]], AnyArray]:
    return lambda trace: np.kron(trace["second"][:, :3], np.ones((2, 2))) * scale


def test_an_image_has_the_figures_of_one_over_all_inputs() -> None:
    truth, floor = headed(FP64, image=picture()), headed(FP32, image=picture())
    step = headed(FP32, image=picture(1.001))
    rung = against_truth(up_with(("image",), step, truth=truth, floor=floor))
    sides = [np.concatenate([run(it.feeds)["image"] for it in inputs()]) for run in (step, truth)]
    wanted = image_figures(*sides)
    assert wanted is not None
    assert (rung.psnr_db, rung.ssim) == (wanted.psnr_db, wanted.ssim)
    assert rung.psnr_db is not None
    assert 60 < rung.psnr_db < 100
    same = against_truth(up_with(("image",), truth, truth=truth, floor=floor))
    assert (same.psnr_db, same.ssim) == (None, 1.0)


def test_scores_and_several_outputs_have_no_figures_of_an_image() -> None:
    assert (against_truth(up(FP32)).psnr_db, against_truth(up(FP32)).ssim) == (None, None)
    truth, floor = headed(FP64, image=picture()), headed(FP32, image=picture())
    rung = against_truth(up_with(("image", "output"), floor, truth=truth, floor=floor))
    assert (rung.passed, rung.psnr_db, rung.ssim) == (True, None, None)


# --- rules


LENIENT = Rules(strict=False)


def test_without_strictness_tensors_are_compared_where_they_are() -> None:
    """A graph from elsewhere keeps some names and loses others on its way."""
    result = up(replace(FP32, only=("second", "output")), FP32, rules=LENIENT)
    assert all(rung.passed for rung in result.rungs)
    assert (against_truth(result).tensors, against_truth(result, "step-1").tensors) == (2, 3)
    assert not against_truth(up(replace(FP32, only=("second", "output")))).passed


@pytest.mark.parametrize("layer", ["second", "output"])
def test_without_strictness_what_is_there_must_be_right(layer: str) -> None:
    faulty = Toy(fault=only_at(layer, scaled_channel(1, 1.05)), only=("second", "output"))
    rung = against_truth(up(faulty, rules=LENIENT))
    assert (rung.passed, rung.tensor) == (False, layer)


def test_without_strictness_the_outputs_must_be_there_all_the_same() -> None:
    rung = against_truth(up(replace(FP32, only=("first", "second")), rules=LENIENT))
    assert (rung.passed, rung.reason) == (False, "tensor output is missing from step-0")


def test_a_tensor_that_the_floor_lacks_has_no_tolerance() -> None:
    """Where nothing says how much noise there is, nothing may pass."""
    floors: Mapping[Precision, Tracer] = {"fp32": replace(FP32, only=("second", "output"))}
    rung = against_truth(up(FP32, floors=floors))
    assert (rung.passed, rung.tensor, rung.tolerance) == (False, "first", None)


def noisy_on(first: float, later: float) -> tuple[Tracer, list[int]]:
    """A floor whose outputs are further away from the second input on, and how often it was run."""
    runs: list[int] = []
    first_input = key(inputs()[0].feeds)

    def floor(feeds: Feeds) -> Trace:
        runs.append(1)
        return off(output=1 + (first if key(feeds) == first_input else later))(feeds)

    return floor, runs


@pytest.mark.parametrize(("first", "later", "passed"), [(0.01, 1e-5, True), (1e-5, 0.01, False)])
def test_one_floor_is_that_of_the_first_input(first: float, later: float, passed: bool) -> None:
    floor, runs = noisy_on(first, later)
    result = up(off(output=1.005), floors={"fp32": floor}, rules=Rules(floor_rung=None, one_floor=True))
    assert len(runs) == 1
    assert against_truth(result).passed is passed
    assert result.tolerances["fp32"]["output"].overall == pytest.approx(8 * first)


def test_else_every_input_has_its_own_floor() -> None:
    floor, runs = noisy_on(0.01, 1e-5)
    result = up(off(output=1.005), floors={"fp32": floor}, rules=Rules(floor_rung=None))
    assert len(runs) == len(inputs())
    assert not against_truth(result).passed
    assert result.tolerances["fp32"]["output"].overall == pytest.approx(8 * 0.01)


def test_the_floor_is_a_rung_by_the_name_that_the_rules_give_it() -> None:
    result = up(FP32, rules=Rules(floor_rung="plain onnx"))
    assert [(rung.name, rung.against) for rung in result.rungs] == [
        ("plain onnx", "truth"),
        ("step-0", "truth"),
        ("step-0", "plain onnx"),
    ]
    assert [rung.name for rung in up(FP32, rules=Rules(floor_rung=None)).rungs] == ["step-0"]
