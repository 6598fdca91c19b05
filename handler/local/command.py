"""`pilotlight up`: RunPod's endpoint on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from engine.config import Device, DType, Quantization
from engine.errors import InvalidConfig
from engine.options import DEVICE, DTYPE, MODEL, QUANTIZE, ContextOption, MemoryOption
from handler.billing.options import parse_price


def up(
    model: Annotated[str | None, MODEL] = None,
    workers_min: Annotated[int, typer.Option(min=0, help="Workers that are always up.")] = 0,
    workers_max: Annotated[int, typer.Option(min=0, help="Workers at most.")] = 3,
    idle_timeout: Annotated[float, typer.Option(help="Seconds that a worker without work stays, 1 to 3600.")] = 5.0,
    scaler: Annotated[
        Literal["queue-delay", "request-count"] | None,
        typer.Option(help="When there is one more: by waiting time, or by the number of requests."),
    ] = None,
    scaler_value: Annotated[
        float | None, typer.Option(help="Seconds that a request may wait, or requests to a worker; default: 4.")
    ] = None,
    flashboot: Annotated[
        bool, typer.Option("--flashboot", help="Freeze workers without work, instead of stopping them.")
    ] = False,
    mode: Annotated[
        Literal["queue", "load-balancer"], typer.Option(help="RunPod's jobs, or requests passed straight to workers.")
    ] = "queue",
    runtime: Annotated[
        Literal["process", "podman", "docker"], typer.Option(help="What a worker is.")
    ] = "process",
    image: Annotated[str | None, typer.Option(help="What containers run.")] = None,
    container_option: Annotated[
        list[str] | None, typer.Option(metavar="OPTION", help="For each container, such as --gpus=all; repeatable.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0 takes a free one.")] = 8000,
    gpu: Annotated[
        str | None, typer.Option(help="The GPU whose price is reckoned with, such as 'RTX 4090' or ADA_24.")
    ] = None,
    gpu_price: Annotated[
        Decimal | None, typer.Option(parser=parse_price, metavar="DOLLARS", help="A second of a worker.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="PILOTLIGHT_API_KEY", help="What clients must present; several with commas.")
    ] = None,
    rate_limits: Annotated[
        bool, typer.Option("--rate-limits/--no-rate-limits", help="RunPod's limits of its clients' requests.")
    ] = True,
    attempts: Annotated[
        int, typer.Option(min=1, help="How often a job is tried whose workers are lost.")
    ] = 3,
    grace: Annotated[float, typer.Option(min=0, help="Seconds between SIGTERM to a worker and SIGKILL.")] = 30.0,
    state: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for jobs, bill, ledger and logs.")
    ] = None,
    job_loop: Annotated[
        Literal["sdk", "native"] | None, typer.Option(help="What takes the workers' jobs: RunPod's SDK, or our own.")
    ] = None,
    device: Annotated[Device | None, DEVICE] = None,
    dtype: Annotated[DType | None, DTYPE] = None,
    max_model_len: ContextOption = None,
    kv_memory: MemoryOption = None,
    quantize: Annotated[Quantization | None, QUANTIZE] = None,
) -> None:
    """RunPod's endpoint on this machine: a queue, workers from zero and back to it, and what it would cost."""
    from handler.local.choices import Choices, price_of
    from handler.local.run import run

    given = {
        "MODEL": as_workers_find_it(model or _model_of_environment(runtime)), "DEVICE": device, "DTYPE": dtype,
        "MAX_MODEL_LEN": max_model_len, "KV_MEMORY": kv_memory, "QUANTIZE": quantize, "JOB_LOOP": job_loop,
    }
    with _checked_usage():
        choices = Choices(
            state=(state or _default_state()).absolute(), port=port, mode=mode,
            scaling=_scaling(mode, scaler, scaler_value, workers_min, workers_max, idle_timeout), flashboot=flashboot,
            variables={f"PILOTLIGHT_{name}": str(value) for name, value in given.items() if value is not None},
            runtime=runtime, image=image, options=tuple(container_option or ()), gpu=gpu,
            price=price_of(gpu, gpu_price), rate_limits=rate_limits, attempts=attempts, grace_s=grace,
            api_keys=tuple(key.strip() for key in (api_key or "").split(",") if key.strip()),
        )
    run(choices)


@contextmanager
def _checked_usage() -> Iterator[None]:
    """Options that do not go together end in one line and status 2, as what the parser refuses does."""
    try:
        yield
    except InvalidConfig as error:
        print(f"pilotlight: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


def as_workers_find_it(model: str | None) -> str | None:
    """The model's name in any folder, since workers run in their own. Without a model it is their own default."""
    is_folder = model not in (None, "demo") and Path(model or "").is_dir()
    return str(Path(model or "").absolute()) if is_folder else model


def _model_of_environment(runtime: str) -> str | None:
    """What processes inherit; containers do not."""
    names = ("PILOTLIGHT_MODEL", "MODEL_NAME") if runtime == "process" else ()
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _scaling(mode: str, name: str | None, value: float | None, least: int, most: int, idle_s: float) -> Any:
    from handler.local.scaler import DEFAULT_VALUES, ScalerKind, Scaling

    by_count = name == "request-count" or (name is None and mode == "load-balancer")
    kind: ScalerKind = "REQUEST_COUNT" if by_count else "QUEUE_DELAY"
    return Scaling(kind, DEFAULT_VALUES[kind] if value is None else value, least, most, idle_s)


def _default_state() -> Path:
    """A folder of the user's, by XDG's specification."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111 - knows no home, too.
    return Path(home, "pilotlight", "local")
