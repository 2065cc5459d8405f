"""safetensors files inside zip archives: ``zip://archive.zip!/model.safetensors``.

Installed, it needs no import: the functions of `safetensors_core` then know such locations.
"""
