r"""Peak memory of `inspect` by the number of images: flat is what we want.

    python benchmarks/memory.py --model wafer-die \
        --data ../shared/data/wafer_die_optical/test/images

The images are linked again and again until there are as many as asked for; each count is inspected
by a fresh process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

CHILD = """
import sys
from semiscope.evaluate.speed import peak_memory_mb
from semiscope.inspection.pipeline import inspect
from semiscope.inspection.settings import InspectSettings
from pathlib import Path
folder, model = sys.argv[1:]
summary = inspect([folder], InspectSettings(model=model), Path(folder).parent / "run")
import json
print(json.dumps([summary.images, summary.images_per_second, peak_memory_mb()]))
"""


def main() -> None:
    """Prints a table row for each count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[500, 5000])
    given = parser.parse_args()
    files = sorted(p.resolve() for p in given.data.iterdir())
    for count in given.counts:
        with tempfile.TemporaryDirectory() as folder:
            links = Path(folder) / "images"
            links.mkdir()
            for i in range(count):
                file = files[i % len(files)]
                (links / f"{i:06d}{file.suffix}").symlink_to(file)
            done = subprocess.run(
                [sys.executable, "-c", CHILD, str(links), given.model],
                capture_output=True,
                text=True,
                check=True,
            )
        images, speed, peak = json.loads(done.stdout)
        print(f"| {images} images | {speed:.1f} images/s | peak memory {peak:.0f} MB |")


if __name__ == "__main__":
    main()
