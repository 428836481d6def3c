"""Entry point of group `vllm.general_plugins`: vLLM calls `register` in each of its processes.

The scheduler classes are found by name (`--scheduler-cls`), so nothing has to be registered. What is left to do is to
stop an engine that would use them on an unsuitable vLLM before it loads a model. Safe to call any number of times.
"""

import os

from proserve_engine.vllm.seams import check_classes, check_version, installed_version
from proserve_engine.vllm.settings import POLICY


def register() -> None:
    """Check vLLM, but only where the engine was told to use a ProServe policy: a plain `vllm serve` stays as it is."""
    if POLICY not in os.environ:
        return
    version = installed_version()
    check_version(version, os.environ)

    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.request import Request

    check_classes(Scheduler, Request, version)
