"""The log: printed from the start, and written to a run's folder once the run changes it."""

from __future__ import annotations

import logging
import platform
from logging.handlers import MemoryHandler
from pathlib import Path

import torch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from .. import __version__
from ..errors import user_message

NAMES = ("detectron2", "fvcore", "ivtuning")


def start_log() -> None:
    """Print the log of the main process, and hold that of every process for :func:`write_log`."""
    held = MemoryHandler(capacity=1_000_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    for name in NAMES:
        logger = setup_logger(distributed_rank=comm.get_rank(), name=name)
        for handler in [h for h in logger.handlers if isinstance(h, MemoryHandler)]:
            logger.removeHandler(handler)
        logger.addHandler(held)
    # Errors that a user can fix end with one line; detectron2's loop would log the whole stack before it.
    logging.getLogger("detectron2.engine.train_loop").addFilter(_is_unexpected)


def write_log(folder: Path) -> None:
    """Append to log.txt in `folder` what was held, and from now on what comes.

    The other processes have files of their own. Without :func:`start_log` nothing is written.
    """
    loggers = [logging.getLogger(name) for name in NAMES]
    held = next((h for h in loggers[0].handlers if isinstance(h, MemoryHandler)), None)
    if held is None:
        return
    rank = comm.get_rank()
    file = logging.FileHandler(folder / ("log.txt" if rank == 0 else f"log.txt.rank{rank}"), encoding="utf-8")
    file.setFormatter(
        logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S")
    )
    held.setTarget(file)
    held.flush()
    for logger in loggers:
        logger.removeHandler(held)
        logger.addHandler(file)


def versions() -> str:
    """The versions and devices that figures depend on, on one line."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return (
        f"ivtuning {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} threads, {device}"
    )


def _is_unexpected(record: logging.LogRecord) -> bool:
    return not (record.exc_info and record.exc_info[1] and user_message(record.exc_info[1]))
