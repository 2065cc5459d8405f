"""Feed a file to PyTorch's data loader from two workers: `data_loader.py FILE lazy|open`."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from safetensors import safe_open
from torch.utils.data import DataLoader, Dataset


class Rows(Dataset[torch.Tensor]):
    """The rows of one tensor in a file, which is opened before or in the workers."""

    def __init__(self, path: str, when: str) -> None:
        self.path = path
        self.file: Any = safe_open(path, "pt") if when == "open" else None

    def __len__(self) -> int:
        return 20

    def __getitem__(self, row: int) -> torch.Tensor:
        if self.file is None:
            self.file = safe_open(self.path, "pt")
        found: torch.Tensor = self.file.get_slice("rows")[row]
        return found


def main() -> None:
    loader = DataLoader(Rows(*sys.argv[1:3]), batch_size=4, num_workers=2)
    json.dump([batch.tolist() for batch in loader], sys.stdout)


if __name__ == "__main__":
    main()
