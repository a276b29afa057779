"""The energy loss: its minimiser is the intermediate energy of Proposition 1."""

import math

import numpy as np
import pytest
import torch

from dao_ase import checkpoint
from dao_ase.crystals import Crystals
from dao_ase.data.batches import LabelledBatch
from dao_ase.data.build import BuildRules, build
from dao_ase.data.sources import open_source
from dao_ase.data.store import CrystalStore
from dao_ase.denoiser import Denoiser, DenoiserConfig
from dao_ase.processes import PROCESSES
from dao_ase.stability import StabilityModel, load_stability
from dao_ase.train.config import TrainConfig
from dao_ase.train.stabilising import DIVERGENCES, HullBatches, StabilityObjective
from dao_ase.train.tasks import build_trainer
from generation import write_rock_salts

TINY = DenoiserConfig(width=32, layers=1, heads=2, pair_width=8, frequencies=1, radial=0)


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_divergences_are_least_at_the_mean_of_the_exponentials(name):
    energies = torch.tensor([-0.4, 0.1, 2.5])
    best = -torch.exp(-energies).mean().log()
    predicted = torch.linspace(-2, 4, 6001)
    losses = sum(DIVERGENCES[name](predicted, energy.expand(6001)) for energy in energies)
    assert float(predicted[losses.argmin()]) == pytest.approx(float(best), abs=2e-3)
    wild = torch.tensor([-300.0, 300.0], requires_grad=True)
    (slope,) = torch.autograd.grad(DIVERGENCES[name](wild, torch.zeros(2)).sum(), wild)
    assert slope.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(("process", "divergence"), [("flow", "relative"), ("diffusion", "square")])
