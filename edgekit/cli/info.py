"""`edgekit models`, `profiles`, `doctor`, `inspect` and `lint`: what there is, and what it holds or lacks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from edgekit.cli import parse, render
from edgekit.cli.output import Json, Quiet, Verbose, millions, reporting, size, table
from edgekit.errors import UsageError
from edgekit.schema import JSON, to_json

if TYPE_CHECKING:
    from edgekit.arrays import ArraySpec
    from edgekit.environment import Environment, Finding
    from edgekit.graph.lint import Finding as LintFinding
    from edgekit.graph.summary import OnnxSummary
    from edgekit.manifest import Manifest, TensorSpec
    from edgekit.models._counting import Counts
    from edgekit.models._info import ModelInfo
    from edgekit.preprocessing import Preprocessing
    from edgekit.profile import ExportProfile
    from edgekit.variant import Variant

Number = TypeVar("Number", int, float)
Shown = tuple[JSON, str]  # one result as JSON and as text

AREAS = {
    "package": "packages",
    "onnxruntime": "ONNX Runtime's execution providers",
    "tensorrt": "TensorRT",
    "gpu": "GPU",
    "machine": "this machine",
}


# --- models


def models(
    name: Annotated[
        str | None, typer.Argument(metavar="[SOURCE]", help="One network, layer by layer: any source of export.")
    ] = None,
    alpha: Annotated[str | None, typer.Option(help="Width multiplier; default: the network's own.")] = None,
    res: Annotated[str | None, typer.Option(help="Input resolution in pixels; default: the network's own.")] = None,
    num_classes: Annotated[int | None, typer.Option(help="Classes; default: the network's own.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="An option of that network, KEY=VALUE.")] = None,
    input_: Annotated[
        list[str] | None, typer.Option("--input", help="What a factory's network takes: NAME:DTYPE:SHAPE.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """The reference networks: their options, and their parameters and MACs at a width and resolution.

    MACs are multiply-accumulates of convolutions and Linear on one image; FLOPs are twice as many.
    """
    with reporting("models", as_json, quiet, verbose) as output:
        width = _single("--alpha", parse.numbers("--alpha", _as_list(alpha)))
        side = _single("--res", parse.whole_numbers("--res", _as_list(res)))
        options = parse.pairs("--option", option)
        if name is not None:
            data, text = _one_source(name, width, side, num_classes, options, input_ or [])
            output.result({"models": [data]}, text)
        else:
            if options:
                raise UsageError("options belong to one network", where="--option", hint="edgekit models NAME --option")
            rows, text = _all_networks(width, side, num_classes)
            output.result({"models": rows}, text)


def _as_list(value: str | None) -> list[str] | None:
    return None if value is None else [value]


def _single(option: str, values: tuple[Number, ...]) -> Number | None:
    if len(values) > 1:
        raise UsageError("one value at a time", where=option, got=", ".join(map(str, values)))
    return values[0] if values else None


def _variant(
    name: str, alpha: float | None, res: int | None, num_classes: int | None, options: tuple[tuple[str, str], ...] = ()
) -> Variant:
    from edgekit import models as networks
    from edgekit import sources
    from edgekit.variant import Variant

    known = networks.info(name)
    width = 1.0 if alpha is None and known.has_alpha else alpha
    side = known.default_resolution if res is None else res
    classes = known.num_classes if num_classes is None else num_classes
    variant = Variant(name, width, side, num_classes=classes, options=options)
    sources.check(variant, sources.SeedWeights(0))
    return variant


def _one_source(
    text: str,
    alpha: float | None,
    res: int | None,
    num_classes: int | None,
    options: tuple[tuple[str, str], ...],
    inputs: list[str],
) -> Shown:
    from edgekit import sources
    from edgekit.variant import Variant

    source = sources.parse_source(text)
    if source.kind == "reference":
        return _one_network(_variant(source.name, alpha, res, num_classes, options))
    from edgekit import subjects

    variant = Variant(source.slug, alpha, res, num_classes=num_classes, options=options)
    sources.check(variant, sources.parse_weights("none", source=source), source)
    counts = subjects.counts(source, variant, sources.parse_input_specs(inputs))
    asked = to_json(variant)
    assert isinstance(asked, dict)
    data: dict[str, JSON] = {
        "name": source.text,
        "variant": asked | {"options": dict(variant.options)},
        "params": counts.params,
        "macs": counts.macs,
        "layers": to_json(counts.layers),
    }
    head = f"{source.text}: {counts.params:,} params, {counts.macs:,} MACs"
    return data, f"{head}\n\n{_layer_table(counts)}"


def _counts(variant: Variant) -> Counts:
    from edgekit.models import _counting, _create, _options

    options = _options.parse_options(variant.model, dict(variant.options))
    module = _create.skeleton(variant.model, variant.alpha, variant.num_classes, options)
    assert variant.resolution is not None
    return _counting.count(module, variant.resolution)


def _all_networks(alpha: float | None, res: int | None, num_classes: int | None) -> tuple[list[JSON], str]:
    """Every network that can be had like this; the refusal of one is in its row, that of all is raised."""
    from edgekit import models as networks

    names = networks.names()
    data: list[JSON] = []
    lines = [["network", "alpha", "res", "params", "MACs", "options (the default first)"]]
    refusals: list[UsageError] = []
    for name in names:
        try:
            variant = _variant(name, alpha, res, num_classes)
            counts = _counts(variant)
            data.append(_network_json(variant, counts))
            width = "-" if variant.alpha is None else f"{variant.alpha:g}"
            figures = [width, str(variant.resolution), millions(counts.params), millions(counts.macs)]
            lines.append([name, *figures, "; ".join(_options_of(name))])
        except UsageError as refusal:
            refusals.append(refusal)
            data.append({"name": name, "reason": refusal.what})
            lines.append([name, "-", "-", "-", "-", refusal.what])
    if len(refusals) == len(names):
        raise refusals[0]
    return data, table(lines, right=(1, 2, 3, 4))


def _one_network(variant: Variant) -> Shown:
    from edgekit import models as networks

    known, counts = networks.info(variant.model), _counts(variant)
    data = _network_json(variant, counts)
    data["layers"] = to_json(counts.layers)
    width = "" if variant.alpha is None else f"alpha {variant.alpha:g}, "
    head = [
        f"{variant.model}: {known.title} ({known.source})",
        f"{width}{variant.resolution} x {variant.resolution}, {_classes(variant)}: "
        f"{counts.params:,} params{_training_only(counts)}, {counts.macs:,} MACs",
        f"options: {'; '.join(_options_of(variant.model)) or 'none'}",
        f"resolutions: {_resolutions(known)}",
        f"published weights: {known.pretrained.name if known.pretrained else 'none'}",
    ]
    return data, "\n".join([*head, "", _layer_table(counts)])


def _classes(variant: Variant) -> str:
    return "an image" if variant.num_classes is None else f"{variant.num_classes} classes"


def _training_only(counts: Counts) -> str:
    return f" (and {counts.training_only:,} that only training uses)" if counts.training_only else ""


def _resolutions(known: ModelInfo) -> str:
    multiples = f"multiples of {known.stride}" if known.stride > 1 else "any"
    return multiples if known.smallest <= known.stride else f"{multiples}, {known.smallest} or more"


def _network_json(variant: Variant, counts: Counts) -> dict[str, JSON]:
    from edgekit import models as networks
    from edgekit.models import _options

    known, asked = networks.info(variant.model), to_json(variant)
    assert isinstance(asked, dict)
    options: list[JSON] = [
        {"name": option.name, "default": option.default, "choices": list(option.choices)}
        for option in _options.options(variant.model)
    ]
    return {
        "name": variant.model,
        "title": known.title,
        "source": known.source,
        "stride": known.stride,
        "smallest": known.smallest,
        "task": known.task,
        "pretrained": known.pretrained.name if known.pretrained else None,
        "options": options,
        "variant": asked | {"options": dict(variant.options)},
        "params": counts.params,
        "macs": counts.macs,
        "training_only_params": counts.training_only,
    }


def _options_of(name: str) -> list[str]:
    """`rounding=divisible8|published` for every option of the network, the default first."""
    from edgekit.models import _options

    texts = []
    for option in _options.options(name):
        values = option.choices or (("true", "false") if option.kind is bool else ())
        default = str(option.default).lower() if option.kind is bool else str(option.default)
        texts.append(f"{option.name}={'|'.join([default, *(value for value in values if value != default)])}")
    return texts


def _layer_table(counts: Counts) -> str:
    rows = [["layer", "kind", "output", "params", "MACs", "MACs %"]]
    for layer in counts.layers:
        shape = " x ".join(map(str, layer.output_shape))
        share = f"{layer.macs / counts.macs:.1%}" if layer.macs and counts.macs else ""
        rows.append([layer.name, layer.kind, shape, _figure(layer.params), _figure(layer.macs), share])
    rows.append(["total", f"{len(counts.layers)} layers", "", f"{counts.params:,}", f"{counts.macs:,}", "100.0%"])
    return table(rows, right=(3, 4, 5))


def _figure(count: int) -> str:
    return f"{count:,}" if count else ""


# --- profiles


def profiles(
    name: Annotated[str | None, typer.Argument(metavar="[NAME|PATH]", help="One profile in full, validated.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """The export profiles: what each target takes."""
    with reporting("profiles", as_json, quiet, verbose) as output:
        from edgekit import profile

        chosen = [profile.load(known) for known in ([name] if name is not None else profile.names())]
        if as_json:
            # Hashing is left to those who read it: this command is to answer at once.
            data: list[JSON] = [{**profile.resolved(one), "sha256": profile.digest(one)} for one in chosen]
            output.result({"profiles": data}, "")
        else:
            output.result({}, _profile_table(chosen) if name is None else _in_full(chosen[0]))


def _profile_table(chosen: Sequence[ExportProfile]) -> str:
    rows = [["profile", "precisions", "opset", "engine", "for"]]
    for one in chosen:
        engine = "none" if one.flavour == "none" else f"built {'here' if one.where == 'here' else 'on the board'}"
        rows.append([one.name, " ".join(one.precisions), str(one.opset), engine, one.description])
    return table(rows, right=(2,))


def _in_full(one: ExportProfile) -> str:
    """As TOML that would read back, with the defaults written out."""
    from edgekit.profile import resolved

    data = resolved(one)
    board = data.pop("board", None)
    lines = [f"# {data.pop('name')}: a valid profile, defaults filled in", *_toml(data)]
    if isinstance(board, dict):
        lines += ["", "[board]", *_toml(board)]
    return "\n".join(lines)


def _toml(data: dict[str, JSON]) -> list[str]:
    """TOML has no null: what is not set is left out."""
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in data.items() if value is not None]


# --- doctor


def doctor(as_json: Json = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """What this machine is and can do, tried out; what is missing, and how to get it.

    Exit code 3 when something is missing that every export needs.
    """
    with reporting("doctor", as_json, quiet, verbose) as output:
        from edgekit import environment

        output.detail("libraries are tried in processes of their own; that takes a few seconds")
        found = environment.examine()
        lacking = found.lacking()
        output.code = 3 if lacking else 0
        data = to_json(found)
        assert isinstance(data, dict)
        output.result({**data, "lacking": list(lacking)}, _examined(found), ok=not lacking)


def _examined(found: Environment) -> str:
    lines = [", ".join(f"{key} {value}" for key, value in found.machine.items())]
    for area, title in AREAS.items():
        lines += ["", title, *_findings([finding for finding in found.findings if finding.area == area])]
    lacking = found.lacking()
    verdict = f"exports cannot be made here: {', '.join(lacking)}" if lacking else "exports can be made here"
    return "\n".join([*lines, "", verdict])


def _findings(findings: Sequence[Finding]) -> list[str]:
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"  {finding.status:8}  {finding.name:{width}}  {finding.detail}")
        if finding.hint:
            lines.append(f"  {'':8}  {'':{width}}  → {finding.hint}")
    return lines


# --- inspect


def inspect(
    path: Annotated[Path, typer.Argument(metavar="FILE|DIR", help="Recognised by its content, not by its name.")],
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """What an exported variant, an ONNX file, a TensorRT plan or golden.npz holds.

    Of a variant, the hashes of all files are verified; exit code 4 when one differs.
    """
    with reporting("inspect", as_json, quiet, verbose) as output:
        from edgekit import contents

        show = {"manifest": _manifest, "onnx": _onnx, "plan": _plan, "arrays": _arrays}
        kind = contents.recognise(path)
        data, text = show[kind](path)
        output.result({"kind": kind, "path": str(path), kind: data}, text)


def _manifest(path: Path) -> Shown:
    from edgekit import manifest

    found, folder = manifest.read_verified(path)
    lines = [
        render.details(folder, found),
        f"  parity: {render.parity_word(found.parity)}; inputs: {', '.join(found.parity.inputs)}",
        *_provenance(found),
        f"  {len(found.files())} files verified: all are as they were written",
    ]
    return to_json(found), "\n".join(lines)


def _provenance(found: Manifest) -> list[str]:
    variant, weights = found.variant, found.weights
    options = "".join(f", {key}={value}" for key, value in variant.options.items())
    width = "" if variant.alpha is None else f"alpha {variant.alpha:g}, "
    side = "" if variant.resolution is None else f"{variant.resolution} pixels, "
    batch = "dynamic" if variant.batch is None else str(variant.batch)
    rows = [
        ["variant", f"{variant.model}, {width}{side}batch {batch}{options}"],
        ["source", found.source],
        ["classes", "-" if variant.num_classes is None else str(variant.num_classes)],
        ["weights", f"{weights.kind} {weights.identity}, tensors sha256 {weights.sha256[:16]}"],
        ["opset", f"{found.opset}, exported with {found.exporter}"],
        *_pixels(found.preprocessing),
        ["profiles", ", ".join(f"{used.name} {used.sha256[:16]}" for used in found.profiles)],
        ["tools", ", ".join(f"{name} {version}" for name, version in found.tools.items())],
        ["made", f"{found.created} by edgekit {found.edgekit} in {found.seconds:.1f} s"],
        ["machine", ", ".join(f"{key} {value}" for key, value in found.machine.items())],
    ]
    return render.indented(table(rows)).splitlines()


def _pixels(contract: Preprocessing | None) -> list[list[str]]:
    if contract is None:
        return [["pixels", "nobody has said how images become the input"]]
    return [
        ["pixels", f"{contract.layout} {contract.colour} {contract.dtype}, {contract.resize}, crop {contract.crop:g}"],
        ["", f"scaled by {contract.scale:.6g}, mean {_numbers(contract.mean)}, std {_numbers(contract.std)}"],
    ]


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _onnx(path: Path) -> Shown:
    from edgekit.graph.incoming import read_model
    from edgekit.graph.summary import summarise

    found = summarise(read_model(path, weights=False))
    return to_json(found), _onnx_text(path, found)


def _onnx_text(path: Path, found: OnnxSummary) -> str:
    opsets = ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())
    stored = ", ".join(f"{name} {size(count)}" for name, count in found.initializer_bytes.items())
    beside = ", some of them in other files" if found.external_data else ""
    rows = [
        ["opset", opsets or "none"],
        ["ir version", str(found.ir_version)],
        ["producer", found.producer or "unnamed"],
        *_tensor_rows("input", found.inputs),
        *_tensor_rows("output", found.outputs),
        ["params", f"{found.params:,}"],
        ["weights", f"{found.initializers} tensors: {stored}{beside}" if found.initializers else "none"],
        ["nodes", f"{sum(found.nodes.values())}"],
    ]
    rows += [["functions", f"{found.local_functions} local to the model"]] if found.local_functions else []
    nodes = [[op, str(count)] for op, count in found.nodes.items()]
    histogram = [render.indented(render.indented(table(nodes, right=(1,))))] if nodes else []
    return "\n".join([f"{path}: ONNX, {size(path.stat().st_size)}", render.indented(table(rows)), *histogram])


def _tensor_rows(label: str, tensors: Sequence[TensorSpec]) -> list[list[str]]:
    return [[label, f"{tensor.name}: {tensor.dtype} {_shape(tensor.shape)}"] for tensor in tensors]


def _shape(shape: Sequence[int | str]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _plan(path: Path) -> Shown:
    from edgekit.engines.plan import read_plan_header

    found = read_plan_header(path)
    rows = [
        ["flavour", found.flavour],
        ["version", found.version],
        ["compiled for", " ".join(found.targets) or "not said in the header"],
    ]
    return to_json(found), f"{path}: TensorRT plan, {size(found.size)}\n{render.indented(table(rows))}"


def _arrays(path: Path) -> Shown:
    from edgekit.arrays import list_arrays

    found: list[ArraySpec] = list_arrays(path)
    rows = [["array", "type", "shape", "size"]]
    rows += [[array.name, array.dtype, _shape(array.shape), size(array.bytes)] for array in found]
    return to_json(found), f"{path}: {len(found)} arrays\n{render.indented(table(rows, right=(3,)))}"


# --- lint


def lint(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="An ONNX file.")],
    profile: Annotated[str | None, typer.Option(help="The target (edgekit profiles); default: rules for all.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """What a target will not take of an ONNX file, and what should not be left in it, before going there.

    Exit code 1 when there is an error among the findings.
    """
    with reporting("lint", as_json, quiet, verbose) as output:
        from edgekit import profile as profiles

        target = profiles.load(profile) if profile is not None else None
        from edgekit.graph.incoming import read_model
        from edgekit.graph.lint import lint as find

        findings = find(read_model(path, weights=True), target)
        errors = sum(finding.severity == "error" for finding in findings)
        output.code = 1 if errors else 0
        counts: dict[str, JSON] = {"errors": errors, "warnings": len(findings) - errors}
        data: dict[str, JSON] = {"path": str(path), "profile": target.name if target else None, **counts}
        text = _lint_text(findings, f"profile {target.name}" if target else "targets in general")
        output.result({**data, "findings": to_json(findings)}, text, ok=not errors)


def _lint_text(findings: Sequence[LintFinding], target: str) -> str:
    errors = sum(finding.severity == "error" for finding in findings)
    verdict = f"{_counted_word(errors, 'error')}, {_counted_word(len(findings) - errors, 'warning')} for {target}"
    if not findings:
        return verdict
    rows = [["", "rule", "finding", "at"]]
    rows += [[finding.severity, finding.rule, finding.message, finding.where] for finding in findings]
    # Many findings of one rule have one remedy: it is said once.
    remedies = dict.fromkeys((finding.rule, finding.hint) for finding in findings)
    return "\n".join([table(rows), "", table([[rule, f"→ {hint}"] for rule, hint in remedies]), "", verdict])


def _counted_word(count: int, word: str) -> str:
    return f"{count} {word if count == 1 else word + 's'}"
