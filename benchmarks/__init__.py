"""Throughput of the parts, as ratios in one run; never timed tests."""
