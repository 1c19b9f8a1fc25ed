"""``python -m ivtuning.comparison <job as JSON>``: one run of a comparison, in a process of its own.

It ends with the comparison: its input is a pipe that closes then, however the comparison ended.
"""

import json
import os
import sys
import threading

from ..errors import run_tool
from .jobs import Job
from .runs import work


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


threading.Thread(target=_end_with_parent, daemon=True).start()
run_tool(lambda argv: work(Job(**json.loads(argv[0]))))
