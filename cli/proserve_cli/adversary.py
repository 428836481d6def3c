"""`proserve bench adversary`: a search for workloads on which a policy earns less than another one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from proserve_cli.failures import failed, wrong_usage

if TYPE_CHECKING:
    from proserve_lab.search.regret import Regret


def adversary(
    *,
    policy: Annotated[str, typer.Option(help="Policy that is searched against.")] = "recoverable-gain",
    rounds: Annotated[int, typer.Option(help="Workloads to try, those of the log included.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Decides which workloads are tried.")] = 0,
    log: Annotated[Path | None, typer.Option(help="Write every try here, and go on where it ends.")] = None,
    worst: Annotated[int, typer.Option(help="How many of the worst to show and write.", min=1)] = 10,
    write: Annotated[Path | None, typer.Option(help="Write the worst as case files to this folder.")] = None,
    case: Annotated[list[Path] | None, typer.Option(help="Play these case files again instead of a search.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Search small workloads for those on which another policy earns more; each is confirmed with other seeds."""
    from proserve_core.batching.registry import PolicyError
    from proserve_lab.search.adversary import LogError
    from proserve_lab.search.cases import CaseError

    try:
        found = _replay(case, policy) if case else _search(policy, rounds, seed, log, worst, write)
    except (PolicyError, LogError, CaseError, ValueError) as error:
        raise wrong_usage(error) from error
    except OSError as error:
        raise failed(f"{error.filename}: {error.strerror}") from error
    if json:
        typer.echo(msgspec.json.encode([{"name": name, **msgspec.to_builtins(item)} for name, item in found]).decode())
    else:
        _print(policy, found)


def _search(
    policy: str, rounds: int, seed: int, log: Path | None, worst: int, write: Path | None
) -> "list[tuple[str, Regret]]":
    from rich.progress import Progress

    from proserve_lab.search.adversary import Try, search
    from proserve_lab.search.cases import write_cases

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"searching against {policy}", total=rounds)

        def progress(tried: Try) -> None:
            bar.update(task, completed=tried.round + 1)

        tries = search(policy=policy, rounds=rounds, seed=seed, log=log, progress=progress)[:worst]
    if write is not None:
        write_cases(tries, policy=policy, seed=seed, folder=write)
    return [(f"round {item.round}", item.confirmed) for item in tries if item.confirmed is not None]


def _replay(files: list[Path], policy: str) -> "list[tuple[str, Regret]]":
    from proserve_lab.search.cases import read_case
    from proserve_lab.search.regret import regret

    played = []
    for path in files:
        case = read_case(path)
        result = regret(case.spec, ours=policy, seeds=case.seeds)
        if result is not None:
            played.append((path.stem, result))
    return played


def _print(policy: str, found: "list[tuple[str, Regret]]") -> None:
    table = Table(title=f"{policy} against the best other policy, TDG ratio")
    for heading in ("workload", "best other", policy, "best", "regret", "+-", "lost more by"):
        justify: Literal["left", "right"] = "left" if heading in {"workload", "best other", "lost more by"} else "right"
        table.add_column(heading, justify=justify, overflow="fold")
    for name, item in found:
        causes = sorted(item.lost, key=lambda cause: -item.lost[cause])[:2]
        table.add_row(
            name,
            item.best,
            f"{item.ours:.4f}",
            f"{item.theirs:.4f}",
            f"{item.mean:+.4f}",
            f"{item.spread:.4f}",
            ", ".join(f"{cause} {item.lost[cause]:+.3f}" for cause in causes if item.lost[cause] > 0),
        )
    console = Console()
    console.print(table)
    console.print("Target: 0.005 at most; the best other is one policy for all seeds.", highlight=False)
