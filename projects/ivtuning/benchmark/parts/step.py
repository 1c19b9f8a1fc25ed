"""Time and saved activations of a training step: IV-tuning, full fine-tuning, and the plain reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ...backbones.block import ACTIVATION_CHECKPOINTING
from ...backbones.trunk import Trunk
from ...methods import METHODS
from ...tuning import Frozen
from ...tuning.stems import PromptStem
from ..measures.flops import count_iv, energy, floor, frozen_trunk, rate
from ..measures.memory import fitting, missing_note, peak_bytes, saved_bytes
from ..measures.timing import Times, interleaved, ratio, summary
from ..options import DTYPES, Options
from ..report import Result, Row, absolute
from ..subjects.reference import plain
from ..subjects.trunks import build, usual_size

LARGE = (1024, 1024)


def training_step(trunk: nn.Module, x: Tensor, options: Options) -> Callable[[], None]:
    """A function that runs one step on `x`: forward, backward on the sum of squares, AdamW."""
    trained = [p for p in trunk.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def step() -> None:
        with options.autocast():
            loss = energy(trunk(x))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure(options: Options) -> Result:
    """Rows step_*, saved_*, adapter_forward_share and utilization_*; the counted floor is a fact."""
    name = options.trunk or "vitdet_b"
    size = options.size or usual_size(name)
    result = Result(
        f"{options.describe(name, size)}; full: tuner Full, SumStem; IV-tuning: PromptStem, IVTuning; a step "
        "is forward, backward, AdamW on the sum of squares of the outputs"
    )
    others = options.trained_methods()
    bound = floor(name, size, options.depth)
    result.raw["flops"] = {**bound, "iv": count_iv(name, size, options.depth)}
    result.facts["floor"] = bound["ratio"]
    result.raw["rate"] = rate(options.device, DTYPES[options.dtype])
    result.facts["rate_tflops"] = result.raw["rate"] / 1e12
    _steps(result, options, name, size, bound["ratio"], others)
    _share(result, options, name, size)
    if size == LARGE:
        result.rows["step_over_reference_1024"] = result.rows["step_over_reference"]
    elif options.large:
        _large(result, options, name)
    else:
        result.rows["step_over_reference_1024"] = Row(note="left out")
    return result


def _iv(options: Options, name: str, activation_checkpointing: str | None = None) -> Trunk:
    stem, tuner = METHODS["IVTuning"].plugins()
    return build(name, stem, tuner, options.depth, activation_checkpointing, options.device)


def _reference(options: Options, name: str) -> Trunk:
    return plain(_iv(options, name))


def _steps(
    result: Result, options: Options, name: str, size: tuple[int, int], bound: float, others: Sequence[str]
) -> None:
    """Time, memory and utilization of all methods at one size, in one set of rounds."""
    x = options.random_pairs(size)
    modes = [mode for mode in ACTIVATION_CHECKPOINTING if mode]
    makers = {
        "full": partial(build, name, *METHODS["Full"].plugins(), options.depth, device=options.device),
        "frozen": partial(frozen_trunk, name, options.depth, options.device),
        "iv": partial(_iv, options, name),
        **{f"iv_{mode}": partial(_iv, options, name, mode) for mode in modes},
        "reference": partial(_reference, options, name),
    }
    for method in others:
        if method not in ("IVTuning", "Full"):
            plugins = METHODS[method].plugins()
            makers[method] = partial(build, name, *plugins, options.depth, device=options.device)
    steps, saved = prepare(makers, x, options)
    times = interleaved(steps, options.repeats, "step", options.warmup, may_not_fit=True)
    # What a step adds to the weights and AdamW's state; those of all methods exist at the same time.
    peaks = fitting({key: partial(peak_bytes, step) for key, step in steps.items()})
    result.raw |= {"saved_bytes": saved, "step_seconds": summary(times)}
    if peaks:
        result.raw["peak_bytes"] = peaks

    aim = f"<= {1.08 * bound:.3f}: 1.08 x {bound:.3f} (counted FLOPs, frozen / full)"
    result.rows["step_over_full"] = Row.between(times, "iv", "full", target=aim)
    result.rows["step_frozen_over_full"] = Row.between(times, "frozen", "full")
    result.rows["step_over_reference"] = Row.between(times, "iv", "reference")
    note = ""
    if not missing_note(saved, "frozen", "full"):
        least = result.facts["saved_floor"] = saved["frozen"] / saved["full"]
        note = f"floor without adapters {least:.3f}; full keeps {saved['full'] / 1e6:,.0f} MB"
    result.rows["saved_over_full"] = Row.of_bytes(saved, "iv", "full", note)
    for mode in modes:
        result.rows[f"saved_over_full_{mode}"] = Row.of_bytes(saved, f"iv_{mode}", "full")
        result.rows[f"step_over_full_{mode}"] = Row.between(times, f"iv_{mode}", "full")
    for key in ("iv", "full"):
        result.rows[f"utilization_{key}"] = _utilization(result, times, key, options.batch)
    columns = {"saved GB": saved, **({"peak GB": peaks} if peaks else {})}
    result.listings.append(absolute(makers, times, options.batch, "ms a step", columns))


def prepare(
    makers: Mapping[str, Callable[[], nn.Module]], x: Tensor, options: Options
) -> tuple[dict[str, Callable[[], None]], dict[str, int]]:
    """The training steps of the trunks that `makers` make, and the bytes that their forward passes save.

    Steps that do not fit into memory are left out.
    """
    saved: dict[str, int] = {}

    def step(key: str, make: Callable[[], nn.Module]) -> Callable[[], None]:
        trunk = make()
        saved[key] = _saved(trunk, x, options)
        return training_step(trunk, x, options)

    return fitting({key: partial(step, key, make) for key, make in makers.items()}), saved


def _saved(trunk: nn.Module, x: Tensor, options: Options) -> int:
    def run() -> Tensor:
        with options.autocast():
            return energy(trunk(x))

    return saved_bytes(trunk, run)


def _utilization(result: Result, times: Times, key: str, batch: int) -> Row:
    """The share of the machine's rate that a step reaches. Recomputed arithmetic does not count."""
    if key not in times:
        return Row(note=missing_note(times, key))
    # This is the ratio to a step that consists of nothing but arithmetic at that rate.
    least = result.raw["flops"][key] * batch / result.raw["rate"]
    note = f"of {result.facts['rate_tflops']:.2f} TFLOP/s, one large matrix product"
    return Row.of(ratio({"least": [least] * len(times[key]), **times}, "least", key), note=note)


