"""The front door: the `pilotlight` command.

Each subcommand is a thin call into one room, which is imported when the subcommand runs and not before.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, get_args

import typer

from engine.config import Device, DType, EngineConfig, Quantization
from engine.display import note, print_checks, progress, report, working
from engine.errors import PilotlightError
from engine.lanes import Lane

if TYPE_CHECKING:
    from engine.llm import LLM
    from engine.start import Start

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
bench = typer.Typer(no_args_is_help=True, help="Measure: the engine alone, or a running endpoint.")
app.add_typer(bench, name="bench")


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


def parse_size(text: str) -> int:
    """Bytes from a text such as 512MiB, 2GB or 1.5g; a bare letter means the power of ten, as in the settings.

    Raises:
        typer.BadParameter: it is none of these.
    """
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?) ?([kmgt]?)(b|ib)?", text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"{text} is no size; write it like 512MiB, 2GB or 1.5g")
    number, letter, suffix = match.groups()
    step = 1024 if suffix == "ib" else 1000
    return int(float(number) * step ** " kmgt".index(letter or " "))


def parse_architectures(text: str) -> tuple[int, ...]:
    """Compute capabilities times ten from a text such as 80,90; 80 is the oldest that the kernels serve.

    Raises:
        typer.BadParameter: it is none.
    """
    parts = text.split(",")
    if not all(part.isdecimal() and 80 <= int(part) <= 999 for part in parts):
        raise typer.BadParameter(f"{text}: write numbers like 80 or 80,90, for 8.0 and 9.0", param_hint="--arch")
    return tuple(sorted({int(part) for part in parts}))


def parse_dtypes(text: str) -> tuple[str, ...]:
    """Names of dtypes from a text such as bfloat16,float16.

    Raises:
        typer.BadParameter: one is not known.
    """
    known, names = set(get_args(DType)) - {"auto"}, set(text.split(","))
    if names - known:
        raise typer.BadParameter(f"{text}: write some of {', '.join(sorted(known))}", param_hint="--dtype")
    return tuple(sorted(names))


MODEL = typer.Argument(metavar="[MODEL]", help="demo, a folder, or a hub id (owner/name).")
DEVICE = typer.Option("--device", help="Where to compute.")
DTYPE = typer.Option("--dtype", help="Of weights and cache; auto takes what the device computes fast.")
Model = Annotated[str, MODEL]
DeviceOption = Annotated[Device, DEVICE]
DTypeOption = Annotated[DType, DTYPE]
ContextOption = Annotated[
    int | None, typer.Option("--max-model-len", min=1, help="Context in tokens; default: the model's.")
]
MemoryOption = Annotated[
    int | None,
    typer.Option("--kv-memory", parser=parse_size, metavar="SIZE", help="Memory of the KV cache, like 512MiB or 2GB."),
]
QUANTIZE = typer.Option("--quantize", help="int8 rounds the layers' weights: quicker for few requests at once.")
DETERMINISTIC = typer.Option("--deterministic", help="On a GPU: the same logits in any batch, at a cost.")
QuantizeOption = Annotated[Quantization, QUANTIZE]
DeterministicOption = Annotated[bool, DETERMINISTIC]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else there.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens to generate at most.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="0 always takes the likeliest token.")]


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
) -> None:
    """Serve over HTTP: OpenAI's API and RunPod's. Options not given come from PILOTLIGHT_* variables."""
    from handler.server import serve as serve_http

    status = serve_http(
        model=model, host=host, port=port, device=device, dtype=dtype, max_model_len=max_model_len,
        kv_memory=kv_memory, quantize=quantize, deterministic=deterministic, api_key=api_key,
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


@bench.command()
def offline(
    workload: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, readable=True, help='Lines of {"ids": [..], "max_tokens": n}.'),
    ],
    model: Model = "demo",
    tokens_out: Annotated[
        Path | None, typer.Option(dir_okay=False, writable=True, help="Gets each request's output ids, a line each.")
    ] = None,
    device: DeviceOption = "auto",
    dtype: DTypeOption = "auto",
    max_model_len: ContextOption = None,
    kv_memory: MemoryOption = None,
    quantize: QuantizeOption = "none",
    deterministic: DeterministicOption = False,
    as_json: JsonOption = False,
) -> None:
    """All requests of a file at once through the engine; greedy, end of sequence ignored."""
    from engine.bench import Bench, read_workload

    jobs = read_workload(workload)
    if tokens_out is not None:
        tokens_out.touch()  # A place that cannot be written is better known before the run than after it.
    with working(f"loading {model}", as_json):
        config = EngineConfig(
            model, device, dtype, max_model_len, kv_memory, quantize=quantize, deterministic=deterministic
        )
        run = Bench(config, jobs)
    note(run.plan.lines())
    with progress("tokens", run.output_tokens, as_json) as advance:
        result, answers = run.run(advance)
    if tokens_out is not None:
        tokens_out.write_text("".join(f"{json.dumps(ids)}\n" for ids in answers))
    report(asdict(result), as_json)


@bench.command()
def http(
    url: Annotated[str, typer.Option(help="Where the endpoint listens, such as http://127.0.0.1:8000.")],
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Requests under way at once; default: 8, or 1024 for a trace.")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests in all; of a trace, its first ones.")] = 64,
    trace: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="CSV of TIMESTAMP,ContextTokens,GeneratedTokens to replay."),
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="Replay the trace this many times as fast.")] = 1.0,
    prompt: Annotated[str, typer.Option(help="What to send without a trace.")] = "Count from 3 to 33.",
    max_tokens: MaxTokens = 64,
    api_key: Annotated[str | None, typer.Option(envvar="PILOTLIGHT_API_KEY", help="What to present.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which a request counts as failed.")] = 300.0,
    as_json: JsonOption = False,
) -> None:
    """Load a running endpoint: a fixed number of requests at once, or a trace's arrivals and lengths."""
    from handler.bench import Endpoint, measure, read_trace, same_requests

    endpoint = Endpoint(url, api_key, timeout)
    plan = read_trace(trace, requests, speed) if trace else same_requests(prompt, max_tokens, requests)
    with progress("requests", len(plan), as_json) as advance:
        result = measure(endpoint, plan, concurrency or (1024 if trace else 8), advance)
    report(asdict(result), as_json)
    if result.failed:
        raise typer.Exit(1)


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
    try:
        app()
    except (PilotlightError, OSError) as error:
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
