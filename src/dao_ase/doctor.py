"""What this installation is and whether it works: versions, devices, extras, weights, programs, a self-test."""

from __future__ import annotations

import json
import math
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib import metadata, resources
from tempfile import TemporaryDirectory
from typing import Literal

from dao_ase import __version__

EXTRAS = {
    "chgnet": ("chgnet", "the reference potential: labels, judging, comparison"),
    "cluster": ("torch-cluster", "neighbour lists of large batches on a GPU"),
    "matgl": ("matgl", "more potentials to compare with"),
    "phonons": ("phonopy", "vibrations of crystals: dao-ase phonons"),
    "matcalc": ("matcalc", "elastic constants and more, with any calculator"),
    "screen": ("parsl", "many compositions by many processes: dao-ase screen"),
    "postgresql": ("ase-db-backends", "screening into a PostgreSQL database"),
    "torchsim": ("torch-sim-atomistic", "batched relaxation and dynamics with TorchSim"),
    "atomate2": ("atomate2", "workflows of atomate2 and jobflow"),
    "optimade": ("optimade", "crystals of Materials Project, OQMD, Alexandria and others by OPTIMADE"),
}
"""Extra of ``pip install "dao-ase[...]"`` → the distribution that it installs, and what for."""

TOLERANCE = 2e-3
"""eV/atom and eV/Å: float32 on another processor may differ by less."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``absent`` is no fault; ``broken`` is, and then the detail ends with the remedy."""

    group: str
    name: str
    state: Literal["ok", "absent", "broken"]
    detail: str


def examine(self_test: bool = True) -> Iterator[Finding]:
    """Everything, one finding after the other, in the order in which a reader wants it."""
    yield Finding("system", "dao-ase", "ok", __version__)
    yield Finding("system", "python", "ok", f"{platform.python_version()}, {platform.platform()}")
    yield from map(_required, required())
    yield from _devices()
    yield from (_extra(*item) for item in EXTRAS.items())
    yield from _weights()
    yield _espresso()
    if self_test:
        yield from _self_test()


def required() -> list[str]:
    """The distributions that dao-ase itself requires, as it was installed."""
    requirements = metadata.requires("dao-ase") or []
    return [re.split(r"[^\w.-]", one, maxsplit=1)[0] for one in requirements if "extra ==" not in one]


