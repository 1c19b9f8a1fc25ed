#!/usr/bin/env python
"""Write one HTML page about a training run: curves, figures, confusion, and its worst and best pairs.

Several runs get a page with their curves and figures side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ivtuning.config.command_line import ToolParser
from ivtuning.errors import Stopped, UserError, run_tool

EXAMPLE = """\
tools/report.py output/synthetic/ivtuning
  tools/report.py output/synthetic/ivtuning --output page.html --threshold 0.3 train.device=cpu
  tools/report.py output/synthetic/ivtuning output/synthetic/ivtuning-Full --output both.html

The model predicts the test set once; the predictions stay in the run's folder."""


def main(argv: Sequence[str]) -> None:
    parser = ToolParser(__doc__, EXAMPLE)
    add = parser.add_argument
    add(
        "runs", nargs="+", metavar="RUN", help="output folder of a run; then key=value, changes to its config"
    )
    add("--output", metavar="FILE", help="the page (default: report.html in the first run's folder)")
    add(
        "--weights",
        metavar="FILE",
        help="checkpoint that predicts (default: the one that was evaluated last)",
    )
    add("--threshold", type=float, help="least score of boxes that count (default: where F1 is best)")
    add(
        "--pairs", type=int, default=6, metavar="N", help="worst and best pairs to draw, of each (default: 6)"
    )
    add("--no-predictions", action="store_true", help="curves and figures only, without model and data")
    args = parser.parse_args(argv)
    folders = [run for run in args.runs if "=" not in run or Path(run).exists()]
    overrides = [word for word in args.runs if word not in folders]
    if not folders:
        parser.error("name the output folder of a run")
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold {args.threshold:g} is not a score: give a number from 0 to 1")
    if args.weights and len(folders) > 1:
        raise UserError("--weights goes with one run: pages of several runs show no predictions")
    if args.pairs < 0:
        raise UserError(f"--pairs {args.pairs}: give a number from 0")

    from ivtuning.report.page import write_report
    from ivtuning.report.runs import read_run

    runs = [read_run(folder, overrides) for folder in folders]
    output = Path(args.output or runs[0].path / "report.html")
    try:
        write_report(runs, output, not args.no_predictions, args.weights, args.threshold, args.pairs)
    except Stopped as stopped:
        raise Stopped(stopped.number, f"{stopped}: the same command goes on") from stopped
    print(f"wrote {output}")


if __name__ == "__main__":
    run_tool(main)
