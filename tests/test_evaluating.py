"""Accuracy is counted on the very pixels and outputs; what is no answer is no right one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import classifiers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled_folders import folder_of

from edgekit import accuracy
from edgekit.accuracy import Accuracy, wilson
from edgekit.errors import EdgekitError, InputUnusable, UsageError
from edgekit.evaluating import Progress, Request, Subject, evaluate, graph, of_file, of_variant, score
from edgekit.preprocessing import IMAGENET, PIXELS, Preprocessing
from edgekit.training.labelled import DIGITS, open_data
from edgekit.training.sources import parse_data

DATA = parse_data("digits")
NAMES = tuple(str(number) for number in range(10))


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifiers.export(tmp_path_factory.mktemp("grid") / "digits_net-r8", engine=True)


@pytest.fixture(scope="module")
def found(variant: Path) -> Accuracy:
    return evaluate(of_variant(variant), Request(DATA, "all"))


def expected() -> float:
    """What the templates are worth, by numpy."""
    splits = open_data(DATA, 8, contract=None)
    weights, biases = classifiers.templates()
    right = 0
    for part in (splits.train, splits.val):
        pixels = np.stack([part[i][0].numpy() for i in range(len(part))]).astype(np.float32)
        inputs = (pixels / 255 - DIGITS.mean[0]) / DIGITS.std[0]
        right += int(((inputs.reshape(len(part), -1) @ weights + biases).argmax(1) == np.asarray(part.labels)).sum())
    return right / 1797


# --- on disk


def test_every_graph_of_a_variant_is_scored_on_the_same_images(found: Accuracy, variant: Path) -> None:
    single, half = found.scores
    assert (single.kind, half.kind) == ("onnx-fp32", "onnx-fp16")
    assert single.images == half.images == found.data.images == 1797
    assert single.top1 == expected()
    assert 0.85 < single.top1 < 0.95
    assert single.top5 is not None
    assert single.top5 > single.top1
    assert single.agreement is None
    assert half.agreement is not None
    assert 0.99 < half.agreement <= 1
    assert sum(one.right for one in single.classes) == single.right
    assert [one.images for one in single.classes] == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert {one.sha256 for one in found.scores} == {it.sha256 for it in of_variant(variant).graphs}


def test_engines_are_not_measured_and_say_what_they_need(found: Accuracy) -> None:
    (missing,) = found.not_measured
    assert (missing.kind, missing.profile) == ("engine", "rtx")
    assert "NVIDIA GPU" in missing.needs


@pytest.mark.parametrize("rows", [1, 7, None])
def test_the_rows_of_a_batch_make_no_difference(tmp_path: Path, found: Accuracy, rows: int | None) -> None:
    (tmp_path / "x.onnx").write_bytes(classifiers.classifier(rows=rows))
    seen: list[Progress] = []
    again = evaluate(of_file(tmp_path / "x.onnx", DIGITS), Request(DATA, "val"), seen.append)
    assert again.scores[0].images == 179
    assert abs(again.scores[0].top1 - found.scores[0].top1) < 0.08
    assert seen[-1] == Progress(179, 179)
    if rows != 1:
        (tmp_path / "y.onnx").write_bytes(classifiers.classifier(rows=1))
        one = evaluate(of_file(tmp_path / "y.onnx", DIGITS), Request(DATA, "val")).scores[0]
        assert replace(again.scores[0], sha256="", loss=0.0) == replace(one, sha256="", loss=0.0)


def test_the_contract_counts(tmp_path: Path, found: Accuracy) -> None:
    (tmp_path / "x.onnx").write_bytes(classifiers.classifier(rows=None))
    inverted = Preprocessing(mean=(1 - DIGITS.mean[0],) * 3, std=tuple(-one for one in DIGITS.std), crop=1.0)
    wrong = evaluate(of_file(tmp_path / "x.onnx", inverted), Request(DATA, "all"))
    assert wrong.scores[0].top1 < found.scores[0].top1 - 0.2


def test_the_parts_of_the_data_and_their_division_are_as_asked_for(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(classifiers.classifier(rows=None))
    subject = of_file(tmp_path / "x.onnx", DIGITS)
    parts = [evaluate(subject, Request(DATA, "train", 0.3, 5)), evaluate(subject, Request(DATA, "val", 0.3, 5))]
    assert sum(one.data.images for one in parts) == 1797
    whole = evaluate(subject, Request(DATA, "all"))
    assert sum(one.scores[0].right for one in parts) == whole.scores[0].right


def test_a_folder_of_files_is_evaluated_too(tmp_path: Path) -> None:
    folder_of(tmp_path / "data", dict.fromkeys(NAMES, 2))
    (tmp_path / "x.onnx").write_bytes(classifiers.classifier(rows=None))
    found = evaluate(of_file(tmp_path / "x.onnx", IMAGENET), Request(parse_data(str(tmp_path / "data")), "all"))
    assert found.scores[0].images == 20
    assert found.preprocessing == IMAGENET


def test_outputs_that_are_not_finite_are_counted_and_wrong(tmp_path: Path) -> None:
    folder = classifiers.export(tmp_path / "v", fp16=classifiers.classifier(dtype=np.float16, scale=float("nan")))
    single, half = evaluate(of_variant(folder), Request(DATA)).scores
    assert single.not_finite == 0
    assert (half.top1, half.top5, half.loss, half.not_finite, half.agreement) == (0.0, 0.0, None, 179, 0.0)


def test_probabilities_have_the_loss_of_the_logits_that_they_came_from(tmp_path: Path) -> None:
    losses = []
    for softmax in (False, True):
        (tmp_path / "x.onnx").write_bytes(classifiers.classifier(softmax=softmax, scale=0.1))
        losses.append(evaluate(of_file(tmp_path / "x.onnx", DIGITS), Request(DATA)).scores[0].loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_run_s_own_division_is_kept_so_that_nothing_learnt_is_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit import evaluating
    from edgekit.training.run_folder import DataRecord

    record = DataRecord("digits", "d" * 64, 0.25, 3, 1348, 449)
    monkeypatch.setattr(evaluating, "_trained_on", lambda source: record if source == "a run" else None)
    subject = of_variant(classifiers.export(tmp_path / "v", source="a run"))
    assert subject.trained_on == record
    data = evaluate(subject, Request(DATA)).data
    assert (data.val_share, data.seed) == (0.25, 3)
    data = evaluate(subject, Request(DATA, val_share=0.1, seed=0)).data
    assert (data.val_share, data.seed) == (0.1, 0)
    folder_of(tmp_path / "other", dict.fromkeys(NAMES, 2))
    data = evaluate(subject, Request(parse_data(str(tmp_path / "other")))).data
    assert (data.val_share, data.seed) == (0.1, 0)


# --- what is refused


def refused(subject: Subject) -> EdgekitError:
    with pytest.raises(EdgekitError) as caught:
        evaluate(subject, Request(DATA))
    return caught.value


@pytest.mark.parametrize("classes", [11, 1000])
def test_outputs_that_are_not_the_classes_are_refused_with_both_counts(tmp_path: Path, classes: int) -> None:
    (tmp_path / "x.onnx").write_bytes(classifiers.classifier(classes=classes))
    error = refused(of_file(tmp_path / "x.onnx", DIGITS))
    assert isinstance(error, UsageError)
    assert error.got == f"{classes} outputs, 10 classes"


def test_a_changed_file_is_no_variant_s(tmp_path: Path) -> None:
    folder = classifiers.export(tmp_path / "v")
    (folder / "model.onnx").write_bytes(classifiers.classifier(scale=2.0))
    with pytest.raises(InputUnusable, match="not those that the manifest describes"):
        of_variant(folder)
    with pytest.raises(InputUnusable, match="not those that the manifest describes"):
        of_file(folder / "model.fp16.onnx", None)


def test_without_a_contract_nothing_can_be_said(tmp_path: Path) -> None:
    folder = classifiers.export(tmp_path / "v", contract=None)
    (tmp_path / "x.onnx").write_bytes(classifiers.classifier())
    for subject in (lambda: of_variant(folder), lambda: of_file(tmp_path / "x.onnx", None)):
        with pytest.raises(UsageError) as caught:
            subject()
        assert "--contract" in (caught.value.hint or "")
    assert of_variant(folder, PIXELS).contract == PIXELS


def test_a_file_of_a_variant_has_its_manifest_s_contract(variant: Path) -> None:
    subject = of_file(variant / "model.fp16.onnx", None)
    assert subject.contract == DIGITS
    assert [one.kind for one in subject.graphs] == ["onnx-fp16"]


def test_what_is_no_classifier_of_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(classifiers.two_inputs())
    with pytest.raises(InputUnusable, match="no classifier of images"):
        graph(tmp_path / "x.onnx", "onnx-fp32")
    (tmp_path / "y.onnx").write_bytes(classifiers.classifier()[:-5])
    with pytest.raises(InputUnusable):
        graph(tmp_path / "y.onnx", "onnx-fp32")


def test_a_graph_for_any_size_has_to_be_told_one(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(classifiers.classifier(side=None))
    with pytest.raises(UsageError, match="any size"):
        of_file(tmp_path / "x.onnx", DIGITS)
    assert evaluate(of_file(tmp_path / "x.onnx", DIGITS, 8), Request(DATA)).scores[0].top1 > 0.8
    error = refused(of_file(tmp_path / "x.onnx", DIGITS, 16))  # the templates have 8 pixels
    assert isinstance(error, InputUnusable)


# --- figures


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_scores_are_torchmetrics(labels: list[int], seed: int) -> None:
    import torch
    from torchmetrics.functional.classification import multiclass_accuracy

    rows = np.random.default_rng(seed).normal(0, 2, (len(labels), 10)).astype(np.float32)
    found = score(rows, np.asarray(labels), NAMES)
    logits, targets = torch.from_numpy(rows), torch.tensor(labels)
    for value, top in ((found.top1, 1), (found.top5, 5)):
        wanted = multiclass_accuracy(logits, targets, num_classes=10, average="micro", top_k=top)
        assert value == pytest.approx(float(wanted))
    assert found.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, targets)), rel=1e-4)


def test_top5_is_for_six_classes_and_more() -> None:
    labels = np.asarray([0, 1, 2, 3, 4])
    assert score(np.eye(5), labels, NAMES[:5]).top5 is None
    assert score(np.eye(5, 6), labels, NAMES[:6]).top5 == 1.0


def test_some_outputs_that_are_not_finite_leave_the_others_their_loss() -> None:
    rows = np.asarray([[5.0, 0.0], [np.nan, 0.0], [0.0, 5.0], [np.inf, 0.0]])
    found = score(rows, np.asarray([0, 0, 1, 0]), ("a", "b"))
    assert (found.right, found.not_finite) == (2, 2)
    assert found.loss == pytest.approx(np.log1p(np.exp(-5)))


@given(st.integers(0, 500), st.integers(1, 500))
def test_wilsons_interval_holds_the_share_and_stays_within_0_and_1(right: int, images: int) -> None:
    right = min(right, images)
    low, high = wilson(right, images)
    assert 0 <= low <= right / images <= high <= 1
    assert high - low > 0
    wide = wilson(right * 4, images * 4)
    assert wide[1] - wide[0] < high - low


def test_wilsons_interval_is_the_published_one() -> None:
    assert wilson(15, 15) == pytest.approx((0.796, 1.0), abs=5e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # Newcombe 1998, method 3
    assert wilson(0, 0) == (0.0, 1.0)


# --- the file


def test_what_is_written_is_read_again(found: Accuracy, tmp_path: Path) -> None:
    assert accuracy.read(tmp_path) is None
    path = accuracy.write(tmp_path, found)
    assert json.loads(path.read_text())["schema"] == 1
    assert accuracy.read(tmp_path) == found
    assert found.of(found.scores[1].sha256) == found.scores[1]
    assert found.of("0" * 64) is None
    assert [path.name for path in tmp_path.iterdir()] == ["accuracy.json"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1}', "[" * 100_000])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "accuracy.json").write_text(content)
    with pytest.raises(InputUnusable) as caught:
        accuracy.read(tmp_path)
    assert caught.value.where == str(tmp_path / "accuracy.json")
