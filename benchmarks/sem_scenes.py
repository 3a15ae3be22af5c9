"""How fast line-space scenes are rendered, and how near they come to real SEM images.

    python benchmarks/sem_scenes.py [--real FOLDER] [--pictures FOLDER] [--count N]

The real images are those of the public SEM collection (../shared/data/sem_defects, training part)
in which a line-space pattern fills the view, found by a rule that looks at the spectrum alone: see
is_line_space. The collection's images are thumbnails of 128 x 128, so simulated scenes are reduced
to that size before anything is compared. Prints rows for docs/benchmarks.md and draws the pictures
of docs/simulate.md. Speed is counted in seconds of the processor, so other programs do not disturb.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from semiscope.simulate.line_settings import CLASS_SETS
from semiscope.simulate.sem_lines import SemLinesSettings, render_scene
from semiscope.types import Mask

SIZE = 128
FOLDERS = ("BRIDGE", "CLEAN", "LER", "OPEN")
BAND_SHARE = 0.75
PITCH_PX = (5.0, 26.0)
BAND_PX = 2.5
REPEAT = 0.6

Grey = NDArray[np.uint8]


def power(image: Grey) -> NDArray[np.float64]:
    """Power spectrum of the standardised, windowed image, zero frequency in the middle."""
    grey = image.astype(np.float64)
    grey = (grey - grey.mean()) / max(grey.std(), 1e-6)
    window = np.hanning(SIZE)
    spectrum = np.fft.fft2(grey * window[:, None] * window[None])
    return np.asarray(np.abs(np.fft.fftshift(spectrum)) ** 2 / np.sum(window**2) ** 2)


def radius_and_angle() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each place in a spectrum."""
    y, x = np.mgrid[-SIZE // 2 : SIZE // 2, -SIZE // 2 : SIZE // 2]
    return np.hypot(x, y), np.arctan2(y, x)


def is_line_space(image: Grey) -> bool:
    """Whether one direction dominates, near an axis, with a pitch that the scenes have too.

    BAND_SHARE of the power beyond 3 cycles an image must lie within BAND_PX of the line through the
    strongest peak, the peak within 8 degrees of an axis, and the pitch within PITCH_PX. The mean
    profile across the lines must correlate by REPEAT with itself a pitch further on.
    """
    spectrum = power(image)
    radius, angle = radius_and_angle()
    spectrum[radius < 3] = 0
    peak = int(np.argmax(spectrum))
    off = angle - angle.flat[peak]
    band = np.abs(np.sin(off)) * radius <= BAND_PX
    share = spectrum[band].sum() / spectrum.sum()
    along_axis = abs(np.sin(2 * angle.flat[peak])) < np.sin(np.radians(2 * 8))
    pitch = SIZE / radius.flat[peak]
    if not (share >= BAND_SHARE and along_axis and PITCH_PX[0] <= pitch <= PITCH_PX[1]):
        return False
    profile = image.mean(axis=0 if abs(np.cos(angle.flat[peak])) > 0.5 else 1)
    slow = np.convolve(np.pad(profile, SIZE // 4, "reflect"), np.full(SIZE // 2 + 1, 1), "valid")
    profile = profile - slow / (SIZE // 2 + 1)
    lags = range(int(0.8 * pitch), int(1.2 * pitch) + 2)
    return max(float(np.corrcoef(profile[:-k], profile[k:])[0, 1]) for k in lags) >= REPEAT


def real_images(folder: Path) -> list[Grey]:
    """The line-space images of the collection's training part, in the order of their names."""
    images = []
    for name in FOLDERS:
        for path in sorted((folder / name).iterdir()):
            image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            if image is not None and image.shape == (SIZE, SIZE) and is_line_space(image):
                images.append(image)
    return images


def reduced(pixels: NDArray[np.uint16]) -> Grey:
    """A scene as a thumbnail of 8 bits."""
    small = cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return np.asarray(small >> 8, np.uint8)


def naive_images(count: int) -> list[Grey]:
    """What a simulator without physics draws: straight sharp bars and white noise."""
    images = []
    for index in range(count):
        rng = np.random.default_rng((11, index))
        pitch = rng.uniform(*PITCH_PX)
        x = np.arange(SIZE) + rng.uniform(0, pitch)
        bars = np.where(x % pitch < pitch * rng.uniform(0.4, 0.6), 0.65, 0.35)
        grey = np.tile(bars, (SIZE, 1)) + 0.05 * rng.standard_normal((SIZE, SIZE))
        if rng.random() < 0.25:
            grey = grey.T
        images.append(np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8))
    return images


def histogram(images: list[Grey]) -> NDArray[np.float64]:
    """Share of pixels at each of the 256 grey levels."""
    counts = np.sum([np.bincount(i.ravel(), minlength=256) for i in images], axis=0)
    return np.asarray(counts / counts.sum())


def radial_spectrum(images: list[Grey]) -> NDArray[np.float64]:
    """Median over the images of the mean power at each whole radius, in decibel."""
    ring = np.rint(radius_and_angle()[0]).astype(int)
    use = (ring >= 1) & (ring < SIZE // 2)
    profiles = []
    for image in images:
        total = np.bincount(ring[use], power(image)[use])
        profiles.append(total[1:] / np.bincount(ring[use])[1:])
    return np.asarray(10 * np.log10(np.median(profiles, axis=0) + 1e-12))


def histogram_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Earth mover's distance in grey levels of 255."""
    return float(np.abs(np.cumsum(a - b)).sum())


def spectrum_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Root mean square difference in decibel."""
    return float(np.sqrt(np.mean((a - b) ** 2)))


def images_a_second(count: int) -> float:
    """Scenes of 480 x 480 rendered in a second of one core."""
    cv2.setNumThreads(1)
    settings = SemLinesSettings(count=count, seed=3)
    render_scene(settings, 0)
    start = time.process_time()
    for index in range(count):
        render_scene(settings, index)
    return count / (time.process_time() - start)


def compare(real: list[Grey], sets: dict[str, list[Grey]], path: Path) -> None:
    """Real and simulated side by side, the histograms and the spectra of all."""
    columns, rows = 6, 4
    figure = Figure(figsize=(10, 6.3), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(3.5, 2.3))
    for axis, (title, images) in zip(
        top.subplots(1, 2), (("real", real), ("simulated", sets["simulated"])), strict=True
    ):
        picked = [images[i] for i in np.linspace(0, len(images) - 1, columns * rows).astype(int)]
        picked = [np.pad(p, 2, constant_values=255) for p in picked]
        sheet = np.vstack([np.hstack(picked[r * columns : (r + 1) * columns]) for r in range(rows)])
        axis.imshow(sheet, cmap="gray", vmin=0, vmax=255)
        axis.set_title(title)
        axis.axis("off")
    left, right = bottom.subplots(1, 2)
    for (label, images), style in zip(
        {"real": real, **sets}.items(), ("k-", "C0-", "C3:"), strict=True
    ):
        smooth = np.convolve(histogram(images), np.full(5, 0.2), "same")
        left.plot(100 * smooth, style, label=f"{label} ({len(images)} images)")
        right.plot(np.arange(1, SIZE // 2) / SIZE, radial_spectrum(images), style)
    left.set(xlabel="grey level", ylabel="pixels (%)", ylim=(0, 2), xlim=(0, 255))
    right.set(xlabel="spatial frequency (cycles / px)", ylabel="power (dB)")
    left.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=85)


def show_classes(path: Path) -> None:
    """One scene of each class, with the outline of its mask and its box."""
    tiles = []
    for number, names in enumerate(CLASS_SETS.values()):
        settings = SemLinesSettings.from_dict(
            {
                "count": 60,
                "seed": 5 + number,
                "split": "test",
                "classes": ",".join(names),
                "distribution": "uniform",
                "width": 240,
                "height": 240,
                "pattern": {"pitch_nm": (24, 32), "nm_per_px": (0.8, 1.0), "horizontal": 0},
            },
            "pictures",
        )
        first: dict[int, tuple[Grey, Mask]] = {}
        for index in range(settings.count):
            scene = render_scene(settings, index)
            mask = (scene.annotations.shapes or ())[0]
            if isinstance(mask, Mask):
                first.setdefault(
                    int(scene.annotations.class_id[0]), ((scene.pixels >> 8).astype(np.uint8), mask)
                )
        tiles.append([(names[i], *first[i]) for i in range(len(names))])
    figure = Figure(figsize=(9, 4), layout="constrained")
    grid = figure.subplots(2, 5)
    for axis, (name, grey, mask) in zip(grid.flat, tiles[0] + tiles[1], strict=True):
        height, width = mask.bits.shape
        full = np.zeros(grey.shape, np.uint8)
        full[mask.y : mask.y + height, mask.x : mask.x + width] = mask.bits
        axis.imshow(grey, cmap="gray", vmin=0, vmax=255)
        axis.contour(full, levels=[0.5], colors="C1", linewidths=0.8)
        axis.set_title(name.replace("_", " "), fontsize=8)
        axis.axis("off")
    figure.savefig(path, dpi=85)


def main() -> None:
    """Measures, draws and prints the rows of the table."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", type=Path, default=root.parent / "shared/data/sem_defects/train")
    parser.add_argument("--pictures", type=Path, default=root / "docs/images")
    parser.add_argument("--count", type=int, default=200, help="simulated images")
    options = parser.parse_args()
    out = sys.stdout.write
    out("| what | figure |\n| --- | --- |\n")
    out(f"| scenes of 480 x 480 a second, one core | {images_a_second(200):.1f} |\n")
    options.pictures.mkdir(parents=True, exist_ok=True)
    show_classes(options.pictures / "sem_lines_classes.png")
    if not options.real.is_dir():
        out(f"| real images | none at {options.real} |\n")
        return
    real = real_images(options.real)
    settings = SemLinesSettings(count=options.count, seed=17, split="test")
    sets = {
        "simulated": [reduced(render_scene(settings, i).pixels) for i in range(options.count)],
        "sharp bars and white noise": naive_images(options.count),
    }
    pairs = {name: (real, images) for name, images in sets.items()}
    pairs["the other half of the real ones"] = (real[::2], real[1::2])
    for name, (one, other) in pairs.items():
        levels = histogram_distance(histogram(one), histogram(other))
        decibel = spectrum_distance(radial_spectrum(one), radial_spectrum(other))
        out(f"| grey-level histogram, real to {name} (levels of 255) | {levels:.1f} |\n")
        out(f"| radial power spectrum, real to {name} (dB) | {decibel:.1f} |\n")
    compare(real, sets, options.pictures / "sem_lines_real.png")


if __name__ == "__main__":
    main()
