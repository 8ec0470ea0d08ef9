"""Commands, run in this process: what they end with, and how they fail."""

import json

from bnas_jax.__main__ import run


def printed(captured, *words: object) -> dict:
    """The JSON object that a command prints at its end.

    captured: pytest's `capfd` or `capsys`.
    """
    captured.readouterr()
    code = run([str(word) for word in words])
    out, err = captured.readouterr()
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


def error(captured, *words: object) -> str:
    """The message of a command that fails with one line, and prints nothing else."""
    captured.readouterr()
    assert run([str(word) for word in words]) == 2
    out, err = captured.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.startswith("bnas_jax: error: ")
    return line.removeprefix("bnas_jax: error: ")
