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
# Characters that make a terminal do something, where a file's text is in an error.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Commands for which JAX is not set up, as it takes seconds to load.
WITHOUT_JAX = ("draw", "report")

USAGE = """usage: python -m bnas_jax COMMAND [--option=value ...]

  search     search a cell; writes DIR/genotype.json
             --config=configs/search.py:digits --workdir=DIR
             --change: go on in DIR with other values of weights, alphas,
               precision, activations or num_epochs; docs/usage.md says which
               settings must stay
  derive     another genotype of the same alphas
             --workdir=DIR --out=FILE [--gamma=3] [--keep_zeroise=False]
             [--epoch=N|best|last] [--as_of=before|after]
  train      train a final network
             --config=configs/train.py:digits --workdir=DIR
             --change: go on in DIR with other values of optimizer, recipe,
               precision, activations or num_epochs; docs/usage.md says which
               settings must stay
             --init=DIR2 [--init_step=best]: begin with the weights of another
               run, for the same or other classes
  evaluate   restore a checkpoint and evaluate it
             --workdir=DIR [--step=best|last|N]
             --model=FILE: evaluate a file that export wrote
  cost       count FLOPs, bits and parameters of each layer; a search's, too
             --config=configs/train.py:a [--budget=FLOPS]
  draw       draw both cells
             --genotype=NAME|FILE|DIR --out=FILE.svg|.png
             [--zeroise=False] [--skip=False]
             --genotype twice: side by side
             --strip=10: the epochs of the search in DIR
             --template: how cells follow each other
  export     one file with one bit for each binary weight
             --workdir=DIR --out=FILE [--step=best|last|N]
             --format=program: a program that needs JAX alone, and not this package
             [--platforms=cpu,cuda] [--batch_size=N]: for these alone, and N images
  predict    classify images by a file that export wrote
             --model=FILE --input=IMAGES.npy|FILE|DIR [--out=FILE.csv|.npz]
             [--top=5]: the five likeliest classes of each image
  report     one HTML page: result, curves, cells, settings
             --workdir=DIR [--out=FILE.html]
  gradients  sum of |gradient| of each convolution, for the page of report
             --workdir=DIR [--step=best|last|N]
  import     the authors' weights into a work directory
             --checkpoint=FILE --preset=d --workdir=DIR
  data       data sets on disk
             prepare NAME [--out=DATA_DIR]
               download and prepare a TFDS data set
             convert --source=DIR --out=DATA_DIR
               a prepared TFRecord directory into ArrayRecord
             check NAME --path=DIR
               read everything, count, and name what cannot be read
  benchmark  times and memory on this machine
             search --config=configs/search.py:cifar10
               time of a step, compiling, memory; also: benchmark train
             search --config=... --against=plain
               the same beside the step as one writes it first, in turns
             train --config=baselines:resnet18 --against=torch
               the step of XNOR-Net's ResNet18 beside PyTorch's, in turns
             search --config=... --grow
               time and memory over channels, cells and batch
             save --config=configs/train.py:a
               how long saving a checkpoint blocks the steps
             packed --config=configs/train.py:a [--batch_size=1]
               a packed network beside its float twin, layer by layer
             data
               images per second, and the cost of augmentation
  reproduce  a table or figure of the paper, ours beside the paper's
             --table=8|--figure=4 --scale=smoke|paper --workdir=DIR
             [--rows=NAME,NAME] [--seeds=N]
             --count: what can be counted, nothing is run
  study      many runs over seeds, and their table; goes on where it was
             --study=configs/studies.py:layers --workdir=DIR
  plan       what a step needs, moves and takes at least on a machine that is
             not there: v4-32, v5e-16, v5p-8, v6e-8, h100x8, ...
             --config=configs/train.py:a --on=v4-8 [--of=evaluate] [--quick]
             [--again]
             --presets=train:a,search:digits --on=v4-8,v5e-8
               a table of all pairs; goes on where it was

--config=train:digits is short for configs/train.py:digits.
Any setting of a config: --config.KEY=VALUE.
--extensions=FILE.py, on every command: layer types, schemes, searchers and
networks of one's own.
--debug shows the traceback of an error, --version the version."""


def run(arguments: list[str]) -> int:
    """Runs one command; returns its exit code.

    0 and 1: it came to its end, see `exit_code_of`. 2: an error that the user can mend.
    130 or 143: stopped by a signal.
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
        # `stops.Stopped`, which may not be imported here without JAX.
        if hasattr(error, "exit_code"):
            return _fail(error, code=error.exit_code, debug=debug)
        # A machine that lacks something is no mistake in the code; anything else shows
        # its traceback.
        lacking = machine.explain(error)
        if lacking is None:
            raise
        return _fail(error, code=2, debug=debug, message=lacking)


def _answer(words: list[str]) -> int:
    """Shows the usage or the version, or performs a command; returns the exit code."""
    # No command at all is a mistake; asking for help or the version is none.
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
            state = "is no command, which comes first"
        raise UserError(f"{command!r} {state}; write one of {', '.join(COMMANDS)}")
    if "--help" in rest or "-h" in rest:
        print(usage_of(command), file=sys.stderr)
        return 0
    return _perform(command, rest)


def _perform(command: str, arguments: list[str]) -> int:
    """Runs a command and prints its result; returns the exit code."""
    # Modules are imported as late as possible: --help and a mistake in the command take
    # no second.
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
    """The exit code of a command that came to its end.

    1 for a plan that does not fit its machine, and for a table some of whose runs
    failed, so that a script stops there; 0 otherwise. result: what the command prints
    as JSON.

    >>> exit_code_of({"top1": 97.8}), exit_code_of({"fits": False})
    (0, 1)
    >>> exit_code_of({"failed": {"xnor/0": "no such folder"}})
    1
    """
    if result.get("failed") or result.get("fits") is False:
        return 1
    return 0


def usage_of(command: str) -> str:
    """The lines of USAGE about a command, and those about all of them."""
    # USAGE is a head, the commands, and the options of all commands, with an empty line
    # between two parts.
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
    # One line, whatever the error has; the class where it has no words.
    words = (message or str(error)).split()
    message = " ".join(words) or type(error).__name__
    message = _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], message)
    # Any other code is that of a run that was stopped, which is no error.
    prefix = ""
    if code == 2:
        prefix = "error: "
    print(f"bnas_jax: {prefix}{message}", file=sys.stderr)
    return code


def _set_up() -> None:
    """Silences the logs of libraries, and turns on JAX's compilation cache."""
    # Orbax and TFDS log each of their steps; warnings that matter are raised as errors.
    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from bnas_jax.runtime.compilation_cache import use_compilation_cache

    use_compilation_cache()


def main() -> None:
    """The entry point of `bnas` and of `python -m bnas_jax`."""
    machine.open_streams()
    code = run(sys.argv[1:])
    # Python would wait for threads that still compile after a signal, or still save
    # after a second Ctrl-C.
    threads = [thread.name for thread in threading.enumerate()]
    if code == 130 or "given up" in threads:
        _quit(code)
    sys.exit(code)


def _quit(code: int) -> None:
    """Ends the process without waiting for its threads.

    Threads and processes that read data are ended first; another Ctrl-C skips that.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # A module that was never imported has nothing to end.
    jax = sys.modules.get("jax")
    read_ahead = sys.modules.get("bnas_jax.data.read_ahead")
    try:
        if read_ahead is not None:
            read_ahead.close_all()
        # The other processes wait to hear that this one ends.
        if jax is not None and jax.distributed.is_initialized():
            jax.distributed.shutdown()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
