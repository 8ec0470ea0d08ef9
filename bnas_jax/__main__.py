"""The command line: `python -m bnas_jax COMMAND ...`.

Logs go to stderr; the last line of stdout is one JSON object.
"""

import importlib
import os
import re
import sys
import threading
import traceback
from collections.abc import Mapping

from bnas_jax import __version__, machine, spelling
from bnas_jax.core.errors import UserError
from bnas_jax.workdir.files import json_text

# Command -> its module in `cli`, which has a function of the same name.
COMMANDS = {
    "search": "search",
    "derive": "derive",
    "train": "train",
    "evaluate": "evaluate",
    "cost": "cost",
    "draw": "draw",
    "import": "import_weights",
    "data": "data",
    "benchmark": "benchmark",
    "study": "study",
    "plan": "plan",
    "export": "export",
    "predict": "predict",
    "report": "report",
    "reproduce": "reproduce",
    "gradients": "gradients",
}
# Control characters, which an error message may contain if it quotes a file. A terminal
# would obey them.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# These commands do not load JAX, which takes seconds.
WITHOUT_JAX = ("draw", "report")

USAGE = """usage: python -m bnas_jax COMMAND [--option=value ...]

  search     search a cell; writes DIR/genotype.json
             --config=configs/search.py:digits --workdir=DIR
             --change: continue the run in DIR with other values of weights,
               alphas, precision or num_epochs; docs/usage.md says which
               settings cannot change
  derive     derive another genotype from the alphas of a search
             --workdir=DIR --out=FILE [--gamma=3] [--keep_zeroise=False]
             [--epoch=N|best|last] [--as_of=before|after]
  train      train a final network
             --config=configs/train.py:digits --workdir=DIR
             --change: continue the run in DIR with other values of optimizer,
               recipe, precision, activations or num_epochs; docs/usage.md says
               which settings cannot change
             --init=DIR2 [--init_step=best]: initialise with the weights of
               another run, for the same or other classes
  evaluate   restore a checkpoint and evaluate it
             --workdir=DIR [--step=best|last|N]
             --model=FILE: evaluate a file that export wrote
  cost       count FLOPs, bits and parameters of each layer of a network or
             supernet
             --config=configs/train.py:a [--budget=FLOPS]
  draw       draw both cells
             --genotype=NAME|FILE|DIR --out=FILE.svg|.png
             [--zeroise=False] [--skip=False]
             --genotype several times: genotypes side by side
             --strip=10: the cells at 10 epochs of the search in DIR
             --template: the connections between cells
  export     write one file with one bit for each binary weight
             --workdir=DIR --out=FILE [--step=best|last|N]
             --format=program: a program that needs only JAX, not this package
             [--platforms=cpu,cuda] [--batch_size=N]: only for these platforms,
               and for N images at a time
  predict    classify images with a file that export wrote
             --model=FILE --input=IMAGES.npy|FILE|DIR [--out=FILE.csv|.npz]
             [--top=5]: the five likeliest classes of each image
  report     write one HTML page: result, curves, cells, settings
             --workdir=DIR [--out=FILE.html]
  gradients  sum |gradient| over each convolution, for report
             --workdir=DIR [--step=best|last|N]
  import     make a work directory from the authors' weights
             --checkpoint=FILE --preset=d --workdir=DIR
  data       prepare, convert and check data sets
             prepare NAME [--out=DATA_DIR]
               download and prepare a TFDS data set
             convert --source=DIR --out=DATA_DIR
               convert a prepared TFRecord directory to ArrayRecord
             check NAME --path=DIR
               read everything, count it, and name what cannot be read
  benchmark  measure times and memory on this machine
             search --config=configs/search.py:cifar10
               step time, compile time, memory; also: benchmark train
             search --config=... --against=plain
               compare with a plain JAX step, timed alternately
             train --config=baselines:resnet18 --against=torch
               compare XNOR-Net's ResNet18 with PyTorch, timed alternately
             search --config=... --grow
               time and memory over channels, cells and batch sizes
             save --config=configs/train.py:a
               how long saving a checkpoint blocks the steps
             packed --config=configs/train.py:a [--batch_size=1]
               compare a packed network with its float twin, layer by layer
             data
               images per second, and the cost of augmentation
  reproduce  run a table or figure of the paper; compare with its numbers
             --table=8|--figure=4 --scale=smoke|paper --workdir=DIR
             [--rows=NAME,NAME] [--seeds=N]
             --count: only what can be counted; nothing is run
  study      run variants over seeds, and write a table; can be interrupted
             --study=configs/studies.py:layers --workdir=DIR
  plan       compile a step for a machine that is not there: memory, traffic,
             least time. v4-32, v5e-16, v5p-8, v6e-8, h100x8, ...
             --config=configs/train.py:a --on=v4-8 [--of=evaluate] [--quick]
             [--again]
             --presets=train:a,search:digits --on=v4-8,v5e-8
               a table of all pairs; can be interrupted

--config=train:digits is short for configs/train.py:digits.
--config.KEY=VALUE sets any setting of a config.
--extensions=FILE.py, for every command, adds your own layer types, schemes,
searchers and networks.
--debug shows the traceback of an error, --version the version."""


