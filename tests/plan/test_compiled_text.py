"""A program's text is read as XLA writes it: on a program made by hand, every number counted by hand."""

# ruff: noqa: E501 (an instruction is one line)

import textwrap

import numpy as np
import pytest

from bnas_jax.plan import compiled_text, movement

# Two arrays of 16*32*32*36 floats: 2,359,296 bytes, padded from 36 to 128 channels 8,388,608.
PROGRAM = textwrap.dedent(
    """
    HloModule jit_step, is_scheduled=true

    %fused (param_0: f32[16,32,32,36]) -> f32[16,32,32,36] {
      ROOT %inner = f32[16,32,32,36]{3,2,1,0:T(8,128)} negate(%param_0), metadata={op_name="jit(step)/jvp(Network)/no/neg"}
    }

    %body (state: (s32[], f32[256])) -> (s32[], f32[256]) {
      %state = (s32[]{:T(128)}, f32[256]{0:T(256)}) parameter(0)
      %part = f32[256]{0:T(256)} get-tuple-element(%state), index=1
      %twice = f32[256]{0:T(256)} multiply(%part, %part), metadata={op_name="jit(step)/while/body/jvp(Network)/cell1/bn/mul"}
      ROOT %next = (s32[]{:T(128)}, f32[256]{0:T(256)}) tuple(%part, %twice)
    }

    ENTRY %main (w: f32[3,3,36,36], x: f32[16,32,32,36]) -> f32[] {
      %x = f32[16,32,32,36]{3,2,1,0:T(8,128)} parameter(1), metadata={op_name="x"}
      %near = f32[256]{0:T(256)S(1)} constant({...})
      %fusion.5 = f32[16,32,32,36]{3,2,1,0:T(8,128)} fusion(%x, %near), kind=kOutput, calls=%fused, metadata={op_name="jit(step)/shard_map/transpose(jvp(Network))/cell0/layer1/bn/transpose(jvp())/reduce_sum" stack_frame_id=5}
      %start = (f32[256]{0:T(256)S(1)}, f32[256]{0:T(256)}, u32[]{:S(2)}) copy-start(%far)
      %slice = ((f32[256]{0:T(256)}), f32[64]{0:T(256)S(1)}, s32[]{:S(2)}) slice-start(%far), slice={[0:64]}
      %unnamed = f32[10]{0} copy(%fusion.5)
      %done = f32[256]{0:T(256)S(1)} copy-done(%start)
      %sum = f32[1000]{0:T(1024)} all-reduce(%flat), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add, metadata={op_name="jit(step)/shard_map/psum"}
      %rows = f32[8,10]{1,0} all-gather(%row), channel_id=2, replica_groups=[1,8]<=[8], dimensions={0}
      %loop = (s32[]{:T(128)}, f32[256]{0:T(256)}) while(%first), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
      %library = bf16[4]{0} custom-call(%x), custom_call_target="__cudnn$convForward"
    }
    """
)


@pytest.fixture(scope="module")
def program():
    return compiled_text.instructions(PROGRAM)


def test_instructions_are_those_that_run(program):
    """The fusion's inside is not listed, the loop's body is, with its trips."""
    trips = {instruction.name: instruction.trips for instruction in program}

    assert "inner" not in trips
    assert trips["fusion.5"] == trips["loop"] == 1
    assert trips["twice"] == 5


def test_bytes_have_the_padding_of_tiles(program):
    fusion = next(each for each in program if each.name == "fusion.5")

    assert fusion.opcode == "fusion"
    assert fusion.operands == ("x", "near")
    assert fusion.bytes == 16 * 32 * 32 * 128 * 4
    assert fusion.arrays[0].useful == 16 * 32 * 32 * 36 * 4
    assert fusion.layer == "cell0/layer1/bn"


def test_a_copy_belongs_to_the_layer_that_made_the_array(program):
    copy = next(each for each in program if each.name == "unnamed")

    assert copy.layer == "cell0/layer1/bn"


@pytest.mark.parametrize(
    ("text", "padded", "useful"),
    [
        ("f32[16,32,32,36]{3,0,2,1:T(8,128)}", 32 * 32 * 16 * 128 * 4, 16 * 32 * 32 * 36 * 4),
        ("bf16[10,36]{0,1:T(8,128)(2,1)}", 40 * 128 * 2, 10 * 36 * 2),
        ("pred[7]{0:T(1024)}", 1024, 7),
        ("f32[]{:T(128)}", 4, 4),
        ("f32[5,5]{1,0}", 100, 100),
        ("(s8[3]{0}, u32[2]{0})", 11, 11),
        ("f32[8,128]{1,0:T(8,128)S(1)}", 0, 8 * 128 * 4),
    ],
)
def test_arrays_as_they_lie_in_memory(text, padded, useful):
    found = compiled_text.arrays(text)

    assert sum(array.bytes for array in found) == padded
    assert all(array.on_chip == (array.bytes == 0) for array in found)
    assert sum(array.useful for array in found) == useful


def test_layers_are_modules_of_the_network():
    of = compiled_text.layer_of

    assert of("jit(step)/shard_map/jvp(Network)/cell0/preprocess/input1/conv/mul") == (
        "cell0/preprocess/input1/conv"
    )
    assert of("jit(step)/jvp(Network)/cell1/skip/skip._convolve/conv/jit(_where)/select_n") == (
        "cell1/skip/conv"
    )
    twice = (
        "transpose(jvp(Network))/cell4/conv/transpose(transpose(jvp(Network)))/cell4/conv/jvp()/x"
    )
    assert of(f"jit(step)/{twice}") == "cell4/conv"
    assert of("jit(step)/shard_map/psum") == ""


def test_what_moves_is_counted_with_padding_and_trips(program):
    array, vector = 16 * 32 * 32 * 128 * 4, 256 * 4

    layers = movement.by_layer(program)

    # The fusion reads one and writes one; its copy reads that, and writes ten floats.
    assert layers["cell0/layer1/bn"] == 3 * array + 40
    # Reads the same twice, as two operands, and writes once, five times.
    assert layers["cell1/bn"] == 5 * 3 * vector
    # One copy onto the chip, and a part that is padded to a tile.
    others = vector + vector + 1024 * 4 + 8 * 10 * 4 + (array + 8)
    assert layers[movement.OUTSIDE] == others
    assert movement.useful(program) < sum(layers.values())


def test_repeats_are_those_of_loops(program):
    once = sum(movement.moved(program))
    every = sum(movement.by_layer(program).values())

    assert movement.repeats(program) == pytest.approx(every / once)
    assert every - once == 4 * 3 * 256 * 4


def test_messages_with_their_groups(program):
    reduced, gathered = sorted(
        movement.messages(program, chips=8, chips_per_host=4), key=lambda each: each.group
    )

    assert (reduced.kind, reduced.number, reduced.group) == ("all-reduce", 1, 4)
    # Each sends three quarters twice: of its parts to be added, and of sums.
    assert reduced.bytes == 2 * 3 / 4 * 4000
    assert not reduced.between_hosts
    assert (gathered.kind, gathered.group) == ("all-gather", 8)
    assert gathered.bytes == 7 / 8 * 320
    assert gathered.between_hosts


def test_groups_in_xlas_short_form():
    groups = movement._groups("replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}", 8)

    np.testing.assert_array_equal(groups, [[0, 4], [1, 5], [2, 6], [3, 7]])


def test_largest_buffers_come_first(program):
    first, second = movement.largest_buffers(program, 2)

    assert first.bytes == second.bytes == 16 * 32 * 32 * 128 * 4
    assert {first.layer, second.layer} == {"argument", "cell0/layer1/bn"}
