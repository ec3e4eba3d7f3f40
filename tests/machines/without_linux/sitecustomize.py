"""Take away from Python what Linux alone has, as far as pygpt could use it: for test_machines."""

import os
import sys

sys.modules["triton"] = None  # type: ignore[assignment]
for name in ("sched_getaffinity", "sched_setaffinity", "memfd_create", "posix_fadvise"):
    if hasattr(os, name):
        delattr(os, name)
