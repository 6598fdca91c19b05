"""The front door: the `pilotlight` command.

Each subcommand is a thin call into one room, which is imported when the subcommand runs and not before.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict
from importlib import metadata
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from engine.config import Device, DType, EngineConfig, Quantization
from engine.display import note, print_checks, progress, report, working
from engine.errors import PilotlightError
from engine.lanes import Lane
from engine.options import (
    DETERMINISTIC,
    DEVICE,
    DTYPE,
    MODEL,
    QUANTIZE,
    ContextOption,
    DeviceOption,
    DTypeOption,
    JsonOption,
    MaxTokens,
    MemoryOption,
    Model,
    QuantizeOption,
    Temperature,
    parse_architectures,
    parse_dtypes,
)
from handler.bench_command import app as bench
from handler.billing.command import app as bill
from handler.local.command import up
from warmup.command import app as warm
from warmup.errors import WarmerError

if TYPE_CHECKING:
    from engine.llm import LLM
    from engine.start import Start

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(bench, name="bench")
app.add_typer(bill, name="bill")
app.add_typer(warm, name="warm")
app.command()(up)


def _say_version(asked: bool) -> None:
    if asked:
        _write(f"pilotlight {metadata.version('pilotlight')}\n")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Say which version this is.")
    ] = False,
) -> None:
    """A serverless GPU function for language models."""


@app.command()
def serve(
    model: Annotated[str | None, MODEL] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one; default: 8000.")] = None,
    device: Annotated[Device | None, DEVICE] = None,
    dtype: Annotated[DType | None, DTYPE] = None,
    max_model_len: ContextOption = None,
    kv_memory: MemoryOption = None,
    quantize: Annotated[Quantization | None, QUANTIZE] = None,
    deterministic: Annotated[bool | None, DETERMINISTIC] = None,
    api_key: Annotated[str | None, typer.Option(help="What clients must present; several with commas.")] = None,
    api_keys_file: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="FILE", help="TOML: more keys, with names and limits.")
    ] = None,
) -> None:
    """Serve over HTTP: OpenAI's API and RunPod's. Options not given come from PILOTLIGHT_* variables."""
    from handler.server import serve as serve_http

    status = serve_http(
        model=model, host=host, port=port, device=device, dtype=dtype, max_model_len=max_model_len,
        kv_memory=kv_memory, quantize=quantize, deterministic=deterministic, api_key=api_key,
        api_keys_file=api_keys_file,
    )
    raise typer.Exit(status)


@app.command()
def generate(
    prompt: Annotated[str, typer.Option("-p", "--prompt", metavar="TEXT", help="The prompt; - reads standard input.")],
    model: Model = "demo",
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    raw: Annotated[bool, typer.Option("--raw", help="Do not apply the model's chat template.")] = False,
    device: DeviceOption = "auto",
    dtype: DTypeOption = "auto",
    max_model_len: ContextOption = None,
    kv_memory: MemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Complete one prompt in this process, printed as it is generated."""
    start = _begin(model)
    from engine.request import SamplingParams
    from engine.terminal import complete

    text = _read_stdin() if prompt == "-" else prompt
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature)
    llm = _load(start, EngineConfig(model, device, dtype, max_model_len, kv_memory), quiet=as_json)
    completion = complete(llm, text, params, raw=raw, write=_ignore if as_json else _write)
    _write(json.dumps(asdict(completion)) + "\n" if as_json else "\n")


@app.command()
def chat(
    model: Model = "demo",
    max_tokens: MaxTokens = 1024,
    temperature: Temperature = 0.0,
    device: DeviceOption = "auto",
    dtype: DTypeOption = "auto",
    max_model_len: ContextOption = None,
    kv_memory: MemoryOption = None,
) -> None:
    """Talk in the terminal. /reset forgets, /quit or Ctrl-D leaves, Ctrl-C ends the answer."""
    start = _begin(model)
    import readline  # noqa: F401 (gives `input` a history and its keys)

    from engine.request import SamplingParams
    from engine.terminal import converse

    params = SamplingParams(max_tokens=max_tokens, temperature=temperature)
    llm = _load(start, EngineConfig(model, device, dtype, max_model_len, kv_memory), quiet=False)
    prompt = "> " if sys.stdin.isatty() else ""
    converse(llm, params, lambda: input(prompt), _write)


