"""How often a loop of a compiled program runs its body.

For GPUs, XLA writes this number beside the loop. For TPUs, it follows from the loop's
counter, an entry of the tuple that the loop carries. For seven iterations:

    before it:     %start = tuple(%zero, ...), %zero = constant(0)
    its condition: compare(%i, %seven), direction=LT, %seven = constant(7)
    its body:      ROOT tuple(%next, ...), %next = add(%i, %one), %one = constant(1)

where %i is get-tuple-element(...), index=0 in both.
"""

from collections.abc import Mapping, Sequence

from bnas_jax.plan.compiled_text import Instruction, Program

# Name -> instruction of a computation.
_Named = Mapping[str, Instruction]


def repeats(program: Program, loop: Instruction) -> int:
    """How often a loop runs its body, 1 if it is not known."""
    noted = loop.noted_repeats
    if noted is not None:
        return noted
    counted = _counted(program, loop)
    return 1 if counted is None else len(counted)


def _counted(program: Program, loop: Instruction) -> range | None:
    """The values of a loop's counter, None for a loop of another form."""
    condition = _named(program.computations.get(loop.condition, ()))
    body = _named(program.computations.get(loop.body, ()))
    around = _around(program, loop)

    # The condition: an entry of the tuple is less than a constant.
    test = _root(condition)
    if test is None or test.opcode != "compare" or "direction=LT" not in test.text:
        return None
    counter, limit = test.operands
    place = condition[counter].tuple_index if counter in condition else None
    if place is None:
        return None

    # The first value of this entry, and the number that the body adds to it.
    start = _entry(around.get(loop.operands[0]), place)
    following = body.get(_entry(_root(body), place))
    if following is None or following.opcode != "add":
        return None
    steps = [_integer(name, body) for name in following.operands]
    numbers = _integer(start, around), _integer(limit, condition)
    first, stop, step = *numbers, steps[0] if steps[1] is None else steps[1]
    if first is None or stop is None or step is None or step < 1:
        return None
    return range(first, stop, step)


def _named(computation: Sequence[Instruction]) -> _Named:
    """{name: instruction} of a computation."""
    return {each.name: each for each in computation}


def _around(program: Program, loop: Instruction) -> _Named:
    """The computation that contains a loop."""
    for computation in program.computations.values():
        if any(each.name == loop.name for each in computation):
            return _named(computation)
    return {}


def _root(computation: _Named) -> Instruction | None:
    """The instruction whose result is that of its computation."""
    return next((each for each in computation.values() if each.root), None)


def _entry(made: Instruction | None, place: int) -> str:
    """The name of an entry of a tuple, "" if the instruction is not a tuple."""
    if made is None or made.opcode != "tuple":
        return ""
    return made.operands[place]


def _integer(name: str, computation: _Named) -> int | None:
    """The value of a constant, or of a copy of one; None for anything else."""
    made = computation.get(name)
    while made is not None and made.opcode == "copy":
        made = computation.get(made.operands[0])
    if made is None or made.opcode != "constant" or not made.arguments.isdigit():
        return None
    return int(made.arguments)
