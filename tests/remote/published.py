"""Well-known checkpoints as their headers describe them; their data is a hole of the file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors_core.dtypes import Dtype
from safetensors_core.header import TensorInfo, encode_header
from safetensors_core.shards.index import INDEX_FILE, SINGLE_FILE, ShardIndex, encode_index

Shape = tuple[int, ...]
Tensors = dict[str, tuple[Dtype, Shape]]
Layer = dict[str, Shape]

BLOOM = "bigscience/bloom"
BLOOM_BYTES = 352_494_542_848


def write_file(path: Path, tensors: Mapping[str, tuple[Dtype, Shape]]) -> int:
    """Write a file of tensors that are all zeros, and take no space; the bytes of its tensors."""
    infos, end = {}, 0
    for name, (dtype, shape) in sorted(
        tensors.items(), key=lambda item: (-item[1][0].rank, item[0])
    ):
        begin, end = end, end + math.prod(shape) * dtype.bits // 8
        infos[name] = TensorInfo(dtype, shape, (begin, end))
    beginning = encode_header(infos, {"format": "pt"})
    with path.open("wb") as file:
        file.write(beginning)
        file.truncate(len(beginning) + end)
    return end


def write_single(folder: Path, tensors: Mapping[str, tuple[Dtype, Shape]]) -> None:
    folder.mkdir(parents=True)
    write_file(folder / SINGLE_FILE, tensors)


def write_sharded(folder: Path, shards: list[Tensors], name: str) -> ShardIndex:
    """Write shards and their index; `name` has places for the number of a shard and of all."""
    folder.mkdir(parents=True)
    weight_map: dict[str, str] = {}
    size = 0
    for number, tensors in enumerate(shards, 1):
        file = name.format(number, len(shards))
        size += write_file(folder / file, tensors)
        weight_map |= dict.fromkeys(tensors, file)
    index = ShardIndex(dict(sorted(weight_map.items())), {"total_size": size})
    (folder / INDEX_FILE).write_bytes(encode_index(index))
    return index


def _all_of(dtype: Dtype, shapes: Layer) -> Tensors:
    return {name: (dtype, shape) for name, shape in shapes.items()}


def _pair(name: str, out: int, into: int) -> Layer:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> Layer:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def gpt2() -> Tensors:
    width = 768
    shapes: Layer = {"wte.weight": (50257, width), "wpe.weight": (1024, width)}
    for number in range(12):
        layer = f"h.{number}"
        shapes |= _norm(f"{layer}.ln_1", width) | _norm(f"{layer}.ln_2", width)
        shapes[f"{layer}.attn.bias"] = (1, 1, 1024, 1024)
        # These layers keep their weights transposed.
        for name, into, out in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ):
            shapes[f"{layer}.{name}.weight"] = (into, out)
            shapes[f"{layer}.{name}.bias"] = (out,)
    return _all_of(Dtype.F32, shapes | _norm("ln_f", width))


def _bert_layer(layer: str, width: int) -> Layer:
    shapes: Layer = {}
    for name in ("query", "key", "value"):
        shapes |= _pair(f"{layer}.attention.self.{name}", width, width)
    shapes |= _pair(f"{layer}.attention.output.dense", width, width)
    shapes |= _norm(f"{layer}.attention.output.LayerNorm", width)
    shapes |= _pair(f"{layer}.intermediate.dense", 4 * width, width)
    shapes |= _pair(f"{layer}.output.dense", width, 4 * width)
    return shapes | _norm(f"{layer}.output.LayerNorm", width)


def roberta(vocabulary: int, width: int, layers: int, head: Layer) -> Tensors:
    place = "roberta.embeddings"
    shapes: Layer = {
        f"{place}.word_embeddings.weight": (vocabulary, width),
        f"{place}.position_embeddings.weight": (514, width),
        f"{place}.token_type_embeddings.weight": (1, width),
        **_norm(f"{place}.LayerNorm", width),
    }
    for number in range(layers):
        shapes |= _bert_layer(f"roberta.encoder.layer.{number}", width)
    tensors = _all_of(Dtype.F32, shapes | head)
    return tensors | {f"{place}.position_ids": (Dtype.I64, (1, 514))}


def _roberta_head(width: int, vocabulary: int) -> Layer:
    shapes = _pair("lm_head.dense", width, width) | _norm("lm_head.layer_norm", width)
    return shapes | {"lm_head.bias": (vocabulary,)}


def distilbert() -> Tensors:
    width, vocabulary = 768, 31102
    place = "distilbert.embeddings"
    shapes: Layer = {
        f"{place}.word_embeddings.weight": (vocabulary, width),
        f"{place}.position_embeddings.weight": (512, width),
        **_norm(f"{place}.LayerNorm", width),
        **_pair("vocab_transform", width, width),
        **_norm("vocab_layer_norm", width),
        "vocab_projector.bias": (vocabulary,),
    }
    for number in range(6):
        layer = f"distilbert.transformer.layer.{number}"
        for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
            shapes |= _pair(f"{layer}.attention.{name}", width, width)
        shapes |= _norm(f"{layer}.sa_layer_norm", width)
        shapes |= _pair(f"{layer}.ffn.lin1", 4 * width, width)
        shapes |= _pair(f"{layer}.ffn.lin2", width, 4 * width)
        shapes |= _norm(f"{layer}.output_layer_norm", width)
    return _all_of(Dtype.F32, shapes)


def gpt_neox() -> list[Tensors]:
    width, vocabulary = 6144, 50432
    shards = [_all_of(Dtype.F16, {"gpt_neox.embed_in.weight": (vocabulary, width)})]
    for number in range(44):
        layer = f"gpt_neox.layers.{number}"
        shapes = _norm(f"{layer}.input_layernorm", width)
        shapes |= _norm(f"{layer}.post_attention_layernorm", width)
        shapes |= _pair(f"{layer}.attention.query_key_value", 3 * width, width)
        shapes |= _pair(f"{layer}.attention.dense", width, width)
        shapes |= _pair(f"{layer}.mlp.dense_h_to_4h", 4 * width, width)
        shapes |= _pair(f"{layer}.mlp.dense_4h_to_h", width, 4 * width)
        shapes[f"{layer}.attention.rotary_emb.inv_freq"] = (12,)
        mask = {f"{layer}.attention.bias": (Dtype.U8, (1, 1, 2048, 2048))}
        shards.append(_all_of(Dtype.F16, shapes) | mask)
    last = _norm("gpt_neox.final_layer_norm", width) | {"embed_out.weight": (vocabulary, width)}
    return [*shards, _all_of(Dtype.F16, last)]


def bloom(width: int, layers: int, dtype: Dtype) -> list[Tensors]:
    """Embeddings, one shard for each layer, and the last norm, as BLOOM was published."""
    first: Layer = {"word_embeddings.weight": (250880, width)}
    shards = [first | _norm("word_embeddings_layernorm", width)]
    for number in range(layers):
        layer = f"h.{number}"
        shapes = _norm(f"{layer}.input_layernorm", width)
        shapes |= _norm(f"{layer}.post_attention_layernorm", width)
        shapes |= _pair(f"{layer}.self_attention.query_key_value", 3 * width, width)
        shapes |= _pair(f"{layer}.self_attention.dense", width, width)
        shapes |= _pair(f"{layer}.mlp.dense_h_to_4h", 4 * width, width)
        shapes |= _pair(f"{layer}.mlp.dense_4h_to_h", width, 4 * width)
        shards.append(shapes)
    return [_all_of(dtype, shapes) for shapes in [*shards, _norm("ln_f", width)]]


def deepseek() -> list[Tensors]:
    """DeepSeek V3: a mixture of experts of 91,991 tensors, here cut evenly into 163 shards."""
    tensors = dict(_deepseek())
    names = list(tensors)
    cuts = [len(names) * number // 163 for number in range(164)]
    return [
        {name: tensors[name] for name in names[begin:end]}
        for begin, end in itertools.pairwise(cuts)
    ]


def _deepseek() -> Iterator[tuple[str, tuple[Dtype, Shape]]]:
    width = 7168
    yield "model.embed_tokens.weight", (Dtype.BF16, (129280, width))
    for number in range(62):
        layer = f"model.layers.{number}"
        yield f"{layer}.input_layernorm.weight", (Dtype.BF16, (width,))
        yield f"{layer}.post_attention_layernorm.weight", (Dtype.BF16, (width,))
        yield f"{layer}.self_attn.q_a_layernorm.weight", (Dtype.BF16, (1536,))
        yield f"{layer}.self_attn.kv_a_layernorm.weight", (Dtype.BF16, (512,))
        for name, out, into in (
            ("q_a_proj", 1536, width),
            ("q_b_proj", 24576, 1536),
            ("kv_a_proj_with_mqa", 576, width),
            ("kv_b_proj", 32768, 512),
            ("o_proj", width, 16384),
        ):
            yield from _scaled(f"{layer}.self_attn.{name}", out, into)
        if number < 3:
            yield from _experts(f"{layer}.mlp", 18432, width)
            continue
        yield f"{layer}.mlp.gate.weight", (Dtype.BF16, (256, width))
        yield f"{layer}.mlp.gate.e_score_correction_bias", (Dtype.F32, (256,))
        yield from _experts(f"{layer}.mlp.shared_experts", 2048, width)
        for expert in range(256):
            yield from _experts(f"{layer}.mlp.experts.{expert}", 2048, width)
    # The last layer predicts one more token, and has embeddings and a head of its own.
    layer = "model.layers.61"
    for name in ("enorm", "hnorm", "shared_head.norm"):
        yield f"{layer}.{name}.weight", (Dtype.BF16, (width,))
    yield f"{layer}.eh_proj.weight", (Dtype.BF16, (width, 2 * width))
    yield f"{layer}.embed_tokens.weight", (Dtype.BF16, (129280, width))
    yield f"{layer}.shared_head.head.weight", (Dtype.BF16, (129280, width))
    yield "model.norm.weight", (Dtype.BF16, (width,))
    yield "lm_head.weight", (Dtype.BF16, (129280, width))


def _experts(place: str, inner: int, width: int) -> Iterator[tuple[str, tuple[Dtype, Shape]]]:
    yield from _scaled(f"{place}.gate_proj", inner, width)
    yield from _scaled(f"{place}.up_proj", inner, width)
    yield from _scaled(f"{place}.down_proj", width, inner)


def _scaled(place: str, out: int, into: int) -> Iterator[tuple[str, tuple[Dtype, Shape]]]:
    """A weight of 8 bits with one scale for each block of 128 by 128."""
    yield f"{place}.weight", (Dtype.F8_E4M3, (out, into))
    yield f"{place}.weight_scale_inv", (Dtype.F32, (-(-out // 128), -(-into // 128)))


def _as_one(shards: list[Tensors]) -> Tensors:
    return {name: tensor for shard in shards for name, tensor in shard.items()}


#: Repositories of one file, by name, and how many parameters the Hub counts in them.
SINGLE: dict[str, tuple[Tensors, dict[str, int]]] = {
    "gpt2": (gpt2(), {"F32": 137_022_720}),
    "roberta-base": (
        roberta(50265, 768, 12, _roberta_head(768, 50265)),
        {"F32": 124_697_433, "I64": 514},
    ),
    "Jean-Baptiste/camembert-ner": (
        roberta(32005, 768, 12, _pair("classifier", 5, 768)),
        {"F32": 110_035_205, "I64": 514},
    ),
    "roberta-large": (
        roberta(50265, 1024, 24, _roberta_head(1024, 50265)),
        {"F32": 355_412_057, "I64": 514},
    ),
    "distilbert-base-german-cased": (distilbert(), {"F32": 67_431_550}),
    "bigscience/bloom-560m": (_as_one(bloom(1024, 24, Dtype.F16)), {"F16": 559_214_592}),
    "bigscience/bloom-3b": (_as_one(bloom(2560, 30, Dtype.F16)), {"F16": 3_002_557_440}),
}

#: The same of sharded repositories, with what their shards are called.
SHARDED: dict[str, tuple[list[Tensors], str, dict[str, int]]] = {
    "EleutherAI/gpt-neox-20b": (
        gpt_neox(),
        "model-{:05}-of-{:05}.safetensors",
        {"F16": 20_554_568_208, "U8": 184_549_376},
    ),
    BLOOM: (
        bloom(14336, 70, Dtype.BF16),
        "model_{:05}-of-{:05}.safetensors",
        {"BF16": 176_247_271_424},
    ),
    "deepseek-ai/DeepSeek-V3": (
        deepseek(),
        "model-{:05}-of-{:06}.safetensors",
        {"BF16": 3_918_786_560, "F8_E4M3": 680_571_043_840, "F32": 41_555_600},
    ),
}
