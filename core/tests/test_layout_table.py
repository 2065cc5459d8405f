"""Rules of one's own for layouts, and what is no such rule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from safetensors_core import Dtype, InvalidInputError, TensorSpec
from safetensors_core.convert.layouts import LayoutTable, Move, read_table, translate

Shapes = Mapping[str, tuple[int, ...]]

# As the checkpoints of GPT-2 have their linear layers.
GPT2 = {
    "kind": "dense of GPT-2",
    "module": ["*.c_attn", "*.c_proj", "*.c_fc"],
    "places": {
        "torch": {"name": "weight", "axes": "in out", "fits": {"bias": "out"}},
        "flax": {"name": "kernel", "axes": "in out"},
    },
}
DEPTHWISE = {
    "kind": "depthwise convolution",
    "module": ["*dw"],
    "sizes": {"multiplier": 1},
    "places": {
        "torch": {"name": "weight", "axes": "in multiplier h w"},
        "tensorflow": {"name": "kernel", "axes": "h w in multiplier"},
    },
}
LISTS = {"torch": "layers.{n}", "flax": "layers_{n}"}


def table_of(folder: Path, **document: Any) -> LayoutTable:
    path = folder / "rules.json"
    path.write_text(json.dumps(document), "utf-8")
    return read_table(path)


def moved(shapes: Shapes, source: str, target: str, table: LayoutTable) -> dict[str, Move]:
    specs = {name: TensorSpec(Dtype.F32, shape) for name, shape in shapes.items()}
    return translate(specs, source, target, table)


def names(shapes: Shapes, source: str, target: str, table: LayoutTable) -> list[str]:
    return [move.name for move in moved(shapes, source, target, table).values()]


def test_a_rule_of_ones_own_comes_before_the_built_in_ones(tmp_path: Path) -> None:
    shapes = {"h.0.attn.c_proj.weight": (4, 4), "h.0.attn.c_proj.bias": (4,), "fc.weight": (2, 3)}
    axes = [move.axes for move in moved(shapes, "torch", "flax", read_table()).values()]
    assert axes == [(1, 0), None, (1, 0)]
    own = table_of(tmp_path, rules=[GPT2])
    there = moved(shapes, "torch", "flax", own)
    assert list(there.values()) == [
        Move("params.h.0.attn.c_proj.kernel", None),
        Move("params.h.0.attn.c_proj.bias", None),
        Move("params.fc.kernel", (1, 0)),
    ]
    back = moved({"params.h.0.attn.c_proj.kernel": (4, 4)}, "flax", "torch", own)
    assert back["params.h.0.attn.c_proj.kernel"] == Move("h.0.attn.c_proj.weight", None)


def test_a_rule_of_ones_own_says_what_the_built_in_ones_refuse(tmp_path: Path) -> None:
    own = table_of(tmp_path, rules=[DEPTHWISE])
    shapes = {"block.conv_dw.weight": (8, 1, 3, 5)}
    there = moved(shapes, "torch", "tensorflow", own)
    assert there["block.conv_dw.weight"] == Move("block/conv_dw/kernel", (2, 3, 0, 1))
    back = moved({"block/conv_dw/kernel": (3, 5, 8, 1)}, "tensorflow", "torch", own)
    assert back["block/conv_dw/kernel"] == Move("block.conv_dw.weight", (2, 3, 0, 1))


def test_a_rule_holds_for_the_sizes_that_it_names_only(tmp_path: Path) -> None:
    own = table_of(tmp_path, rules=[DEPTHWISE])
    with pytest.raises(InvalidInputError, match="DepthwiseConv"):
        moved({"conv_dw.weight": (8, 2, 3, 5)}, "torch", "tensorflow", own)
    with pytest.raises(InvalidInputError, match="'multiplier' has 2 elements, not 1"):
        moved({"mydw/kernel": (3, 3, 8, 2), "mydw/bias": (8,)}, "tensorflow", "torch", own)


def test_a_rule_without_a_place_in_a_layout_is_not_about_it(tmp_path: Path) -> None:
    own = table_of(tmp_path, rules=[GPT2])
    shapes = {"c_proj.weight": (4, 4), "c_proj.bias": (4,)}
    assert moved(shapes, "torch", "tensorflow", own)["c_proj.weight"].axes == (1, 0)


def test_two_rules_that_say_different_things_are_ambiguous(tmp_path: Path) -> None:
    other = {
        "kind": "dense of another",
        "places": {
            "torch": {"name": "weight", "axes": "out in"},
            "flax": {"name": "kernel", "axes": "in out"},
        },
    }
    own = table_of(tmp_path, rules=[GPT2, other, other])
    said = "'c_fc.weight' of shape .*ambiguous: 'dense of GPT-2' and 'dense of another' match"
    with pytest.raises(InvalidInputError, match=said):
        moved({"c_fc.weight": (4, 4)}, "torch", "flax", own)
    # Two that say the same are not.
    assert names({"lm.weight": (4, 4)}, "torch", "flax", own) == ["params.lm.kernel"]


def test_a_name_of_ones_own_is_kept_with_its_data(tmp_path: Path) -> None:
    own = table_of(tmp_path, kept=["*.attn.bias", ".queries"])
    shapes = {"h.0.attn.bias": (1, 1, 8, 8), "queries": (5, 4)}
    there = moved(shapes, "torch", "flax", own)
    assert list(there.values()) == [
        Move("params.h.0.attn.bias", None),
        Move("params.queries", None),
    ]
    back = {move.name: shapes[name] for name, move in there.items()}
    assert names(back, "flax", "torch", own) == list(shapes)


def test_modules_with_numbers_are_renamed_both_ways(tmp_path: Path) -> None:
    own = table_of(tmp_path, modules=[LISTS, {"torch": "tower", "flax": "Tower_0"}])
    shapes = {"tower.layers.10.layers.3.mlp.temperature": (4,), "mylayers.0.temperature": (4,)}
    there = names(shapes, "torch", "flax", own)
    assert there == [
        "params.Tower_0.layers_10.layers_3.mlp.temperature",
        "params.mylayers.0.temperature",
    ]
    assert names(dict.fromkeys(there, (4,)), "flax", "torch", own) == list(shapes)
    # It says nothing of Keras.
    assert names({"layers.0.t": (4,)}, "torch", "tensorflow", own) == ["layers/0/t"]


@pytest.mark.parametrize("name", ["layers_0.t", "layers.1.layers_0.t"])
def test_modules_that_would_come_back_under_other_names_are_refused(
    name: str, tmp_path: Path
) -> None:
    own = table_of(tmp_path, modules=[LISTS])
    with pytest.raises(InvalidInputError, match="your modules make 'layers_"):
        names({name: (4,)}, "torch", "flax", own)


def test_roots_are_taken_off_and_put_on(tmp_path: Path) -> None:
    own = table_of(tmp_path, roots={"torch": "model", "tensorflow": "my.net"})
    assert names({"model.a.t": (4,), "model.t": (4,)}, "torch", "tensorflow", own) == [
        "my/net/a/t",
        "my/net/t",
    ]
    assert names({"my/net/a/t": (4,)}, "tensorflow", "flax", own) == ["params.a.t"]
    assert names({"params.a.t": (4,)}, "flax", "torch", own) == ["model.a.t"]
    for name in ("models.a.t", "model"):
        with pytest.raises(InvalidInputError, match=r"not below 'model', which your rules"):
            names({name: (4,)}, "torch", "flax", own)


def test_two_tensors_that_would_have_one_name_are_refused(tmp_path: Path) -> None:
    both = {
        "kind": "second weight",
        "places": {
            "torch": {"name": "weight_2", "axes": "a"},
            "flax": {"name": "scale", "axes": "a"},
        },
    }
    own = table_of(tmp_path, rules=[both])
    with pytest.raises(InvalidInputError, match=r"'n.weight' and 'n.weight_2' would both be .*'pa"):
        names({"n.weight": (4,), "n.weight_2": (4,)}, "torch", "flax", own)


def places(torch: str, flax: str, **more: Any) -> dict[str, Any]:
    torch_place = {"name": "w", "axes": torch, **more}
    return {"kind": "k", "places": {"torch": torch_place, "flax": {"name": "w", "axes": flax}}}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"rule": []}, "unknown field `rule`"),
        ({"layouts": {}}, "unknown field `layouts`"),
        ({"rules": [{"kind": "k"}]}, r"missing required field `places` - at `\$.rules\[0\]`"),
        ({"rules": [places("a b", "b a", axis="a")]}, "unknown field `axis`"),
        ({"rules": [places("a b", "b c")]}, r"not 'b c' - at `\$.rules\[0\]`, kind 'k'"),
        ({"rules": [places("a a", "a a")]}, "each once, not 'a a'"),
        ({"rules": [places("a b", "a")]}, "must be the same"),
        ({"rules": [places("a", "a", fits={"bias": "b"})]}, "'fits' names axes .*: b - at"),
        ({"rules": [{**places("a", "a"), "sizes": {"b": 1}}]}, "'sizes' names axes .*: b - at"),
        ({"rules": [{**places("a", "a"), "sizes": {"a": "1"}}]}, "Expected `int`, got `str`"),
        ({"rules": [places("a", "a", module="*.a")]}, "Expected `array`, got `str`"),
        ({"rules": [places("a", "a", collection="params")]}, "torch has no collection 'params'"),
        ({"rules": [{"kind": "k", "places": {}}]}, "two layouts at least"),
        (
            {"rules": [{"kind": "k", "places": {"jax": {"name": "w", "axes": "a"}}}]},
            "no layout 'jax'",
        ),
        ({"kept": ["ok", 1]}, r"Expected `str`, got `int` - at `\$.kept\[1\]`"),
        ({"modules": [{"torch": "a"}]}, r"two layouts at least - at `\$.modules\[0\]`"),
        ({"modules": [{"torch": "a", "flax": ""}]}, "two layouts at least"),
        ({"modules": [{"torch": "a.{n}", "flax": "a"}]}, "the same numbers"),
        ({"modules": [{"torch": "{n}.{n}", "flax": "{n}"}]}, "the same numbers"),
        ({"modules": [{"torch": "a.{0}", "flax": "a_{0}"}]}, "written as {n}"),
        ({"modules": [{"pt": "a", "flax": "b"}]}, "no layout 'pt'"),
        ({"roots": {"jax": "a"}}, r"no layout 'jax'.* - at `\$.roots`"),
        ({"roots": ["a"]}, r"Expected `object`, got `array` - at `\$.roots`"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_the_place(
    document: object, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(document), "utf-8")
    with pytest.raises(InvalidInputError, match=said) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path}: these are no rules for layouts: ")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"kept": ["\xff"]}', b"[" * 99999])
def test_a_file_that_is_no_json_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_bytes(data)
    with pytest.raises(InvalidInputError, match="these are no rules for layouts"):
        read_table(path)


def test_a_missing_file_is_the_file_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none.json")


def test_tables_of_equal_rules_have_equal_digests(tmp_path: Path) -> None:
    first = table_of(tmp_path, rules=[GPT2], roots={"torch": "a", "flax": "b"})
    again = table_of(tmp_path, roots={"flax": "b", "torch": "a"}, rules=[GPT2])
    other = table_of(tmp_path, rules=[GPT2], roots={"torch": "a"})
    assert first.document == again.document
    assert first.digest == again.digest
    assert len({first.digest, other.digest, read_table().digest}) == 3