@app.command()
def boot(
    model: Model = "demo",
    lane: Annotated[
        Lane | None, typer.Option(help="What to evict or read in before each run; default: the machine as it is.")
    ] = None,
    runs: Annotated[int, typer.Option("-n", "--runs", min=1, help="Boots, each in a process of its own.")] = 1,
    svg: Annotated[
        Path | None, typer.Option(dir_okay=False, writable=True, metavar="FILE", help="Gets the waterfall as SVG.")
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, metavar="FILE", help="An earlier --json output: what is slower now?"),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What to complete; default: random tokens.")] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="How many random tokens.")] = 32,
    device: DeviceOption = "auto",
    dtype: DTypeOption = "auto",
    max_model_len: ContextOption = None,
    kv_memory: MemoryOption = None,
    quantize: QuantizeOption = "none",
    as_json: JsonOption = False,
) -> None:
    """Boot in a fresh process, from exec to the first token, and show where the time went."""
    from engine.boot_comparison import read_earlier
    from engine.boot_runs import Task, measure
    from engine.boot_views import show

    earlier = read_earlier(compare, model) if compare is not None else None
    if svg is not None:
        svg.touch()  # As for tokens: better known before the runs than after them.
    given = {
        "prompt": prompt, "prompt-tokens": prompt_tokens, "device": device, "dtype": dtype,
        "max-model-len": max_model_len, "kv-memory": kv_memory, "quantize": quantize,
    }
    options = tuple(f"--{name}={value}" for name, value in given.items() if value is not None)
    with progress("boots", runs, as_json) as advance:
        measurement = measure(Task(model, lane, options), runs, advance)
    show(measurement, earlier, svg, as_json=as_json)


@app.command()
def bake(
    source: Annotated[str, typer.Argument(metavar="SRC", help="demo, a folder, or a hub id (owner/name).")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    quantize: Annotated[
        Literal["none", "int8", "int4"], typer.Option(help="Round the layers' weights, and say what that changed.")
    ] = "none",
    arch: Annotated[
        str | None, typer.Option(metavar="80,90", help="Compile GPU kernels for these compute capabilities, times ten.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(metavar="bfloat16,float16", help="What the model may compute in with these kernels.")
    ] = "bfloat16",
    revision: Annotated[str | None, typer.Option(help="The hub's commit, tag or branch.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a baked folder.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Lay a model out for the quickest start: fused, in order, aligned, with a manifest. HF_TOKEN is for the hub."""
    from image.bake import BakeOptions
    from image.bake import bake as bake_model
    from image.progress import byte_progress, unseen

    architectures = parse_architectures(arch) if arch else ()
    options = BakeOptions(revision, quantize, architectures, parse_dtypes(dtype), force)
    baked = asdict(bake_model(source, out, options, unseen if as_json else byte_progress))
    note(f"warning: {warning}" for warning in baked.pop("warnings"))
    report(baked, as_json)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="A baked folder.")],
    as_json: JsonOption = False,
) -> None:
    """Check every byte of a baked folder against its manifest."""
    from image.progress import byte_progress, unseen
    from image.verify import verify as find_problems

    problems = find_problems(folder, unseen if as_json else byte_progress)
    if as_json:
        _write(json.dumps({"ok": not problems, "problems": problems}) + "\n")
    else:
        _write("".join(f"{problem}\n" for problem in problems) or f"{folder} is whole\n")
    if problems:
        raise typer.Exit(1)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """What this machine has and lacks; fails when something is missing without which nothing runs."""
    from engine.doctor import examine

    with working("looking around", as_json):
        checks = list(examine())
    if as_json:
        _write(json.dumps({"checks": [asdict(check) for check in checks]}) + "\n")
    else:
        print_checks(checks)
    if not all(check.ok for check in checks if check.required):
        raise typer.Exit(1)


def _begin(model: str) -> Start:
    """Let the weights be read and torch be imported beside everything that a command imports itself."""
    from engine.start import Start

    return Start(model)


def _load(start: Start, config: EngineConfig, quiet: bool) -> LLM:
    from engine.llm import LLM

    with working(f"loading {config.model}", quiet):
        llm = LLM(**asdict(config), start=start)
    note(llm.booted.plan.warnings)
    return llm


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise PilotlightError(f"standard input is not UTF-8: {error.reason} at byte {error.start}") from None


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _ignore(text: str) -> None:
    """Take a piece of text that the JSON object will hold anyway."""


def main() -> None:
    """Run the command; what a user can mend is one line on standard error and exit status 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # A terminal that cannot show a sign is no reason to fail.
            stream.reconfigure(errors="replace")
    try:
        app()
    except (PilotlightError, WarmerError, OSError) as error:
        print(f"pilotlight: {error}", file=sys.stderr)
        _fail()


def _fail() -> NoReturn:
    """Exit with status 1; at once while torch is being imported, in a thread that the interpreter could not end."""
    if any(thread.name == "import torch" for thread in threading.enumerate()):
        sys.stdout.flush()
        os._exit(1)
    sys.exit(1)


if __name__ == "__main__":
    main()
