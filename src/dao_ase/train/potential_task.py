"""Training DAO-P: which frames, which are held out, which never, and the trainer that puts model and frames together."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dao_ase import checkpoint
from dao_ase.composition import Composition, reduced_key
from dao_ase.potential import Potential, PotentialConfig
from dao_ase.train.at_rest import crystals_at_rest
from dao_ase.train.config import TrainConfig
from dao_ase.train.labelled import LabelledBatches, LabelledCrystals, NeighborCache, fit_references
from dao_ase.train.loop import Trainer
from dao_ase.train.potential_objective import PotentialObjective
from dao_ase.train.together import rank, world_size

HELD_OUT_FORMULAS = ("CsV3Sb5", "Zr4Rh2O", "Zr4Pd2O", "Cr3Os")
"""The superconductors of the paper: never trained on."""
TAUGHT = (reduced_key([14]),)
"""Formulas that the draw holds out and that are trained on all the same. Silicon is what people compute first, and it comes
out soft where only a soft teacher says what it is. No frame of MatterSim's is of it: the validation frames stay."""
TEST_FILES = ("mp20_test_a.npz", "mpts52_test_a.npz")


@dataclass(frozen=True)
class PotentialData:
    """Frames to train on (``repeats`` times a pass, or never) and to validate on, and what was left out."""

    train: LabelledCrystals
    repeats: NDArray[np.int64]
    val_labels: LabelledCrystals
    val_dft: LabelledCrystals
    val_dft_subset: NDArray
    excluded: dict[str, int] = field(default_factory=dict)


def load_potential_data(
    folder: str | Path,
    dft_repeats: int = 3,
    label_repeats: int = 1,
    more_labels: Sequence[str | Path] = (),
    at_rest: str | Path | None = None,
    more_dft: Mapping[str | Path, int | Mapping[str, int]] | None = None,
    min_label_atoms: int = 1,
    rest_repeats: int = 1,
    cell_repeats: int | None = None,
) -> PotentialData:
    """The labels of the reference potential and the DFT frames in ``folder``, split by reduced formula.

    Held out: 4 % of the formulas of the labels, 15 % of those of the DFT frames, and no formula of the latter is trained
    on by labels either. Of the DFT frames only forces and stresses are trained on: their energies lack the corrections of
    the Materials Project, which depend on the chemistry, so that no shift of the elements brings the two scales together
    (the best one leaves 0.08 eV/atom). ``more_labels`` are files that ``dao-ase data label`` wrote: trained on by the same
    rules, and not validated on, so that runs with and without them can be compared; so are the crystals of the store
    ``at_rest`` (at_rest.py). ``more_dft`` are files that ``dao-ase data stiffness`` or ``close-pairs`` wrote, each with how
    often a pass takes each of its frames, of strained crystals by what was done to them (rest, volume, shape, moved) if a
    mapping says so; it takes each label ``label_repeats`` times, each other DFT frame ``dft_repeats`` times, and a crystal
    at rest ``rest_repeats`` times, or ``cell_repeats`` times if its cell is known to be at rest as well. Labels of fewer
    than ``min_label_atoms`` atoms are taken for the references of the elements only: the potential that made them is too
    soft in simple solids.
    """
    folder = Path(folder)
    labels = LabelledCrystals.load(folder / "pes_chgnet_0.npz")
    first_file = np.arange(len(labels))
    for path in more_labels:
        labels = labels.join(LabelledCrystals.load(path))
    repeats = np.where(labels.num_atoms < min_label_atoms, 0, label_repeats)
    if at_rest:
        cell_repeats = rest_repeats if cell_repeats is None else cell_repeats
        rest = crystals_at_rest(at_rest, [folder / "pes_chgnet_0.npz", *more_labels])
        labels, known_cell = labels.join(rest), np.isfinite(rest.stress).all((1, 2))
        repeats = np.append(repeats, np.where(known_cell, cell_repeats, rest_repeats))
    dft, subset, dft_test = _dft_frames(folder)
    dft_repeated = np.full(len(dft), dft_repeats)
    mattersim = len(dft)
    for path, often in (more_dft or {}).items():  # made of nothing that is in the test sets
        dft = dft.join(further := LabelledCrystals.load(path))
        subset = np.append(subset, np.full(len(further), Path(path).stem))
        dft_test, dft_repeated = np.pad(dft_test, (0, len(further))), np.append(dft_repeated, _often(path, often))
    never = {reduced_key(Composition.parse(formula).atomic_numbers) for formula in HELD_OUT_FORMULAS}

    label_formulas, dft_formulas = labels.formulas(), dft.formulas()
    draw_labels = np.array([_draw(key) for key in label_formulas])
    dft_val = np.array([is_held_out(key) for key in dft_formulas])
    unseen = {dft_formulas[k] for k in np.flatnonzero(dft_val[:mattersim])}
    dft_never = np.array([key in never for key in dft_formulas])
    label_never = np.array([key in never for key in label_formulas])
    label_unseen = np.array([key in unseen for key in label_formulas])

    dft_train = ~(dft_val | dft_test | dft_never)
    label_val = (draw_labels < 0.04) & ~label_never
    label_train = ~(label_val | label_never | label_unseen)
    train = labels.select(np.flatnonzero(label_train)).join(dft.select(np.flatnonzero(dft_train)))
    return PotentialData(
        train=train,
        repeats=np.concatenate([repeats[label_train], dft_repeated[dft_train]]),
        val_labels=labels.select(np.intersect1d(np.flatnonzero(label_val), first_file)),
        val_dft=dft.select(np.flatnonzero(dft_val)),
        val_dft_subset=subset[dft_val],
        excluded={
            "labels of held-out superconductors": int(label_never.sum()),
            "labels held out to validate": int(label_val.sum()),
            "labels with the formula of a held-out DFT frame": int((label_unseen & ~label_val).sum()),
            "DFT frames held out to validate": int(dft_val.sum()),
            "DFT frames of MP-20 or MPTS-52 test crystals": int((dft_test & ~dft_val).sum()),
            "DFT frames of held-out superconductors": int(dft_never.sum()),
        },
    )


