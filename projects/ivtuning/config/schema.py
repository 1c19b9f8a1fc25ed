"""The types and ranges of a run's settings: `train`, `optimizer`, and the scalars of `dataloader`.

Values of the model and of the data's mappers are checked by the classes that receive them, see
:mod:`.building`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    model_validator,
)

from ..errors import UserError
from ..utils.schema import first_fault

if TYPE_CHECKING:
    from omegaconf import DictConfig


def check_values(cfg: DictConfig, file: str) -> None:
    """Check the settings of a whole config, one that has all of RUN_GROUPS.

    A whole float (``1e1``) becomes an integer where one is due. So does text that is a number, because YAML
    reads ``1e-4`` as text, and so does what an environment variable gives (``${oc.env:SEED}``).

    Args:
        file: where the config comes from, for messages.

    Raises:
        UserError: a value that refers to nothing, an unknown key, or a value of a wrong type or out of range.
    """
    from omegaconf import OmegaConf

    for group, schema in _SCHEMAS.items():
        given = _resolved(cfg[group], file)
        try:
            settings = schema.model_validate(given)
        except ValidationError as error:
            fault = first_fault(error, tuple(_names(schema)))
            joint = "." if any(each["loc"] for each in error.errors()) else ": "
            raise UserError(f"{group}{joint}{fault}; change it in {file} or with an override") from error
        referring = []
        for key, value in _converted(settings, given):
            parent, _, last = f"{group}.{key}".rpartition(".")
            if OmegaConf.is_interpolation(OmegaConf.select(cfg, parent), last):
                referring.append(key)
            else:
                OmegaConf.update(cfg, f"{group}.{key}", value)
        # What refers to a value that has been converted goes on to refer to it.
        for key, value in _converted(settings, _resolved(cfg[group], file)) if referring else ():
            OmegaConf.update(cfg, f"{group}.{key}", value)
    _resolved(cfg, file)


def _resolved(node: Any, file: str) -> Any:
    """`node` as plain values."""
    from omegaconf import OmegaConf

    if not OmegaConf.is_config(node):
        return node
    with resolving(file):
        return OmegaConf.to_container(node, resolve=True)


@contextlib.contextmanager
def resolving(file: str, key: str = "") -> Iterator[None]:
    """Inside, a value that refers to nothing raises a UserError.

    Args:
        file: where the config comes from, for the message.
        key: the value's, where OmegaConf does not say it.
    """
    from omegaconf.errors import InterpolationResolutionError, InterpolationToMissingValueError

    try:
        yield
    except InterpolationToMissingValueError as error:
        missing = re.search(r"value: ([\w.]+)", str(error))
        key = missing[1] if missing else error.full_key or key
        raise UserError(f"{key} has no value yet: give {key}=..., or set it in {file}") from error
    except InterpolationResolutionError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: {error.full_key or key} refers to what is not there: {reason}") from error


def _number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise ValueError("give a number") from None
    if isinstance(value, bool):
        raise ValueError("give a number")
    return value


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("give text; a number or a list needs quotes")
    if value == "???":
        raise ValueError("it has no value yet, give one")
    return value


def _filled(value: str) -> str:
    if not value.strip():
        raise ValueError("it is empty, give it a value")
    return value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d+)?", value):
        raise ValueError("give auto, cpu, cuda or cuda:N")
    return value


Whole = Annotated[int, BeforeValidator(_number)]
Count = Annotated[Whole, Field(ge=1)]
CountOrZero = Annotated[Whole, Field(ge=0)]
Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Positive = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
Decay = Annotated[Real, Field(ge=0, lt=1)]
Text = Annotated[str, BeforeValidator(_text)]
Filled = Annotated[Text, AfterValidator(_filled)]


class _Closed(BaseModel):
    """A group that has these keys and no other."""

    model_config = ConfigDict(extra="forbid")


class _Open(BaseModel):
    """The arguments of a callable that are checked here; it may have others."""

    model_config = ConfigDict(extra="ignore")


class Checkpoints(_Closed):
    """When checkpoints are written, in iterations, and how many are kept; None keeps all."""

    period: Count
    max_to_keep: Count | None = None


class DDP(_Closed):
    """Options of torch's DistributedDataParallel."""

    broadcast_buffers: StrictBool = True
    find_unused_parameters: StrictBool = False
    bucket_cap_mb: Positive | None = None
    gradient_as_bucket_view: StrictBool = False
    static_graph: StrictBool = False


