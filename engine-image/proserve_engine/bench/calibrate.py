"""Fits a step-latency model to a real engine on this machine.

`python -m proserve_engine.bench.calibrate MODEL` runs vLLM in this process under a load that mixes prompts of 16 to
2,000 tokens with up to 64 streams, and fits `proserve_core.latency` to its steps. The time of a step is the CPU time
of the engine's thread from the start of planning to the end of `update_from_output`: on a CPU with one OpenMP thread
the model runs on that very thread, and other processes on the machine do not count. Prints the model as JSON and the
errors of the fit; calibrations/cpu-tiny.json was made with it.
"""

import argparse
import os
import random
import sys
import time
from typing import Any

import msgspec

from proserve_core.latency.fit import StepSample, fit_latency
from proserve_engine.serve import UNIPROC_EXECUTOR
from proserve_engine.tiny_model import resolve_model
from proserve_engine.vllm.steps import work_of

WARM_UP_STEPS = 50


def record(model: str, *, seconds: float, seed: int = 0) -> list[StepSample]:
    """Run the engine for `seconds` and return its steps."""
    from vllm import LLM, SamplingParams
    from vllm.v1.core.sched.scheduler import Scheduler

    samples: list[StepSample] = []

    class Recording(Scheduler):
        """vLLM's scheduler with a stop watch."""

        def schedule(self, throttle_prefills: bool = False) -> Any:
            self.began_s = time.thread_time()
            output = super().schedule(throttle_prefills)
            self.work = work_of(output.num_scheduled_tokens, self.requests, 1)
            return output

        def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
            result = super().update_from_output(scheduler_output, model_runner_output)
            samples.append(StepSample(self.work, time.thread_time() - self.began_s))
            return result

    llm = LLM(
        model,
        dtype="float32",
        enforce_eager=True,
        block_size=32,
        max_model_len=4096,
        max_num_seqs=64,
        max_num_batched_tokens=2048,
        enable_prefix_caching=False,
        distributed_executor_backend=UNIPROC_EXECUTOR,
        scheduler_cls=Recording,
    )
    engine, draw = llm.llm_engine, random.Random(seed)
    end_s = time.monotonic() + seconds
    sent, streams, change_s = 0, 1, 0.0
    while time.monotonic() < end_s:
        if time.monotonic() >= change_s:
            # Loads of all sizes, each for a moment.
            streams, change_s = round(64 ** draw.random()), time.monotonic() + 2.0
        while engine.get_num_unfinished_requests() < streams:
            length = round(16 * 125 ** draw.random())
            prompt = {"prompt_token_ids": [draw.randrange(300, 1000) for _ in range(length)]}
            parameters = SamplingParams(max_tokens=round(4 * 64 ** draw.random()), temperature=0, ignore_eos=True)
            engine.add_request(str(sent), prompt, parameters)
            sent += 1
        engine.step()
    return samples[WARM_UP_STEPS:]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proserve_engine.bench.calibrate", description=__doc__)
    parser.add_argument("model", nargs="?", default="generated://tiny")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    # Before anything imports torch.
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1", "VLLM_HOST_IP": "127.0.0.1"}
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    model, report = fit_latency(record(resolve_model(options.model), seconds=options.seconds))
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(model)).decode() + "\n")
    sys.stderr.write(msgspec.json.format(msgspec.json.encode(report)).decode() + "\n")


if __name__ == "__main__":
    main()
