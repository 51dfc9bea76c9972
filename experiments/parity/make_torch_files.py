"""Makes the small files of `torch.save` that tests/test_weights.py reads, and what torch itself finds in them.

    python experiments/parity/make_torch_files.py tests/data/torch

Needs torch (the committed files are of 2.14.1, CPU), which the tests do not. Each NAME is saved in both formats, as
NAME.zip.pth and NAME.legacy.pth; NAME.npz holds the tensors that are to be found (bfloat16 as its two raw bytes).
"""

import collections
import pathlib
import sys

import numpy as np
import torch
from torch import nn

DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


class Net(nn.Module):
    """To be saved whole, its source included; with layers of torch it would include theirs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))


def every_dtype() -> dict:
    return {name: torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 1.5]]).to(getattr(torch, name)) for name in DTYPES}


def views() -> dict:
    """Several tensors of one storage, none of them simply all of it."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return collections.OrderedDict(
        base=base,
        transposed=base.T,
        rows=base[1:3],
        strided=base[1::2, ::3],
        scalar=base[2, 3],
        permuted=torch.arange(24).reshape(2, 3, 4).permute(2, 0, 1),
        wide=torch.arange(5.0).expand(1, 5),
        empty=torch.zeros(0, 3),
        parameter=nn.Parameter(base[0]),
    )


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3))


def checkpoint() -> dict:
    """As a training script saves it: DataParallel's names, the optimiser, options; two state dicts."""
    net = nn.DataParallel(network()[1])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.ones(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    args = {"lr": 0.1, "tags": ("a", None, True), "dtype": torch.float16, "size": torch.Size([2, 3])}
    return {"epoch": 3, "optimizer": optimizer.state_dict(), "args": args, "state_dict": net.state_dict()}


def main(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    saved = {"dtypes": every_dtype(), "views": views(), "network": network().state_dict(), "checkpoint": checkpoint()}
    saved["model"] = Net()
    for name, value in saved.items():
        torch.save(value, folder / f"{name}.zip.pth")
        torch.save(value, folder / f"{name}.legacy.pth", _use_new_zipfile_serialization=False)
        if isinstance(value, nn.Module):
            continue
        tensors = {}
        for key, tensor in value.get("state_dict", value).items():
            tensor = tensor.detach()
            array = tensor.view(torch.int16).numpy().view("V2") if tensor.dtype == torch.bfloat16 else tensor.numpy()
            tensors[key.removeprefix("module.")] = array
        np.savez_compressed(folder / f"{name}.npz", **tensors)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