def _share(result: Result, options: Options, name: str, size: tuple[int, int]) -> None:
    """The adapters' share of a forward pass with gradients: the same stem, with and without them."""
    x = options.random_pairs(size)

    def forward(make: Callable[[], Trunk]) -> Callable[[], object]:
        trunk = make()

        def run() -> object:
            with options.autocast():
                return trunk(x)

        return run

    makers = {
        "bare": partial(build, name, PromptStem(), Frozen(), options.depth, device=options.device),
        "iv": partial(_iv, options, name),
    }
    runs = fitting({key: partial(forward, make) for key, make in makers.items()})
    times = interleaved(runs, options.repeats, "forward", options.warmup, may_not_fit=True)
    result.raw["forward_seconds"] = summary(times)
    note = missing_note(times, "bare", "iv")
    if note:
        result.rows["adapter_forward_share"] = Row(note=note)
        return
    middle, low, high = ratio(times, "bare", "iv")
    result.rows["adapter_forward_share"] = Row(1 - middle, (1 - high, 1 - low))


def _large(result: Result, options: Options, name: str) -> None:
    """IV-tuning and the reference at 1024 x 1024 pixels."""
    x = options.random_pairs(LARGE)

    def step(make: Callable[[Options, str], Trunk]) -> Callable[[], None]:
        return training_step(make(options, name), x, options)

    runs = fitting({"iv": partial(step, _iv), "reference": partial(step, _reference)})
    times = interleaved(runs, options.repeats, "step at 1024 px", options.warmup, may_not_fit=True)
    result.raw["step_seconds_1024"] = summary(times)
    result.rows["step_over_reference_1024"] = Row.between(times, "iv", "reference")
