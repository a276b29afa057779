"""The shape of the package: imports point down, models run on torch alone, importing is cheap, everything public is said.

The layers are data: a new module gets one line in ``LAYERS``.
"""

import ast
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "dao_ase"

LAYERS = [
    # what a crystal is
    [
        "whole_files",
        "spawning",
        "memory",
        "device",
        "units",
        "torus",
        "lattice",
        "niggli",
        "radii",
        "gates",
        "composition",
        "crystals",
    ],
    ["pair_geometry", "tape"],
    # atoms in and out, pairs, attention, noise
    ["convert", "symmetry", "cells", "neighbors", "layers", "invariants", "page", "runs"],
    ["neighbor_attention", "processes"],
    ["data"],
    # DAO-G and DAO-P
    ["denoiser", "potential"],
    # forces, weights, the reverse loop
    ["derivatives", "checkpoint"],
    ["stability", "clean_energy"],
    ["guidance"],
    ["sampler"],
    # what acts on them
    ["quasi_newton", "verlet", "train", "espresso"],
    ["rows", "prototypes"],
    ["calculator", "relax", "evaluate", "database"],
    ["rank", "mend", "ase_plugin", "simulate", "trained_network"],
    ["cell_sampler"],
    ["generator", "properties", "phase_diagram"],
    ["drawn"],
    ["benchmark", "compare", "screen", "hull_plot", "gallery", "doctor", "torchsim", "transformations", "flows"],
    ["cli"],
]
"""Rows from the ground up. A module imports only from rows below its own; a package (``data``, ``train``, ``cli``) is one
entry, and inside it imports may go anywhere but in a circle."""

PORTABLE = {
    *(
        "units",
        "torus",
        "lattice",
        "radii",
        "composition",
        "crystals",
        "layers",
        "neighbors",
        "neighbor_attention",
        "invariants",
        "pair_geometry",
        "processes",
        "tape",
    ),
    *(
        "denoiser",
        "potential",
        "derivatives",
        "checkpoint",
        "stability",
        "clean_energy",
        "guidance",
        "sampler",
        "train",
        "whole_files",
        "memory",
        "device",
    ),
}
"""These train and sample on machines that have neither ase nor pymatgen."""
PORTABLE_LIBRARIES = {"torch", "numpy", "safetensors", "jaxtyping", "tqdm"}
AT_RUN_TIME = {("neighbors", "vesin"), ("neighbors", "torch_cluster")}
"""Backends that are imported inside the function that was asked for them."""


@dataclass(frozen=True)
class Import:
    """One import statement: who imports what, and where it stands."""

    importer: str
    imported: str
    line: int


def name_of(file: Path) -> str:
    """``train/loop.py`` → ``train.loop``; the package itself is the empty name."""
    return ".".join(part for part in file.relative_to(SOURCE).with_suffix("").parts if part != "__init__")


MODULES = {name_of(file): file for file in sorted(SOURCE.rglob("*.py"))}
TREES = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in MODULES.items()}


def entry(module: str) -> str:
    """The entry of ``LAYERS`` to which a module belongs: its first name."""
    return module.partition(".")[0]


