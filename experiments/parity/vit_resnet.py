"""Golden values of the reference ViTs and ResNets, on weights that `random_weights` makes from the tensors' names.

    pip install torch torchvision timm transformers   # none of them is needed to run tlx or its tests
    python -m experiments.parity.vit_resnet           # writes tests/data/parity/{vit,resnet,preprocessing}.json

Made with torch 2.14.1, torchvision 0.29.1, timm 1.0.31 and transformers 5.24.0 on a CPU.
"""

import json
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import timm
import torch
import torchvision
import transformers
from PIL import Image
from safetensors.numpy import load_file, save_file

from experiments.parity import random_weights

FOLDER = pathlib.Path(__file__).parents[2] / "tests" / "data" / "parity"
CLASSES = 16
RESNET_IMAGE = (72, 56, 3)  # odd sizes on the way down: a padding on the wrong side shows
VIT_IMAGE = (64, 48, 3)  # 4 x 3 patches: so does an exchange of rows and columns


def names_and_shapes(tensors: dict[str, Any]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in sorted(tensors.items())}


def logits(model: torch.nn.Module, image_shape: tuple[int, int, int]) -> list[list[float]]:
    """Of `random_weights.images`, [2, CLASSES], with seven digits."""
    images = torch.from_numpy(random_weights.images(image_shape).transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        out = model.eval()(images)
    out = getattr(out, "logits", out)
    return [[float(f"{value:.7g}") for value in row] for row in out.tolist()]


def filled(model: torch.nn.Module) -> torch.nn.Module:
    tensors = random_weights.fill_all(names_and_shapes(model.state_dict()))
    model.load_state_dict({name: torch.from_numpy(np.asarray(tensor)) for name, tensor in tensors.items()})
    return model


def case(model: str, image_shape: tuple[int, int, int], **references: torch.nn.Module) -> dict[str, Any]:
    """One of tlx's models, and the implementations of it that have the same tensors."""
    tensors, *others = (names_and_shapes(reference.state_dict()) for reference in references.values())
    assert all(other == tensors for other in others), f"{model}: {', '.join(references)} have other tensors"
    return {
        "model": model,
        "image_shape": image_shape,
        "logits": {name: logits(filled(reference), image_shape) for name, reference in references.items()},
        "tensors": tensors,
    }


def resnets() -> Iterator[dict[str, Any]]:
    for name in ("resnet18", "resnet34", "resnet50"):
        of_torchvision = torchvision.models.get_model(name, num_classes=CLASSES)
        of_timm = timm.create_model(name, num_classes=CLASSES)
        yield case(name, RESNET_IMAGE, torchvision=of_torchvision, timm=of_timm)


def vits() -> Iterator[dict[str, Any]]:
    for name, size in (("vit_ti16", "tiny"), ("vit_s16", "small"), ("vit_b16", "base")):
        of_timm, deit = (
            timm.create_model(f"{family}_{size}_patch16_224", num_classes=CLASSES, img_size=VIT_IMAGE[:2])
            for family in ("vit", "deit")
        )
        yield case(name, VIT_IMAGE, timm=of_timm, deit=deit)
    config = transformers.ViTConfig(
        hidden_size=192,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=VIT_IMAGE[:2],
        num_labels=CLASSES,
    )
    model = transformers.ViTForImageClassification(config)
    yield case("vit_ti16", VIT_IMAGE, huggingface_in_memory=model)
    with tempfile.TemporaryDirectory() as folder:  # only its files have the published names
        model.save_pretrained(folder)
        tensors = names_and_shapes(load_file(f"{folder}/model.safetensors"))
        save_file(random_weights.fill_all(tensors), f"{folder}/model.safetensors", metadata={"format": "pt"})
        model = transformers.ViTForImageClassification.from_pretrained(folder)
    yield {
        "model": "vit_ti16",
        "image_shape": VIT_IMAGE,
        "logits": {"huggingface": logits(model, VIT_IMAGE)},
        "tensors": tensors,
    }


def positions() -> Iterator[dict[str, Any]]:
    """timm's resizing of positions, once up and once down."""
    for old, new in (((4, 4), (6, 5)), ((7, 7), (3, 4))):
        filled = torch.from_numpy(random_weights.fill("pos_embed", (1, 1 + old[0] * old[1], 2)))
        resized = timm.layers.resample_abs_pos_embed(filled, list(new), list(old))
        yield {"old": old, "new": new, "positions": resized.numpy().round(6).tolist()}


def preprocessings() -> Iterator[dict[str, Any]]:
    """What the references make of one picture: every 45th pixel of every 45th row."""
    picture = Image.fromarray(random_weights.photograph())
    of_timm = lambda name: timm.data.create_transform(
        **timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    )
    huggingface = transformers.models.vit.image_processing_pil_vit.ViTImageProcessorPil()
    references = {
        ("resnet", "torchvision"): torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms(),
        ("resnet", "torchvision_v2"): torchvision.models.ResNet50_Weights.IMAGENET1K_V2.transforms(),
        ("resnet", "timm"): of_timm("resnet18.a1_in1k"),
        ("vit", "timm"): of_timm("vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
        ("vit", "deit"): of_timm("deit_tiny_patch16_224.fb_in1k"),
        ("vit", "huggingface"): lambda picture: huggingface(picture, return_tensors="pt")["pixel_values"][0],
    }
    for (family, origin), transform in references.items():
        pixels = transform(picture)[:, ::45, ::45].numpy().transpose(1, 2, 0)
        yield {"family": family, "origin": origin, "pixels": pixels.round(6).tolist()}


def write(name: str, golden: dict[str, Any]) -> None:
    path = FOLDER / f"{name}.json"
    golden = {"made_by": "experiments/parity/vit_resnet.py"} | golden
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    torch.manual_seed(0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    write("resnet", {"cases": list(resnets())})
    write("vit", {"cases": list(vits()), "positions": list(positions())})
    write("preprocessing", {"cases": list(preprocessings())})
