"""Speed and memory as ratios measured in one run, one module for each part; run by tools/benchmark.py."""
