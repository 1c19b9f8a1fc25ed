"""``python -m ivtuning.engine.launch``: torchrun, whose arguments it takes, without a stack of its own.

A process that fails prints its line, and the others do if it was killed; what torchrun adds says no more.
"""

from __future__ import annotations

import logging
import sys
from typing import NoReturn

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main


def launch() -> NoReturn:
    """Start the processes, and exit with the code of the one that failed first."""
    logging.disable(logging.ERROR)
    try:
        main()
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        sys.exit(code if code > 0 else 128 - code)  # negative: the signal that ended it
    except SignalException as error:
        sys.exit(128 + error.sigval)
    sys.exit(0)


if __name__ == "__main__":
    launch()