class Train(_Closed):
    """Settings of a run; configs/common/train.py says what they mean."""

    output_dir: Filled
    init_checkpoint: Text | None
    max_iter: Count
    seed: Annotated[Whole, Field(ge=0, lt=2**31)]
    device: Annotated[Text, AfterValidator(_device)]
    precision: Literal["fp32", "bf16", "fp16"]
    gradient_accumulation: Count
    clip_grad_norm: NotNegative
    ema_decay: Decay
    eval_period: CountOrZero
    best_metric: Text | None
    log_period: Count
    wandb: Text = ""
    checkpointer: Checkpoints
    parallel: Literal["ddp", "fsdp"]
    ddp: DDP
    frozen_dtype: Literal["fp32", "bf16"]
    residual_dtype: Literal["fp32", "bf16"] = "bf16"
    compile: StrictBool
    channels_last: StrictBool
    cudnn_benchmark: StrictBool

    @model_validator(mode="after")
    def _go_together(self) -> Train:
        if self.parallel == "fsdp" and self.precision == "fp16":
            raise ValueError("parallel=fsdp has no loss scaling for precision=fp16: use bf16")
        if self.frozen_dtype == "bf16" and self.precision != "bf16":
            raise ValueError(f"frozen_dtype=bf16 needs precision=bf16, not {self.precision}")
        if self.frozen_dtype == "bf16" and self.parallel == "fsdp":
            raise ValueError(
                "frozen_dtype=bf16 does not go with parallel=fsdp, which shards blocks of one type alone: "
                "use ddp"
            )
        return self


class Rates(_Open):
    """Arguments of :func:`ivtuning.engine.optim.param_groups`."""

    lr: Positive | None = None
    weight_decay: NotNegative | None = None
    layer_decay: Annotated[Real, Field(gt=0, le=1)] = 1.0
    trunk_lr_factor: Positive = 1.0
    added_lr_factor: Positive = 1.0


class Optimizer(_Open):
    """Arguments that torch's optimizers have in common."""

    lr: Positive
    weight_decay: NotNegative = 0.0
    betas: tuple[Decay, Decay] | None = None
    momentum: Decay | None = None
    eps: Positive | None = None
    fused: StrictBool | None = None
    foreach: StrictBool | None = None
    amsgrad: StrictBool = False
    nesterov: StrictBool = False
    params: Rates


class Dataset(_Open):
    """A function of the names of one or several registered sets."""

    # A single name may stand without a list.
    names: Annotated[list[Filled], BeforeValidator(_listed), Field(min_length=1)]


class Loader(_Open):
    """Arguments that the loaders have in common."""

    dataset: Dataset | None = None
    total_batch_size: Count | None = None
    batch_size: Count | None = None
    num_workers: CountOrZero = 0
    on_bad_pair: Literal["stop", "skip"] = "stop"


class Loaders(_Open):
    """The loaders of a run."""

    train: Loader
    test: Loader


_SCHEMAS: dict[str, type[BaseModel]] = {"train": Train, "optimizer": Optimizer, "dataloader": Loaders}


def _names(schema: type[BaseModel]) -> Iterator[str]:
    """The keys of `schema` and of the groups in it."""
    for name, field in schema.model_fields.items():
        yield name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _names(field.annotation)


def _converted(settings: BaseModel, given: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of `given` whose type the validation changed, with their new values."""
    for name, value in settings:
        if name not in given:
            continue
        if isinstance(value, BaseModel):
            yield from _converted(value, given[name], f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and type(value) is not type(given[name]):
            yield f"{prefix}{name}", value
        elif isinstance(value, tuple) and list(map(type, value)) != list(map(type, given[name])):
            yield f"{prefix}{name}", list(value)
