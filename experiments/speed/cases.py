"""What is measured: networks, and what is done with them. `python -m experiments.speed.run --suite=cpu|gpu`.

Images and labels are in memory, on the device where there is one. The ways, of a batch of B images:

    inference    predictions
    supervised   cross-entropy
    kd_live      T^2 KL + CE, the teacher asked at each step
    kd_kept      the same, its logits kept
    self_train   one labelled image to `ratio` unlabelled ones, B in all; the teacher's logits kept
    frozen_kept  the head alone, on kept features of the frozen backbone
    scan_8       supervised, eight steps a call, `train.steps_per_call` (tlx only, small networks)
"""

import dataclasses
import pathlib

import numpy as np

T = 4.0
TRAINED = ("supervised", "kd_live", "kd_kept")
BASIC = ("inference", *TRAINED)
ALL = (*BASIC, "self_train", "frozen_kept")
RIVALS = {"torch": ALL, "keras": ("supervised", "kd_live")}  # side -> what it does too
DATA = pathlib.Path("../shared/data")


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and what is done with it.

    Attributes:
      net, dtype, batch, shape, num_classes: float32 on a GPU has TF32 in products and convolutions, on both sides.
      ways: of those above; `rivals`: the sides that take part besides tlx.
      teacher: the widths of the teacher, an MLP; () = a network like the student.
      optimizer, rate: "sgd", with momentum of 0.9, "adamw" or "adam".
      ratio: unlabelled images to a labelled one.
      data: a folder of IDX files in DATA; "" = `count` random images.
      learn: so many steps from fresh weights are judged on the test images, in three seeds; 0 = none. Then the teacher
        is trained as long.
      compiled: PyTorch's networks by `torch.compile`.
      variant: another formulation of a layer, see `tlx_side.vary`.
    """

    net: str
    dtype: str = "float32"
    batch: int = 128
    shape: tuple[int, int, int] = (224, 224, 3)
    num_classes: int = 1000
    count: int = 512
    ways: tuple[str, ...] = ALL
    rivals: tuple[str, ...] = ("torch",)
    teacher: tuple[int, ...] = ()
    optimizer: str = "sgd"
    rate: float = 1e-3
    ratio: int = 3
    data: str = ""
    learn: int = 0
    compiled: bool = True
    variant: str = ""

    @property
    def name(self) -> str:
        return f"{self.net} {self.dtype}" + (f" {self.variant}" if self.variant else "")

    @property
    def small(self) -> bool:
        return self.net in ("mlp", "cnn", "resnet20")

    @property
    def labeled(self) -> int:
        """Labelled images of a batch of self-training."""
        return self.batch // (1 + self.ratio)

    def options(self, teacher: bool = False) -> dict:
        """Of `tlx.models.build`."""
        of_net = {"mlp": {"widths": (800, 800)}, "cnn": {"widths": (16, 32), "dense": 64}}.get(self.net, {})
        of_net |= {"widths": self.teacher} if teacher and self.teacher else {}
        return {"name": self.net, "dtype": self.dtype, **of_net}


def arrays(case: Case) -> dict[str, np.ndarray]:
    """The images [N, H, W, C], bytes, and labels [N] of "train" and "test", as {"train_images", ...}; test may lack."""
    if not case.data:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (case.count, *case.shape), dtype=np.uint8)
        return {"train_images": images, "train_labels": rng.integers(0, case.num_classes, case.count).astype(np.int32)}
    from tlx.data import source

    data, out = source.load("idx", idx_dir=str(DATA / case.data)), {}
    for name, part in (("train", data.train), ("test", data.test)):
        images, side = part.images, case.shape[0]
        around = (side - images.shape[1]) // 2
        images = np.pad(images, ((0, 0), (around, around), (around, around), (0, 0)))
        out |= {f"{name}_images": np.repeat(images, case.shape[2], axis=-1), f"{name}_labels": part.labels}
    return out


def _digits(net: str, shape: tuple[int, int, int]) -> Case:
    return Case(net, shape=shape, num_classes=10, count=8192, ways=("supervised", "kd_kept", "scan_8"))


def _vit(variant: str, ways: tuple[str, ...], rivals: tuple[str, ...]) -> Case:
    return Case("vit_b16", "bfloat16", ways=ways, rivals=rivals, optimizer="adamw", rate=1e-4, variant=variant)


def _idx(net: str, data: str, **more: object) -> Case:
    return Case(net, num_classes=10, data=data, optimizer="adam", **more)


LESS = (*BASIC, "frozen_kept")
SUITES = {
    "gpu": (
        Case("resnet50", "bfloat16"),
        Case("resnet50", "float32", ways=LESS),
        _vit("", ("inference", "supervised"), ("torch",)),
        *(_vit(variant, ("supervised",), ()) for variant in ("plain_attention", "aligned_attention")),
        Case("efficientnet_lite0", "bfloat16"),
        _digits("mlp", (28, 28, 1)),
        _digits("resnet20", (32, 32, 3)),
        _digits("cnn", (28, 28, 1)),
        Case("efficientnet_lite0", "float32", ways=LESS),
        Case("resnet50", "bfloat16", ways=("supervised",), rivals=(), variant="one_multiply_add_norm"),
    ),
    "cpu": (
        _idx(
            "mlp",
            "mnist",
            batch=256,
            shape=(28, 28, 1),
            teacher=(1200, 1200),
            ways=TRAINED,
            rivals=("torch", "keras"),
            learn=1000,
        ),
        _idx(
            "cnn", "fashion_mnist", batch=192, shape=(28, 28, 1), ways=("supervised", "self_train"), ratio=5, learn=1000
        ),
        _idx("resnet20", "fashion_mnist", shape=(32, 32, 3), ways=("supervised",), learn=200),
        Case("efficientnet_lite0", batch=16, count=64, ways=("inference", "supervised", "frozen_kept")),
    ),
}
# The same programs at sizes that any CPU can run, to test the suites.
TINY = {
    "gpu": (
        Case("resnet20", "bfloat16", batch=16, shape=(32, 32, 3), num_classes=10, count=64),
        Case("mlp", shape=(28, 28, 1), num_classes=10, count=2048, ways=("supervised", "scan_8")),
    ),
    "cpu": (
        Case(
            "mlp",
            batch=16,
            shape=(28, 28, 1),
            num_classes=10,
            teacher=(40, 40),
            ways=TRAINED,
            rivals=("torch", "keras"),
            optimizer="adam",
        ),
        Case("cnn", batch=12, shape=(28, 28, 1), num_classes=10, ways=("supervised", "self_train"), ratio=5),
    ),
}


def of(cases: tuple[Case, ...], name: str) -> Case:
    return next(case for case in cases if case.name == name)


def flops(way: str, multiply_adds: int) -> float:
    """Floating-point operations an image, of the network itself: a training step is three predictions' worth."""
    return 2.0 * multiply_adds * {"inference": 1, "kd_live": 4, "frozen_kept": 0}.get(way, 3)
