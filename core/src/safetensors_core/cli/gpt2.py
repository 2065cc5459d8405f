"""The shapes of a model that everybody knows: GPT-2 small, 124 million parameters."""

from __future__ import annotations

__all__ = ["gpt2_shapes"]

# https://huggingface.co/openai-community/gpt2/blob/main/config.json: vocab_size, n_positions,
# n_embd and n_layer.
_VOCABULARY = 50_257
_POSITIONS = 1_024
_WIDTH = 768
_LAYERS = 12


def gpt2_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of GPT-2 small.

    Returns:
        Shapes by name. The attention masks that some files also hold are not parameters and
        are left out.

    Example:
        >>> shapes = gpt2_shapes()
        >>> len(shapes), shapes["h.11.mlp.c_fc.weight"]
        (148, (768, 3072))
    """
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (_VOCABULARY, _WIDTH),
        "wpe.weight": (_POSITIONS, _WIDTH),
    }
    for layer in range(_LAYERS):
        block = {
            "ln_1.weight": (_WIDTH,),
            "ln_1.bias": (_WIDTH,),
            "attn.c_attn.weight": (_WIDTH, 3 * _WIDTH),
            "attn.c_attn.bias": (3 * _WIDTH,),
            "attn.c_proj.weight": (_WIDTH, _WIDTH),
            "attn.c_proj.bias": (_WIDTH,),
            "ln_2.weight": (_WIDTH,),
            "ln_2.bias": (_WIDTH,),
            "mlp.c_fc.weight": (_WIDTH, 4 * _WIDTH),
            "mlp.c_fc.bias": (4 * _WIDTH,),
            "mlp.c_proj.weight": (4 * _WIDTH, _WIDTH),
            "mlp.c_proj.bias": (_WIDTH,),
        }
        shapes.update({f"h.{layer}.{name}": shape for name, shape in block.items()})
    return shapes | {"ln_f.weight": (_WIDTH,), "ln_f.bias": (_WIDTH,)}