def test_proposition_1(process, divergence):
    """Two crystals of one atom that differ in volume, one stable, one not.

    The noise on the lattice code is normal, so that the posterior of the two, and with it E[exp(−E_0) | M_t], is known:
    w_c ∝ N(k_t; a k_c, s²), E_t = −log Σ_c w_c exp(−E_c).
    """
    torch.manual_seed(0)
    lattice = torch.stack([size * torch.eye(3) for size in (2.2, 3.2)]).repeat(64, 1, 1)
    count = torch.ones(128, dtype=torch.long)
    batch = LabelledBatch(
        Crystals(lattice, torch.zeros(128, 3), 14 * count, count), torch.tensor([0.0, 0.4]).repeat(64)
    )
    model = StabilityModel(TINY)
    model.denoiser.fit_lattice(lattice, count)
    model.denoiser.code_std[:5] = 1.0
    model.fit_energies(batch.label)
    objective = StabilityObjective(model, process, divergence=divergence, clean_share=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    rng = torch.Generator().manual_seed(0)
    total = 450
    for step in range(total):
        for group in optimizer.param_groups:
            group["lr"] = 6e-3 * (1 - step / total)
        optimizer.zero_grad()
        objective.loss(model, batch, rng)["loss"].backward()
        optimizer.step()

    codes = model.denoiser.encode_lattice(lattice[:2], count[:2])
    energies = model.standardise(batch.label[:2])
    for time in (0.15, 0.5, 0.85):
        forward = PROCESSES[process]()
        signal, spread = (
            (time, 1 - time)
            if process == "flow"
            else (s := float(forward.signal(torch.tensor(time))), math.sqrt(1 - s**2))
        )
        noise = torch.randn(400, 6, generator=torch.Generator().manual_seed(1))
        noisy = signal * codes.repeat(200, 1) + spread * noise
        weights = torch.softmax(-((noisy[:, None] - signal * codes) ** 2).sum(-1) / (2 * spread**2), -1)
        expected = -torch.log((weights * torch.exp(-energies)).sum(-1))
        arguments = (torch.full((400, 1), 14), torch.zeros(400, 1, 3), noisy)
        cell = model.denoiser.decode_lattice(noisy, torch.ones(400, dtype=torch.long))
        with torch.no_grad():
            found = model(*arguments, cell, torch.full((400,), time))[2]
        error = (torch.exp(-found) - torch.exp(-expected)).square().mean().sqrt()
        constant = torch.exp(-expected).std()
        assert error < 0.13, f"t = {time}: rms error {error:.3f} of exp(−E_t)"
        assert time < 0.2 or time > 0.8 or error < 0.4 * constant  # it follows the noisy crystal, not only its mean


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> CrystalStore:
    """Forty rock salts, twenty of which have an energy above the hull."""
    folder = tmp_path_factory.mktemp("salts")
    write_rock_salts(folder / "salt.npz", 40)
    columns = dict(np.load(folder / "salt.npz"))
    energies = np.where(np.arange(40) % 2, np.nan, np.linspace(0, 0.4, 40))
    np.savez(folder / "labelled.npz", **columns, e_above_hull=energies)
    return build(
        [open_source(folder / "labelled.npz")],
        folder / "store",
        BuildRules(min_atoms=1, deduplicate=False, max_e_hull=None),
    )


def test_batches_carry_their_labels(store):
    batches = HullBatches(store, crystals=8)
    for _, batch in zip(range(10), batches, strict=False):
        for volume, energy in zip(batch.crystals.volume.tolist(), batch.label.tolist(), strict=True):
            place = int(np.argmin(abs(store.batch(np.arange(40)).volume.numpy() - volume)))
            assert energy == pytest.approx(store.labels["e_above_hull"][place], nan_ok=True)
    assert HullBatches(store, unlabelled=0.0).num_atoms.shape == (20,)
    assert len(HullBatches(store).known) == 20


def test_crystals_without_a_label_are_only_denoised(store):
    model = StabilityModel(TINY)
    model.fit_energies(torch.tensor([0.0, 0.1]))
    batch = next(HullBatches(store, crystals=8))
    unknown = LabelledBatch(batch.crystals, torch.full((8,), torch.nan))
    values = StabilityObjective(model).loss(model, unknown, torch.Generator().manual_seed(0))
    assert values["energy"].item() == 0 and values["coordinates"].item() > 0
    values["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    shown = StabilityObjective(model, clean_share=1.0)
    known = LabelledBatch(batch.crystals, torch.zeros(8))
    assert shown.loss(model, known, torch.Generator().manual_seed(0))["coordinates"].item() == 0


@pytest.mark.parametrize(
    ("settings", "reason"), [({"process": "jump"}, "process 'jump'"), ({"divergence": "odd"}, "divergence 'odd'")]
)
def test_wrong_settings(settings, reason):
    with pytest.raises(ValueError, match=reason):
        StabilityObjective(StabilityModel(TINY), **settings)


def test_a_run_starts_from_weights_of_dao_g_and_resumes(store, tmp_path):
    model = {name: getattr(TINY, name) for name in TINY.__dataclass_fields__}
    checkpoint.save(tmp_path / "dao_g.safetensors", Denoiser(TINY).state_dict(), {"model": "denoiser"})
    config = TrainConfig.from_dict(
        {
            "task": "stability", "data": str(store.path), "val_data": str(store.path), "model": model,
            "initial": str(tmp_path / "dao_g.safetensors"), "total_steps": 4, "compile": False,
            "batches": {"crystals": 8},
        }
    )  # fmt: skip
    trainer = build_trainer(config, tmp_path / "run", val_every=2)
    shared = trainer.model.denoiser.state_dict()
    assert all(tensor.equal(shared[name]) for name, tensor in checkpoint.load(config.initial)[0].items())
    trainer.run(progress=False)
    loaded, header = load_stability(tmp_path / "run" / "weights.safetensors")
    assert header["labelled"] == 20 and header["process"] == "flow" and header["elements"] == ["Na", "Cl"]
    again = build_trainer(config, tmp_path / "run")
    assert again.step == 4
    second = build_trainer(
        TrainConfig.from_dict(config.to_dict() | {"initial": str(tmp_path / "run" / "weights.safetensors")}),
        tmp_path / "second",
    )
    assert all(tensor.equal(loaded.state_dict()[name]) for name, tensor in second.model.state_dict().items())
    assert header["max_atoms"] == 2
