"""configs/digits_noisy_student.py in PyTorch, as one file: a teacher and three larger students on 100 labels.

    python -m experiments.speed.torch_quickstart [--seed=0] [--steps=600]

The same networks, numbers of steps, batches, noise (all images of a batch in one warp), losses, schedule and choice of
checkpoints, by 100 labels and 300 validation images; no record of it is kept. Prints a line for each network, as JSON.
"""

import argparse
import copy
import json
import math

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

BATCH, RATIO, LABELS, VALIDATION, EVERY = 32, 4, 10, 300, 100
ROTATE, SCALE, SHEAR, TRANSLATE, NOISE = math.radians(15), 0.15, 0.15, 1.0, 0.1


def make(scale: float) -> nn.Module:
    """Two convolutions and a dense layer, `scale` times as wide as 64, 128 and 128."""
    a, b, c = (round(scale * width) for width in (64, 128, 128))
    return nn.Sequential(
        *(nn.Conv2d(1, a, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(4 * b, c), nn.ReLU(), nn.Dropout(0.3), nn.Linear(c, 10)),
    ).to(memory_format=torch.channels_last)


def noised(x: torch.Tensor) -> torch.Tensor:
    """Rotated, zoomed, sheared, moved and noised: images [B, 1, H, W] in [0, 1]."""
    count, side = len(x), x.shape[-1]
    signed = lambda size, *shape: size * (2 * torch.rand(count, *shape) - 1)
    angle, zoom, shear, move = signed(ROTATE), 1 + signed(SCALE), signed(SHEAR, 2), signed(2 * TRANSLATE / side, 2)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2) / zoom[:, None, None]
    lean = torch.eye(2).repeat(count, 1, 1)
    lean[:, 0, 1], lean[:, 1, 0] = shear[:, 0], shear[:, 1]
    grid = F.affine_grid(torch.cat([turn @ lean, move[:, :, None]], -1), list(x.shape), align_corners=False)
    warped = F.grid_sample(x, grid, align_corners=False)
    return (warped + NOISE * torch.randn_like(warped)).clamp(0, 1)


def fit(net: nn.Module, step_loss, judge, steps: int) -> tuple[nn.Module, float]:
    """AdamW with warm-up and a cosine; the best checkpoint on validation, and its accuracy there."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    warm = max(1, round(0.05 * steps))
    rate = lambda at: at / warm if at < warm else (1 + math.cos(math.pi * (at - warm) / (steps - warm))) / 2
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    best = (-1.0, None)
    for number in range(1, steps + 1):
        net.train()
        optimizer.zero_grad(set_to_none=True)
        step_loss(net).backward()
        optimizer.step()
        schedule.step()
        if (number % EVERY == 0 or number == steps) and (found := judge(net)) > best[0]:
            best = found, copy.deepcopy(net.state_dict())
    net.load_state_dict(best[1])
    return net, best[0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    rng, digits = np.random.default_rng(options.seed), load_digits()
    order = rng.permutation(len(digits.target))
    of_class = [order[digits.target[order] == label] for label in range(10)]
    test = np.concatenate([rows[:50] for rows in of_class])
    known = np.concatenate([rows[50 : 50 + LABELS] for rows in of_class])
    rest = rng.permutation(np.concatenate([rows[50 + LABELS :] for rows in of_class]))
    validation, others = (torch.from_numpy(rows) for rows in (rest[:VALIDATION], rest[VALIDATION:]))
    known, test = torch.from_numpy(known), torch.from_numpy(test)
    x, y = torch.from_numpy(digits.images / 16).float()[:, None], torch.from_numpy(digits.target)
    mean, deviation = x[known].mean(), x[known].std()
    look = lambda x: ((x - mean) / deviation).contiguous(memory_format=torch.channels_last)
    pick = lambda index, count: index[torch.randint(len(index), (count,))]

    def judge(net: nn.Module, index: torch.Tensor = validation) -> float:
        net.eval()
        with torch.no_grad():
            return float((net(look(x[index])).argmax(1) == y[index]).float().mean())

    def of_teacher(net: nn.Module) -> torch.Tensor:
        index = pick(known, 2 * BATCH)
        return F.cross_entropy(net(look(noised(x[index]))), y[index])

    teacher, score = fit(make(1.0), of_teacher, judge, options.steps)
    print(json.dumps({"network": "teacher", "validation": score, "test": judge(teacher, test)}), flush=True)
    for number in range(1, 4):
        teacher.eval()
        with torch.no_grad():
            said = torch.zeros(len(x), 10)
            said[others] = F.log_softmax(teacher(look(x[others])), 1)
            # As frequent among the pseudo-labels as among the labels: each class by the ratio of the two.
            said[others] = F.log_softmax(said[others] + (0.1 / said[others].exp().mean(0)).log(), 1)

        def of_student(net: nn.Module, said: torch.Tensor = said) -> torch.Tensor:
            mine, told = pick(known, BATCH), pick(others, RATIO * BATCH)
            logits = net(look(noised(x[torch.cat([mine, told])])))
            hard, soft = F.cross_entropy(logits[:BATCH], y[mine]), F.log_softmax(logits[BATCH:], 1)
            with torch.no_grad():
                clean = F.log_softmax(net(look(x[told])), 1)
            divergence = lambda target: F.kl_div(soft, target, log_target=True, reduction="batchmean")
            return hard + divergence(said[told]) + 0.5 * divergence(clean)

        student, found = fit(make(1.5), of_student, judge, options.steps)
        print(
            json.dumps({"network": f"student {number}", "validation": found, "test": judge(student, test)}), flush=True
        )
        if found > score:
            teacher, score = student, found
    print(json.dumps({"network": "promoted", "validation": score, "test": judge(teacher, test)}), flush=True)


if __name__ == "__main__":
    main()
