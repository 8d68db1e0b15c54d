"""The `evolute` command. Each command imports what it needs, so that --help answers at once."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="evolute",
    help="Finds convolution/involution hybrid networks that are accurate and fast on your device.",
    epilog="Start here:  evolute run quickstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _configs(begun: str) -> list[str]:
    """What a shell offers for a CONFIG: presets, and the YAML files that are there."""
    from configs.loading import preset_names

    files = [file.as_posix() for file in sorted(Path().glob("*.y*ml"))]
    return [name for name in (*preset_names(), *files) if name.startswith(begun)]


ConfigArgument = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG", help="A preset's name or a YAML file.", autocompletion=_configs
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as search.trials=200."),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Work directory; default runs/NAME."),
]
PluginOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin", metavar="FILE.py", help="Code that an architecture.yaml may run from elsewhere."
    ),
]
DEBUG = False


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"evolute {version('evolute')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Say which it is."),
    ] = False,
) -> None:
    global DEBUG
    DEBUG = debug


@app.command(epilog="Example:  evolute run quickstart --set search.trials=60")
def run(config: ConfigArgument, set_: SetOption = None, out: OutOption = None) -> None:
    """The whole pipeline: train a supernet, search it, retrain the best network.

    Run it again after an interruption: it goes on where it stopped. Where all is done, it says at
    once what there is.
    """
    from configs import load_config as read_config
    from experiments.finished import what_was_said

    if said := what_was_said(read_config(config, set_ or ()), out):
        _say(said)
        return
    from experiments.run import run_pipeline
    from experiments.settings import load_config

    run_pipeline(load_config(config, set_ or ()), out)


@app.command(epilog="Example:  evolute plan photos.yaml --set train.epochs=50")
def plan(config: ConfigArgument, set_: SetOption = None) -> None:
    """Say what `evolute run` would do and how long it would take, from some measured steps."""
    from experiments.console import busy
    from experiments.plan import measure_plan
    from experiments.settings import load_config

    settings = load_config(config, set_ or ())
    with busy("Timing some steps ..."):
        measured = measure_plan(settings)
    _say(measured)


@app.command(epilog="Example:  torchrun --nproc_per_node 8 -m evolute train imagenet")
def train(config: ConfigArgument, set_: SetOption = None, out: OutOption = None) -> None:
    """Train the supernet, or go on training it."""
    from experiments.ownership import owned
    from experiments.settings import load_config
    from experiments.train import prepare_training
    from experiments.workspace import open_tracker, open_workspace
    from supernet.distributed import (
        is_main_process,
        join_distributed_run,
        leave_distributed_run,
    )

    settings = load_config(config, set_ or ())
    join_distributed_run()
    workspace = open_workspace(settings, out)
    if is_main_process():
        with owned(workspace):
            prepared = prepare_training(settings, workspace)  # refuses before it writes
            workspace.keep(settings)
            with open_tracker(settings, workspace) as tracker:
                prepared.run(tracker)
        _say(f"Trained: {workspace.weights}. Next: evolute search {config}")
    else:
        prepare_training(settings, workspace).run()
    leave_distributed_run()


@app.command(epilog="Example:  evolute search quickstart --workers 2 --set search.trials=200")
def search(
    config: ConfigArgument,
    workers: Annotated[
        str | None,
        typer.Option(
            "--workers",
            metavar="N|auto",
            help="Evaluations at a time; 0: in this process; auto: all there is room for "
            "(search.workers).",
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", help="An existing Ray cluster, e.g. auto (search.address)."),
    ] = None,
    study: Annotated[
        str,
        typer.Option(
            "--study",
            metavar="NAME",
            help="Another study on the same supernet, for new bounds, objectives or a sampler.",
        ),
    ] = "",
    rescore: Annotated[
        bool,
        typer.Option(
            "--rescore", help="Evaluate the known architectures anew, with the present supernet."
        ),
    ] = False,
    set_: SetOption = None,
    out: OutOption = None,
) -> None:
    """Search the trained supernet for the Pareto front, or go on searching."""
    from experiments.ownership import owned
    from experiments.search import prepare_search
    from experiments.settings import load_config
    from experiments.workspace import open_tracker, open_workspace

    overrides = list(set_ or ())
    if workers is not None:
        overrides.append(f"search.workers={workers}")
    if address is not None:
        overrides.append(f"search.address={address}")
    settings = load_config(config, overrides)
    workspace = open_workspace(settings, out, study)
    with owned(workspace):
        prepared = prepare_search(settings, workspace, rescore)  # refuses before it writes
        workspace.keep(settings)
        with open_tracker(settings, workspace) as tracker:
            prepared.run(tracker)
    _say(f"Report: {workspace.report}")
    _say(f"Next: evolute retrain --search {workspace.directory} --pick knee")


@app.command(epilog="Example:  evolute retrain --search runs/quickstart --pick knee --seeds 3")
def retrain(
    config: Annotated[
        str | None,
        typer.Argument(metavar="[CONFIG]", help="Data and recipe; default: those of the search."),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option("--search", metavar="RUN", help="A work directory or an MLflow run id."),
    ] = None,
    pick: Annotated[
        str,
        typer.Option(
            "--pick", help="best, knee, 'fastest-within 1%' (points), or an index of the front."
        ),
    ] = "best",
    architecture: Annotated[
        str | None,
        typer.Option(
            "--architecture", metavar="FILE|NAME", help="An architecture.yaml, or evolute_resnet50."
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", min=1, help="Networks to train (retrain.seeds)."),
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines",
            help="Beside it: each operator family alone and random architectures, at its latency.",
        ),
    ] = False,
    front: Annotated[
        bool,
        typer.Option(
            "--front", help="Beside it: all members of the front, and how their order was foretold."
        ),
    ] = False,
    against: Annotated[
        str,
        typer.Option(
            "--against", metavar="NAMES", help="timm models beside it, e.g. resnet18,resnet10t."
        ),
    ] = "",
    plugin: PluginOption = None,
    set_: SetOption = None,
    out: OutOption = None,
) -> None:
    """Train an architecture from scratch, test, export and register it.

    With --baselines, --front or --against it is compared with other networks, by one recipe and
    the same seeds: evolute retrain --search runs/photos --seeds 3 --baselines --against resnet18
    """
    from experiments.retrain import retrain_from_files

    retrain_from_files(
        config,
        search,
        pick,
        architecture,
        seeds,
        list(set_ or ()),
        out,
        baselines,
        against,
        front,
        plugin or (),
    )


@app.command(epilog="Example:  evolute report runs/quickstart --out docs/results/quickstart.md")
def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A work directory.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.md", help="Default: docs/results/NAME.md."),
    ] = None,
) -> None:
    """Write what a search came to as a page with a picture, from its MLflow runs alone."""
    from experiments.report import write_result

    _say(f"Wrote {write_result(directory, out)}")


@app.command(epilog="Example:  evolute rank cifar10_cpu --networks 40 --seeds 2")
def rank(
    config: ConfigArgument,
    networks: Annotated[
        int, typer.Option("--networks", min=1, help="Networks to train, spread over latency.")
    ] = 40,
    seeds: Annotated[
        int,
        typer.Option("--seeds", min=1, help="Trainings of each; a second one shows the ceiling."),
    ] = 2,
    set_: SetOption = None,
    out: OutOption = None,
) -> None:
    """Train networks alone, and say how far each way to rank them can be trusted.

    Inherited accuracy and the surrogate are judged where a supernet is trained. Run it again after
    an interruption: it goes on where it stopped.
    """
    from experiments.rank import rank_from_files
    from experiments.settings import load_config

    workspace = rank_from_files(load_config(config, set_ or ()), out, networks, seeds)
    _say(f"Page: {workspace.report / 'rank.html'}")


@app.command(epilog="Example:  evolute measure resnet18 --batch 8 --threads 2 --runtime compile")
def measure(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...",
            help="Each an architecture.yaml, a timm model's name, an exported model.onnx, or a "
            "preset or configuration file.",
        ),
    ],
    runtime: Annotated[
        str, typer.Option("--runtime", help="eager, openvino ...; evolute list names all.")
    ] = "eager",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images per forward pass.")] = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads.")] = 1,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="float32, bfloat16 or float16.")
    ] = "float32",
    channels_last: Annotated[
        bool, typer.Option(help="Memory format of weights and images.")
    ] = True,
    input_size: Annotated[
        int | None,
        typer.Option("--input-size", min=1, help="Pixels; default: the network's own."),
    ] = None,
    plugin: PluginOption = None,
    set_: SetOption = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a network instead of a table.")
    ] = False,
    all_: Annotated[
        bool,
        typer.Option(
            "--all", help="In every installed runtime, at batches of 1 and 8, on 1 and 2 threads."
        ),
    ] = False,
) -> None:
    """Print params, MACs and measured latency with its spread and fingerprint.

    Or, with --all, latencies in every runtime, and how far its logits are from PyTorch's.
    """
    import json

    from configs.errors import UserError
    from configs.latency import LatencySettings
    from experiments.console import busy, console
    from experiments.measure import measure as measure_target
    from experiments.measure_runtimes import (
        measure_everywhere,
        measure_with_progress,
        runtimes_table,
    )

    settings = LatencySettings(
        runtime=runtime,
        batch=batch,
        threads=threads,
        dtype=dtype,  # type: ignore[arg-type]
        channels_last=channels_last,
    )
    options: dict[str, Any] = {
        "device": device,
        "input_size": input_size,
        "overrides": set_ or (),
        "plugins": plugin or (),
    }
    if all_:
        if json_:

            def echo(row: Any, *_: object) -> None:
                typer.echo(json.dumps(row.as_values()))

            measure_everywhere(targets, settings, **options, on_row=echo)
        else:
            console.print(runtimes_table(measure_with_progress(targets, settings, **options)))
        return
    with busy(f"Measuring {' '.join(targets)} ...", printed=not json_):
        measurement = measure_target(targets, settings, **options)
    if json_:
        for network in measurement.networks:
            typer.echo(json.dumps(network.as_values()))
    else:
        console.print(measurement.table())
    if measurement.troubles:
        raise UserError("; ".join(measurement.troubles))


@app.command(epilog="Example:  evolute export runs/quickstart/retrained/best-* --format pt2")
def export(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder of a retrained network.")
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="onnx; the same with our operators: openvino, onnx-operators; or pt2.",
        ),
    ] = "onnx",
    batch: Annotated[
        int, typer.Option("--batch", min=0, help="Images per forward pass; onnx: 0 for any number.")
    ] = 1,
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            help="float32; onnx also float16, pt2 also bfloat16, openvino also bfloat16 and int8.",
        ),
    ] = "float32",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Default: in the folder.")
    ] = None,
    plugin: PluginOption = None,
) -> None:
    """Export a retrained network again, and check the file against PyTorch.

    pt2 is a package of AOTInductor's, which runs without the network's code. openvino in int8 or
    bfloat16 is compared with float32 on validation images, in accuracy and latency.
    """
    from configs.errors import UserError
    from experiments.console import busy
    from experiments.export import export_folder
    from experiments.smaller import summary

    with busy(f"Exporting {directory} ..."):
        written = export_folder(
            directory, form, batch=batch, dtype=dtype, out=out, plugins=plugin or ()
        )
    if written.path is None:
        raise UserError(written.message)
    _say(f"{written.path}: logits differ by {written.difference:.0e} of the largest")
    for line in summary(dtype, written.details) if written.details else ():
        _say(line)


@app.command(epilog="Example:  evolute predict runs/quickstart/retrained/best-* photo.jpg")
def predict(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder of a retrained network.")
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
) -> None:
    """Say what a retrained network sees in images."""
    from configs.errors import UserError
    from experiments.serving import Classifier

    classifier = Classifier(directory)
    for image in images:
        try:
            best = classifier.best(image.read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(f"{image}: {getattr(error, 'strerror', None) or error}") from None
        _say(f"{image}: " + ", ".join(f"{name} {share:.1%}" for name, share in best))


@app.command(epilog="Example:  evolute operators --channels 64 --size 28 --runtime eager")
def operators(
    channels: Annotated[
        int | None, typer.Option("--channels", min=1, help="Channels; default: three shapes.")
    ] = None,
    size: Annotated[int, typer.Option("--size", min=1, help="Height and width in pixels.")] = 28,
    runtime: Annotated[
        str, typer.Option("--runtime", help="eager, openvino ...; evolute list names all.")
    ] = "eager",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.md", help="Also write it as Markdown.")
    ] = None,
) -> None:
    """List all operators with their equation, params, MACs and latency on this device."""
    from configs.latency import LatencySettings
    from experiments.console import console
    from experiments.operators import SHAPES, operators_table, write_markdown

    shapes = SHAPES if channels is None else ((channels, size),)
    table = operators_table(shapes, LatencySettings(runtime=runtime), device=device)
    console.print(*table.tables(), sep="\n")
    if out is not None:
        write_markdown(out, table)
        _say(f"Wrote {out}")


@app.command(epilog="Example:  evolute ui runs/quickstart")
def ui(
    place: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG|DIR|URI", help="A work directory, a preset, a YAML file or a store."
        ),
    ],
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 5000,
    host: Annotated[
        str, typer.Option("--host", help="Loopback unless you say otherwise.")
    ] = "127.0.0.1",
    set_: SetOption = None,
    out: OutOption = None,
) -> None:
    """Open the MLflow UI on a run's results."""
    from experiments.ui import open_ui

    open_ui(_store(place, set_ or (), out), port, host, _say)


