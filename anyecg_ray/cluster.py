"""Connect to Ray: the cluster that RAY_ADDRESS names (a submitted job has it), else this machine."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray


@contextmanager
def connected() -> Iterator[None]:
    """Ray for the length of a block; one that was connected before stays so afterwards."""
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray.data").setLevel(os.environ.get("ANYECG_LOG", "WARNING"))
    where = {} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False}
    # a worker's own lines are for its log file: they may name a record
    ray.init(log_to_driver=False, logging_level=logging.WARNING, **where)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    try:
        yield
    finally:
        ray.shutdown()
