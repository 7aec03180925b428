"""The `anima` command.

argparse rather than a generator of command lines, because of the promise that bad input is one
line on stderr: what, which value, what to do.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from anima.core.errors import DivergedError, InputError, nearest

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 2 bad input, 1 anything else, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        options = _parser().parse_args(given)
        return options.command(options)
    except InputError as error:
        return _complain(error, BAD_INPUT, debug)
    except DivergedError as error:
        return _complain(error, FAILED, debug)
    except KeyboardInterrupt:
        print("anima: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has gone: nothing is left to say, nor anyone to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        return _complain(error, FAILED, debug)


def learn(options: argparse.Namespace) -> int:
    """`anima learn DATA`: learn a data set, beside an equal-size backprop twin."""
    from anima.run import config as configs
    from anima.run import folder
    from anima.world.data import load_data

    name = options.data
    preset = options.preset or _default_preset(name, configs.preset_names())
    settings = list(options.set)
    if options.epochs is not None:
        settings.append(f"train.epochs={options.epochs}")
    config = configs.resolve(configs.override(configs.read_preset(preset), settings))
    with _download_progress(options.quiet) as progress:
        data = load_data(name, options.data_dir, progress=progress)
    out = Path(options.out) if options.out else _free_folder(Path(name).name, preset, options.seed)
    data_dir = str(Path(options.data_dir).resolve()) if options.data_dir else ""
    label = name if name in ("digits", "mnist", "fashion-mnist") else str(Path(name).resolve())
    header = folder.begin(
        out, config, data, name=label, data_dir=data_dir, preset=preset, seed=options.seed
    )
    return _train(options, out, header, config, data, resume=False)


def resume(options: argparse.Namespace) -> int:
    """`anima resume RUN`: go on from the last good checkpoint, to the same bits."""
    from anima.run import folder
    from anima.world.data import load_data

    out = Path(options.run)
    header, config = folder.read(out)
    data = load_data(header.data, header.data_dir or None)
    return _train(options, out, header, config, data, resume=True)


def evaluate(options: argparse.Namespace) -> int:
    """`anima evaluate RUN`: the test accuracy of a finished run."""
    from anima.run import folder
    from anima.run.evaluate import accuracy
    from anima.world.data import load_data

    trained = folder.load(options.run)
    header = trained.header
    data = load_data(header.data, options.data_dir or header.data_dir or None)
    images = data.test_images.reshape(len(data.test_images), -1)
    right = accuracy(trained.learner, trained.circuit, images, data.test_labels)
    result = {
        "run": str(trained.folder),
        "seed": header.seed,
        "examples": len(images),
        "test_accuracy": right,
        "test_error": 1 - right,
    }
    _say(options, result, [f"{trained.folder}: {100 * right:.2f}% of {len(images)} test examples"])
    return DONE


def bench(options: argparse.Namespace) -> int:
    """`anima bench [NAME ...]`: how fast settling and learning are here, beside the floor."""
    from anima.app.bench import TASKS, measure

    unknown = [name for name in options.names if name not in TASKS]
    if unknown:
        raise InputError(f"unknown benchmark {unknown[0]!r}: {nearest(unknown[0], TASKS)}")
    rows = []
    for name in options.names or TASKS:
        rows.append(measure(name, seed=options.seed))
        if not options.json:
            row = rows[-1]
            print(
                f"{name:<22} {row['samples_per_second']:>9.0f} samples/s   first call "
                f"{row['first_call_seconds']:.2f} s   {100 * row['share_of_peak']:.0f}% of the "
                f"measured GEMM peak ({row['gemm_gflops']:.0f} GFLOP/s)"
            )
    if options.json:
        print(json.dumps({"seed": options.seed, "benchmarks": rows}))
    if options.out:
        from anima.run.checkpoint import write_atomically

        Path(options.out).mkdir(parents=True, exist_ok=True)
        write_atomically(Path(options.out) / "bench.json", json.dumps(rows, indent=1))
    return DONE


def _train(options, out: Path, header, config, data, *, resume: bool) -> int:
    from anima.app.progress import display
    from anima.app.summary import write_summary
    from anima.run.train import Training

    training = Training(config, data, header.seed, out)
    with display(options.quiet, sys.stderr) as (progress, warn):
        outcome = training.run(
            progress=progress, warn=warn, resume=resume, tensorboard=options.tensorboard
        )
    if outcome.interrupted:
        print(
            f"anima: interrupted at step {int(outcome.lives.circuit.step)} and saved: "
            f"`anima resume {out}` goes on from there",
            file=sys.stderr,
        )
        return INTERRUPTED
    result, report = write_summary(out, header, training, outcome, data)
    _say(options, result, _headline(result, report))
    return DONE


def _headline(result: dict[str, Any], report: Path) -> list[str]:
    lines = [f"test accuracy {100 * result['test_accuracy']:.2f}%"]
    if result["twin_accuracy"] is not None:
        lines[0] += f"   (equal-size backprop twin {100 * result['twin_accuracy']:.2f}%)"
    return [*lines, f"run    {result['run']}", f"report {report}"]


def _say(options: argparse.Namespace, result: dict[str, Any], lines: list[str]) -> None:
    if options.json:
        print(json.dumps(result))
    elif not options.quiet:
        print("\n".join(lines))


def _default_preset(data: str, presets: list[str]) -> str:
    own = f"{data}-eqprop"
    return own if own in presets else "mnist-eqprop"


def _free_folder(data: str, preset: str, seed: int) -> Path:
    """runs/<data>-<preset>-<seed>, or the first such name with a number that is free."""
    stem = preset if preset.startswith(data) else f"{data}-{preset}"
    base = Path("runs") / f"{stem}-{seed}"
    candidates = [base, *(base.with_name(f"{base.name}.{n}") for n in range(2, 10_000))]
    return next(path for path in candidates if not path.exists())


def _download_progress(quiet: bool):
    from anima.app.progress import downloads

    return downloads(quiet, sys.stderr)


def _complain(error: BaseException, code: int, debug: bool) -> int:
    if debug:
        raise error
    text = " ".join(str(error).split()) or type(error).__name__
    kind = "" if isinstance(error, InputError | DivergedError) else f"{type(error).__name__}: "
    hint = "" if code == BAD_INPUT or not kind else " (--debug shows the traceback)"
    print(f"anima: {kind}{text}{hint}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see `{self.prog} --help`)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="anima", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    one = _command(commands, "learn", learn)
    one.add_argument("data", metavar="DATA", help="digits, mnist, fashion-mnist or an IDX folder")
    one.add_argument("--preset", metavar="NAME", help="a recipe that ships with anima")
    one.add_argument("--data-dir", metavar="DIR", help="where the data files are")
    one.add_argument("--epochs", type=int, metavar="N", help="passes over the data")
    one.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. train.batch=64"
    )
    one.add_argument("--tensorboard", action="store_true", help="write TensorBoard events too")

    one = _command(commands, "resume", resume)
    one.add_argument("run", metavar="RUN", help="a run's folder")
    one.add_argument("--tensorboard", action="store_true", help="write TensorBoard events too")

    one = _command(commands, "evaluate", evaluate)
    one.add_argument("run", metavar="RUN", help="a run's folder")
    one.add_argument("--data-dir", metavar="DIR", help="where the data files are now")

    one = _command(commands, "bench", bench)
    one.add_argument("names", nargs="*", metavar="NAME", help="which benchmarks (default: all)")
    return parser


def _command(commands, name: str, function: Callable) -> argparse.ArgumentParser:
    text = (function.__doc__ or "").split(": ", 1)[1]
    parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(command=function)
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="of all randomness")
    parser.add_argument("--out", metavar="DIR", help="the folder to write")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _seed(text: str) -> int:
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed is {text!r}: it must be a whole number from 0 to {2**32 - 1}")
    return seed


def _version() -> str:
    from importlib.metadata import version

    return f"anima {version('anima')}"
