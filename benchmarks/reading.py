"""What reading an image costs beside its bare decoder, which info bars are found, what pip fetches.

    python benchmarks/reading.py [--data FOLDER]

Times are processor time of one thread, each file read by both in turn, the fastest of several
readings of each; the bare decoder leaves grey grey too. What libpng says on standard error is the
bare decoder's. The download is what `pip wheel` fetches and builds for an install without extras,
at the versions of requirements.lock.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import tifffile

from semiscope.io.image import find_images, read_image

ROOT = Path(__file__).resolve().parents[1]
READINGS = 5


def cv2_imread(path: str) -> Any:
    """OpenCV's decoder alone, which leaves the channels as they are."""
    return cv2.imread(path, cv2.IMREAD_UNCHANGED)


# what is read, and the bare decoder that it is held against
TIMED: dict[str, tuple[str, Callable[[str], Any]]] = {
    "JPEG, colour, mostly 742 x 576": ("wafer_die_optical/test/images", cv2_imread),
    "JPEG, grey, 2048 x 2168, with info bar": ("sem_lines/test_stack*.jpg", cv2_imread),
    "PNG, grey and RGB, 128 x 128": ("sem_defects/test", cv2_imread),
    "PNG, grey, 1024 x 1024": ("cross_sections/ebc/test/images", cv2_imread),
    "TIFF": ("sem_golden_pairs", tifffile.imread),
}

# rows of the info bars, seen by eye; no other image ends in one
BARS = dict.fromkeys(
    ("test1.jpg", "test_analysis_raw_half_lines.jpg", "test_stack1.jpg", "test_stack2.jpg"), 120
)
NOT_IMAGES = {"masks", "segmaps"}


def milliseconds(read: Callable[[str], Any], path: str) -> float:
    """Processor time of one reading."""
    start = time.process_time()
    read(path)
    return 1000 * (time.process_time() - start)


def reading_times(paths: list[Path], bare: Callable[[str], Any]) -> tuple[float, float]:
    """Mean over the files, ms: ours, the bare decoder."""
    ours = theirs = 0.0
    for path in map(str, paths):
        pairs = [
            (milliseconds(read_image, path), milliseconds(bare, path)) for _ in range(READINGS)
        ]
        ours += min(pair[0] for pair in pairs)
        theirs += min(pair[1] for pair in pairs)
    return ours / len(paths), theirs / len(paths)


def info_bars(data: Path) -> tuple[int, list[Path], int]:
    """Bars found with exactly their rows, images in which one was found wrongly, images read."""
    exact, wrong, count = 0, [], 0
    for path in find_images([data]):
        if NOT_IMAGES & set(path.relative_to(data).parts):
            continue
        count += 1
        rows, truth = read_image(path).info_bar_px, BARS.get(path.name, 0)
        exact += rows == truth > 0
        if rows and not truth:
            wrong.append(path)
    return exact, wrong, count


def core_download() -> tuple[float, float]:
    """Megabytes that a core install fetches: the dependencies, the package itself."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "-qq", "--wheel-dir", folder]
            + ["--constraint", str(ROOT / "requirements.lock"), str(ROOT)],
            check=True,
        )
        sizes = {p.name: p.stat().st_size / 1e6 for p in Path(folder).iterdir()}
    own = sum(size for name, size in sizes.items() if name.startswith("semiscope-"))
    return sum(sizes.values()) - own, own


def main() -> None:
    """Prints the rows of the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    data = parser.parse_args().data
    cv2.setNumThreads(1)
    print("| what | figure |\n|---|---|")
    for what, (place, bare) in TIMED.items():
        paths = find_images([data / place])
        ours, theirs = reading_times(paths, bare)
        print(
            f"| {what} ({len(paths)} files): ours, bare decoder, ratio "
            f"| {ours:.2f} ms, {theirs:.2f} ms, {ours / theirs:.2f} |"
        )
    exact, wrong, count = info_bars(data)
    print(f"| info bars found, rows exact | {exact} of {len(BARS)} |")
    print(f"| info bars found in {count - len(BARS)} images without one | {len(wrong)} |")
    for path in wrong:
        print(f"wrongly found in {path}", file=sys.stderr)
    needed, own = core_download()
    print(
        "| download of the core install: dependencies, the package with its models, together "
        f"| {needed:.1f} MB, {own:.1f} MB, {needed + own:.1f} MB |"
    )


if __name__ == "__main__":
    main()
