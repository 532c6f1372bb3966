"""How often a network is right: every graph of a variant on the same labelled images, through its own preprocessing.

Graphs run under ONNX Runtime on the CPU, each in a process of its own, at the same time. Engines need a GPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgekit import __version__, manifest
from edgekit.accuracy import Accuracy, ClassScore, Labels, NotMeasured, Score, Split, wilson
from edgekit.environment import stamp
from edgekit.errors import InputUnusable, UsageError
from edgekit.graph import incoming
from edgekit.manifest import Manifest
from edgekit.plan import tool_versions
from edgekit.preprocessing import Preprocessing
from edgekit.runtimes.isolated import IsolatedCpu, IsolatedSession
from edgekit.training import run_folder
from edgekit.training.augment import normalise
from edgekit.training.labelled import Labelled, Splits, merged, open_data
from edgekit.training.loading import Batches, default_workers
from edgekit.training.run_folder import DataRecord
from edgekit.training.sources import DataSource

Array = NDArray[np.floating]

GRAPHS = ("onnx-fp32", "onnx-fp16", "onnx-int8")
TOP5_CLASSES = 6  # with five classes or fewer, one of the first five is always right
OPEN_ROWS = 32  # images in a batch where the graph leaves that open
VAL_SHARE, SEED = 0.1, 0  # those of edgekit train
CHUNK = 32  # images that are loaded together
DTYPES: dict[int, type[np.floating]] = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.FLOAT16: np.float16,
    onnx.TensorProto.DOUBLE: np.float64,
}


@dataclass(frozen=True)
class Request:
    """Labelled images to evaluate with: the data, the part of them, and how those without parts are divided.

    None divides them as the run did that trained the network on them, or else as `edgekit train` does by itself.
    """

    data: DataSource
    split: Split = "val"
    val_share: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Progress:
    """How far an evaluation is: images that all graphs have seen, of how many."""

    done: int
    total: int


@dataclass(frozen=True)
class Graph:
    """A classifier to evaluate: its serialised model, the sides of its square images, the rows of a batch (None: any),
    the type it is fed, and the columns of its only output.
    """

    kind: str
    sha256: str
    model: bytes
    side: int
    rows: int | None
    dtype: type[np.floating]
    classes: int


@dataclass(frozen=True)
class Subject:
    """What is evaluated together: the graphs of a variant, with the contract that makes their inputs.

    `trained_on` is known where the run that they come from still is where it was.
    """

    where: Path
    graphs: tuple[Graph, ...]
    contract: Preprocessing
    not_measured: tuple[NotMeasured, ...] = ()
    trained_on: DataRecord | None = None


Listener = Callable[[Progress], None]


# --- what there is to evaluate


def of_variant(folder: Path, contract: Preprocessing | None = None) -> Subject:
    """The graphs of an exported variant; `contract` instead of the manifest's own.

    Raises InputUnusable where files are not those of the manifest, and where they are no image classifier.
    """
    found, folder = manifest.read_verified(folder)
    graphs = tuple(
        graph(folder / artifact.path, artifact.kind, found.variant.resolution)
        for artifact in found.artifacts
        if artifact.kind in GRAPHS
    )
    engines = tuple(_engines(found))
    return Subject(folder, graphs, contract or _contract(found, folder), engines, _trained_on(found.source))


def of_file(path: Path, contract: Preprocessing | None, side: int | None = None) -> Subject:
    """One ONNX file, with `contract`, or that of the manifest beside it if it is one of its files.

    Raises UsageError where nothing says how images become inputs, InputUnusable for what is no image classifier.
    """
    beside = path.parent / manifest.NAME
    if contract is None and beside.is_file():
        found = manifest.read(beside)
        kinds = [artifact.kind for artifact in found.artifacts if artifact.path == path.name]
        if kinds:
            manifest.read_verified(beside)
            made = graph(path, kinds[0], found.variant.resolution)
            return Subject(path, (made,), _contract(found, path), trained_on=_trained_on(found.source))
    if contract is None:
        raise _no_contract(path)
    return Subject(path, (graph(path, "onnx-fp32", side),), contract)


def _contract(found: Manifest, where: Path) -> Preprocessing:
    if found.preprocessing is None:
        raise _no_contract(where)
    return found.preprocessing


def _no_contract(where: Path) -> UsageError:
    return UsageError("nothing says how images become inputs here", where=str(where), hint="name one with --contract")


def _trained_on(source: str) -> DataRecord | None:
    folder = Path(source)
    return run_folder.read(folder).data if run_folder.is_run(folder) else None


def _engines(found: Manifest) -> Iterator[NotMeasured]:
    for engine in found.engines:
        if engine.path is not None:
            needs = f"an NVIDIA GPU ({', '.join(engine.targets)}) and {engine.flavour}"
            yield NotMeasured("engine", engine.profile, needs)


def graph(path: Path, kind: str, side: int | None = None) -> Graph:
    """A classifier of images from an ONNX file, which anybody may have written; `side` where the graph leaves it open.

    Raises InputUnusable for a file that is damaged, and for a graph without one image input and one row of classes.
    """
    model = incoming.take(path).model
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise _no_classifier(path, f"{len(inputs)} inputs, {len(model.graph.output)} outputs")
    sizes, classes = _sizes(inputs[0]), _sizes(model.graph.output[0])
    dtype = DTYPES.get(inputs[0].type.tensor_type.elem_type)
    if dtype is None or len(sizes) != 4 or sizes[1] not in (3, None) or sizes[2] != sizes[3]:
        raise _no_classifier(path, f"an input of shape {_shown(sizes)}")
    if len(classes) != 2 or classes[1] is None:
        raise _no_classifier(path, f"an output of shape {_shown(classes)}")
    found = sizes[2] or side
    if found is None:
        raise UsageError("the graph takes images of any size", where=str(path), hint="name one with --res")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Graph(kind, digest, model.SerializeToString(), found, sizes[0], dtype, classes[1])


def _sizes(value: onnx.ValueInfoProto) -> list[int | None]:
    return [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]


def _shown(sizes: Sequence[int | None]) -> str:
    return f"({', '.join('?' if size is None else str(size) for size in sizes)})"


def _no_classifier(path: Path, got: str) -> InputUnusable:
    return InputUnusable(
        "this is no classifier of images",
        where=str(path),
        got=got,
        wanted="one input (rows, 3, side, side) of floats, one output (rows, classes)",
    )


# --- evaluation


def evaluate(subject: Subject, request: Request, listen: Listener = lambda _: None) -> Accuracy:
    """Every graph's scores on the images that are asked for.

    Raises UsageError where the data have not as many classes as the network has outputs, InputUnusable naming an image
    or a class that cannot be used, or a graph that cannot be run.
    """
    if not subject.graphs:
        raise InputUnusable("there is no graph to evaluate", where=str(subject.where), wanted=", ".join(GRAPHS))
    share, seed = _division(request, subject.trained_on)
    splits = open_data(request.data, subject.graphs[0].side, contract=subject.contract, val_share=share, seed=seed)
    for one in subject.graphs:
        _check_classes(one, splits, subject.where)
    chosen = _part(splits, request.split)
    logits = _run(subject, chosen, splits.contract, listen)
    labels = Labels(request.data.text, splits.digest, request.split, share, seed, len(chosen), splits.classes)
    return Accuracy(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        edgekit=__version__,
        data=labels,
        preprocessing=splits.contract,
        scores=scores(subject.graphs, logits, np.asarray(chosen.labels), splits.classes),
        not_measured=subject.not_measured,
        tools=tool_versions(),
        machine=stamp(),
    )


def _division(request: Request, trained_on: DataRecord | None) -> tuple[float, int]:
    """The share to validate with and its seed: another division than the training's would test on what was learnt."""
    same = trained_on if trained_on is not None and trained_on.text == request.data.text else None
    share = request.val_share if request.val_share is not None else same.val_share if same else VAL_SHARE
    return share, request.seed if request.seed is not None else same.seed if same else SEED


