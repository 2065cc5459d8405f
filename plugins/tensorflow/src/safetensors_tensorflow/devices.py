"""Devices as TensorFlow spells them."""

from __future__ import annotations

import re
from typing import Any

import tensorflow as tf

from safetensors_core import InvalidInputError

__all__ = ["HOST", "as_device"]

#: The CPU that TensorFlow always has.
HOST = "/device:CPU:0"

_LOCAL = {"job": "localhost", "replica": 0, "task": 0}


def as_device(device: Any) -> str:
    """The name of a device that exists.

    Args:
        device: ``"cpu"``, ``"/GPU:0"``, ``"gpu:1"``, ``"cuda:1"``, a name with job and task, a
            `tf.config.LogicalDevice`, or None for the one that TensorFlow would choose, which
            ``with tf.device(...)`` can tell it.

    Returns:
        Its name, with a slash in front.

    Raises:
        InvalidInputError: TensorFlow knows no such device.

    Example:
        >>> as_device("cpu:0")
        '/device:CPU:0'
    """
    if isinstance(device, str) and device in ("cpu", HOST):
        return HOST
    if device is None:
        # A name that is complete, and outside of any function that is being traced.
        with tf.init_scope():
            device = tf.constant(0.0).device
    name = device.name if isinstance(device, tf.config.LogicalDevice) else device
    if not isinstance(name, str):
        raise InvalidInputError(f"a device is a name or a tf.config.LogicalDevice, not {device!r}")
    try:
        wanted = tf.DeviceSpec.from_string(re.sub("(?i)^/?cuda(?=:|$)", "GPU", name))
    except ValueError as error:
        raise InvalidInputError(f"device {name!r} cannot be used: {error}") from error
    known = tf.config.list_logical_devices()
    if wanted.device_type is not None:
        wanted = wanted.replace(device_index=wanted.device_index or 0)
        for logical in known:
            found = tf.DeviceSpec(**_LOCAL).make_merged_spec(
                tf.DeviceSpec.from_string(logical.name)
            )
            if found.make_merged_spec(wanted) == found:
                return str(logical.name)
    shown = ", ".join(repr(logical.name) for logical in known)
    raise InvalidInputError(f"device {name!r} does not exist: TensorFlow has {shown}")
