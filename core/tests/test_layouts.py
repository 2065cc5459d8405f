"""What tensors are called in another layout, and in which order their axes are there."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from safetensors_core import Dtype, InvalidInputError, TensorSpec
from safetensors_core.convert.layouts import layout_of, read_table, translate

Shapes = Mapping[str, tuple[int, ...]]
OTHERS = ("flax", "tensorflow")


def specs(shapes: Shapes) -> dict[str, TensorSpec]:
    return {name: TensorSpec(Dtype.F32, shape) for name, shape in shapes.items()}


def moved(shapes: Shapes, source: str, target: str) -> dict[str, tuple[int, ...]]:
    """New names and new shapes."""
    moves = translate(specs(shapes), source, target, read_table())
    assert list(moves) == list(shapes)
    return {
        move.name: shapes[name] if move.axes is None else tuple(shapes[name][i] for i in move.axes)
        for name, move in moves.items()
    }


# Every kind that the built-in rules know: PyTorch, Flax, Keras. Sizes differ, so that each axis
# can be followed.
KINDS: dict[str, tuple[Shapes, Shapes, Shapes]] = {
    "dense": (
        {"a.weight": (2, 3), "a.bias": (2,)},
        {"params.a.kernel": (3, 2), "params.a.bias": (2,)},
        {"a/kernel": (3, 2), "a/bias": (2,)},
    ),
    "dense without bias": (
        {"h.0.q_proj.weight": (2, 3)},
        {"params.h.0.q_proj.kernel": (3, 2)},
        {"h/0/q_proj/kernel": (3, 2)},
    ),
    "conv1d": (
        {"a.weight": (2, 3, 4), "a.bias": (2,)},
        {"params.a.kernel": (4, 3, 2), "params.a.bias": (2,)},
        {"a/kernel": (4, 3, 2), "a/bias": (2,)},
    ),
    "conv2d": (
        {"a.0.weight": (2, 3, 4, 5)},
        {"params.a.0.kernel": (4, 5, 3, 2)},
        {"a/0/kernel": (4, 5, 3, 2)},
    ),
    "conv3d": (
        {"a.weight": (2, 3, 4, 5, 6)},
        {"params.a.kernel": (4, 5, 6, 3, 2)},
        {"a/kernel": (4, 5, 6, 3, 2)},
    ),
    "embedding": (
        {"embed_tokens.weight": (9, 4)},
        {"params.embed_tokens.embedding": (9, 4)},
        {"embed_tokens/embeddings": (9, 4)},
    ),
    "norm": (
        {"ln.weight": (4,), "ln.bias": (4,)},
        {"params.ln.scale": (4,), "params.ln.bias": (4,)},
        {"ln/gamma": (4,), "ln/beta": (4,)},
    ),
    "norm without bias": ({"n.weight": (4,)}, {"params.n.scale": (4,)}, {"n/scale": (4,)}),
    "batch norm": (
        {
            "bn.weight": (4,),
            "bn.bias": (4,),
            "bn.running_mean": (4,),
            "bn.running_var": (4,),
            "bn.num_batches_tracked": (),
        },
        {
            "params.bn.scale": (4,),
            "params.bn.bias": (4,),
            "batch_stats.bn.mean": (4,),
            "batch_stats.bn.var": (4,),
            "batch_stats.bn.num_batches_tracked": (),
        },
        {
            "bn/gamma": (4,),
            "bn/beta": (4,),
            "bn/moving_mean": (4,),
            "bn/moving_variance": (4,),
            "bn/num_batches_tracked": (),
        },
    ),
    "plain parameters": (
        {"logit_scale": (), "ls.temperature": (3,), "vit.cls_token": (1, 1, 4)},
        {
            "params.logit_scale": (),
            "params.ls.temperature": (3,),
            "params.vit.cls_token": (1, 1, 4),
        },
        {"logit_scale": (), "ls/temperature": (3,), "vit/cls_token": (1, 1, 4)},
    ),
    "a model that is one layer": (
        {"weight": (2, 3), "bias": (2,)},
        {"params.kernel": (3, 2), "params.bias": (2,)},
        {"kernel": (3, 2), "bias": (2,)},
    ),
}
LAYOUTS = ("torch", "flax", "tensorflow")


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(range(3), 2)))
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_name_and_axes_in_each_layout(
    kind: str, source: int, target: int
) -> None:
    layouts = KINDS[kind]
    assert moved(layouts[source], LAYOUTS[source], LAYOUTS[target]) == layouts[target]


def test_data_that_keeps_its_order_has_no_axes_to_move() -> None:
    shapes = {"embed.weight": (9, 4), "fc.weight": (2, 3), "fc.bias": (2,)}
    moves = translate(specs(shapes), "torch", "flax", read_table())
    assert [move.axes for move in moves.values()] == [None, (1, 0), None]


def test_a_layout_to_itself_changes_nothing() -> None:
    assert moved({"anything": (2, 3)}, "flax", "flax") == {"anything": (2, 3)}


def test_parameters_of_flax_need_no_collection() -> None:
    # As `variables["params"]`, and as modules of NNX, where the statistics are beside the scale.
    shapes = {"fc.kernel": (3, 2), "bn.scale": (4,), "bn.bias": (4,), "bn.mean": (4,)}
    assert moved(shapes, "flax", "torch") == {
        "fc.weight": (2, 3),
        "bn.weight": (4,),
        "bn.bias": (4,),
        "bn.running_mean": (4,),
    }


def test_statistics_alone_are_not_taken_for_parameters() -> None:
    assert moved({"batch_stats.bn.mean": (4,)}, "flax", "torch") == {"bn.running_mean": (4,)}


def test_a_file_says_its_layout_by_its_format() -> None:
    formats = ("pt", "flax", "tf", "np", "mlx", "")
    assert [layout_of(format_) for format_ in formats] == [*LAYOUTS, None, None, None]


@pytest.mark.parametrize(("source", "target"), [("torch", "jax"), ("pt", "flax")])
def test_an_unknown_layout_is_refused_with_those_that_there_are(source: str, target: str) -> None:
    with pytest.raises(InvalidInputError, match=r"there are 'torch', 'flax', 'tensorflow'$"):
        translate({}, source, target, read_table())


# What names and shapes do not tell.


@pytest.mark.parametrize(
    ("shapes", "source", "target", "said"),
    [
        # An embedding or a layer without bias.
        ({"net.0.weight": (2, 3)}, "torch", "flax", "its module is not called like one"),
        # As GPT-2 has them: inputs by outputs.
        ({"fc.weight": (3, 2), "fc.bias": (2,)}, "torch", "flax", r"shape \[2\], not \[3\]"),
        ({"fc.kernel": (2, 3), "fc.bias": (2,)}, "flax", "torch", r"shape \[2\], not \[3\]"),
        # A transposed convolution that does not say so.
        ({"a.weight": (3, 2, 4, 4), "a.bias": (2,)}, "torch", "flax", r"shape \[2\], not \[3\]"),
        ({"up.conv_transpose.weight": (3, 3, 4, 4)}, "torch", "flax", "transposed convolution"),
        ({"ConvTranspose_0.kernel": (4, 4, 3, 3)}, "flax", "torch", "transposed convolution"),
        ({"conv2d_transpose/kernel": (4, 4, 3, 3)}, "tensorflow", "torch", "transposed"),
        ({"attn.in_proj_weight": (12, 4)}, "torch", "flax", "query, key and value in one"),
        ({"rnn.weight_ih_l0": (12, 4)}, "torch", "tensorflow", "recurrent layers"),
        ({"rnn.bias_hh_l0_reverse": (12,)}, "torch", "tensorflow", "recurrent layers"),
        ({"lstm/recurrent_kernel": (4, 12)}, "tensorflow", "torch", "recurrent layers"),
        ({"mha.query.kernel": (4, 2, 2)}, "flax", "torch", "an axis of heads"),
        ({"mha/attention_output/kernel": (2, 2, 4)}, "tensorflow", "torch", "an axis of heads"),
        ({"layers/dense/vars/1": (4,)}, "tensorflow", "torch", "number the weights of a layer"),
        ({"depthwise_conv2d/kernel": (3, 3, 8, 1)}, "tensorflow", "torch", "DepthwiseConv"),
        ({"conv_dw.weight": (8, 1, 3, 3)}, "torch", "tensorflow", "DepthwiseConv"),
        ({"a.lora": (2, 3)}, "torch", "flax", "no rule knows a 'lora' of rank 2"),
        ({"a.weight": (2, 3, 1, 1, 1, 1)}, "torch", "flax", "no rule knows a 'weight' of rank 6"),
        ({"ls.gamma": (4,)}, "torch", "tensorflow", "'gamma' means something else in tensorflow"),
        ({"params.a": (4,), "cache.a": (4,)}, "flax", "torch", "'cache' is no collection"),
        ({"batch_stats.a": (4,)}, "flax", "torch", "no rule knows a 'a' in 'batch_stats'"),
        ({"params.bn.mean": (4,)}, "flax", "torch", "it is not in 'batch_stats'"),
        ({"a/b.weight": (4,)}, "torch", "tensorflow", "which separates the parts of names"),
        ({"a.b/gamma": (4,)}, "tensorflow", "flax", "which separates the parts of names"),
        ({"a..weight": (4,)}, "torch", "flax", "an empty part"),
        ({"": (4,)}, "torch", "flax", "an empty part"),
    ],
)
def test_what_the_rules_do_not_tell_is_refused_by_name(
    shapes: Shapes, source: str, target: str, said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said) as caught:
        translate(specs(shapes), source, target, read_table())
    # The first tensor that is listed is one that the fault is about, with its shape.
    listed = str(caught.value).split(": ")[1]
    name, _, shape = listed.partition(" of shape ")
    assert {repr(key): str(list(value)) for key, value in shapes.items()}[name] == shape


def test_an_error_lists_the_first_tensors_and_counts_the_rest() -> None:
    shapes = {"fc.weight": (2, 3), **{f"net.{i}.weight": (2, 3) for i in range(8)}}
    with pytest.raises(InvalidInputError) as caught:
        translate(specs(shapes), "torch", "flax", read_table())
    said = str(caught.value)
    assert "what becomes of 8 of 9 tensors from torch to flax: 'net.0.weight' of" in said
    assert "'net.4.weight'" in said
    assert "'net.5.weight'" not in said
    assert "; and 3 more. Rules of your own can say it" in said


def test_grouped_convolutions_cross_to_flax_and_back() -> None:
    shapes = {"conv_dw.weight": (8, 1, 3, 5), "conv_dw.bias": (8,)}
    there = moved(shapes, "torch", "flax")
    assert there == {"params.conv_dw.kernel": (3, 5, 1, 8), "params.conv_dw.bias": (8,)}
    assert moved(there, "flax", "torch") == shapes


# Layers as they are, and tensors called like anything that a rule of any layout knows.
LASTS = sorted({place.name for rule in read_table().rules for place in rule.places.values()})
MODULES = ["", "fc", "out", "query", "embed", "net.0", "conv_dw", "up.deconv", "params", "bn.mean"]
SHAPES = st.lists(st.integers(1, 3), min_size=1, max_size=5).map(tuple)
LAYERS = st.one_of(
    SHAPES.map(lambda shape: {"weight": shape, "bias": shape[:1]}),
    SHAPES.map(lambda shape: {"weight": shape}),
    SHAPES.map(lambda shape: {"running_var": shape[:1], "num_batches_tracked": ()}),
    st.dictionaries(
        st.sampled_from([*LASTS, "in_proj_bias", "cls_token", "batch_stats"]),
        st.lists(st.integers(1, 3), max_size=2).map(tuple),
        max_size=2,
    ),
)


@pytest.mark.parametrize("other", OTHERS)
@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(MODULES), LAYERS, max_size=3))
def test_all_that_leaves_pytorch_comes_back_as_it_was(other: str, model: dict[str, Shapes]) -> None:
    shapes = {
        f"{module}.{last}".removeprefix("."): shape
        for module, layer in model.items()
        for last, shape in layer.items()
    }
    try:
        moves = translate(specs(shapes), "torch", other, read_table())
    except InvalidInputError:
        event("refused")
        return
    there = {
        move.name: shapes[name] if move.axes is None else tuple(shapes[name][i] for i in move.axes)
        for name, move in moves.items()
    }
    back = translate(specs(there), other, "torch", read_table())
    for name, move in moves.items():
        assert back[move.name].name == name
        axes, again = move.axes, back[move.name].axes
        assert (axes is None) == (again is None)
        assert axes is None or again is None or [axes[i] for i in again] == sorted(axes)