def _check_classes(one: Graph, splits: Splits, where: Path) -> None:
    if one.classes != len(splits.classes):
        raise UsageError(
            "the network's outputs are not the data's classes",
            where=str(where),
            got=f"{one.classes} outputs, {len(splits.classes)} classes",
            wanted="as many of one as of the other, in the order of the classes' names",
        )


def _part(splits: Splits, split: Split) -> Labelled:
    if split == "all":
        return merged(splits.train, splits.val)
    return splits.val if split == "val" else splits.train


def _run(subject: Subject, data: Labelled, contract: Preprocessing, listen: Listener) -> list[Array]:
    """Each graph's outputs (images, classes), float32 or wider."""
    found: list[list[Array]] = [[] for _ in subject.graphs]
    with ExitStack() as stack, ThreadPoolExecutor(len(subject.graphs)) as pool:
        sessions = [stack.enter_context(IsolatedCpu()).load(one.model) for one in subject.graphs]
        for batch in _inputs(data, contract):
            jobs = [
                pool.submit(_outputs, session, one, batch)
                for session, one in zip(sessions, subject.graphs, strict=True)
            ]
            for rows, job in zip(found, jobs, strict=True):
                rows.append(job.result())
            listen(Progress(sum(map(len, found[0])), len(data)))
    return [np.concatenate(rows) for rows in found]


