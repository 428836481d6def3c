"""Engines as local processes, with small scripts in place of engines."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from proserve_cli.engine_process import EngineProcess
from proserve_cli.local_engines import EngineSpec, EngineStartError, EngineState, LocalEngines
from proserve_lab.free_port import free_port

SERVER = """
import http.server, os, subprocess, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *args): pass
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
print('child', child.pid, flush=True)
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
time.sleep(600)
"""


def spec(code: str, *, name: str = "engine", port: int = 0) -> EngineSpec:
    root = f"http://127.0.0.1:{port}"
    return EngineSpec(
        name=name, pool="pool", policy="fcfs", command=[sys.executable, "-c", code, str(port)],
        environment=dict(os.environ), base_url=root, capacity_url=root, ready_urls=(root,),
    )  # fmt: skip


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # A zombie has ended; it only waits to be collected by whatever adopted it.
    return stat.rsplit(") ", 1)[1][0] != "Z"


async def until(condition: Callable[[], bool], limit_s: float = 300.0) -> None:
    start_s = time.monotonic()
    while not condition():
        assert time.monotonic() - start_s < limit_s
        await asyncio.sleep(0.02)


async def test_engines_start_together_and_nothing_is_left_when_the_block_ends(tmp_path: Path) -> None:
    specs = [spec(SERVER, name=name, port=free_port()) for name in ("a", "b")]
    ready: list[str] = []
    async with LocalEngines(specs, tmp_path) as engines:
        await engines.ready(300, lambda engine: ready.append(engine.spec.name))
        assert [engine.state for engine in engines.engines] == [EngineState.READY] * 2
        pids = [engine.process.pid for engine in engines.engines if engine.process is not None]
        pids += [int((tmp_path / f"{name}.log").read_text().split()[1]) for name in ("a", "b")]
        assert all(alive(pid) for pid in pids)
    assert sorted(ready) == ["a", "b"]
    assert not any(alive(pid) for pid in pids)


async def test_an_engine_that_dies_at_start_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(EngineStartError, match=r"(?s)engine engine exited with code 3.*no such model") as caught:
        async with LocalEngines([spec("print('no such model'); raise SystemExit(3)")], tmp_path) as engines:
            await engines.ready(300)
    assert str(tmp_path / "engine.log") in str(caught.value)


async def test_an_engine_that_never_answers_is_given_up_after_the_limit(tmp_path: Path) -> None:
    with pytest.raises(EngineStartError, match="did not answer within"):
        async with LocalEngines([spec("import time; time.sleep(60)", port=free_port())], tmp_path) as engines:
            await engines.ready(0.3)


async def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    missing = EngineSpec(
        name="engine", pool="p", policy="fcfs", command=["/nowhere/engine"], environment={},
        base_url="http://127.0.0.1:1", capacity_url="http://127.0.0.1:1", ready_urls=(),
    )  # fmt: skip
    with pytest.raises(EngineStartError, match="cannot start '/nowhere/engine'"):
        async with LocalEngines([missing], tmp_path):
            pass


async def test_a_killed_engine_is_started_again_and_its_children_are_gone(tmp_path: Path) -> None:
    async with LocalEngines([spec(SERVER, port=free_port())], tmp_path) as engines:
        await engines.ready(300)
        engines.watch(300)
        [engine] = engines.engines
        assert engine.process is not None
        child = int(engine.log.read_text().split()[1])
        os.kill(engine.process.pid, signal.SIGKILL)
        await until(lambda: engine.restarts == 1 and engine.state is EngineState.READY)
        assert not alive(child)


async def test_sockets_between_the_processes_of_an_engine_go_with_it(tmp_path: Path) -> None:
    code = "import os, pathlib, time; folder = pathlib.Path(os.environ['VLLM_RPC_BASE_PATH']); "
    code += "(folder / 'socket').touch(); print(folder, flush=True); time.sleep(600)"
    log = tmp_path / "engine.log"
    process = await EngineProcess.start([sys.executable, "-c", code], environment={}, log=log)
    await until(lambda: log.read_text().endswith("\n"))
    folder = log.read_text().strip()
    assert os.listdir(folder) == ["socket"]
    await process.stop()
    assert os.path.basename(folder) not in os.listdir(os.path.dirname(folder))


async def test_an_engine_that_keeps_dying_is_given_up(tmp_path: Path) -> None:
    port = free_port()
    once = f"import os, sys\nif os.path.exists({str(tmp_path / 'ran')!r}): sys.exit(1)\n"
    once += f"open({str(tmp_path / 'ran')!r}, 'w').close()\n{SERVER}"
    async with LocalEngines([spec(once, port=port)], tmp_path) as engines:
        await engines.ready(300)
        engines.watch(300)
        [engine] = engines.engines
        assert engine.process is not None
        os.kill(engine.process.pid, signal.SIGKILL)
        await until(lambda: engine.state is EngineState.FAILED and engine.restarts == 3)


async def test_a_process_that_ignores_term_is_killed_after_the_grace(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = await EngineProcess.start([sys.executable, "-c", STUBBORN], environment=os.environ, log=log)
    await until(lambda: "up" in log.read_text())
    await process.stop(grace_s=0.2)
    assert not alive(process.pid)
    assert await process.wait() == -signal.SIGKILL
