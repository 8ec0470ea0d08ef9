"""Genotypes as texts: JSON, or the call that DARTS's code and its successors print.

Both are parsed; no code in them is run.
"""

import ast
import json
from collections.abc import Iterable
from typing import Any

from bnas_jax.core.errors import UserError, first_line

# The fields of the DARTS family's named tuple, in its order.
_PRINTED = ("normal", "normal_concat", "reduce", "reduce_concat")
# The form of such a call, for messages.
_FORM = (
    "Genotype(normal=[...], normal_concat=range(2, 6), reduce=[...], "
    "reduce_concat=range(2, 6))"
)
# The errors of Python's parser and `ast.literal_eval` for any text that they refuse.
_NOT_PARSED = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)


def is_printed(text: str) -> bool:
    """Whether a text is a call of Genotype rather than JSON."""
    return "Genotype(" in text and not text.lstrip().startswith("{")


def is_text(value: str) -> bool:
    """Whether a value is a genotype itself, printed or in JSON, and no name or path."""
    return is_printed(value) or value.lstrip().startswith("{")


def parse(text: str) -> Any:
    """The value in a text, a dict if it is a genotype.

    Raises `UserError` for a text that is neither JSON nor a call of Genotype.
    """
    if is_printed(text):
        return _printed(text)
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        # The place of the mistake, without the message of Python's parser.
        place = "nested too deeply"
        if isinstance(error, json.JSONDecodeError):
            place = f"see line {error.lineno}, column {error.colno}"
        elif isinstance(error, ValueError):
            place = "a number has too many digits"
        raise UserError(f"genotype: not valid JSON ({place}), nor {_FORM}") from None


def _printed(text: str) -> dict:
    """The arguments of Genotype(...) by their names."""
    try:
        call = _call(text)
        if len(call.args) > len(_PRINTED):
            raise ValueError(f"{len(call.args)} values")

        # Positional arguments, then those by name.
        pairs: list[tuple[str | None, Any]] = []
        for name, node in zip(_PRINTED, call.args, strict=False):
            pairs.append((name, _value(node)))
        for keyword in call.keywords:
            pairs.append((keyword.arg, _value(keyword.value)))
        return _each_once(pairs)
    except UserError:
        raise
    except _NOT_PARSED as error:
        reason = first_line(error)
        if isinstance(error, SyntaxError):
            reason = f"{error.msg}, in line {error.lineno}"
        raise UserError(
            f"genotype: cannot read that text ({reason}); write {_FORM} and nothing "
            "else"
        ) from None


def _call(text: str) -> ast.Call:
    """The call Genotype(...) that is the whole text, or follows `NAME =`."""
    # Parsed to a tree, never run.
    statements = ast.parse(text.strip()).body
    if len(statements) != 1 or not isinstance(statements[0], (ast.Expr, ast.Assign)):
        raise ValueError(f"{len(statements)} statements")

    call = statements[0].value
    if not isinstance(call, ast.Call):
        raise ValueError("no call of Genotype")
    # The name may be that of a module's attribute: genotypes.Genotype(...).
    if ast.unparse(call.func).split(".")[-1] != "Genotype":
        raise ValueError("no call of Genotype")
    return call


def _value(node: ast.expr) -> Any:
    """The value of a literal, or of a range of literals."""
    if (
        isinstance(node, ast.Call)
        and ast.unparse(node.func) == "range"
        and not node.keywords
    ):
        limits = [ast.literal_eval(argument) for argument in node.args]
        return range(*limits)
    try:
        return ast.literal_eval(node)
    except ValueError:
        # Python's message names an object of its parser.
        raise ValueError(
            f"{ast.unparse(node)[:40]!r} is not a list of names and numbers"
        ) from None


def _each_once(pairs: Iterable[tuple[str | None, Any]]) -> dict:
    """A dict of the pairs; raises `UserError` for a name that comes twice.

    `dict` would silently take the last value of such a name.
    """
    found: dict = {}
    for name, value in pairs:
        if name in found:
            raise UserError(f"genotype: {name!r} is there twice; keep one of them")
        found[name] = value
    return found
