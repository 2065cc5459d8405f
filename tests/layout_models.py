"""Models for the tests of layouts, each written in PyTorch, in Flax and in Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import keras
import numpy as np
import numpy.typing as npt
import torch
from flax import linen


class TorchMlp(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", self.layers(x))


class FlaxSequence(linen.Module):  # type: ignore[misc]
    @linen.compact  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        return linen.Dense(4, name="2")(linen.relu(linen.Dense(16, name="0")(x)))


class FlaxMlp(linen.Module):  # type: ignore[misc]
    @linen.compact  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        return FlaxSequence(name="layers")(x)


class KerasMlp(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(name="model")
        layers = [keras.layers.Dense(16, "relu", name="0"), keras.layers.Dense(4, name="2")]
        self.inner = keras.Sequential(layers, name="layers")

    def call(self, x: Any) -> Any:
        return self.inner(x)


class TorchConvNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, (3, 5), padding="same")
        self.bn1 = torch.nn.BatchNorm2d(8)
        self.conv2 = torch.nn.Conv2d(8, 12, 3, groups=4, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(12)
        self.fc = torch.nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x.permute(0, 3, 1, 2))))
        x = torch.relu(self.bn2(self.conv2(x)))
        return cast("torch.Tensor", self.fc(x.mean((2, 3))))


class FlaxConvNet(linen.Module):  # type: ignore[misc]
    train: bool = False

    @linen.compact  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        frozen = not self.train
        x = linen.Conv(8, (3, 5), name="conv1")(x)
        x = linen.relu(linen.BatchNorm(frozen, epsilon=1e-5, name="bn1")(x))
        conv2 = linen.Conv(
            12, (3, 3), padding="VALID", feature_group_count=4, use_bias=False, name="conv2"
        )
        x = linen.relu(linen.BatchNorm(frozen, epsilon=1e-5, name="bn2")(conv2(x)))
        return linen.Dense(5, name="fc")(x.mean((1, 2)))


class KerasConvNet(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(name="model")
        layers = keras.layers
        self.conv1 = layers.Conv2D(8, (3, 5), padding="same", name="conv1")
        self.bn1 = layers.BatchNormalization(epsilon=1e-5, name="bn1")
        self.conv2 = layers.Conv2D(12, 3, groups=4, use_bias=False, name="conv2")
        self.bn2 = layers.BatchNormalization(epsilon=1e-5, name="bn2")
        self.fc = layers.Dense(5, name="fc")

    def call(self, x: Any) -> Any:
        x = keras.ops.relu(self.bn1(self.conv1(x), training=False))
        x = keras.ops.relu(self.bn2(self.conv2(x), training=False))
        return self.fc(keras.ops.mean(x, (1, 2)))


class TorchBlock(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln1, self.ln2 = torch.nn.LayerNorm(16), torch.nn.LayerNorm(16)
        self.q_proj, self.k_proj, self.v_proj = (torch.nn.Linear(16, 16, False) for _ in range(3))
        self.out = torch.nn.Linear(16, 16)
        self.fc1, self.fc2 = torch.nn.Linear(16, 32), torch.nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = self.ln1(x)
        weights = torch.softmax(self.q_proj(n) @ self.k_proj(n).mT / 4, -1)
        x = x + self.out(weights @ self.v_proj(n))
        return cast("torch.Tensor", x + self.fc2(torch.relu(self.fc1(self.ln2(x)))))


class TorchTransformer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(20, 16)
        self.pos_embed = torch.nn.Parameter(torch.randn(1, 7, 16))
        self.blocks = torch.nn.ModuleList([TorchBlock(), TorchBlock()])
        self.norm = torch.nn.RMSNorm(16, eps=1e-6)
        self.lm_head = torch.nn.Linear(16, 20, bias=False)
        self.lm_head.weight = self.embed_tokens.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed_tokens(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return cast("torch.Tensor", self.lm_head(self.norm(x)))


class FlaxBlock(linen.Module):  # type: ignore[misc]
    @linen.compact  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        n = linen.LayerNorm(epsilon=1e-5, name="ln1")(x)
        q, k, v = (linen.Dense(16, False, name=f"{name}_proj")(n) for name in "qkv")
        weights = linen.softmax(q @ k.swapaxes(1, 2) / 4)
        x = x + linen.Dense(16, name="out")(weights @ v)
        hidden = linen.Dense(32, name="fc1")(linen.LayerNorm(epsilon=1e-5, name="ln2")(x))
        return x + linen.Dense(16, name="fc2")(linen.relu(hidden))


class FlaxTransformer(linen.Module):  # type: ignore[misc]
    def setup(self) -> None:
        self.embed_tokens = linen.Embed(20, 16)
        self.pos_embed = self.param("pos_embed", linen.initializers.zeros, (1, 7, 16))
        self.blocks = [FlaxBlock(), FlaxBlock()]
        self.norm = linen.RMSNorm(epsilon=1e-6)
        self.lm_head = linen.Dense(20, use_bias=False)

    def __call__(self, x: Any) -> Any:
        x = self.embed_tokens(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.norm(x))


class KerasBlock(keras.Layer):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        layers = keras.layers
        self.ln1, self.ln2 = (
            layers.LayerNormalization(epsilon=1e-5, name=ln) for ln in ("ln1", "ln2")
        )
        self.qkv = [layers.Dense(16, use_bias=False, name=f"{letter}_proj") for letter in "qkv"]
        self.out, self.fc2 = (layers.Dense(16, name=dense) for dense in ("out", "fc2"))
        self.fc1 = layers.Dense(32, "relu", name="fc1")

    def call(self, x: Any) -> Any:
        n = self.ln1(x)
        q, k, v = (layer(n) for layer in self.qkv)
        weights = keras.ops.softmax(q @ keras.ops.swapaxes(k, 1, 2) / 4)
        x = x + self.out(weights @ v)
        return x + self.fc2(self.fc1(self.ln2(x)))


class KerasTransformer(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(name="model")
        self.embed_tokens = keras.layers.Embedding(20, 16, name="embed_tokens")
        self.pos_embed = self.add_weight(shape=(1, 7, 16), name="pos_embed")
        self.blocks = [KerasBlock(f"blocks_{i}") for i in range(2)]
        self.norm = keras.layers.RMSNormalization(epsilon=1e-6, name="norm")
        self.lm_head = keras.layers.Dense(20, use_bias=False, name="lm_head")

    def call(self, x: Any) -> Any:
        x = self.embed_tokens(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.norm(x))


MODELS: dict[str, tuple[Callable[[], torch.nn.Module], Any, Any]] = {
    "mlp": (TorchMlp, FlaxMlp, KerasMlp),
    "convolutions": (TorchConvNet, FlaxConvNet, KerasConvNet),
    "transformer": (TorchTransformer, FlaxTransformer, KerasTransformer),
}


def example(kind: str) -> npt.NDArray[Any]:
    """An input, as Flax and Keras take it; images have their channels last."""
    rng = np.random.default_rng(5)
    if kind == "transformer":
        return rng.integers(0, 20, (2, 7))
    return rng.standard_normal((4, 6) if kind == "mlp" else (4, 10, 9, 3), dtype=np.float32)


def trained(kind: str) -> torch.nn.Module:
    """A model of PyTorch whose statistics and norms are not those of a new one."""
    torch.manual_seed(3)
    model = MODELS[kind][0]()
    for name, parameter in model.named_parameters():
        if "norm" in name or "ln" in name or "bn" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    for _ in range(3):
        model(torch.from_numpy(example(kind)))
    return model.eval()
