"""Structure types: crystals that differ in their elements are one, and a composition takes over the one that suits it."""

import numpy as np
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from dao_ase import checkpoint
from dao_ase.cell_sampler import CellSampler, prototype_ranks
from dao_ase.composition import Composition
from dao_ase.convert import from_structures, to_structures
from dao_ase.data.records import Record, pack
from dao_ase.data.shards import write_shard
from dao_ase.data.store import FORMAT, VERSION, CrystalStore
from dao_ase.prototypes.build import build
from dao_ase.prototypes.learn import fit, main, measured, questions
from dao_ase.prototypes.library import PrototypeLibrary, orders
from dao_ase.rank import by_energy, by_likelihood, ranked_groups
from dao_ase.whole_files import write_json
from generation import write_random_generator
from named import STATES_OF_TORCH


def rock_salt(cation: str, anion: str, a: float) -> Structure:
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5] * 3]
    ).get_primitive_structure()


def caesium_chloride(cation: str, anion: str, a: float) -> Structure:
    return Structure(Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5] * 3])


def half_heusler(inner: str, first: str, second: str, a: float) -> Structure:
    """The element in the middle of both sublattices' cubes comes first."""
    places = [[0.25] * 3, [0, 0, 0], [0.5] * 3]
    return Structure.from_spacegroup(
        "F-43m", Lattice.cubic(a), [inner, first, second], places
    ).get_primitive_structure()


