"""Sentences that the figures support, and none that they do not."""

from __future__ import annotations

from dataclasses import replace

from bench_artifacts import CONTRACT, bench_file, result, rounds

from edgekit.bench.advice import advise
from edgekit.bench.record import Result, Stages

HALF = replace(CONTRACT, precision="fp16")


def half(slug: str, seconds: float, **options: object) -> Result:
    return result(slug, rounds(seconds, seed=5, **options), kind="onnx-fp16", contract=HALF)


def test_fp16_that_brings_nothing_is_named():
    (sentence,) = advise(bench_file(result("net", rounds(2e-3)), half("net", 3e-3)))
    assert "fp16 is no faster than fp32 for net" in sentence
    assert "it takes up to 1.49 times as long" in sentence
    assert "95 % interval" in sentence


def test_fp16_that_is_faster_is_not():
    assert advise(bench_file(result("net", rounds(2e-3)), half("net", 1e-3))) == ()


def test_fp16_of_which_one_cannot_tell_is_not():
    assert advise(bench_file(result("net", rounds(2e-3, noise=0.9)), half("net", 2e-3, noise=0.9))) == ()


def test_several_variants_are_one_sentence():
    results = [it for slug in ("a", "b") for it in (result(slug, rounds(2e-3)), half(slug, 3e-3))]
    (sentence,) = advise(bench_file(*results))
    assert "for any variant here" in sentence


def test_a_smaller_variant_that_is_slower_is_named():
    small, large = result("small", rounds(3e-3), macs=500), result("large", rounds(2e-3, seed=1), macs=1000)
    (sentence,) = advise(bench_file(small, large))
    assert "small (fp32) has less to compute than large and takes 1.50 times as long" in sentence


def test_a_smaller_variant_that_is_faster_is_not():
    small, large = result("small", rounds(1e-3), macs=500), result("large", rounds(2e-3, seed=1), macs=1000)
    assert advise(bench_file(small, large)) == ()


def test_a_smaller_variant_that_may_be_slower_is_not():
    small = result("small", rounds(2.1e-3, noise=0.5), macs=500)
    large = result("large", rounds(2e-3, seed=1, noise=0.5), macs=1000)
    assert advise(bench_file(small, large)) == ()


def test_what_computes_something_else_is_no_argument():
    wrong = replace(half("net", 3e-3), parity=result("x", rounds(1e-3), passed=False).parity)
    assert advise(bench_file(result("net", rounds(2e-3)), wrong)) == ()


def told(slug: str, enqueue: float, copies: float, compute: float) -> Result:
    return replace(result(slug, rounds(2e-3)), stages=Stages(enqueue, copies / 2, compute, copies / 2))


def test_what_the_host_or_the_copies_hold_up_is_named():
    sentences = advise(bench_file(told("a", 3.0, 0.5, 2.0), told("b", 0.1, 3.0, 2.0), told("c", 0.1, 0.5, 2.0)))
    assert any("longer to enqueue than the device to compute, for a:" in it for it in sentences)
    assert any("copying to the device and back takes longer than computing, for b:" in it for it in sentences)
    assert not any("for c" in it or ", c" in it for it in sentences)


def test_more_threads_than_cores_are_named():
    many = replace(CONTRACT, threads=8)
    (sentence,) = advise(bench_file(result("net", rounds(2e-3), contract=many)))
    assert "8 threads on 2 cores" in sentence
    assert "--threads 2" in sentence
