"""Speed and memory: `python -m perf.NAME --json OUT`. Each prints ratios measured interleaved in one run."""
