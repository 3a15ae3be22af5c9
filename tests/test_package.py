import ast
import subprocess
import sys
from pathlib import Path

import semiscope

SOURCE = Path(semiscope.__file__).parent
# from the top down: a module imports only from its own line or from below
LAYERS = [
    ("cli",), ("label",), ("compress",), ("learn",), ("nets",), ("inspection",), ("report",),
    ("capture",), ("infer",), ("evaluate",), ("measure",), ("simulate",), ("data",), ("io",),
    ("workers",), ("tiling",), ("fusion",), ("geometry",), ("config",), ("errors",), ("types",),
]  # fmt: skip
TORCH = {"nets", "learn", "compress", "cli"}


def imports():
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE).with_suffix("").parts
        if len(place) == 1 and place[0].startswith("__"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                yield path, place[0], name.split(".")


def test_imports_point_down():
    level = {name: i for i, names in enumerate(LAYERS) for name in names}
    wrong = [
        f"{path}: {'.'.join(name)}"
        for path, own, name in imports()
        if name[0] == "semiscope" and len(name) > 1 and level[name[1]] < level[own]
    ]
    assert not wrong


def test_networks_import_no_other_part_and_torch_stays_in_its_rooms():
    for path, own, name in imports():
        if own == "nets" and name[0] == "semiscope":
            assert name[1] == "nets", path
        if name[0] in ("torch", "accelerate", "safetensors", "onnx"):
            assert own in TORCH, path


def test_public_names_exist_and_importing_the_package_loads_nothing():
    assert all(hasattr(semiscope, name) for name in semiscope.__all__)
    code = "import sys, semiscope; sys.exit(bool({'numpy', 'cv2', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert not hasattr(semiscope, "no_such_name")


def test_the_module_runs():
    done = subprocess.run(
        [sys.executable, "-m", "semiscope", "--version"], capture_output=True, text=True
    )
    assert done.stdout.strip() == semiscope.__version__
