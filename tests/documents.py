"""The README and docs/ as the tests read them: blocks of code, commands, words."""

import pathlib
import re
import shlex
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = (README, *sorted((ROOT / "docs").rglob("*.md")))

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"^ {4}.*$", re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")


class Block(NamedTuple):
    """A block of code. language: what stands behind its fence."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The name in a first line such as `# mine.py`."""
        found = re.match(r"# (\w+\.py)\n", self.text)
        return found and found[1]


def blocks(document: pathlib.Path) -> list[Block]:
    """All blocks of code of a document, in their order."""
    return [Block(*found) for found in _FENCED.findall(document.read_text())]


def prose(document: pathlib.Path) -> str:
    """The text without blocks of code and tables."""
    text = _FENCED.sub("", document.read_text())
    return "\n".join(line for line in text.splitlines() if not line.startswith("|"))


def shell_lines(text: str) -> list[str]:
    """The commands of a block, continued lines joined, and variables that it sets put
    in their places.
    """
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    variables: dict[str, str] = {}
    commands = []
    for line in lines:
        line = re.sub(r"\s+#.*", "", line).strip()
        for name, value in variables.items():
            line = line.replace(f"${name}", value)
        assignment = re.fullmatch(r'(\w+)="([^"]*)"', line)
        if assignment:
            variables[assignment[1]] = assignment[2]
        elif line:
            commands.append(line)
    return commands


def commands(document: pathlib.Path) -> list[list[str]]:
    """The words behind `python -m bnas_jax`, or behind a launch script and its options,
    of each command of a document.

    Commands stand in blocks, fenced or indented, which share their variables, and in
    `...` within a line.
    """
    text = _FENCED.sub("", document.read_text())
    in_blocks = [
        block.text for block in blocks(document) if block.language in ("", "bash")
    ]
    in_blocks += _INDENTED.findall(text)
    lines = shell_lines("\n".join(in_blocks)) + _INLINE.findall(text)
    found = []
    for line in lines:
        before, python, after = line.partition("python -m bnas_jax ")
        if python:
            found.append(shlex.split(after))
        elif before.startswith("bash launch/"):
            found.append(_behind_script(shlex.split(before)))
    return [words for words in found if words and "COMMAND" not in words]


def _behind_script(words: list[str]) -> list[str]:
    """From the command on that a launch script is given; [] where it takes none."""
    from bnas_jax.__main__ import COMMANDS

    starts = [position for position, word in enumerate(words) if word in COMMANDS]
    return words[starts[0] :] if starts else []
