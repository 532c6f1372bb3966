"""`edgekit style`: pictures in the manner of others, by optimising one or by a network that learns it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgekit.cli import parse
from edgekit.cli.output import Json, Output, Quiet, Verbose, reporting
from edgekit.errors import EdgekitError, UsageError
from edgekit.schema import JSON, to_json
from edgekit.training.style import request as asked

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from edgekit.training.style.apply import Applied
    from edgekit.training.style.optimise import Optimised, Step
    from edgekit.training.style.pictures import Picture
    from edgekit.training.style.request import Features, Objective
    from edgekit.training.style.train import Progress, Trained

PLAIN_LINE_S = 5.0
LARGEST_SIDE = 1 << 16

app = typer.Typer(
    name="style",
    help="Style transfer: optimise one picture, train a network for a style, apply it to pictures of any size.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

FeatureNet = Annotated[str, typer.Option("--features", help="Whose features are compared: vgg19 or resnet50.")]
FeatureWeights = Annotated[
    str,
    typer.Option(
        "--weights",
        help="Weights of the features: default (torchvision's, downloaded), FILE (a state dict), or none: "
        "random ones from the seed, untrained, which carry texture but know no things.",
    ),
]
StyleLayers = Annotated[
    list[str] | None, typer.Option(help="Layers for the style, as relu1_1,relu2_1=0.5; default: the published ones.")
]
ContentLayers = Annotated[list[str] | None, typer.Option(help="Layers for the content, in the same form.")]
StyleWeight = Annotated[float, typer.Option(help="Weight of the style.")]
ContentWeight = Annotated[float, typer.Option(help="Weight of the content.")]
Variation = Annotated[float, typer.Option("--tv-weight", help="Weight of the total variation: smoother pictures.")]
AveragePools = Annotated[bool, typer.Option("--average-pools", help="Average pools instead of max pools.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]


@app.command("optimize")
def optimize(
    content: Annotated[Path, typer.Argument(help="The picture whose things are kept.")],
    style: Annotated[Path, typer.Argument(help="The picture whose manner is taken.")],
    out: Annotated[
        Path | None, typer.Option(help="PNG or JPEG to write; default: CONTENT-STYLE.png in this folder.")
    ] = None,
    size: Annotated[int, typer.Option(help="Longer side in pixels at most; 0 keeps the content's size.")] = 512,
    start: Annotated[str, typer.Option(help="Begin with: content, noise or style.")] = "content",
    steps: Annotated[int, typer.Option(help="L-BFGS steps at most.")] = 300,
    tolerance: Annotated[
        float, typer.Option(help="Stop when 10 steps improve the loss by less than this share, three times in a row.")
    ] = 1e-4,
    features: FeatureNet = "vgg19",
    weights: FeatureWeights = "default",
    style_layers: StyleLayers = None,
    content_layers: ContentLayers = None,
    style_weight: StyleWeight = 1000.0,
    content_weight: ContentWeight = 1.0,
    variation: Variation = 0.0,
    average_pools: AveragePools = False,
    seed: Seed = 0,
    previews: Annotated[Path | None, typer.Option(help="A folder for the picture as it is every 10 steps.")] = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Change a picture until features of VGG-19 or ResNet-50 see the content's things in the style's manner.

    When the loss stops being finite, the last good picture is written all the same, and the exit code is 1.
    """
    with reporting("style optimize", as_json, quiet, verbose) as output:
        target = out or Path(f"{content.stem}-{style.stem}.png")
        _range("--size", size, 0, LARGEST_SIDE)
        _range("--steps", steps, 1, 1_000_000)
        _positive("--tolerance", tolerance)
        wanted = _features(features, weights, average_pools, seed)
        objective = _objective(
            wanted, "optimise", style_layers, content_layers, style_weight, content_weight, variation
        )
        begin = parse.choice("--start", start, asked.STARTS)
        request = asked.OptimiseRequest(content, style, wanted, objective, size or None, begin, seed, steps, tolerance)
        _report_optimised(_optimised(request, target, previews, force, output), request, target, output)


def _optimised(
    request: asked.OptimiseRequest, target: Path, previews: Path | None, force: bool, output: Output
) -> Optimised:
    from edgekit.training.style import pictures
    from edgekit.training.style.optimise import LossNotFinite, optimise

    pictures.check_target(target, force)
    _say_untrained(request.features, output)
    with _Display(output) as display:

        def follow(step: Step, picture: Callable[[], Picture]) -> None:
            state = f"loss {step.loss:.4g} (style {step.style:.4g}, content {step.content:.4g})"
            display.show(step.number, request.steps, state, step.seconds)
            if previews is not None:
                pictures.write(picture(), previews / f"step-{step.number:06}.png")

        try:
            done = optimise(request, follow)
        except LossNotFinite as error:
            if error.picture is not None:
                pictures.write(error.picture, target)
                output.note(f"the last good picture is in {target}")
            raise
    pictures.write(done.picture, target)
    return done


