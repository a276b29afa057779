"""DAO-P for TorchSim: relaxation and dynamics of many systems at once, on one GPU or processor.

TorchSim is an extra: ``pip install "dao-ase[torchsim]"``. Its interface for models is the same in 0.3 (Python 3.11) and in
0.6 (Python 3.12 and later); what differs are its optimizers and runners.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dao_ase.calculator import potential_of, refuse_skin
from dao_ase.convert import MIN_VOLUME
from dao_ase.derivatives import predict
from dao_ase.device import usable_device
from dao_ase.neighbors import Neighbors, join
from dao_ase.potential import Potential
from dao_ase.verlet import VerletList

try:
    from torch_sim.models.interface import ModelInterface
    from torch_sim.state import SimState
except ImportError as error:
    raise ImportError('DAOModel needs TorchSim: pip install "dao-ase[torchsim]"') from error


class DAOModel(ModelInterface):
    """A TorchSim model on DAO-P: energy (eV), forces (eV/Å) and stress (eV/Å³, TorchSim's sign, which is ASE's).

    ``model`` is a weight file, a `Potential` (which is copied), or None for the installed one; ``precision`` is what the
    network computes in. States are in float64, as positions are everywhere in dao-ase. Neighbour lists are kept for each
    system of a batch and found again when its atoms have moved by half the ``skin`` (Å). A system without a volume, as a
    molecule has none, gets stress 0.
    """

    def __init__(
        self,
        model: Potential | str | Path | None = None,
        *,
        device: torch.device | str | None = None,
        precision: str = "float32",
        skin: float = 0.5,
    ) -> None:
        super().__init__()
        self._device = torch.device(usable_device(device))
        self._dtype = torch.float64
        self._compute_stress = self._compute_forces = True
        self.potential = potential_of(model, str(self._device), precision)
        refuse_skin(skin)
        self.skin = skin
        self._lists: list[VerletList] = []
        self._rows: tuple[Any, Neighbors, Any] | None = None

    @torch.inference_mode(False)  # the network is differentiated, also where a caller has no use for gradients
    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Energies (systems), forces (atoms × 3) and stresses (systems × 3 × 3) of a SimState, detached from it.

        TorchSim's own models also take a dictionary of what a SimState is made of, and so does this.
        """
        if isinstance(state, dict):
            state = SimState(**{"masses": torch.ones_like(state["positions"][:, 0]), **state})
        positions, cells = state.positions.detach(), state.row_vector_cell.detach()
        system, numbers = state.system_idx, state.atomic_numbers.long()
        counts = torch.bincount(system, minlength=len(cells)).tolist()
        rows = self._neighbors(positions, cells, numbers, counts, state.pbc).to(positions.device)
        vectors = rows.vectors(positions.double(), cells.double()[system]).to(self.potential.reference.dtype)
        volume = torch.linalg.det(cells.double()).abs().to(vectors.dtype)
        found = predict(self.potential, numbers, vectors, rows, system, volume)
        stress = torch.where((volume > MIN_VOLUME)[:, None, None], found.stress, 0.0)
        results = {"energy": found.energy, "forces": found.forces, "stress": stress}
        return {name: values.to(positions.dtype) for name, values in results.items()}

    def _neighbors(self, positions: Tensor, cells: Tensor, numbers: Tensor, counts: list[int], pbc: Any) -> Neighbors:
        """The pairs of the whole batch; those of a system are found again only where one may have been missed."""
        periodic = torch.as_tensor(pbc).expand(3).tolist()
        parts = [part.cpu() for part in numbers.split(counts)]
        self._lists = [
            old
            if old is not None and old.periodic == periodic and torch.equal(old.atomic_numbers, part)
            else VerletList(self.potential, part, periodic=periodic, skin=self.skin)
            for old, part in zip([*self._lists, *[None] * len(parts)], parts, strict=False)
        ]
        places, lattices = positions.double().cpu().numpy(), cells.double().cpu().numpy()
        start = 0
        for verlet, lattice, count in zip(self._lists, lattices, counts, strict=True):
            verlet.update(places[start : start + count], lattice)
            start += count
        key = tuple((id(verlet), verlet.builds) for verlet in self._lists)
        if self._rows is None or self._rows[0] != key:
            pairs = Neighbors.from_pairs(join([one.pairs for one in self._lists], counts), start)
            self._rows = (key, pairs, self._lists)  # which live as long as their ids are compared
        return self._rows[1]
