"""The house rules that can be read off the source: who may import whom, and what nobody may be called."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import distgan

PACKAGE = Path(distgan.__file__).parent
ROOT = PACKAGE.parent

STOREYS = [
    ["errors", "files", "histogram", "trouble", ""],
    ["config", "grouping", "shared_folder", "run_folder", "launcher"],
    ["exit_status"],
    ["reduction", "stopping", "watchdog"],
    ["double_backward", "inputs", "randomness", "schedules", "averaging", "weights", "bad_numbers"],
    ["augmentation", "metrics", "networks"],
    ["objectives"],
    ["compiling"],
    ["assembly", "checkpoint", "data", "environment", "periodic", "resuming", "runtime", "toys", "tracking"],
    ["sampling", "phases", "slurm"],
    ["collapse", "compare", "evaluation", "evidence", "parity", "reading"],
    ["adaptation", "judging", "measurements", "overview", "recorder", "stages"],
    ["restoring"],
    ["trainer"],
    ["doctor"],
    ["train", "cli"],
]
"""From the ground up: a part may import those of lower storeys (DESIGN section 2). "" is distgan/__init__.py."""

STOREY = {part: number for number, parts in enumerate(STOREYS) for part in parts}
HOMES = {
    "webdataset": ("data/",),
    "fsspec": ("data/",),
    "aiohttp": ("data/",),
    "lmdb": ("data/sources/lsun.py",),
    "wandb": ("tracking/", "compare/server.py"),
    "tensorboard": ("tracking/",),
    "plotly": ("compare/page.py",),
    "jinja2": ("compare/page.py",),
    "accelerate": ("runtime.py", "trainer.py"),
    "torch_fidelity": ("evaluation/inception.py",),
}
"""The only places that may import a library."""
WORLDLY = ("torch.distributed", "os", "pathlib", "accelerate", "subprocess", "io", "shutil")
"""Processes, devices and files: nothing for networks, objectives and metrics."""


def sources() -> dict[str, ast.Module]:
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def part_of(file: str) -> str:
    """`data` of data/stream.py, `trainer` of trainer.py."""
    return file.split("/")[0].removesuffix(".py").replace("__init__", "")


def imported(tree: ast.AST, file: str = "") -> list[str]:
    """The dotted names that a file imports, wherever in it; of `from a import b` both a and a.b."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import of {node.module}: train.py runs as a script"
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def own_parts(tree: ast.AST, file: str) -> set[str]:
    """The parts of distgan that a file imports."""
    names = [name.split(".") for name in imported(tree, file)]
    whole = {name[1] for name in names if name[0] == "distgan" and len(name) > 1}
    return {part for part in whole if (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").exists()}


def upward(files: dict[str, ast.Module]) -> list[str]:
    return [
        f"{file} imports {other}"
        for file, tree in files.items()
        for other in sorted(own_parts(tree, file) - {part_of(file)})
        if STOREY.get(other, 99) >= STOREY[part_of(file)]
    ]


def strangers(files: dict[str, ast.Module]) -> list[str]:
    """Imports of a library outside its home."""
    return [
        f"{file} imports {library}"
        for file, tree in files.items()
        for library, homes in HOMES.items()
        if library in {name.split(".")[0] for name in imported(tree, file)} and not file.startswith(homes)
    ]


def worldly(files: dict[str, ast.Module]) -> list[str]:
    """What networks, objectives and metrics take from outside of mathematics: imported, or reached as an attribute."""
    found = []
    for file, tree in files.items():
        if file.startswith(("networks/", "objectives/", "metrics/")):
            reached = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            names = {*imported(tree, file), *reached}
            found += [f"{file}: {n}" for n in sorted(names) for w in WORLDLY if n == w or n.startswith(w + ".")]
    return found


def test_every_part_has_its_storey():
    parts = {part_of(file) for file in sources()}
    assert parts <= STOREY.keys(), f"give {sorted(parts - STOREY.keys())} a storey in {Path(__file__).name}"
    assert STOREY.keys() <= parts, f"{sorted(STOREY.keys() - parts)} are gone"


def test_the_parity_reference_shares_no_mathematics_with_what_it_is_to_judge():
    files = sources()
    for file in ("parity/reference.py", "parity/textbook.py", "parity/measure.py"):
        assert own_parts(files[file], file) <= {"parity", "networks", "randomness", "double_backward"}, file
    reference = [name for name in imported(files["parity/reference.py"]) if "double_backward" in name]
    assert reference == ["distgan.double_backward", "distgan.double_backward.torchs_own"]  # to be without it


def test_imports_point_downwards_only():
    assert upward(sources()) == []


def test_no_two_files_import_each_other():
    files = sources()
    modules = {
        f"distgan.{file.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__"): file for file in files
    }
    needs = {m: {n for n in imported(files[file]) if n in modules} - {m} for m, file in modules.items()}
    while free := [module for module, others in needs.items() if not others & needs.keys()]:
        for module in free:
            del needs[module]
    # a package that names its own modules is imported with each of them: that alone is no cycle
    inner = {
        module: {n for n in others & needs.keys() if not module.startswith(n + ".")} for module, others in needs.items()
    }
    while free := [module for module, others in inner.items() if not others & inner.keys()]:
        for module in free:
            del inner[module]
    assert not inner


def test_libraries_stay_in_their_home():
    assert strangers(sources()) == []


def test_networks_objectives_and_metrics_know_nothing_of_processes_and_files():
    assert worldly(sources()) == []


@pytest.mark.parametrize(
    ("rule", "file", "code"),
    [
        (upward, "config/new.py", "from distgan.trainer import Trainer"),
        (upward, "networks/new.py", "def f():\n    from distgan import checkpoint"),
        (upward, "networks/new.py", "import distgan.objectives.critic"),
        (strangers, "recorder.py", "def f():\n    import wandb"),
        (strangers, "checkpoint.py", "from accelerate.utils import set_seed"),
        (worldly, "objectives/new.py", "import torch\ntorch.distributed.get_rank()"),
        (worldly, "networks/new.py", "from torch import distributed"),
        (worldly, "networks/new.py", "from pathlib import Path"),
        (worldly, "metrics/new.py", "import os"),
    ],
)
def test_the_rules_notice_what_breaks_them(rule, file, code):
    assert rule({file: ast.parse(code)})


def test_no_name_beside_the_script_hides_a_module_of_others():
    """`accelerate launch distgan/train.py` puts distgan/ first on sys.path."""
    requirements = [re.split(r"[^\w-]", line)[0] for line in metadata.requires("distgan")]
    known = {"pyyaml": "yaml", "pillow": "PIL"}
    taken = {known.get(name.lower(), name) for name in requirements} | set(sys.stdlib_module_names)
    taken |= {name for name in metadata.packages_distributions() if not name.startswith("_")} - {"distgan"}
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert {"train", "data"} <= names and not names & taken


def test_the_script_defines_nothing_that_another_file_needs():
    assert not [file for file, tree in sources().items() if {"train", "cli"} & own_parts(tree, file)]


def run(code: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


def test_a_config_is_loaded_without_torch():
    code = (
        "import sys, distgan.config as c; c.load_config(sys.argv[1:]); c.reference(); assert 'torch' not in sys.modules"
    )
    done = run(code, ROOT / "configs" / "quickstart.yaml")
    assert done.returncode == 0, done.stderr


def test_a_bad_config_ends_the_script_before_torch(tmp_path):
    (tmp_path / "bad.yaml").write_text("run_dir: r\ntrain: {batch_size: none}\n")
    script = [PACKAGE / "train.py", "--config", tmp_path / "bad.yaml"]
    code = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert end.code == 2, end.code
assert "torch" not in sys.modules and "pydantic" in sys.modules
"""
    assert run(code, *script).returncode == 0
    done = subprocess.run([sys.executable, *script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert all(line.startswith("distgan: ") for line in done.stderr.splitlines())
    assert "train.batch_size: 'none' is not allowed; must be a whole number" in done.stderr


def test_no_name_is_defined_twice():
    """A second function of the same name in a module or class takes the place of the first without a word."""
    twice = []
    for path, tree in sources().items():
        for scope in (node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef)):
            names = [
                node.name
                for node in scope.body
                if isinstance(node, ast.FunctionDef | ast.ClassDef)
                and not any(re.search(r"\.(setter|deleter)$|overload$", ast.unparse(d)) for d in node.decorator_list)
            ]
            twice += [f"{path}: {name}" for name in sorted(set(names)) if name != "_" and names.count(name) > 1]
    assert twice == []
