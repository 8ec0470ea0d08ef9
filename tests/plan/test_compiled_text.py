"""A program's text is read as XLA writes it: on a program made by hand, every number
counted by hand.
"""

# ruff: noqa: E501 (an instruction is one line)

import textwrap

import pytest

from bnas_jax.plan import buffers, collectives, compiled_text, layer_names, movement
from bnas_jax.plan.compile import _kernels

# Two arrays of 16*32*32*36 floats: 2,359,296 bytes, padded from 36 to 128 channels
# 8,388,608.
PROGRAM = textwrap.dedent(
    """
    HloModule jit_step, is_scheduled=true

    %fused (param_0: f32[16,32,32,36]) -> f32[16,32,32,36] {
      ROOT %inner = f32[16,32,32,36]{3,2,1,0:T(8,128)} negate(%param_0), metadata={op_name="jit(step)/jvp(Network)/no/neg"}
    }

    %sliced (param_0: f32[1000,3], param_1: s32[4]) -> f32[4,3] {
      %param_0 = f32[1000,3]{1,0} parameter(0)
      %param_1 = s32[4]{0} parameter(1)
      %same = f32[1000,3]{1,0} bitcast(%param_0)
      %taken = f32[4,3]{1,0} gather(%same, %param_1), offset_dims={1}
      ROOT %negated = f32[4,3]{1,0} negate(%taken)
    }

    %updated (param_0: f32[1000,3], param_1: f32[2,3]) -> f32[1000,3] {
      %param_0 = f32[1000,3]{1,0} parameter(0)
      %param_1 = f32[2,3]{1,0} parameter(1)
      %zero = s32[] constant(0)
      ROOT %update = f32[1000,3]{1,0} dynamic-update-slice(%param_0, %param_1, %zero, %zero)
    }

    %begun (param_0: f32[8]) -> (f32[8], f32[64]) {
      %param_0 = f32[8]{0} parameter(0)
      %inside = f32[64]{0} all-gather(%param_0), channel_id=7, replica_groups=[1,8]<=[8], dimensions={0}
      ROOT %begin = (f32[8]{0}, f32[64]{0}) custom-call(%param_0, %inside), custom_call_target="AsyncCollectiveStart"
    }

    %small (param_0: f32[8]) -> f32[8] {
      %param_0 = f32[8]{0} parameter(0)
      ROOT %one = f32[8]{0} negate(%param_0)
    }

    %large (param_0: f32[8]) -> f32[800] {
      %param_0 = f32[8]{0} parameter(0)
      ROOT %many = f32[800]{0} broadcast(%param_0), dimensions={}
    }

    %body (state: (s32[], f32[256])) -> (s32[], f32[256]) {
      %state = (s32[]{:T(128)}, f32[256]{0:T(256)}) parameter(0)
      %part = f32[256]{0:T(256)} get-tuple-element(%state), index=1
      %twice = f32[256]{0:T(256)} multiply(%part, %part), metadata={op_name="jit(step)/while/body/jvp(Network)/cell1/bn/mul"}
      ROOT %next = (s32[]{:T(128)}, f32[256]{0:T(256)}) tuple(%part, %twice)
    }

    %few (state: (s32[], f32[256])) -> pred[] {
      %state.1 = (s32[]{:T(128)}, f32[256]{0:T(256)}) parameter(0)
      %count.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
      %stop = s32[]{:T(128)} constant(7)
      ROOT %go_on = pred[]{:T(512)} compare(%count.1, %stop), direction=LT
    }

    %counted (state: (s32[], f32[256])) -> (s32[], f32[256]) {
      %state.2 = (s32[]{:T(128)}, f32[256]{0:T(256)}) parameter(0)
      %count.2 = s32[]{:T(128)} get-tuple-element(%state.2), index=0
      %near.2 = s32[]{:T(128)S(6)} copy(%count.2)
      %step = s32[]{:T(128)} constant(2)
      %next.2 = s32[]{:T(128)} add(%near.2, %step)
      %part.2 = f32[256]{0:T(256)} get-tuple-element(%state.2), index=1
      %rows.2 = f32[256]{0:T(256)} all-reduce(%part.2), replica_groups={{0,1}}, to_apply=%add
      ROOT %state.3 = (s32[]{:T(128)}, f32[256]{0:T(256)}) tuple(%next.2, %rows.2)
    }

    %both (param_0: f32[1000,3], param_1: f32[2,3], param_2: f32[1000,3]) -> (f32[1000,3], f32[2,3], f32[1000,3]) {
      %param_0 = f32[1000,3]{1,0} parameter(0)
      %param_1 = f32[2,3]{1,0} parameter(1)
      %param_2 = f32[1000,3]{1,0} parameter(2)
      %zero = s32[] constant(0)
      %first = f32[1000,3]{1,0} dynamic-update-slice(%param_0, %param_1, %zero, %zero)
      %negative = f32[2,3]{1,0} negate(%param_1)
      %second = f32[1000,3]{1,0} dynamic-update-slice(%param_2, %negative, %zero, %zero)
      ROOT %three = (f32[1000,3]{1,0}, f32[2,3]{1,0}, f32[1000,3]{1,0}) tuple(%first, %negative, %second)
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
def moves():
    return movement.moves(compiled_text.read(PROGRAM))


@pytest.fixture(scope="module")
def run(moves):
    """Name -> instruction of those that run."""
    return {move.instruction.name: move.instruction for move in moves}


def entry(*lines: str) -> str:
    """The program with other lines in its first computation."""
    before = PROGRAM[: PROGRAM.index("ENTRY")]
    return before + "ENTRY %main () -> f32[] {\n  " + "\n  ".join(lines) + "\n}\n"


def moved(*lines: str) -> dict[str, int]:
    """Name -> bytes that each instruction of `entry` moves."""
    found = movement.moves(compiled_text.read(entry(*lines)))
    return {move.instruction.name: move.bytes for move in found}


def test_instructions_are_those_that_run(run):
    """The fusion's inside is not listed, the loop's body is, with its trips."""
    assert "inner" not in run
    assert run["fusion.5"].trips == run["loop"].trips == 1
    assert run["twice"].trips == 5


def test_bytes_have_the_padding_of_tiles(run):
    fusion = run["fusion.5"]

    assert fusion.opcode == "fusion"
    assert fusion.operands == ("x", "near")
    assert fusion.bytes == 16 * 32 * 32 * 128 * 4
    assert fusion.arrays[0].useful == 16 * 32 * 32 * 36 * 4
    assert fusion.layer == "cell0/layer1/bn"


def test_a_copy_belongs_to_the_layer_that_made_the_array(run):
    assert run["unnamed"].layer == "cell0/layer1/bn"


@pytest.mark.parametrize(
    ("text", "padded", "useful"),
    [
        (
            "f32[16,32,32,36]{3,0,2,1:T(8,128)}",
            32 * 32 * 16 * 128 * 4,
            16 * 32 * 32 * 36 * 4,
        ),
        ("bf16[10,36]{0,1:T(8,128)(2,1)}", 40 * 128 * 2, 10 * 36 * 2),
        ("pred[7]{0:T(1024)}", 1024, 7),
        ("f32[36]{0:T(8,128)}", 8 * 128 * 4, 36 * 4),
        ("f32[]{:T(128)}", 4, 4),
        ("f32[5,5]{1,0}", 100, 100),
        ("(s8[3]{0}, u32[2]{0})", 11, 11),
        ("f8e4m3fn[3]{0}", 3, 3),
        ("token[]", 0, 0),
        ("f32[8,128]{1,0:T(8,128)S(1)}", 0, 8 * 128 * 4),
    ],
)
def test_arrays_as_they_lie_in_memory(text, padded, useful):
    found = compiled_text.arrays(text)

    assert sum(array.bytes for array in found) == padded
    assert sum(array.useful for array in found) == useful


def test_layers_are_modules_of_the_network():
    of = layer_names.layer_of

    assert of("jit(step)/shard_map/jvp(Network)/cell0/preprocess/input1/conv/mul") == (
        "cell0/preprocess/input1/conv"
    )
    assert of(
        "jit(step)/jvp(Network)/cell1/skip/skip._convolve/conv/jit(_where)/select_n"
    ) == ("cell1/skip/conv")
    assert (
        of("jit(step)/jvp(Network)/cell1/conv/branch_0_fun/nhwi,io->nhwo/dot")
        == "cell1/conv"
    )
    twice = "transpose(jvp(Network))/cell4/conv/transpose(transpose(jvp(Network)))/cell4/conv/jvp()/x"
    assert of(f"jit(step)/{twice}") == "cell4/conv"
    joined = "jit(step)/jvp(Network)/stem/bn/stack;jvp(Network)/stem/bn/add"
    assert of(joined) == "stem/bn"
    assert (
        of("jit(step)/jvp(Supernet.mixture)/cell2/state0/conv/mul")
        == "cell2/state0/conv"
    )
    assert (
        of("jit(evaluation)/shard_map/Network/cell0/Mine_0/bn/mul") == "cell0/Mine_0/bn"
    )
    assert of("jit(step)/shard_map/psum") == ""
    between = "jit(step)/transpose(jvp(Network))/Network._shared/reduce_sum"
    assert of(between) == layer_names.NETWORK


def test_what_moves_is_counted_with_padding_and_trips(moves):
    array, vector = 16 * 32 * 32 * 128 * 4, 256 * 4

    layers = movement.by_layer(moves)

    # The fusion reads one and writes one; its copy reads that, and writes ten floats.
    assert layers["cell0/layer1/bn"] == 3 * array + 40
    # Reads one, which is both operands, and writes one, five times.
    assert layers["cell1/bn"] == 5 * 2 * vector
    # A copy onto the chip, and a part that is padded to a tile.
    others = vector + vector + 1024 * 4 + 8 * 10 * 4 + (array + 8)
    assert layers[movement.OUTSIDE] == others
    assert sum(move.useful for move in moves) < sum(layers.values())


def test_of_what_is_indexed_the_part_that_is_taken_moves():
    far = "%far = f32[1000,3]{1,0} parameter(0)"
    rows, new = "%rows = s32[4]{0} parameter(1)", "%new = f32[2,3]{1,0} parameter(2)"
    found = moved(
        far,
        rows,
        new,
        "%slice = f32[5,3]{1,0} slice(%far), slice={[0:5], [0:3]}",
        "%gather = f32[4,3]{1,0} gather(%far, %rows), offset_dims={1}",
        "%update = f32[1000,3]{1,0} dynamic-update-slice(%far, %new, %zero, %zero)",
        "%fused = f32[4,3]{1,0} fusion(%far, %rows), kind=kLoop, calls=%sliced",
        "%in_place = f32[1000,3]{1,0} fusion(%far, %new), kind=kLoop, calls=%updated",
    )

    assert found["slice"] == 2 * 5 * 3 * 4
    assert found["gather"] == 2 * 4 * 3 * 4 + 4 * 4
    assert found["update"] == 2 * 2 * 3 * 4
    assert found["fused"] == 2 * 4 * 3 * 4 + 4 * 4
    assert found["in_place"] == 2 * 2 * 3 * 4


def test_a_part_of_an_array_moves_whichever_of_both_lies_on_the_chip():
    found = moved(
        "%far = f32[1000,3]{1,0} parameter(0)",
        "%near = f32[1000,3]{1,0:S(1)} copy(%far)",
        "%far_new = f32[2,3]{1,0} parameter(1)",
        "%near_new = f32[2,3]{1,0:S(1)} copy(%far_new)",
        "%to_chip = f32[2,3]{1,0:S(1)} slice(%far), slice={[0:2], [0:3]}",
        "%of_chip = f32[2,3]{1,0} slice(%near), slice={[0:2], [0:3]}",
        "%far_update = f32[1000,3]{1,0} dynamic-update-slice(%far, %near_new, %z, %z)",
        "%near_update = f32[1000,3]{1,0:S(1)} dynamic-update-slice(%near, %far_new)",
    )

    assert found["to_chip"] == found["of_chip"] == 2 * 3 * 4
    assert found["far_update"] == found["near_update"] == 2 * 3 * 4


def test_several_updates_in_place_by_one_fusion():
    """They write into a place that was set aside, which moves nothing."""
    call = 'custom-call(), custom_call_target="AllocateBuffer"'
    found = moved(
        f"%one = f32[1000,3]{{1,0}} {call}",
        f"%other = f32[1000,3]{{1,0}} {call}",
        "%new = f32[2,3]{1,0} parameter(0)",
        "%three = (f32[1000,3]{1,0}, f32[2,3]{1,0}, f32[1000,3]{1,0}) "
        "fusion(%one, %new, %other), kind=kLoop, calls=%both",
    )

    assert found["one"] == found["other"] == 0
    assert found["three"] == (1 + 3) * 2 * 3 * 4


def test_kernels_are_calls_and_what_computes_or_copies(moves):
    place = (
        '%one = f32[9]{0} custom-call(), custom_call_target="AllocateBuffer"',
        "%two = f32[9]{0} copy(%one)",
    )

    assert _kernels(moves) == {"fusion": 1, "copy": 1, "__cudnn$convForward bf16": 1}
    assert _kernels(movement.moves(compiled_text.read(entry(*place)))) == {"copy": 1}


COUNTED = (
    "%zero = s32[]{:T(128)} constant(0)",
    "%first = s32[]{:T(128)} copy(%zero)",
    "%x = f32[256]{0:T(256)} parameter(0)",
    "%begin = (s32[]{:T(128)}, f32[256]{0:T(256)}) tuple(%first, %x)",
    "%loop = (s32[]{:T(128)}, f32[256]{0:T(256)}) while(%begin), "
    "condition=%few, body=%counted",
)


def test_a_loop_for_tpus_is_counted_by_its_counter():
    """0, 2, 4 and 6; XLA notes no number of trips there."""
    found = movement.moves(compiled_text.read(entry(*COUNTED)))
    (reduced,) = collectives.messages(found, chips=2, chips_per_host=4)

    assert reduced.number == 4
    assert reduced.bytes == 4 * 256 * 4


@pytest.mark.parametrize(
    ("line", "other"),
    [
        (0, "%zero = s32[]{:T(128)} parameter(1)"),
        (1, "%first = s32[]{:T(128)} negate(%zero)"),
        (3, "%begin = (s32[]{:T(128)}, f32[256]{0:T(256)}) copy(%given)"),
        (4, COUNTED[4].replace("%few", "%unknown")),
    ],
)
def test_a_loop_without_a_known_number_of_trips_counts_once(line, other):
    lines = [*COUNTED[:line], other, *COUNTED[line + 1 :]]
    found = movement.moves(compiled_text.read(entry(*lines)))
    (reduced,) = collectives.messages(found, chips=2, chips_per_host=4)

    assert reduced.number == 1


def test_of_a_condition_the_smaller_branch_moves():
    lines = (
        "%x = f32[8]{0} parameter(0)",
        "%result = f32[8]{0} conditional(%p, %x, %x), "
        "branch_computations={%large, %small}",
    )

    assert moved(*lines)["one"] == 2 * 4 * 8
    assert "many" not in moved(*lines)


def test_messages_with_their_groups(moves):
    reduced, gathered = sorted(
        collectives.messages(moves, chips=8, chips_per_host=4),
        key=lambda each: each.group,
    )

    assert (reduced.kind, reduced.number, reduced.group) == ("all-reduce", 1, 4)
    # Each sends three quarters twice: of its parts to be added, and of sums.
    assert reduced.bytes == 2 * 3 / 4 * 4000
    assert not reduced.between_hosts
    assert (gathered.kind, gathered.group) == ("all-gather", 8)
    assert gathered.bytes == 7 / 8 * 320
    assert gathered.between_hosts


def test_a_switch_that_adds_is_sent_each_part_once(moves):
    reduced, _ = sorted(
        collectives.messages(moves, chips=8, chips_per_host=8, switch_adds=True),
        key=lambda each: each.group,
    )

    assert reduced.bytes == 3 / 4 * 4000


def test_messages_that_are_begun_within_a_fusion_or_by_themselves():
    lines = (
        "%x = f32[8]{0} parameter(0)",
        "%beside = (f32[8]{0}, f32[64]{0}) fusion(%x), kind=kCustom, calls=%begun",
        "%pair = (f32[8]{0}, f32[64]{0}) all-gather-start(%x), "
        "replica_groups=[1,8]<=[8], dimensions={0}",
        "%hop = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%x), "
        "source_target_pairs={{0,1},{1,0}}",
    )
    found = movement.moves(compiled_text.read(entry(*lines)))
    gathered, sent = collectives.messages(found, chips=8, chips_per_host=1)

    assert (gathered.kind, gathered.number) == ("all-gather", 2)
    assert gathered.bytes == 2 * 7 / 8 * 64 * 4
    assert (sent.kind, sent.number, sent.bytes, sent.group) == (
        "collective-permute",
        1,
        32,
        2,
    )


def test_a_reduction_that_keeps_a_part_is_sent_in_each_trip_of_its_loop():
    """Each of four chips sends the parts of the other three: its own they add up."""
    loop = """
    %reducing (state: (s32[], f32[64])) -> (s32[], f32[64]) {
      %state = (s32[], f32[64]{0}) parameter(0)
      %whole = f32[64]{0} get-tuple-element(%state), index=1
      %kept = f32[16]{0} reduce-scatter(%whole), replica_groups={{0,1,2,3}}, dimensions={0}
      ROOT %next = (s32[], f32[64]{0}) tuple(%whole, %whole)
    }

    """
    program = entry(
        "%loop = (s32[], f32[64]{0}) while(%first), body=%reducing, "
        'backend_config={"known_trip_count":{"n":"5"}}'
    )
    text = program.replace("ENTRY", textwrap.dedent(loop) + "ENTRY")
    found = movement.moves(compiled_text.read(text))

    # A switch adds only after the parts were sent.
    for switch_adds in (False, True):
        (reduced,) = collectives.messages(
            found, chips=4, chips_per_host=4, switch_adds=switch_adds
        )
        assert (reduced.kind, reduced.number) == ("reduce-scatter", 5)
        assert reduced.bytes == 5 * 3 * 16 * 4


def test_messages_of_a_kind_are_between_hosts_if_any_is():
    near, far = "{{0,1},{2,3}}", "{{0,2},{1,3}}"
    for groups in ((near, far), (far, near)):
        lines = [
            f"%sum{number} = f32[8]{{0}} all-reduce(%x), replica_groups={group}"
            for number, group in enumerate(groups)
        ]
        found = movement.moves(compiled_text.read(entry(*lines)))
        (reduced,) = collectives.messages(found, chips=4, chips_per_host=2)
        assert reduced.number == 2
        assert reduced.between_hosts


@pytest.mark.parametrize("switch_adds", [False, True])
def test_messages_whose_results_name_their_operands(switch_adds):
    """A chip sends the parts of the others, which a switch cannot add before."""
    lines = (
        "%x = f32[64]{0} parameter(0)",
        "%sums = ((f32[64]{0}), f32[8]{0}) reduce-scatter-start(%x), "
        "replica_groups=[1,8]<=[8], dimensions={0}",
        "%turned = ((f32[64]{0}), f32[64]{0}) all-to-all-start(%x), "
        "replica_groups=[1,8]<=[8], dimensions={0}",
    )
    found = movement.moves(compiled_text.read(entry(*lines)))
    turned, sums = collectives.messages(
        found, chips=8, chips_per_host=8, switch_adds=switch_adds
    )

    assert (sums.kind, sums.bytes) == ("reduce-scatter", 7 * 8 * 4)
    assert (turned.kind, turned.bytes) == ("all-to-all", 7 / 8 * 64 * 4)
    assert moved(*lines)["sums"] == (64 + 8) * 4


def test_groups_in_xlas_short_form_and_of_unequal_size():
    short = collectives._groups("replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}", 8)

    assert short == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert collectives._groups("replica_groups={{0,1,2},{3}}", 4) == [[0, 1, 2], [3]]
    assert collectives._groups("replica_groups={}", 3) == [[0, 1, 2]]


def test_largest_buffers_come_first(moves):
    first, second = buffers.largest(moves, 2)

    assert first.bytes == second.bytes == 16 * 32 * 32 * 128 * 4
    assert {first.layer, second.layer} == {"argument", "cell0/layer1/bn"}