def _report_optimised(done: Optimised, request: asked.OptimiseRequest, target: Path, output: Output) -> None:
    first, final = done.history[0], done.final
    height, width = done.picture.size
    data: dict[str, JSON] = {
        "out": str(target),
        "size": [width, height],
        "stopped": done.stopped,
        "steps": final.number,
        "first_loss": first.loss,
        "final_loss": final.loss,
        "fall": done.fall,
        "trained_features": not isinstance(request.features.weights, int),
        "history": [to_json(step) for step in done.history],
    }
    why = "it settled" if done.stopped == "settled" else "as many as were asked for"
    text = f"{target}: {width} x {height}, loss {first.loss:.4g} -> {final.loss:.4g} ({-done.fall:+.1%})"
    output.result(data, f"{text}\n{final.number} steps ({why}), {final.seconds:.1f} s")


@app.command("train")
def train(
    style: Annotated[Path, typer.Argument(help="The picture whose manner is learnt.")],
    data: Annotated[Path, typer.Option(help="A folder of photos to learn on.")],
    out: Annotated[Path, typer.Option(help="The folder of the run; the same command goes on with it.")] = Path(
        "style-run"
    ),
    network: Annotated[str, typer.Option(help="se_mobilenet_style or residual.")] = "se_mobilenet_style",
    alpha: Annotated[float, typer.Option(help="Width multiplier.")] = 1.0,
    tail: Annotated[
        str | None,
        typer.Option(help="plain, bounded, or published, which loses the colour; residual is always bounded."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Batches to learn from.")] = 2000,
    batch: Annotated[int, typer.Option(help="Squares in a batch.")] = 4,
    crop: Annotated[int, typer.Option(help="Side of the squares in pixels.")] = 256,
    style_size: Annotated[int, typer.Option(help="Longer side of the style picture in pixels.")] = 256,
    rate: Annotated[float, typer.Option(help="Adam's learning rate.")] = 1e-3,
    features: FeatureNet = "vgg19",
    weights: FeatureWeights = "default",
    style_layers: StyleLayers = None,
    content_layers: ContentLayers = None,
    style_weight: StyleWeight = 1000.0,
    content_weight: ContentWeight = 1.0,
    variation: Variation = 0.0,
    average_pools: AveragePools = False,
    seed: Seed = 0,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 100,
    preview_every: Annotated[int, typer.Option(help="Steps between two previews; 0: none.")] = 200,
    force: Annotated[bool, typer.Option("--force", help="Begin anew in a folder that holds a run.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Teach a network one style. A killed run goes on where it was, with the losses that it would have had."""
    with reporting("style train", as_json, quiet, verbose) as output:
        chosen = parse.choice("--network", network, asked.STYLE_NETWORKS)
        end = parse.choice("--tail", tail or ("bounded" if chosen == "residual" else "plain"), asked.TAILS)
        for option, value, most in (
            ("--steps", steps, 10_000_000),
            ("--batch", batch, 4096),
            ("--style-size", style_size, LARGEST_SIDE),
            ("--checkpoint-every", checkpoint_every, 10_000_000),
        ):
            _range(option, value, 1, most)
        _range("--crop", crop, 17, LARGEST_SIDE)
        _range("--preview-every", preview_every, 0, 10_000_000)
        _positive("--rate", rate)
        wanted = _features(features, weights, average_pools, seed)
        objective = _objective(wanted, "train", style_layers, content_layers, style_weight, content_weight, variation)
        request = asked.TrainRequest(
            style, data, wanted, objective, chosen, alpha, end, style_size, crop, batch, steps, rate, seed
        )
        _report_trained(_trained(request, out, checkpoint_every, preview_every, force, output), output)


def _trained(
    request: asked.TrainRequest, out: Path, checkpoint_every: int, preview_every: int, force: bool, output: Output
) -> Trained:
    from edgekit.training.style.train import Pace, train

    _say_untrained(request.features, output)
    if request.tail == "published":
        output.note("the published tail gives every colour one mean and deviation: the pictures lose their colour")
    with _Display(output) as display:

        def follow(now: Progress) -> None:
            left = (now.steps - now.step) / now.steps_per_s
            state = f"loss {now.loss:.4g} (style {now.style:.4g}, content {now.content:.4g}), {now.steps_per_s:.2f}/s"
            display.show(now.step, now.steps, f"{state}, about {left:.0f} s left", now.seconds)

        return train(request, out, Pace(checkpoint_every, preview_every), follow, force=force)


def _report_trained(done: Trained, output: Output) -> None:
    run = done.run
    data: dict[str, JSON] = {"dir": str(done.folder), "taken": done.taken, "fall": done.fall, "run": to_json(run)}
    text = (
        f"{done.folder}: {run.done} steps, loss {run.first:.4g} -> {run.last:.4g} ({-done.fall:+.1%}); "
        f"the photos themselves {run.untouched:.4g}\n"
        f"export: edgekit export {run.network.export_words} --weights {done.folder / 'last.safetensors'}\n"
        f"apply: edgekit style apply {done.folder} IMAGE..."
    )
    output.result(data, text)


@app.command("apply")
def apply(
    net: Annotated[
        Path,
        typer.Argument(metavar="NET|ONNX", help="A run's folder or its weights; an ONNX file or an exported folder."),
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures, and folders of them.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write to; default: beside each, as NAME-styled.")] = None,
    tile: Annotated[
        int | None,
        typer.Option(help="Work in tiles of so many pixels, for pictures larger than memory; the result is the same."),
    ] = None,
    kind: Annotated[str | None, typer.Option("--format", help="png or jpg; default: as the picture, else png.")] = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Paint pictures with a trained network, through PyTorch or ONNX Runtime, at their own size.

    One that cannot be read does not stop the others; the exit code says that there was one.
    """
    with reporting("style apply", as_json, quiet, verbose) as output:
        if kind is not None:
            parse.choice("--format", kind, ("png", "jpg"))
        if tile is not None:
            _range("--tile", tile, 16, LARGEST_SIDE)
        from edgekit.training.style import apply as applying

        painted: list[Applied] = []
        errors: list[EdgekitError] = []
        jobs = applying.plan(images, out, kind, force)
        with applying.open_painter(net, tile) as painter, _Display(output) as display:
            begun = time.monotonic()
            for number, job in enumerate(jobs, 1):
                try:
                    painted.append(applying.paint(painter, job))
                except EdgekitError as error:
                    errors.append(error)
                display.show(number, len(jobs), str(job.source), time.monotonic() - begun)
        _report_applied(painted, errors, output)


def _report_applied(painted: list[Applied], errors: list[EdgekitError], output: Output) -> None:
    from edgekit.cli.output import error_json

    for error in errors:
        output.failure(error)
        output.code = max(output.code, error.exit_code)
    data: dict[str, JSON] = {
        "pictures": [to_json(one) for one in painted],
        "errors": [error_json(error) for error in errors],
    }
    lines = [f"{one.out}: {one.width} x {one.height}, {one.runtime}, {one.seconds:.2f} s" for one in painted]
    output.result(data, "\n".join(lines), ok=not errors)


# --- what was asked for


def _features(network: str, weights: str, average_pools: bool, seed: int) -> Features:
    chosen = parse.choice("--features", network, asked.FEATURE_NETWORKS)
    return asked.Features(chosen, asked.parse_weights(weights, seed), average_pools)


def _objective(
    features: Features,
    use: Literal["optimise", "train"],
    style_layers: list[str] | None,
    content_layers: list[str] | None,
    style_weight: float,
    content_weight: float,
    variation: float,
) -> Objective:
    style, content = asked.default_layers(features.network, use)
    if style_layers is not None:
        style = asked.parse_layers("--style-layers", parse.words(style_layers), features.network)
    if content_layers is not None:
        content = asked.parse_layers("--content-layers", parse.words(content_layers), features.network)
    weights = {"--style-weight": style_weight, "--content-weight": content_weight, "--tv-weight": variation}
    for option, value in weights.items():
        if not 0 <= value < float("inf"):
            raise UsageError("not a weight", where=option, got=f"{value:g}", wanted="a number from 0 on")
    if not any(weights.values()):
        raise UsageError("nothing to make small", where="--style-weight", wanted="a weight above 0")
    return asked.Objective(style, content, style_weight, content_weight, variation)


def _range(option: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise UsageError("out of range", where=option, got=str(value), wanted=f"{least} to {most}")


def _positive(option: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise UsageError("out of range", where=option, got=f"{value:g}", wanted="a number above 0")


def _say_untrained(features: Features, output: Output) -> None:
    if isinstance(features.weights, int):
        output.note("the features are untrained (--weights none): they carry colour and texture, and know no things")


# --- while it runs


class _Display:
    """Progress on stderr: a live bar in a terminal, a line now and then elsewhere."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.live: Bar | None = None
        self.bar: TaskID | None = None
        self.last_line = 0.0

    def __enter__(self) -> _Display:
        if sys.stderr.isatty() and not self.output.quiet:
            self.live, self.bar = _bar()
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def show(self, done: int, of: int, state: str, seconds: float) -> None:
        """How far it is, after so many seconds."""
        if self.live is not None and self.bar is not None:
            self.live.update(self.bar, completed=done, total=of, description=f"{done}/{of}", state=state)
        elif done == of or time.monotonic() - self.last_line > PLAIN_LINE_S:
            self.output.note(f"{done}/{of} {state}, {seconds:.0f} s")
            self.last_line = time.monotonic()


def _bar() -> tuple[Bar, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[state]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
    )
    live = Progress(*columns, console=Console(stderr=True), expand=True)
    return live, live.add_task("", total=1.0, state="")
