"""What a climb of the ladder found: plain values, the same in memory and in the manifest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rung:
    """One comparison. `error` and `tolerance` are relative root-mean-square distances of the tensor named `tensor`:

    the one that uses up most of its tolerance, or the first to fail in the order of execution. The other figures
    are over the network's outputs for all inputs; `psnr_db` and `ssim` are for those that are images.
    """

    name: str
    against: str
    passed: bool
    error: float | None
    tolerance: float | None
    tensor: str | None
    tensors: int
    max_abs: float | None
    max_rel: float | None
    cosine: float | None
    snr_db: float | None
    top1_agreement: float | None
    reason: str | None = None
    psnr_db: float | None = None
    ssim: float | None = None


@dataclass(frozen=True)
class Liveness:
    """Whether the outputs depend on the inputs by far more than the tolerance; otherwise agreement proves nothing."""

    spread: float
    wanted: float
    passed: bool


@dataclass(frozen=True)
class BatchCheck:
    """Rows alone against the same rows duplicated and permuted in one batch. `passed` None: not applicable."""

    name: str
    passed: bool | None
    error: float | None
    tolerance: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Saturation:
    """How many of the network's clipped activations (ReLU6) some input drives past their upper limit."""

    clips: int
    exercised: int


@dataclass(frozen=True)
class ParityReport:
    """The ladder of one variant. `mode` is `full` or `quick` (outputs only, against PyTorch in float32)."""

    passed: bool
    mode: str
    rungs: tuple[Rung, ...]
    inputs: tuple[str, ...]
    liveness: Liveness
    batch: tuple[BatchCheck, ...] = ()
    saturation: Saturation | None = None
    notes: tuple[str, ...] = ()

    def first_failure(self) -> str | None:
        """The name of the first rung or gate that failed, in the order of the climb; None when all passed."""
        failed = [rung.name for rung in self.rungs if not rung.passed]
        if not self.liveness.passed:
            failed.append("liveness")
        failed += [f"batch:{check.name}" for check in self.batch if check.passed is False]
        return failed[0] if failed else None