@app.command("list", epilog="Example:  evolute list")
def list_names() -> None:
    """List presets, operators, blocks, metrics, samplers, runtimes and data sources."""
    from experiments.console import console
    from experiments.listing import listing

    for table in listing():
        console.print(table)


@app.command(epilog="Example:  evolute status runs/quickstart")
def status(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A work directory.")],
) -> None:
    """Say what is done in a work directory, what runs, and the command that goes on."""
    from experiments.console import console
    from experiments.status import status_table

    console.print(status_table(directory))


@app.command(epilog="Example:  evolute sync runs/quickstart http://localhost:5000")
def sync(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A work directory.")],
    uri: Annotated[
        str | None,
        typer.Argument(metavar="[URI]", help="Tracking URI; default: the one it was tracked with."),
    ] = None,
) -> None:
    """Upload to MLflow what an unreachable tracking server missed."""
    from experiments.tracking.uploader import upload

    _say(f"{upload(directory, uri)} events uploaded.")


@app.command(epilog="Example:  evolute init photos.yaml --images photos/ --minutes 30")
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="The file to write.")],
    images: Annotated[
        Path, typer.Option("--images", metavar="DIR", help="A folder or tar of class folders.")
    ],
    preset: Annotated[
        str, typer.Option("--preset", help="The preset to start from.")
    ] = "cifar10_cpu",
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", min=1, help="How long a run may take, by steps timed here."),
    ] = None,
) -> None:
    """Write a commented configuration for your own image folder."""
    from experiments.new_config import write_config

    plan = write_config(images, file, preset, minutes)
    if plan is not None:
        _say(plan)
    _say(f"Wrote {file}. Read it, then: evolute run {file}")


