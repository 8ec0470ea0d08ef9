"""The command line: `python -m bnas_jax COMMAND ...`.

Logs go to stderr; the last line of stdout is one JSON object.
"""

import importlib
import os
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
# Commands for which JAX is not set up, as it takes seconds to load.
WITHOUT_JAX = ("draw", "report")

USAGE = """usage: python -m bnas_jax COMMAND [--option=value ...]

  search    --config=configs/search.py:digits --workdir=DIR      search a cell; writes DIR/genotype.json
  derive    --workdir=DIR [--gamma=3] --out=FILE                 another genotype of the same alphas; also
            [--keep_zeroise=False] [--epoch=N|best|last] [--as_of=before|after]
  train     --config=configs/train.py:digits --workdir=DIR       train a final network
            --change: go on in DIR with other values of optimizer, recipe, precision, activations or num_epochs; of search,
            too: there weights and alphas in place of optimizer and recipe; docs/usage.md says which must stay
            --init=DIR2 [--init_step=best]: begin with the weights of another run, for the same or other classes
  evaluate  --workdir=DIR [--step=best|last|N]                   restore a checkpoint and evaluate it; --model=FILE: of export
  cost      --config=configs/train.py:a [--budget=FLOPS]         count FLOPs, bits and parameters of each layer; a search's, too
  draw      --genotype=NAME|FILE|DIR --out=FILE.svg|.png         draw both cells; --genotype twice: side by side; also
            [--zeroise=False] [--skip=False]; --strip=10: the epochs of the search in DIR; --template: how cells follow
  export    --workdir=DIR --out=FILE [--step=best|last|N]        one file with one bit for each binary weight
  predict   --model=FILE --input=IMAGES.npy|FILE|DIR             classify images by that file; [--out=FILE.csv|.npz]
  report    --workdir=DIR [--out=FILE.html]                      one HTML page: result, curves, cells, settings
  gradients --workdir=DIR [--step=best|last|N]                   sum of |gradient| of each convolution, for the page of report
  import    --checkpoint=FILE --preset=d --workdir=DIR           the authors' weights into a work directory
  data      prepare NAME [--out=DATA_DIR]                        download and prepare a TFDS data set
  data      convert --source=DIR --out=DATA_DIR                  a prepared TFRecord directory into ArrayRecord
  data      check NAME --path=DIR                                read everything, count, and name what cannot be read
  benchmark search --config=configs/search.py:cifar10            time of a step, compiling, memory; also: benchmark train
  benchmark search --config=... --against=plain                  the same beside the step as one writes it first, in turns
  benchmark train --config=baselines:resnet18 --against=torch    the step of XNOR-Net's ResNet18 beside PyTorch's, in turns
  benchmark search --config=... --grow                           time and memory over channels, cells and batch
  benchmark save --config=configs/train.py:a                     how long saving a checkpoint blocks the steps
  benchmark packed --config=configs/train.py:a [--batch_size=1]  a packed network beside its float twin, layer by layer
  reproduce --table=8 --scale=smoke|paper --workdir=DIR          a table of the paper, ours beside the paper's; --figure=4: a
            [--rows=NAME,NAME] [--seeds=N] [--count]             figure; --count: what can be counted, nothing is run
  study     --study=configs/studies.py:layers --workdir=DIR      many runs over seeds, and their table; goes on where it was
  plan      --config=configs/train.py:a --on=v4-8                what a step needs, moves and takes at least on a machine that
            [--of=evaluate] [--quick] [--again]                  is not there: v4-32, v5e-16, v5p-8, v6e-8, h100x8, ...
            [--presets=train:a,search:digits] [--on=v4-8,v5e-8]  a table of all pairs; goes on where it was
  benchmark data                                                 images per second, and the cost of augmentation

--config=train:digits is short for configs/train.py:digits. Any setting of a config: --config.KEY=VALUE.
--extensions=FILE.py, on every command: layer types, schemes, searchers and networks of one's own.
--debug shows the traceback of an error, --version the version."""


def run(arguments: list[str]) -> int:
    """Runs one command; returns the exit code: that of its result; 2 for what the user
    can mend; 130 or 143 after a signal.
    """
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        if not arguments:
            print(USAGE, file=sys.stderr)
            return 2
        command, *rest = arguments
        if command in ("-h", "--help", "help"):
            print(USAGE, file=sys.stderr)
            return 0
        if command in ("--version", "version"):
            print(f"bnas_jax {__version__}")
            return 0
        if command not in COMMANDS:
            state = "is not a command"
            if command.startswith("-"):
                state = "is no command, which comes first"
            raise UserError(f"{command!r} {state}; write one of {', '.join(COMMANDS)}")
        if "--help" in rest or "-h" in rest:
            print(usage_of(command), file=sys.stderr)
            return 0

        # Modules are imported as late as possible: --help and a mistake in the command
        # take no second.
        if command not in WITHOUT_JAX:
            _set_up()
        extensions = importlib.import_module("bnas_jax.extensions")
        words, loaded = extensions.take(spelling.options(rest))
        name = COMMANDS[command]
        module = importlib.import_module(f"bnas_jax.cli.{name}")
        perform = getattr(module, name)
        result = perform(words, loaded)
        print(json_text(result))
        machine.check_stdout()
        if result.get("failed"):
            names = ", ".join(result["failed"])
            print(
                f"bnas_jax: failed runs: {names}; the same command tries them again",
                file=sys.stderr,
            )
        return exit_code_of(result)
    except UserError as error:
        return _fail(error, code=2, debug=debug)
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


def exit_code_of(result: Mapping) -> int:
    """The exit code of a command that came to its end.

    1 for a plan that does not fit its machine, and for a table some of whose runs
    failed, so that a script stops there; 0 otherwise. result: what the command prints
    as JSON.

    >>> exit_code_of({"top1": 97.8}), exit_code_of({"fits": False}), exit_code_of({"failed": {"xnor/0": "no such folder"}})
    (0, 1, 1)
    """
    if result.get("failed") or result.get("fits") is False:
        return 1
    return 0


def usage_of(command: str) -> str:
    """The lines of USAGE about a command, and those about all of them."""
    head, *lines = USAGE.splitlines()
    commands, always = lines[: lines.index("", 1)], lines[lines.index("", 1) :]
    found = []
    of_command = False
    for line in commands:
        # What belongs to the line before begins further to the right.
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
    message = " ".join((message or str(error)).split()) or type(error).__name__
    # Other codes are of runs that were stopped, which is no error.
    prefix = ""
    if code == 2:
        prefix = "error: "
    print(f"bnas_jax: {prefix}{message}", file=sys.stderr)
    return code


def _set_up() -> None:
    # Orbax and TFDS log each step of theirs; warnings that matter are raised as errors.
    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from bnas_jax.runtime.compilation_cache import use_compilation_cache

    use_compilation_cache()


def main() -> None:
    """The entry point of `bnas` and of `python -m bnas_jax`."""
    machine.open_streams()
    code = run(sys.argv[1:])
    # Python would wait for what still compiles after a signal, or saves after a second
    # Ctrl-C.
    if code == 130 or any(
        thread.name == "given up" for thread in threading.enumerate()
    ):
        _quit(code)
    sys.exit(code)


def _quit(code: int) -> None:
    """Ends without waiting for threads.

    What reads data is ended first; another Ctrl-C skips that.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # What was never imported has nothing to end.
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
