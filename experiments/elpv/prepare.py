"""Writes the solar cells of elpv-dataset as a folder of photographs, FOLDER/{train,test}/{normal,doubtful,defective}/.

    pip install --no-deps elpv-dataset==1.0.0.post1
    python -m experiments.elpv.prepare FOLDER

2,624 grey electroluminescence images of 300 x 300 pixels, each with the probability of a defect: 0 is normal here, 1/3
and 2/3 are doubtful, 1 is defective. A quarter is the test set, of fixed membership, stratified by probability and by
the module's type (mono- or polycrystalline). The package does not say which of the 44 modules a cell is from, so cells
of one module may be on both sides: the test is about other cells, and not about other modules.

Licence: CC-BY-NC-SA 4.0, (c) the authors. The images are read from the installed package and never committed.

Citations, as the package asks: Buerhop-Lutz et al., "A Benchmark for Visual Identification of Defective Solar Cells in
Electroluminescence Imagery", EU PVSEC 2018, doi:10.4229/35thEUPVSEC20182018-5CV.3.15; Deitsch et al., "Automatic
classification of defective photovoltaic module cells in electroluminescence images", Solar Energy 185, 2019,
doi:10.1016/j.solener.2019.02.067; Deitsch et al., "Segmentation of photovoltaic module cells in uncalibrated
electroluminescence images", Machine Vision and Applications 32(4), 2021, doi:10.1007/s00138-021-01191-9.
"""

import argparse
import hashlib
import importlib.util
import shutil
import sys
from collections import Counter
from pathlib import Path

from tlx.errors import UserError

CLASSES = {0: "normal", 1: "doubtful", 2: "doubtful", 3: "defective"}  # by thirds
COUNTS = {"normal": 1508, "doubtful": 401, "defective": 715}


def read_labels(package: Path) -> list[tuple[Path, int, str]]:
    """(image, probability in thirds, "mono" or "poly") of each cell.

    Raises:
      UserError: other counts than those of version 1.0.0.post1.
    """
    rows = [line.split() for line in (package / "data" / "labels.csv").read_text().splitlines()]
    cells = [(package / "data" / name, round(3 * float(probability)), kind) for name, probability, kind in rows]
    counts = Counter(CLASSES[thirds] for _, thirds, _ in cells)
    if counts != COUNTS:
        raise UserError(f"elpv-dataset has {dict(counts)} images and not {COUNTS}: install version 1.0.0.post1")
    return cells


def choose_test(cells: list[tuple[Path, int, str]]) -> set[Path]:
    """A quarter of the cells of each probability and type: those whose names have the lowest hashes."""
    chosen = set()
    for stratum in sorted({cell[1:] for cell in cells}):
        images = [image for image, *rest in cells if tuple(rest) == stratum]
        images.sort(key=lambda image: hashlib.sha256(image.name.encode()).digest())
        chosen.update(images[: round(len(images) / 4)])
    return chosen


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.elpv.prepare", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="is made; must not exist")
    folder = parser.parse_args(argv).folder
    try:
        package = importlib.util.find_spec("elpv_dataset")
        if package is None:
            raise UserError("elpv-dataset is missing: pip install --no-deps elpv-dataset==1.0.0.post1")
        if folder.exists():
            raise UserError(f"{folder} exists: delete it, or name another")
        cells = read_labels(Path(package.origin).parent)
        test = choose_test(cells)
        for image, thirds, _ in cells:
            target = folder / ("test" if image in test else "train") / CLASSES[thirds] / image.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(image, target)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(f"{folder}: {len(cells) - len(test):,} training and {len(test):,} test images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
