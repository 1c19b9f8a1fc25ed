"""Learning-rate schedules as multiples of the optimizer's rate."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    PolynomialDecayParamScheduler,
)


def step(max_iter, milestones, warmup, warmup_factor=0.001):
    """x0.1 at each of `milestones`, after a linear warm-up; all in iterations."""
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=[0.1**i for i in range(len(milestones) + 1)],
            milestones=list(milestones),
            num_updates=max_iter,
        ),
        warmup_length=warmup / max_iter,
        warmup_factor=warmup_factor,
    )


def cosine(warmup=0.1, end=0.01):
    """Cosine from 1 to `end` after a linear warm-up over the share `warmup` of the run."""
    return L(WarmupParamScheduler)(
        scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=end),
        warmup_length=warmup,
        warmup_factor=0.01,
    )


def poly(max_iter, power=1.0, warmup=1500, warmup_factor=1e-6):
    """(1 - progress) ** `power`, after a linear warm-up of `warmup` iterations."""
    return L(WarmupParamScheduler)(
        scheduler=L(PolynomialDecayParamScheduler)(base_value=1.0, power=power),
        warmup_length=warmup / max_iter,
        warmup_factor=warmup_factor,
    )
