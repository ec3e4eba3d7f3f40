"""The run report: reads a training log, judges it, projects it, and writes one page."""
