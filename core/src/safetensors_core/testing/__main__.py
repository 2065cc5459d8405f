"""`python -m safetensors_core.testing NAME`."""

import sys

from safetensors_core.testing.runner import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