def _store(place: str, overrides: Sequence[str], out: Path | None) -> str:
    """Return the work directory or URI that a directory, a preset or a configuration file means."""
    from configs import preset_names
    from experiments.settings import load_config
    from experiments.workspace import Workspace

    if Path(place).is_dir():
        return str(Workspace(Path(place)).root)  # all studies of a supernet are in one store
    if place not in preset_names() and Path(place).suffix not in (".yaml", ".yml"):
        return place
    settings = load_config(place, overrides)
    return settings.tracking.uri or str(out or Path("runs") / settings.name)


def _say(text: Any) -> None:
    from experiments.console import console

    console.print(str(text), soft_wrap=True, highlight=False, markup=False)  # [b] may be a folder


def main() -> None:
    """Run the command: what the user can correct is one message and exit code 2."""
    from configs.errors import TooNoisy, UserError
    from configs.secrets import remember

    for word in sys.argv[1:]:
        if scheme := re.search(r"\w[\w+.-]*://", word):
            remember(word[scheme.start() :])
    # GNU OpenMP's threads spin while they wait for each other. Where something else runs on the
    # same cores, a training step then took ten times as long. What a short spin costs an idle
    # machine was not measured. Read when torch is loaded; the user's own setting wins.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    arguments = sorted(sys.argv[1:], key=lambda word: word != "--debug")  # wherever it is
    try:
        if app(arguments, standalone_mode=False) == 130:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
    except (UserError, TooNoisy) as error:
        _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail("Stopped. What is done is saved; the same command goes on from there.", 130)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # typer's: a wrong option
            error.show()
            sys.exit(error.exit_code)
        from configs.disk import disk_error

        path = Path(str(getattr(error, "filename", None) or "a file"))
        if refusal := disk_error(error, path):
            _fail(str(refusal), 2)
        hint = "" if DEBUG else "\n(--debug shows where)"
        _fail(f"{type(error).__name__}: {error}{hint}", 1)


def _fail(message: str, code: int) -> None:
    from configs.secrets import redact

    if DEBUG and sys.exc_info()[0] is not None:
        import traceback

        typer.echo(redact(traceback.format_exc()), err=True)
    typer.secho(redact(message), fg=typer.colors.RED, err=True)
    sys.exit(code)