def imports_of(module: str) -> list[Import]:
    """Every import in a module, also inside functions; ``from a import b`` counts as ``a.b`` where that is a module."""
    found = []
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            found += [Import(module, alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"dao_ase/{module}:{node.lineno}: write imports in full, from dao_ase..."
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                is_module = full.removeprefix("dao_ase.") in MODULES or node.module == "dao_ase"
                found.append(Import(module, full if is_module else str(node.module), node.lineno))
    return found


def inner(imports: list[Import]) -> list[Import]:
    """The imports of dao_ase's own modules, named without the package."""
    own = [one for one in imports if one.imported.startswith("dao_ase.") and one.imported != "dao_ase.__version__"]
    return [Import(one.importer, one.imported.removeprefix("dao_ase."), one.line) for one in own]


INNER = {module: inner(imports_of(module)) for module in MODULES}
ROW = {name: row for row, names in enumerate(LAYERS) for name in names}


def test_every_module_has_a_layer():
    missing = sorted({entry(module) for module in MODULES if module} - set(ROW))
    advice = []
    for name in missing:
        needs = sorted({entry(one.imported) for module in MODULES if entry(module) == name for one in INNER[module]})
        needed_by = sorted(
            {entry(module) for module in MODULES for one in INNER[module] if entry(one.imported) == name}
        )
        advice.append(f"{name}: above {needs or 'nothing'}, below {needed_by or 'nothing'}")
    assert not missing, f"add to LAYERS in tests/test_architecture.py, in a row of its own if need be: {advice}"


def test_imports_point_down():
    wrong = [
        f"{one.importer}:{one.line} imports {one.imported}, which is not in a row below"
        for module in MODULES
        if module and entry(module) in ROW
        for one in INNER[module]
        if entry(one.imported) != entry(module) and ROW.get(entry(one.imported), -1) >= ROW[entry(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_imported_names_are_modules():
    """``from dao_ase import DAOCalculator`` would go round the table through the package's lazy names."""
    wrong = [f"{one.importer}:{one.line}: {one.imported}" for module in MODULES for one in INNER[module] if module]
    wrong = [line for line in wrong if line.rpartition(": ")[2] not in MODULES]
    assert not wrong, f"import from the module that defines the name: {wrong}"


@pytest.mark.parametrize("package", sorted(name for name in MODULES if MODULES[name].stem == "__init__" and name))
def test_no_circle_inside_a_package(package):
    below = {
        module: {one.imported for one in INNER[module] if entry(one.imported) == package and one.imported != module}
        for module in MODULES
        if entry(module) == package
    }
    while ready := [module for module, needs in below.items() if not needs & set(below)]:
        for module in ready:
            del below[module]
    assert not below, f"these modules of {package} import each other in a circle: {sorted(below)}"


def test_portable_modules_name_only_portable_libraries():
    wrong = []
    for module in MODULES:
        if entry(module) in PORTABLE:
            for one in imports_of(module):
                library = one.imported.partition(".")[0]
                if library == "dao_ase":
                    if entry(one.imported.removeprefix("dao_ase.")) not in PORTABLE | {
                        "data",
                        "__version__",
                        "neighbors",
                    }:
                        wrong.append(f"{module}:{one.line} imports {one.imported}, which needs more than torch")
                elif (
                    library not in PORTABLE_LIBRARIES | sys.stdlib_module_names and (module, library) not in AT_RUN_TIME
                ):
                    wrong.append(f"{module}:{one.line} imports {library}")
    assert not wrong, "\n".join(wrong)


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_portable_modules_import_where_ase_and_pymatgen_are_absent():
    names = [f"dao_ase.{module}" for module in MODULES if entry(module) in PORTABLE]
    python(
        "import importlib, sys\n"
        "for absent in ('ase', 'pymatgen', 'spglib', 'vesin', 'scipy', 'pandas', 'click', 'matplotlib'):\n"
        "    sys.modules[absent] = None\n"
        f"for name in {names}: importlib.import_module(name)\n"
    )


def test_import_is_cheap():
    """Processor time, not wall time: it does not depend on what else the machine does."""
    code = "import time, sys, json; import dao_ase; print(json.dumps([time.process_time(), sorted(sys.modules)]))"
    seconds, loaded = json.loads(python(code))
    assert not {"torch", "numpy", "ase", "pymatgen", "click"} & set(loaded)
    assert seconds < 0.5


def test_help_is_cheap():
    code = (
        "import time, sys, json\n"
        "from dao_ase.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "print(json.dumps([time.process_time(), sorted(sys.modules)]))"
    )
    seconds, loaded = json.loads(python(code).splitlines()[-1])
    assert not {"torch", "ase", "pymatgen"} & set(loaded)
    assert seconds < 1.0


def test_everything_public_has_a_docstring():
    silent = []
    for module, tree in TREES.items():
        if ast.get_docstring(tree) is None:
            silent.append(f"{MODULES[module].relative_to(SOURCE)}")
        scopes = [(module, tree.body)]
        while scopes:
            scope, body = scopes.pop()
            for node in body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
                    if ast.get_docstring(node) is None and not speaks_elsewhere(node):
                        silent.append(f"{scope}.{node.name} (line {node.lineno})")
                    if isinstance(node, ast.ClassDef):
                        scopes.append((f"{scope}.{node.name}", node.body))
    assert not silent, f"without a docstring: {silent}"


def speaks_elsewhere(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """PyTorch says what its own names do, a protocol what its methods do; overloads and setters repeat a documented name."""
    names = [ast.unparse(decorator) for decorator in node.decorator_list]
    if ast.unparse(node.body[0]) == "...":
        return True
    return node.name in ("forward", "state_dict", "load_state_dict") or any(
        name.endswith(("overload", ".setter")) for name in names
    )