def run(arguments: list[str]) -> int:
    """Runs one command; returns its exit code.

    0 and 1: the command ended, see `exit_code_of`. 2: a mistake that the user can
    correct. 130 or 143: stopped by a signal.
    """
    debug = "--debug" in arguments
    words = [word for word in arguments if word != "--debug"]
    try:
        return _answer(words)
    except UserError as error:
        code = getattr(error, "exit_code", 2)
        return _fail(error, code=code, debug=debug)
    except KeyboardInterrupt as error:
        return _fail(error, code=130, debug=debug, message="stopped by Ctrl-C")
    except Exception as error:
        # `stops.Stopped`, whose module is not imported here because it loads JAX.
        if hasattr(error, "exit_code"):
            return _fail(error, code=error.exit_code, debug=debug)
        # A machine that lacks something is not a bug. Any other error shows its
        # traceback.
        lacking = machine.explain(error)
        if lacking is None:
            raise
        return _fail(error, code=2, debug=debug, message=lacking)


def _answer(words: list[str]) -> int:
    """Shows the usage or the version, or performs a command; returns the exit code."""
    # Without a command it is a mistake; to ask for help or the version is not.
    if not words:
        print(USAGE, file=sys.stderr)
        return 2
    command, *rest = words
    if command in ("-h", "--help", "help"):
        print(USAGE, file=sys.stderr)
        return 0
    if command in ("--version", "version"):
        print(f"bnas_jax {__version__}")
        return 0

    # The command comes first.
    if command not in COMMANDS:
        state = "is not a command"
        if command.startswith("-"):
            state = "is an option, and the command comes first"
        raise UserError(f"{command!r} {state}; write one of {', '.join(COMMANDS)}")
    if "--help" in rest or "-h" in rest:
        print(usage_of(command), file=sys.stderr)
        return 0
    return _perform(command, rest)


def _perform(command: str, arguments: list[str]) -> int:
    """Runs a command and prints its result; returns the exit code."""
    # Modules are imported here and not at the top, so that --help and a misspelled
    # command are answered at once.
    if command not in WITHOUT_JAX:
        _set_up()
    extensions = importlib.import_module("bnas_jax.extensions")
    words, loaded = extensions.take(spelling.options(arguments))

    # The function of the command, in the module of the same name.
    name = COMMANDS[command]
    module = importlib.import_module(f"bnas_jax.cli.{name}")
    perform = getattr(module, name)
    result = perform(words, loaded)

    # The result is the last line of stdout.
    print(json_text(result))
    machine.check_stdout()
    if result.get("failed"):
        names = ", ".join(result["failed"])
        print(
            f"bnas_jax: failed runs: {names}; the same command tries them again",
            file=sys.stderr,
        )
    return exit_code_of(result)


def exit_code_of(result: Mapping) -> int:
    """The exit code of a command that finished.

    It is 1 for a plan that does not fit its machine, and for a table if some of its
    runs failed, so that a script stops there; 0 otherwise.

    result: the object that the command prints as JSON.

    >>> exit_code_of({"top1": 97.8}), exit_code_of({"fits": False})
    (0, 1)
    >>> exit_code_of({"failed": {"xnor/0": "no such folder"}})
    1
    """
    if result.get("failed") or result.get("fits") is False:
        return 1
    return 0


def usage_of(command: str) -> str:
    """The lines of USAGE about one command, and those about all commands."""
    # USAGE has three parts, separated by empty lines: a head, the commands, and the
    # options that all commands have.
    head, _, *lines = USAGE.splitlines()
    end = lines.index("")
    commands, always = lines[:end], lines[end:]

    found = []
    of_command = False
    for line in commands:
        # A command begins in column 2, its options further to the right.
        if line.startswith("  ") and not line.startswith("   "):
            of_command = line.split()[0] == command
        if of_command:
            found.append(line)
    return "\n".join([head, "", *found, *always])


def _fail(
    error: BaseException, code: int, debug: bool, message: str | None = None
) -> int:
    """Prints an error in one line; returns the exit code."""
    if debug:
        traceback.print_exc()
    # All whitespace becomes single spaces. An error without a message shows its class.
    words = (message or str(error)).split()
    message = " ".join(words) or type(error).__name__
    message = _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], message)
    # Other codes mean that a run was stopped, which is not an error.
    prefix = ""
    if code == 2:
        prefix = "error: "
    print(f"bnas_jax: {prefix}{message}", file=sys.stderr)
    return code


def _set_up() -> None:
    """Silences the logs of libraries, and turns on JAX's compilation cache."""
    # Orbax and TFDS log every operation. Their warnings that matter are raised as
    # errors.
    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from bnas_jax.runtime.compilation_cache import use_compilation_cache

    use_compilation_cache()


def main() -> None:
    """The entry point of `bnas` and of `python -m bnas_jax`."""
    machine.open_streams()
    code = run(sys.argv[1:])
    # A normal exit would wait for threads that still compile after a signal, or still
    # save after a second Ctrl-C.
    threads = [thread.name for thread in threading.enumerate()]
    if code == 130 or "given up" in threads:
        _quit(code)
    sys.exit(code)


def _quit(code: int) -> None:
    """Ends the process without waiting for its threads.

    Threads and processes that read data are ended first, unless another Ctrl-C follows.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # Nothing is imported here: a module that was never imported has started nothing.
    jax = sys.modules.get("jax")
    read_ahead = sys.modules.get("bnas_jax.data.read_ahead")
    try:
        if read_ahead is not None:
            read_ahead.close_all()
        # The other processes of the run wait for this one to leave.
        if jax is not None and jax.distributed.is_initialized():
            jax.distributed.shutdown()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
