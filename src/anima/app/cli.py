"""The `anima` command.

argparse rather than a generator of command lines, because of the promise that bad input is one
line on stderr: what, which value, what to do.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from anima.core.errors import DivergedError, InputError, nearest
from anima.run.folder import LARGEST_SEED
from anima.run.interrupt import terminated_is_interrupted

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
_MOST_EPISODES = 1_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 2 bad input, 1 anything else, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        with terminated_is_interrupted():
            options = _parse(given)
            code = options.command(options)
            sys.stdout.flush()
            return code
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
        if wanted := _too_large(error):
            wanted.__cause__ = error
            return _complain(wanted, BAD_INPUT, debug)
        return _complain(error, FAILED, debug)


def learn(options: argparse.Namespace) -> int:
    """`anima learn DATA`: learn a data set, beside an equal-size backprop twin."""
    from anima.run import config as configs
    from anima.run import folder
    from anima.run.metrics import check_tensorboard
    from anima.run.train import Training
    from anima.world.data import SOURCES, load_data

    name, seed = options.data, options.seed or 0
    preset = options.preset or _default_preset(name, configs.preset_names())
    settings = list(options.set)
    if options.epochs is not None:
        settings.append(f"train.epochs={options.epochs}")
    config = configs.resolve(configs.override(configs.read_preset(preset), settings))
    out = _out(options)
    if out:
        folder.check_free(out)
    if options.tensorboard:
        check_tensorboard()
    with _download_progress(options.quiet) as progress:
        data = load_data(name, options.data_dir, progress=progress)
    data_dir = str(_absolute(options.data_dir)) if options.data_dir else ""
    if name != "digits" and name not in SOURCES:
        name, data_dir = str(_found(name, data_dir)), ""
    out = out or _free_folder(Path(name).name or "data", preset, seed)
    training = Training(config, data, seed, out)
    header = folder.begin(out, config, data, name=name, data_dir=data_dir, preset=preset, seed=seed)
    with _withdrawn_if_refused(out):
        return _train(options, header, training, data, resume=False)


def live(options: argparse.Namespace) -> int:
    """`anima live ENV`: let an agent live and learn in an environment."""
    from anima.run import agents, folder
    from anima.run import live as lived
    from anima.run.metrics import check_tensorboard

    seed, seeds = options.seed or 0, agents.check_seeds(options.seeds)
    preset, table = agents.choose(
        options.environment,
        agent=options.agent,
        preset=options.preset,
        assigner=options.assigner,
    )
    settings = list(options.set)
    if options.steps is not None:
        settings.append(f"live.steps={options.steps}")
    config = agents.resolve(agents.override(table, settings))
    out = _out(options)
    if out:
        folder.check_free(out)
    if options.tensorboard:
        check_tensorboard()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", options.environment)
    out = out or _free_folder(name, preset or config.agent["name"], seed)
    living = lived.Living(config, seed, seeds, out)
    header = lived.begin(out, config, preset=preset, seed=seed, seeds=seeds)
    with _withdrawn_if_refused(out), contextlib.closing(living):
        return _live(options, header, living, resume=False)


def resume(options: argparse.Namespace) -> int:
    """`anima resume RUN`: go on from the last good checkpoint, to the same bits."""
    from anima.run import folder
    from anima.run import live as lived
    from anima.run.metrics import check_tensorboard
    from anima.run.train import Training

    path = Path(options.run)
    if lived.is_life(path):
        return _resume_life(options, path)
    header, config = folder.read(path)
    _refuse_other_seed(options, header.seed)
    out = _out(options)
    if out and out.resolve() != path.resolve():
        raise InputError(f"--out {out}: a run goes on in its own folder {path}: leave --out away")
    if options.tensorboard:
        check_tensorboard()
    data = _data(header, options.data_dir)
    training = Training(config, data, header.seed, path)
    return _train(options, header, training, data, resume=True)


def evaluate(options: argparse.Namespace) -> int:
    """`anima evaluate RUN`: the test accuracy, or the greedy return, of a finished run."""
    from anima.run import folder
    from anima.run import live as lived
    from anima.run.evaluate import accuracy

    if lived.is_life(Path(options.run)):
        return _evaluate_life(options, Path(options.run))
    if options.episodes is not None:
        raise InputError(f"--episodes is for runs of agents: {options.run} learnt a data set")
    trained = folder.load(options.run)
    header = trained.header
    _refuse_other_seed(options, header.seed)
    out = _out(options)
    if out:
        folder.check_free(out)
    data = _data(header, options.data_dir)
    images = data.test_images
    judge = lambda learner: accuracy(learner, learner.circuit, images, data.test_labels)
    right = judge(trained.learner)
    result = {
        "run": str(trained.folder),
        "seed": header.seed,
        "epochs": trained.config.train.epochs,
        "examples": len(images),
        "test_accuracy": right,
        "test_error": 1 - right,
        "twin_accuracy": judge(trained.twin) if trained.twin else None,
    }
    if out:
        _write(out, "evaluate.json", result)
    _say(options, result, [f"{trained.folder}: {100 * right:.2f}% of {len(images)} test examples"])
    return DONE


def dream(options: argparse.Namespace) -> int:
    """`anima dream RUN`: clamp a label, let code and pixels settle with noise, read the pixels."""
    from anima.app import dreams
    from anima.run import folder
    from anima.run import live as lived

    how = _dreaming(options)
    out = _out(options)
    if out:
        folder.check_free(out)
    if lived.is_life(Path(options.run)):
        raise InputError(
            f"{options.run} is a life of agents, which dreams no images: dream of a run of `anima "
            "learn mnist --preset mnist-dream`"
        )
    trained = folder.load(options.run)
    memory = dreams.memory_of(trained)
    if options.label is not None:
        memory.check_label(options.label)
    out = out or trained.folder / "dreams"
    result: dict[str, Any] = {"run": str(trained.folder), "seed": how.seed}
    if options.complete:
        images, labels = _to_complete(options, trained.header, how)
        result |= dreams.complete(trained, images, labels, how, out)
        lines = [
            f"{result['count']} images completed, {100 * result['recognised']:.0f}% recognised "
            f"from their upper half, unseen pixels off by {result['error']:.3f}"
        ]
    else:
        labels = memory.labels if options.label is None else [options.label]
        result |= dreams.dream(trained, labels, how, out)
        lines = [
            f"{how.count} dreams of {', '.join(map(str, labels))}: "
            f"{100 * result['agreement']:.1f}% taken by the run for what they are, "
            f"spread {result['spread']:.3f}",
            f"film   {result['film']}",
        ]
    _say(options, result, [*lines, f"figure {result['figure']}"])
    return DONE


def _dreaming(options: argparse.Namespace):
    """How to dream or, with other defaults, to complete."""
    from anima.app.dreams import Dreaming

    given = {name: getattr(options, name) for name in ("count", "steps", "temperature")}
    given = {name: value for name, value in given.items() if value is not None}
    if options.complete:
        if "temperature" in given:
            raise InputError("--temperature: a completion settles without noise, so leave it out")
        given = {"steps": 60} | given
    return Dreaming(seed=options.seed or 0, **given)


def _to_complete(options: argparse.Namespace, header, how):
    """The first test images, of one label if it is named."""
    data = _data(header, options.data_dir)
    wanted = data.test_labels if options.label is None else options.label
    chosen = (data.test_labels == wanted).nonzero()[0]
    if not len(chosen):
        raise InputError(f"--label {options.label}: no test image has it, so none can be completed")
    if options.count is not None and how.count > len(chosen):
        raise InputError(f"--count is {how.count}: there are {len(chosen)} such test images")
    chosen = chosen[: how.count]
    return data.test_images.reshape(len(data.test_images), -1)[chosen], data.test_labels[chosen]


def bench(options: argparse.Namespace) -> int:
    """`anima bench [NAME ...]`: how fast settling and learning are here, beside the floor."""
    from anima.app.bench import TASKS, measure
    from anima.run import folder

    out, seed = _out(options), options.seed or 0
    if out:
        folder.check_free(out)
    unknown = [name for name in options.names if name not in TASKS]
    if unknown:
        raise InputError(f"unknown benchmark {unknown[0]!r}: {nearest(unknown[0], TASKS)}")
    rows = []
    for name in options.names or TASKS:
        row = measure(name, seed=seed)
        rows.append(row)
        if not options.json and not options.quiet:
            print(
                f"{name:<22} {row['samples_per_second']:>9.0f} samples/s   first call "
                f"{row['first_call_seconds']:.2f} s   {100 * row['share_of_peak']:.0f}% of the "
                f"measured GEMM peak ({row['gemm_gflops']:.0f} GFLOP/s)",
                flush=True,
            )
    result = {"seed": seed, "benchmarks": rows}
    if out:
        _write(out, "bench.json", result)
    _say(options, result, [])
    return DONE


def _resume_life(options: argparse.Namespace, path: Path) -> int:
    from anima.run import live as lived
    from anima.run.metrics import check_tensorboard

    header, config = lived.read(path)
    _refuse_other_seed(options, header.seed)
    _refuse_data(options)
    out = _out(options)
    if out and out.resolve() != path.resolve():
        raise InputError(f"--out {out}: a run goes on in its own folder {path}: leave --out away")
    if options.tensorboard:
        check_tensorboard()
    living = lived.Living(config, header.seed, header.seeds, path)
    with contextlib.closing(living):
        return _live(options, header, living, resume=True)


def _evaluate_life(options: argparse.Namespace, path: Path) -> int:
    from anima.run import folder
    from anima.run import live as lived

    header, config = lived.read(path)
    _refuse_other_seed(options, header.seed)
    _refuse_data(options)
    episodes = config.live.episodes if options.episodes is None else options.episodes
    if not 1 <= episodes <= _MOST_EPISODES:
        raise InputError(f"--episodes is {episodes}: it must be from 1 to {_MOST_EPISODES}")
    out = _out(options)
    if out:
        folder.check_free(out)
    living = lived.Living(config, header.seed, header.seeds, path)
    with contextlib.closing(living):
        *_, seconds = living.restore(lambda message: print(f"anima: {message}", file=sys.stderr))
        scores = living.judge(later=True, episodes=episodes)
    result = lived.result(path, living, scores, seconds)
    _tell_note(result)
    if out:
        _write(out, "evaluate.json", result)
    _say(options, result, _returns(result))
    return DONE


def _live(options, header, living, *, resume: bool) -> int:
    from anima.app import progress as shown
    from anima.app.summary import write_life

    out = living.folder
    with shown.display(options.quiet, sys.stderr, shown.living()) as (progress, warn):
        outcome = living.run(
            progress=progress, warn=warn, resume=resume, tensorboard=options.tensorboard
        )
    if outcome.interrupted:
        print(
            f"anima: interrupted at step {living.lives.steps} and saved: "
            f"`anima resume {shlex.quote(str(out))}` goes on from there",
            file=sys.stderr,
        )
        return INTERRUPTED
    try:
        result, report = write_life(out, header, living, outcome)
    except OSError as error:
        raise InputError(
            f"cannot write the report in {out}: {error.strerror or error}; the run itself is "
            f"saved: make room, then `anima resume {shlex.quote(str(out))}` writes it"
        ) from error
    _tell_note(result)
    _say(options, result, [*_returns(result), f"run    {result['run']}", f"report {report}"])
    return DONE


def _tell_note(result: dict[str, Any]) -> None:
    if "note" in result:
        print(f"anima: {result['note']}", file=sys.stderr)


def _returns(result: dict[str, Any]) -> list[str]:
    low, high = result["ci95"]
    over = f"{result['episodes']} greedy episodes"
    over += f", {result['seeds']} seeds" if result["seeds"] > 1 else ""
    return [
        f"{result['environment']}: return {result['return_iqm']:.1f} (interquartile mean of {over};"
        f" 95% interval {low:.1f} to {high:.1f}; mean {result['return_mean']:.1f}) after "
        f"{result['environment_steps']} steps"
    ]


def _refuse_data(options: argparse.Namespace) -> None:
    if options.data_dir:
        raise InputError(f"--data-dir is for data sets: {options.run} is a run of agents")


def _train(options, header, training, data, *, resume: bool) -> int:
    from anima.app import progress as shown
    from anima.app.summary import write_summary

    out = training.folder
    with shown.display(options.quiet, sys.stderr, shown.learning()) as (progress, warn):
        outcome = training.run(
            progress=progress, warn=warn, resume=resume, tensorboard=options.tensorboard
        )
    if outcome.interrupted:
        print(
            f"anima: interrupted at step {int(outcome.lives.circuit.step)} and saved: "
            f"`anima resume {shlex.quote(str(out))}` goes on from there",
            file=sys.stderr,
        )
        return INTERRUPTED
    try:
        result, report = write_summary(out, header, training, outcome, data)
    except OSError as error:
        raise InputError(
            f"cannot write the report in {out}: {error.strerror or error}; the run itself is "
            f"saved: make room, then `anima resume {shlex.quote(str(out))}` writes it"
        ) from error
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
        for line in lines:
            print(line)


def _write(out: Path, name: str, result: dict[str, Any]) -> None:
    from anima.core.files import write_atomically
    from anima.run import folder

    folder.make(out)
    write_atomically(out / name, json.dumps(result, indent=1))


def _out(options: argparse.Namespace) -> Path | None:
    return Path(options.out).expanduser() if options.out else None


def _absolute(path: str) -> Path:
    return Path(path).expanduser().resolve()


def _found(name: str, data_dir: str) -> Path:
    """The folder where `load_data` found a data set that has no name of its own."""
    above = data_dir or os.environ.get("ANIMA_DATA", "")
    here = _absolute(name)
    return here if not above or (not data_dir and here.is_dir()) else _absolute(above) / name


def _data(header, data_dir: str | None):
    """The data set of a run, or its like in another folder."""
    from anima.world.data import SOURCES, load_data

    if data_dir and header.data not in ("digits", *SOURCES):
        data = load_data(_absolute(data_dir))
    else:
        data = load_data(header.data, data_dir or header.data_dir or None)
    if (list(data.shape), data.classes) != (header.shape, header.classes):
        raise InputError(
            f"{data_dir or header.data} holds {data.classes} classes of images of shape "
            f"{data.shape}, the run learnt {header.classes} of {tuple(header.shape)}: name the "
            "data it learnt from (--data-dir)"
        )
    return data


def _refuse_other_seed(options: argparse.Namespace, seed: int) -> None:
    if options.seed not in (None, seed):
        raise InputError(f"--seed is {options.seed} but the run's is {seed}: leave --seed away")


def _default_preset(data: str, presets: list[str]) -> str:
    own = f"{data}-eqprop"
    return own if own in presets else "mnist-eqprop"


def _free_folder(data: str, preset: str, seed: int) -> Path:
    """runs/<data>-<preset>-<seed>, or the first such name with a number that is free."""
    stem = preset if preset.startswith(f"{data}-") else f"{data}-{preset}"
    base = Path("runs") / f"{stem}-{seed}"
    candidates = [base, *(base.with_name(f"{base.name}.{n}") for n in range(2, 10_000))]
    return next(path for path in candidates if not path.exists())


def _download_progress(quiet: bool):
    from anima.app.progress import downloads

    return downloads(quiet, sys.stderr)


@contextlib.contextmanager
def _withdrawn_if_refused(out: Path):
    """Bad input that shows only in running (a size, a world that fails) leaves no folder either."""
    from anima.run import folder

    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or _too_large(error):
            folder.withdraw(out)
        raise


def _too_large(error: Exception) -> InputError | None:
    """What to say if memory is what failed; only those who chose the sizes can mend that."""
    found = re.search(r"[Oo]ut of memory(?: allocating (\d+) bytes)?", str(error))
    if not found and not isinstance(error, MemoryError):
        return None
    size = found and found[1]
    much = f"an array of {int(size) / 2**30:,.1f} GiB does" if size else "this does"
    return InputError(
        f"{much} not fit into memory: reduce a size (batch, hidden, samples, capacity, count or "
        "seeds)"
    )


def _complain(error: BaseException, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    text = " ".join(str(error).split()) or type(error).__name__
    kind = "" if isinstance(error, InputError | DivergedError) else f"{type(error).__name__}: "
    hint = " (--debug shows the traceback)" if kind and not debug else ""
    print(f"anima: {kind}{text}{hint}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see `{self.prog} --help`)")


def _parse(given: list[str]) -> argparse.Namespace:
    parser, commands = _parser()
    name = next((text for text in given if not text.startswith("-")), None)
    if name is not None and name not in commands:
        raise InputError(f"unknown command {name!r}: {nearest(name, commands)}")
    options, unknown = parser.parse_known_args(given)
    if name is None:
        raise InputError(f"name a command: {', '.join(commands)} (see `anima --help`)")
    if unknown:
        known = re.findall(r"--[a-z-]+", commands[name].format_usage())
        odd = unknown[0].partition("=")[0]
        hint = nearest(odd, known) if odd.startswith("-") else "it is one argument too many"
        hint = "write it after the command" if odd in known else hint
        raise InputError(f"`anima {name}` does not take {odd!r}: {hint}")
    return options


def _parser() -> tuple["_Parser", dict[str, "_Parser"]]:
    """The parser, and those of its commands by name."""
    parser = _Parser(prog="anima", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="name", metavar="COMMAND")

    one = _command(commands, "learn", learn)
    one.add_argument("data", metavar="DATA", help="digits, mnist, fashion-mnist or an IDX folder")
    one.add_argument("--preset", metavar="NAME", help="a recipe that ships with anima")
    one.add_argument("--data-dir", metavar="DIR", help="where the data files are")
    one.add_argument("--epochs", type=int, metavar="N", help="passes over the data")
    one.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. train.batch=64"
    )
    one.add_argument("--tensorboard", action="store_true", help="write TensorBoard events too")

    one = _command(commands, "live", live)
    one.add_argument("environment", metavar="ENV", help="e.g. CartPole-v1, any of gymnasium's")
    one.add_argument(
        "--agent",
        metavar="NAME",
        help="dqn, ppo, sac, reinforce, ddpg, svg0, synapse, angc, living",
    )
    one.add_argument("--preset", metavar="NAME", help="a recipe that ships with anima")
    one.add_argument("--assigner", metavar="NAME", help="how credit is assigned, e.g. eqprop")
    one.add_argument("--steps", type=int, metavar="N", help="environment steps of each life")
    one.add_argument("--seeds", type=int, default=1, metavar="K", help="so many lives at once")
    one.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. agent.rate=0.001"
    )
    one.add_argument("--tensorboard", action="store_true", help="write TensorBoard events too")

    one = _command(commands, "resume", resume)
    one.add_argument("run", metavar="RUN", help="a run's folder")
    one.add_argument("--data-dir", metavar="DIR", help="where the data files are now")
    one.add_argument("--tensorboard", action="store_true", help="write TensorBoard events too")

    one = _command(commands, "evaluate", evaluate)
    one.add_argument("run", metavar="RUN", help="a run's folder")
    one.add_argument("--data-dir", metavar="DIR", help="where the data files are now")

    one.add_argument("--episodes", type=int, metavar="N", help="greedy episodes of an agent")
    one = _command(commands, "dream", dream)
    one.add_argument("run", metavar="RUN", help="a run's folder")
    one.add_argument("--label", type=int, metavar="L", help="what to dream of (default: all)")
    one.add_argument("--count", type=int, metavar="N", help="dreams of each (16)")
    one.add_argument(
        "--steps", type=int, metavar="N", help="settling steps (400; 60 with --complete)"
    )
    one.add_argument("--temperature", type=float, metavar="T", help="of the noise (0.8)")
    one.add_argument(
        "--complete", action="store_true", help="complete test images whose lower half is hidden"
    )
    one.add_argument("--data-dir", metavar="DIR", help="where the data files are now")

    one = _command(commands, "bench", bench)
    one.add_argument("names", nargs="*", metavar="NAME", help="which benchmarks (default: all)")
    return parser, commands.choices


def _command(commands, name: str, function: Callable) -> argparse.ArgumentParser:
    text = (function.__doc__ or "").split(": ", 1)[1]
    parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(command=function)
    parser.add_argument("--seed", type=_seed, metavar="N", help="of all randomness (default: 0)")
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
    if not 0 <= seed <= LARGEST_SEED:
        # argparse lets no other error of a type pass with its message
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number up to {LARGEST_SEED}")
    return seed


def _version() -> str:
    from importlib.metadata import version

    return f"anima {version('anima')}"
