"""``python -m ivtuning.comparison <job as JSON>``: one run of a comparison, in a process of its own."""

import json

from ..errors import run_tool
from .jobs import Job
from .runs import work

run_tool(lambda argv: work(Job(**json.loads(argv[0]))))