def _inputs(data: Labelled, contract: Preprocessing) -> Iterator[NDArray[np.float32]]:
    batches = Batches(data, CHUNK, seed=0, epoch=0, shuffle=False, workers=default_workers(data))
    for images, _ in batches:
        yield normalise(images, contract).numpy()


def _outputs(session: IsolatedSession, one: Graph, batch: NDArray[np.float32]) -> Array:
    """The graph's output for a batch, in pieces of the size that it takes; the last is filled up with its last row."""
    rows = one.rows or OPEN_ROWS
    pieces = []
    for first in range(0, len(batch), rows):
        piece = batch[first : first + rows]
        lacking = rows - len(piece) if one.rows else 0
        fed = np.concatenate([piece, np.repeat(piece[-1:], lacking, axis=0)]) if lacking else piece
        output = session(np.ascontiguousarray(fed, one.dtype))[session.outputs[0]]
        if output.shape != (len(fed), one.classes):
            raise InputUnusable("the graph's output is not of the shape that it declares", got=str(output.shape))
        pieces.append(np.asarray(output[: len(piece)]))
    return np.concatenate(pieces)


# --- scores


def scores(
    graphs: Sequence[Graph], outputs: Sequence[Array], labels: NDArray[np.int64], names: Sequence[str]
) -> tuple[Score, ...]:
    """The graphs' scores for outputs (images, classes) and labels (images,); agreement is with the fp32 graph."""
    reference = next((rows for one, rows in zip(graphs, outputs, strict=True) if one.kind == "onnx-fp32"), None)
    return tuple(
        replace(
            score(rows, labels, names), kind=one.kind, sha256=one.sha256, agreement=_agreement(one, rows, reference)
        )
        for one, rows in zip(graphs, outputs, strict=True)
    )


def _agreement(one: Graph, rows: Array, reference: Array | None) -> float | None:
    if reference is None or one.kind == "onnx-fp32":
        return None
    return float(np.mean(_first(rows) == _first(reference)))


def _first(rows: Array) -> NDArray[np.int64]:
    """The class with the highest output; -1 where an output is not finite, which is no class."""
    return np.where(np.isfinite(rows).all(axis=1), np.nan_to_num(rows).argmax(axis=1), -1)


def score(rows: Array, labels: NDArray[np.int64], names: Sequence[str]) -> Score:
    """What outputs (images, classes) are worth, as of a nameless fp32 graph. Rows that are not finite are wrong."""
    finite = np.isfinite(rows).all(axis=1)
    right = _first(rows) == labels
    count, total = int(right.sum()), len(labels)
    return Score(
        kind="onnx-fp32",
        sha256="",
        images=total,
        right=count,
        top1=count / total,
        ci95=wilson(count, total),
        top5=_top5(rows, labels) if len(names) >= TOP5_CLASSES else None,
        loss=_loss(rows[finite], labels[finite]) if finite.any() else None,
        not_finite=total - int(finite.sum()),
        agreement=None,
        classes=tuple(
            ClassScore(name, int((labels == label).sum()), int((right & (labels == label)).sum()))
            for label, name in enumerate(names)
        ),
    )


def _top5(rows: Array, labels: NDArray[np.int64]) -> float:
    finite = np.isfinite(rows).all(axis=1)
    best = np.argsort(-np.nan_to_num(rows), axis=1, kind="stable")[:, :5]
    return float(np.mean((best == labels[:, None]).any(axis=1) & finite))


def _loss(rows: Array, labels: NDArray[np.int64]) -> float:
    """The mean cross-entropy in nats. Outputs that are probabilities already are taken as such."""
    wide = rows.astype(np.float64)
    own = wide[np.arange(len(labels)), labels]
    if _are_probabilities(wide):
        return float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean())
    highest = wide.max(axis=1)
    return float((np.log(np.exp(wide - highest[:, None]).sum(axis=1)) + highest - own).mean())


def _are_probabilities(rows: NDArray[np.float64]) -> bool:
    return bool((rows >= 0).all() and np.abs(rows.sum(axis=1) - 1).max() < 1e-2)