def _often(path: str | Path, often: int | Mapping[str, int]) -> NDArray[np.int64]:
    """How often each frame of a file is taken: all alike, or by what was done to them."""
    with np.load(path, allow_pickle=False) as file:
        if not isinstance(often, Mapping):
            return np.full(len(file["n_atoms"]), often)
        strains = file["strain"].tolist() if "strain" in file else [""]
    if unknown := set(strains) - set(often):
        raise ValueError(f"{str(path)!r} holds frames of {sorted(unknown)}, and how often is said of {sorted(often)}")
    return np.array([often[strain] for strain in strains])


def _dft_frames(folder: Path) -> tuple[LabelledCrystals, NDArray, NDArray]:
    """MatterSim's DFT frames without energies, the subset of each, and whether it is of a crystal of the test sets."""
    dft = LabelledCrystals.load(folder / "dft_mattersim_a.npz")
    with np.load(folder / "dft_mattersim_a.npz") as file:
        subset, identifiers = file["subset"], file["id"]
    test_formulas = {key for name in TEST_FILES for key in _formulas(folder / name)}
    test_ids = _test_ids(folder)
    source = [str(name).split("/")[-1] for name in identifiers]
    parents = ["-".join(name.split("-")[:2]) for name in source]
    test = np.array([k in test_formulas or p in test_ids for k, p in zip(dft.formulas(), parents, strict=True)])
    return replace(dft, energy=np.full(len(dft), np.nan)), subset, test


def is_held_out(formula: tuple[tuple[int, int], ...]) -> bool:
    """Whether DFT frames of this reduced formula (`dao_ase.composition.reduced_key`) are kept for validation."""
    return _draw(formula) < 0.15 and formula not in TAUGHT


def _draw(formula: tuple[tuple[int, int], ...]) -> float:
    """A number in [0, 1) that depends on the formula alone."""
    return zlib.crc32(repr(formula).encode()) / 2**32


def _formulas(path: Path) -> list[tuple[tuple[int, int], ...]]:
    with np.load(path) as file:
        return [reduced_key(numbers) for numbers in np.split(file["numbers"], np.cumsum(file["n_atoms"])[:-1])]


def _test_ids(folder: Path) -> set[str]:
    with gzip.open(folder / "mp20_split_ids.json.gz", "rt") as file:
        return set(json.load(file)["test"])


def build_potential_trainer(config: TrainConfig, folder: str | Path, device: str, options: dict[str, Any]) -> Trainer:
    """The trainer of DAO-P on the frames in the folder ``config.data``; neighbours are found once and kept in ``folder``.

    ``config.model`` holds sizes of the potential, ``config.objective`` the weights of the loss, ``config.batches`` may hold
    ``slots`` and the settings of `load_potential_data`; ``config.initial`` are weights to start from.
    """
    batches, folder = dict(config.batches), Path(folder)
    model = Potential(
        PotentialConfig.from_header({name: size for name, size in config.model.items() if name != "preset"})
    )
    named = signature(load_potential_data).parameters.keys() & batches.keys()
    sources = {name: batches.pop(name) for name in named}
    folder.mkdir(parents=True, exist_ok=True)
    data = load_potential_data(config.data, **sources)
    counts = data.train.counts()[:, : len(model.reference)]
    model.reference.copy_(torch.from_numpy(fit_references(counts, data.train.energy)))
    model.trained.copy_(torch.from_numpy(counts.sum(0) > 0))
    if config.initial:
        checkpoint.fill(model, checkpoint.load(config.initial)[0], config.initial)
    train = NeighborCache(data.train, model, folder / "pairs_train.npz")
    val = NeighborCache(data.val_labels, model, folder / "pairs_val.npz")
    return Trainer(
        model,
        PotentialObjective(**config.objective),
        LabelledBatches(
            data.train, train, repeats=data.repeats, seed=config.seed, rank=rank(), processes=world_size(), **batches
        ),
        config,
        folder,
        header=model.header() | {"excluded": data.excluded},
        val_batches=LabelledBatches(data.val_labels, val, **batches).in_order(),
        device=device,
        **options,
    )