KNOWN = [
    rock_salt("Na", "Cl", 5.64),
    rock_salt("K", "Cl", 6.29),
    rock_salt("Na", "Br", 5.97),
    rock_salt("K", "Br", 6.60),
    rock_salt("Mg", "O", 4.21),
    caesium_chloride("Cs", "Cl", 4.12),
    caesium_chloride("Cs", "Br", 4.29),
    half_heusler("Ni", "Ti", "Sn", 5.93),
    half_heusler("Ni", "Zr", "Sn", 6.11),
    half_heusler("Co", "Ti", "Sb", 5.88),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> CrystalStore:
    path = tmp_path_factory.mktemp("known")
    records = [
        Record(
            f"mp-{number}",
            one.lattice.matrix,
            one.frac_coords,
            np.array(one.atomic_numbers),
            "mp20_train",
            number,
            labels={"structure_source": 4.0 if number in (2, 8) else 0.0},
        )
        for number, one in enumerate(KNOWN)
    ]
    columns = pack(records)
    write_shard(path / "0.safetensors", columns)
    shard = {"file": "0.safetensors", "crystals": len(records), "atoms": len(columns["atomic_numbers"])}
    write_json(path / "index.json", {"format": FORMAT, "version": VERSION, "shards": [shard]})
    return CrystalStore.open(path)


@pytest.fixture(scope="module")
def file(store, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("prototypes") / "prototypes.safetensors"
    checkpoint.save(path, build([store]), {"model": "prototypes"})
    return str(path)


@pytest.fixture(scope="module")
def library(file) -> PrototypeLibrary:
    return PrototypeLibrary.load(file)


def test_crystals_of_one_type_share_its_geometry(store, library):
    assert len(library) == 3
    twice = build([store, store])
    assert len(twice["lattice"]) == 3 and len(twice["member_type"]) == len(KNOWN)
    assert len(build([store], ("structure_source", 4.0))["member_type"]) == len(KNOWN) - 2


@pytest.mark.parametrize("formula", ["RbCl", "LiBr", "RbBr"])
def test_types_come_in_the_order_in_which_they_suit(library, formula):
    types = library.suited(Composition.parse(formula))
    assert len(types) == 2
    assert [one.surprise for one in types] == sorted(one.surprise for one in types) and types[0].surprise == 0
    assert all(len(one.crystal.atomic_numbers) == 2 for one in types[:2])


@pytest.mark.parametrize("known", KNOWN[:1] + KNOWN[5:6] + KNOWN[7:])
def test_a_known_crystal_is_its_own_prototype(library, known):
    cell = Composition.from_atomic_numbers(known.atomic_numbers)
    [found] = [one for one in library.suited(cell) if one.like == f"mp-{KNOWN.index(known)}"]
    made = to_structures(found.crystal)[0]
    assert made.atomic_numbers == tuple(cell.atomic_numbers), "atoms stand in the order of the cell's formula"
    assert StructureMatcher(scale=False, stol=0.05).fit(made, known)


def test_elements_take_the_places_of_those_that_they_resemble(library):
    """Hafnium stands for zirconium, in whatever order the formula names the elements."""
    expected = half_heusler("Ni", "Hf", "Sn", 6.1)
    for formula in ("NiHfSn", "SnNiHf", "HfSnNi"):
        made = to_structures(library.suited(Composition.parse(formula))[0].crystal)[0]
        assert StructureMatcher().fit(made, expected), formula


def test_the_volume_follows_the_elements(library):
    volumes = {
        formula: float(library.suited(Composition.parse(formula))[0].crystal.volume)
        for formula in ("NaCl", "KBr", "MgO")
    }
    assert volumes["MgO"] < volumes["NaCl"] < volumes["KBr"]
    for formula, place in (("NaCl", 0), ("KBr", 3)):
        assert volumes[formula] == pytest.approx(KNOWN[place].volume, rel=1e-3)


def test_what_stands_for_what_is_learnt(library):
    """Each crystal finds its own type among the others, where they hold it; in the salts by a rule of the elements."""
    members = library.members()
    asked = questions(library, members, np.zeros(len(members), bool))
    held_out = asked.take(torch.arange(len(members)))
    model, reached = fit(library, epochs=60)
    before, after = measured(library.suitability, held_out), measured(model, held_out)
    assert after["surprise"] < 0.7 * before["surprise"] and after["first"] >= before["first"]
    assert set(reached) == {"before", "after"}


def test_a_member_that_is_taken_out_is_not_its_own_relative(library):
    for member in library.members():
        cell = library.content(int(member))
        among, without = library.nearest(cell), library.nearest(cell, int(member))
        assert member in among.members and member not in without.members


def test_what_was_learnt_is_written_beside_the_types(file, tmp_path, monkeypatch):
    output = tmp_path / "learnt.safetensors"
    monkeypatch.setattr("sys.argv", ["learn", file, "-o", str(output), "--epochs", "1"])
    main()
    before, after = PrototypeLibrary.load(file), PrototypeLibrary.load(str(output))
    assert before.checksum != after.checksum and len(before) == len(after)
    changed = [
        (one - other).abs().max()
        for one, other in zip(before.suitability.parameters(), after.suitability.parameters(), strict=True)
    ]
    assert max(changed) > 0


def test_a_composition_of_another_kind_has_no_type(library):
    assert len(library.suited(Composition.parse("Na2Cl"))) == 0
    assert library.suited(Composition.parse("Na2Cl"))[:3] == []


def test_orders_leave_the_counts_in_place():
    assert orders([1, 1, 2]) == [(0, 1, 2), (1, 0, 2)]
    assert len(orders([1] * 6)) == 24


def test_each_type_is_tried_for_one_structure():
    assert list(prototype_ranks(0, 1)) == [0, 1, 2, 3]
    assert [list(prototype_ranks(place, 3)) for place in range(3)] == [[0, 2], [1, 3], []]
    assert [list(prototype_ranks(place, 20)) for place in (0, 9, 10)] == [[0], [9], []]


def test_candidates_say_which_type_they_have(file, tmp_path):
    weights = str(write_random_generator(tmp_path / "dao_g.safetensors"))
    cell = Composition.parse("NaCl")
    [chosen] = CellSampler(weights, prototypes=file).sample_cells([cell], [0])
    types = {chosen.properties.get("prototype"), *(f"mp-{number}" for number in range(7)), None}
    assert len(types) == 8 and chosen.properties["energy_per_atom"] < 0
    [alone] = CellSampler(weights, prototypes=False).sample_cells([cell], [0])
    assert "prototype" not in alone.properties and "energy_per_atom" not in alone.properties
    unknown = Composition.parse("Na3Cl")
    assert "prototype" not in CellSampler(weights, prototypes=file).sample_cells([unknown], [0])[0].properties
    assert CellSampler(weights, prototypes=file).evaluations(1) == 3 + 4
    assert CellSampler(weights, prototypes=file).fingerprint != CellSampler(weights, prototypes=False).fingerprint


def test_only_a_flow_begins_from_a_type(file, tmp_path):
    weights = str(write_random_generator(tmp_path / "dao_g.safetensors", process="diffusion"))
    assert CellSampler(weights, prototypes=file).library is None


def test_a_file_of_something_else_is_refused(tmp_path):
    weights = write_random_generator(tmp_path / "dao_g.safetensors")
    with pytest.raises(checkpoint.CheckpointError, match="no structure types"):
        PrototypeLibrary.load(weights)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\x00" * 100)
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        CellSampler(str(weights), prototypes=str(damaged)).sample_cells([Composition.parse("NaCl")], [0])


@pytest.mark.parametrize("wrong", [{"distances": torch.zeros(3, 3)}, {"suitability.sharpness": torch.ones(2)}])
def test_structure_types_that_do_not_fit_together_are_named(tmp_path, wrong):
    tensors, header = checkpoint.load(checkpoint.default_weights("prototypes"))
    tensors = {name: one for name, one in tensors.items() if not name.startswith("member_elements")} | wrong
    checkpoint.save(file := tmp_path / "types.safetensors", tensors, header)
    with pytest.raises(checkpoint.CheckpointError, match=r"types.safetensors' holds structure types that do not fit"):
        PrototypeLibrary.load(file)


def test_the_installed_library_finds_what_is_well_known():
    library = PrototypeLibrary.load(checkpoint.default_weights("prototypes"))
    assert len(library) > 20_000
    for known in KNOWN[:1] + KNOWN[4:5] + KNOWN[7:8]:
        cell = Composition.from_atomic_numbers(known.atomic_numbers)
        made = [to_structures(one.crystal)[0] for one in library.suited(cell)[:3]]
        assert any(StructureMatcher().fit(one, known) for one in made), cell.formula
    assert set(from_structures(made).num_atoms.tolist()) == {3}


@pytest.mark.parametrize(
    "state", [name for name in STATES_OF_TORCH if name != "autocast"]
)  # of that DAOGenerator takes care
def test_what_torch_is_told_changes_no_type(file, state):
    cell, tensors = Composition.parse("MgS"), checkpoint.load(file)[0]
    expected = PrototypeLibrary(tensors).suited(cell)
    with STATES_OF_TORCH[state]():
        found = PrototypeLibrary(tensors).suited(cell)
        assert [one.like for one in found[:3]] == [one.like for one in expected[:3]]
        assert torch.equal(found[0].crystal.lattice, expected[0].crystal.lattice)


def test_a_library_draws_no_random_numbers_of_the_caller(file):
    tensors, state = checkpoint.load(file)[0], torch.get_rng_state()
    PrototypeLibrary(tensors)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unlikely_type_must_be_lower_in_energy():
    salt = rock_salt("Na", "Cl", 5.64)
    ranked = [salt.copy() for _ in range(4)]
    for one, energy, handicap in zip(ranked, (-3.0, -3.1, -3.2, -3.25), (0.0, 0.02, 0.3, 0.5), strict=True):
        one.properties = {"energy_per_atom": energy, "handicap": handicap}
    assert [one.properties["handicap"] for one in by_likelihood(ranked)] == [0.02, 0.0, 0.3, 0.5]
    assert [one.properties["handicap"] for one in by_energy(ranked)] == [0.5, 0.3, 0.02, 0.0]
    assert ranked_groups([ranked], True)[0] == by_likelihood(ranked)