def _required(name: str) -> Finding:
    try:
        return Finding("packages", name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding("packages", name, "broken", f"missing: pip install {name}")


def _extra(extra: str, what: tuple[str, str]) -> Finding:
    name, purpose = what
    try:
        return Finding("extras", extra, "ok", f"{name} {metadata.version(name)}: {purpose}")
    except metadata.PackageNotFoundError:
        return Finding("extras", extra, "absent", f'{purpose}: pip install "dao-ase[{extra}]"')


def _devices() -> Iterator[Finding]:
    import torch

    yield Finding("devices", "cpu", "ok", f"{torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(index).total_memory / 2**30
            yield Finding("devices", f"cuda:{index}", "ok", f"{torch.cuda.get_device_name(index)}, {memory:.0f} GiB")
    else:
        built = f"this torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "this torch has no CUDA"
        yield Finding("devices", "cuda", "absent", f"no GPU in use; {built}")


def _weights() -> Iterator[Finding]:
    from dao_ase.checkpoint import CheckpointError, load

    folder = resources.files("dao_ase") / "weights"
    found = (
        sorted(str(file) for file in folder.iterdir() if file.name.endswith(".safetensors")) if folder.is_dir() else []
    )
    if not found:
        yield Finding("weights", "default", "broken", "this installation carries none: reinstall dao-ase from a wheel")
    for path in found:
        name = path.replace("\\", "/").rpartition("/")[2]
        try:
            tensors, header = load(path)
        except CheckpointError as error:
            yield Finding("weights", name, "broken", f"{error}: reinstall dao-ase")
            continue
        numbers = sum(tensor.numel() for tensor in tensors.values())
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        yield Finding(
            "weights", name, "ok", f"{header.get('model', 'model')}, {numbers / 1e6:.1f} M numbers, {size / 1e6:.1f} MB"
        )


def _program(name: str, purpose: str, remedy: str) -> Finding:
    from dao_ase.espresso.running import complaint

    path = shutil.which(name)
    if path is None:
        return Finding("programs", name, "absent", f"{purpose}: {remedy}")
    try:
        with TemporaryDirectory() as folder:  # without an input pw.x leaves a file CRASH where it is called
            done = subprocess.run([path], input="", capture_output=True, text=True, timeout=20, check=False, cwd=folder)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("programs", name, "broken", f"{path} does not start ({error}): {remedy}")
    version = next((word for word in done.stdout.split() if word.startswith("v.")), None)
    if version is None:  # as where a library is missing, or MPI refuses
        said = complaint(done.stderr) or f"it ends with code {done.returncode}, without a banner"
        return Finding("programs", name, "broken", f"{path} does not start ({said}): {remedy}")
    return Finding("programs", name, "ok", f"{path}, {version}")


def _espresso() -> Finding:
    """pw.x; Debian's calls whichever BLAS is installed, and says nothing when that is the slow one."""
    from dao_ase.espresso.running import blas

    found = _program(
        "pw.x", "Quantum ESPRESSO, for dao-ase compare", "apt-get install quantum-espresso, or conda-forge's qe"
    )
    if found.state == "ok" and "/blas/libblas" in (blas() or ""):
        return replace(
            found, detail=f"{found.detail}, with the slow reference BLAS: apt-get install libopenblas0-serial"
        )
    return found


def _self_test() -> Iterator[Finding]:
    file = resources.files("dao_ase") / "weights" / "self_test.json"
    expected = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for name, measure in MEASURES.items():
        started = time.perf_counter()
        try:
            found = measure()
        except Exception as error:  # whatever breaks is the finding
            yield Finding("self-test", name, "broken", f"{type(error).__name__}: {error}")
            continue
        seconds = time.perf_counter() - started
        figures = expected.get(name, {})
        wrong = [
            f"{key} is {value:.6g}, expected {figures.get(key, math.nan):.6g}"
            for key, value in found.items()
            if not math.isclose(value, figures.get(key, math.nan), rel_tol=0, abs_tol=TOLERANCE)
        ]
        said = "; ".join(wrong) or ", ".join(f"{key} {value:.4f}" for key, value in found.items()) + ", as expected"
        yield Finding("self-test", name, "broken" if wrong else "ok", f"{said} ({seconds:.1f} s)")


def measure_calculator() -> dict[str, float]:
    """Energy (eV/atom) and largest force (eV/Å) of a slightly displaced NaCl crystal, by DAO-P."""
    import numpy as np
    from ase.build import bulk

    from dao_ase.calculator import DAOCalculator

    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.positions[0] += (0.1, 0.05, 0.0)
    atoms.calc = DAOCalculator()
    return {
        "energy per atom": atoms.get_potential_energy() / len(atoms),
        "largest force": float(np.linalg.norm(atoms.get_forces(), axis=1).max()),
    }


def measure_generator() -> dict[str, float]:
    """How many structures of NaCl DAO-G returns when asked for four, and how many atoms they have."""
    from dao_ase.generator import DAOGenerator

    structures = DAOGenerator().generate("NaCl", n=4, formula_units=2, seed=0)
    return {"structures": float(len(structures)), "atoms": float(len(structures[0]))}


MEASURES: dict[str, Callable[[], dict[str, float]]] = {"calculator": measure_calculator, "generator": measure_generator}
"""What the self-test measures; the expected figures stand in ``weights/self_test.json``."""


def as_json(findings: list[Finding]) -> str:
    """The findings for machines."""
    return json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False)


if __name__ == "__main__":  # new default weights: python -m dao_ase.doctor > src/dao_ase/weights/self_test.json
    print(json.dumps({name: measure() for name, measure in MEASURES.items()}, indent=2))
