"""What `pip install semiscope` downloads: the package with its models, and the libraries it needs.

    python benchmarks/download.py

The newest wheels that fit this Python and machine, as pip chooses them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Prints a table, the largest first."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "wheel", "--quiet", "--wheel-dir", folder, str(ROOT)], check=True)
        sizes = {p.name.split("-")[0]: p.stat().st_size / 1e6 for p in Path(folder).iterdir()}
    print("| package | MB |")
    print("|---|---|")
    for name in sorted(sizes, key=lambda n: -sizes[n]):
        print(f"| {name} | {sizes[name]:.1f} |")
    print(f"| together | {sum(sizes.values()):.1f} |")


if __name__ == "__main__":
    main()
