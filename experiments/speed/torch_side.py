"""PyTorch's side of the comparison, as its users write it: channels_last, autocast, `torch.compile`."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from experiments.speed import torch_nets
from experiments.speed.cases import RIVALS, Case, T, arrays

OPTIMIZERS = {
    "sgd": functools.partial(torch.optim.SGD, momentum=0.9),
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
}


def tasks(case: Case, *, compiled: bool) -> tuple[dict[str, Callable[[int], None]], dict[str, Any]]:
    """As `tlx_side.tasks`, for the ways in RIVALS."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")  # TF32, as cuDNN's convolutions have it and as jax does
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    given = arrays(case)
    images, labels = (torch.from_numpy(given[f"train_{name}"]).to(device) for name in ("images", "labels"))
    labels = labels.long()
    # Small networks wait for the launch of each kernel: CUDA graphs are what PyTorch has against it.
    compile = functools.partial(torch.compile, mode="reduce-overhead" if case.small and device == "cuda" else "default")
    compile = compile if compiled and case.compiled else lambda net: net
    layout = torch.contiguous_format if case.net == "mlp" else torch.channels_last
    autocast = functools.partial(torch.autocast, device, torch.bfloat16, enabled=case.dtype == "bfloat16")
    make = lambda **more: torch_nets.make(case.net, **more).to(device).to(memory_format=layout)

    def optimizer_of(net: nn.Module) -> torch.optim.Optimizer:
        return OPTIMIZERS[case.optimizer](net.parameters(), lr=case.rate, fused=True)

    def look(images: torch.Tensor) -> torch.Tensor:
        x = images.permute(0, 3, 1, 2)  # a view: channels_last
        return (x.float() / 255 - 0.13) / 0.31

    def draw(first: int, last: int, count: int) -> torch.Tensor:
        return torch.randint(first, last, (count,)).to(device, non_blocking=True)

    def say(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), autocast():
            return net(x).float()

    def divergence(logits: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        soft = [F.log_softmax(z / T, dim=1) for z in (logits, said)]
        return T * T * F.kl_div(*soft, log_target=True, reduction="batchmean")

    student, teacher = make().train(), make(widths=case.teacher).eval()
    held = {"student": compile(student), "teacher": compile(teacher), "optimizer": optimizer_of(student)}
    half, whole = -(-len(images) // 2), len(images)

    def learn_from(x: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor], net: nn.Module | None = None) -> None:
        held["optimizer"].zero_grad(set_to_none=True)
        with autocast():
            logits = (net or held["student"])(x)
        loss(logits.float()).backward()
        held["optimizer"].step()

    def inference() -> None:
        say(held["student"], look(images[draw(0, whole, case.batch)]))

    def supervised(net: nn.Module | None = None) -> None:
        index = draw(0, whole, case.batch)
        learn_from(look(images[index]), lambda logits: F.cross_entropy(logits, labels[index]), net)

    def kd_live() -> None:
        index = draw(0, whole, case.batch)
        x = look(images[index])
        said = say(held["teacher"], x)
        learn_from(x, lambda logits: F.cross_entropy(logits, labels[index]) + divergence(logits, said))

    def kd_kept() -> None:
        index = draw(0, whole, case.batch)
        said = kept()[index]
        learn_from(
            look(images[index]), lambda logits: F.cross_entropy(logits, labels[index]) + divergence(logits, said)
        )

    def self_train() -> None:
        known, others = draw(0, half, case.labeled), draw(half, whole, case.batch - case.labeled)
        said = kept()[others]

        def loss(logits: torch.Tensor) -> torch.Tensor:
            mine, told = logits[: case.labeled], logits[case.labeled :]
            return F.cross_entropy(mine, labels[known]) + divergence(told, said)

        learn_from(look(images[torch.cat([known, others])]), loss)

    @functools.cache
    def kept() -> torch.Tensor:
        """What the teacher says of the training images, [N, K]; random, where it is not trained either."""
        if not case.learn:
            rng = np.random.default_rng(0)
            return torch.from_numpy(rng.normal(size=(whole, case.num_classes)).astype(np.float32)).to(device)
        return torch.cat([say(teacher, look(part)) for part in images.split(1000)])

    def frozen_kept() -> Callable[[], None]:
        width = [layer for layer in student.modules() if isinstance(layer, nn.Linear)][-1].in_features
        features, head = torch.randn(whole, width).to(device), nn.Linear(width, case.num_classes).to(device)
        optimizer = optimizer_of(head)

        def step() -> None:
            index = draw(0, whole, case.batch)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(head(features[index]), labels[index]).backward()
            optimizer.step()

        return step

    def train_teacher() -> None:
        optimizer = held["optimizer"]
        held["optimizer"] = optimizer_of(teacher.train())
        for _ in range(case.learn):
            supervised(teacher)
        held["optimizer"], _ = optimizer, teacher.eval()

    def task(name: str, step: Callable[[], None]) -> Callable[[int], None]:
        def take(count: int) -> None:
            student.train(name != "inference")
            for _ in range(count):
                step()
            if device == "cuda":
                torch.cuda.synchronize()

        if case.learn and name not in ("inference", "frozen_kept"):
            take.learn = lambda seed: learn(take, seed)
        return take

    def learn(take: Callable[[int], None], seed: int) -> float:
        torch.manual_seed(seed)
        student.load_state_dict(make().state_dict())
        held["optimizer"] = optimizer_of(student)
        take(case.learn)
        student.eval()
        parts = torch.from_numpy(given["test_images"]).split(1000)
        logits = torch.cat([say(student, look(part.to(device))) for part in parts])
        return float((logits.argmax(1).cpu().numpy() == given["test_labels"]).mean())

    steps = {"inference": inference, "supervised": supervised, "kd_live": kd_live, "kd_kept": kd_kept}
    steps |= {"self_train": self_train}
    if case.learn and set(case.ways) & {"kd_live", "kd_kept", "self_train"}:
        train_teacher()
    if "frozen_kept" in case.ways:
        steps["frozen_kept"] = frozen_kept()
    of_case = {name: task(name, steps[name]) for name in case.ways if name in RIVALS["torch"]}
    return of_case, {"parameters": sum(p.numel() for p in student.parameters())}


def about() -> dict[str, str]:
    return {"torch": torch.__version__}


def rest() -> None:
    """Gives the device's memory to the other side."""
    with contextlib.suppress(RuntimeError):
        torch.cuda.empty_cache()
