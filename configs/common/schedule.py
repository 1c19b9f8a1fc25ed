"""Learning-rate schedules as multiples of the optimizer's rate.

A length below 1 is a share of the run, from 1 on it is a number of iterations. So a run of another
train.max_iter keeps a warm-up in iterations, and milestones in shares move with its end.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import CosineParamScheduler, PolynomialDecayParamScheduler

from ivtuning.engine.schedule import Steps, WarmUp


def step(milestones, warmup, warmup_factor=0.001):
    """x0.1 at each of `milestones`, after a linear warm-up."""
    steps = L(Steps)(max_iter="${train.max_iter}", milestones=list(milestones))
    return L(WarmUp)(scheduler=steps, max_iter="${train.max_iter}", length=warmup, factor=warmup_factor)


def cosine(warmup=0.1, end=0.01, warmup_factor=0.01):
    """Cosine from 1 to `end`, after a linear warm-up."""
    return L(WarmUp)(
        scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=end),
        max_iter="${train.max_iter}",
        length=warmup,
        factor=warmup_factor,
    )


def poly(power=1.0, warmup=1500, warmup_factor=1e-6):
    """(1 - progress) ** `power`, after a linear warm-up."""
    return L(WarmUp)(
        scheduler=L(PolynomialDecayParamScheduler)(base_value=1.0, power=power),
        max_iter="${train.max_iter}",
        length=warmup,
        factor=warmup_factor,
    )
