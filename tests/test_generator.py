"""DAOGenerator: what it accepts, what it refuses, and what its structures carry."""

import pickle

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.formula import Formula
from pymatgen.core import Composition as PymatgenComposition
from pymatgen.core import Lattice, Structure

from dao_ase.cells import whole_number
from dao_ase.checkpoint import CheckpointError, load, save
from dao_ase.composition import Composition
from dao_ase.generator import DAOGenerator, StructureGenerator
from dao_ase.rank import (
    distinct,
    installed_potential,
    ranked_groups,
    relax_structures,
    symmetrized,
    with_copies,
    with_energies,
)
from generation import write_random_generator, write_random_stability
from named import STATES_OF_TORCH


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> DAOGenerator:
    return DAOGenerator(str(write_random_generator(tmp_path_factory.mktemp("weights") / "g.safetensors")))


def test_structures_have_the_composition_and_properties(generator):
    structures = generator.generate("CsV3Sb5", n=3, rank=False)
    assert len(structures) == 3
    for structure in structures:
        assert structure.composition.reduced_formula == "CsV3Sb5"
        assert set(structure.properties) >= {"formula_units", "seed", "model", "space_group"}


SALT = Structure(Lattice.cubic(3.5), ["Na+", "Cl-"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.mark.parametrize(
    ("composition", "count"),
    [
        ("NaCl", 1),
        ({"Na": 1, "Cl": 1}, 1),
        (PymatgenComposition("NaCl"), 1),
        (PymatgenComposition({"Fe2+": 1, "Fe3+": 2, "O2-": 4}), 1),
        (SALT, 1),
        (bulk("NaCl", "rocksalt", a=5.6), 1),
        (bulk("NaCl", "rocksalt", a=5.6).symbols, 1),
        (Formula("NaCl"), 1),
        ([Formula("NaCl"), "FeO"], 2),
        (["NaCl", "FeO"], 2),
        (("NaCl", SALT, {"Fe": 1}, bulk("Fe")), 4),
        (np.array(["NaCl", "FeO"]), 2),
        (iter(["NaCl", "FeO"]), 2),
    ],
)
def test_compositions_of_every_kind(generator, composition, count):
    assert len(generator.generate(composition, n=2, rank=False)) == 2 * count


def test_a_seed_gives_the_same_structures(generator):
    first, again, other = (generator.generate("FeO", n=2, seed=seed, rank=False) for seed in (4, 4, 5))
    assert first == again
    assert first != other


@pytest.mark.parametrize("formulas", [("NaCl", "ClNa"), ("CsV3Sb5", "Sb5CsV3")])
def test_the_order_in_which_a_formula_names_its_elements_is_that_of_the_sites_alone(generator, formulas):
    usual, turned = (generator.generate(formula, n=3, seed=2, rank=False) for formula in formulas)
    assert usual == turned
    for structures, formula in zip((usual, turned), formulas, strict=True):
        assert {"".join(site.specie.symbol for site in one) for one in structures} == {
            "".join(symbol * count for symbol, count in Composition.parse(formula).counts)
        }


def test_formula_units(generator):
    def sizes(units, n=4, **options):
        return [len(one) for one in generator.generate("NaCl", n=n, formula_units=units, rank=False, **options)]

    assert sizes(3) == [6] * 4
    assert sizes([1, 2]) == [2, 2, 4, 4]
    assert sizes("auto", n=10) == [2] * 5 + [4] * 3 + [8] * 2
    assert set(sizes("auto", max_atoms=4)) <= {2, 4}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("Xx2O", 1), "'Xx'"),
        (("", 1), "empty"),
        (("UO2", 1), "U, which DAO-G has not seen.*Cs"),
        (("NaCl", 0), "at least one"),
        (("Fe31", 1), "31 atoms in the cell; at most 30"),
        (("NaCl", 1, 0), "at least 1"),
        (("NaCl", 1, "some"), "'auto'"),
        (([], 1), "list of compositions is empty"),
        (("NaCl", 1, []), "list of formula_units is empty"),
    ],
)
def test_bad_requests_name_the_reason(generator, arguments, reason):
    composition, n, *units = arguments
    with pytest.raises(ValueError, match=reason):
        generator.generate(composition, n, **({"formula_units": units[0]} if units else {}))


@pytest.mark.parametrize("value", [2.5, "3", None])
def test_what_is_no_whole_number_is_named(value):
    with pytest.raises(TypeError, match=r"seed is .* whole number"):
        whole_number("seed", value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tries": 1.5}, "tries"),
        ({"steps": 2.5}, "steps"),
        ({"anti_annealing": np.nan}, "anti_annealing is nan"),
        ({"lattice_noise": -1.0}, "lattice_noise is -1.0"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
    ],
)
def test_settings_that_are_no_numbers_of_their_kind_are_named(options, reason):
    with pytest.raises((TypeError, ValueError), match=reason):
        DAOGenerator(**options)


def test_a_library_without_a_name_is_refused():
    with pytest.raises(CheckpointError, match="no weight file ''"):
        DAOGenerator(prototypes="").sampler.library  # noqa: B018


def test_counts_that_are_no_numbers_are_named(generator):
    with pytest.raises(TypeError, match="count of Na is '1'"):
        generator.generate({"Na": "1"}, 1)


def test_what_has_no_energy_comes_last(generator):
    lost, tiny = SALT.copy(), Structure(Lattice.cubic(0.1), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    lost.replace(0, "Na", [np.nan, 0, 0])
    double = SALT.copy()
    double.replace(0, "Na", double.frac_coords[-1])
    for rank in ("likely", "energy"):
        ordered = ranked_groups([[lost, tiny, double, SALT.copy()]], rank)[0]
        assert ordered[0].properties["energy_per_atom"] < 0 and ordered[1:] == [lost, tiny, double]
        assert not any("energy_per_atom" in one.properties for one in ordered[1:])


@pytest.mark.parametrize("rank", ["likely", "energy", "stability", False])
def test_symmetrized_structures_have_the_energy_of_their_geometry(guided, rank):
    shaken = SALT.copy().perturb(0.02).remove_oxidation_states()
    (made,) = guided.finish([shaken], relax=True, symmetrize=True, rank=rank)
    energy = made.properties["energy_per_atom"]
    (again,) = with_energies([made.copy()], installed_potential())
    assert energy == pytest.approx(again.properties["energy_per_atom"], abs=1e-5)
    assert made.properties["space_group"] == "Pm-3m"


def test_symmetrized_structures_keep_the_order_of_their_elements():
    elements = ["Sb"] * 5 + ["Cs"] + ["V"] * 3
    coords = [[0, 0, 0.5], [1 / 3, 2 / 3, 0.26], [2 / 3, 1 / 3, 0.26], [1 / 3, 2 / 3, 0.74], [2 / 3, 1 / 3, 0.74],
              [0, 0, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0.5, 0.5, 0.5]]  # fmt: skip
    kagome = Structure(Lattice.hexagonal(5.5, 9.3), elements, coords).perturb(0.01)
    made = symmetrized(kagome)
    assert made.get_space_group_info()[0] == "P6/mmm"
    assert [site.specie.symbol for site in made] == elements


def test_cells_that_are_not_primitive_are_symmetrized_too():
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na+", "Cl-"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    double = salt.get_primitive_structure().make_supercell([1, 1, 2], in_place=False)
    shaken = double.copy(properties={"energy_per_atom": -3.0, "name": "salt"}).perturb(0.02)
    made = symmetrized(shaken)
    assert made.get_space_group_info(symprec=1e-5)[0] == "Fm-3m"
    assert made.species == double.species and made.properties == {"name": "salt"}


def test_what_has_no_symmetry_stays_as_it_is():
    clash = Structure(Lattice.cubic(3.5), ["Na", "Na"], [[0, 0, 0], [0, 0, 0]])
    assert symmetrized(clash) == clash
    lost = SALT.copy().replace(0, "Na", [np.nan, 0, 0])
    assert symmetrized(lost) is lost


def test_stream_gives_structures_one_by_one(generator):
    stream = generator.stream("NaCl", 10**6)
    assert [len(next(stream)) for _ in range(3)] == [2, 2, 2]


def test_refused_samples_are_counted_and_replaced(generator, monkeypatch):
    verdicts = iter(["distance", None, "volume", None, None])
    monkeypatch.setattr("dao_ase.generator.refusal", lambda structure: next(verdicts))
    assert len(generator.generate("NaCl", n=3, rank=False)) == 3
    assert dict(generator.refused) == {"distance": 1, "volume": 1}


def test_giving_up_is_said(generator, monkeypatch, caplog):
    monkeypatch.setattr("dao_ase.generator.refusal", lambda structure: "distance")
    assert generator.generate("NaCl", n=2) == []
    assert "could not be made" in caplog.text


def test_msonable_and_picklable(generator):
    again = DAOGenerator.from_dict(generator.as_dict())
    assert again.generate("NaCl", n=1, rank=False) == generator.generate("NaCl", n=1, rank=False)
    assert isinstance(pickle.loads(pickle.dumps(generator)), StructureGenerator)


def test_weights_of_another_model_are_refused(tmp_path):
    save(tmp_path / "w.safetensors", {}, {"model": "potential"})
    with pytest.raises(CheckpointError, match="no denoiser"):
        DAOGenerator(str(tmp_path / "w.safetensors"))
    tensors, header = load(write_random_generator(tmp_path / "g.safetensors"))
    save(tmp_path / "w.safetensors", dict(list(tensors.items())[1:]), header)
    with pytest.raises(CheckpointError, match=r"w\.safetensors' holds weights of another model .* 1 missing"):
        DAOGenerator(str(tmp_path / "w.safetensors"))
    save(tmp_path / "w.safetensors", tensors, header | {"process": "magic"})
    with pytest.raises(CheckpointError, match=r"w\.safetensors' has a header that describes no model.*'magic'"):
        DAOGenerator(str(tmp_path / "w.safetensors"))
    for missing in ("process", "elements", "formula_units"):
        save(tmp_path / "w.safetensors", tensors, {key: header[key] for key in header if key != missing})
        with pytest.raises(
            CheckpointError, match=rf"it says nothing of '{missing}'; was it written by another version"
        ):
            DAOGenerator(str(tmp_path / "w.safetensors")).elements  # noqa: B018


def test_what_cannot_guide_is_refused_at_once(tmp_path):
    other = write_random_generator(tmp_path / "g.safetensors")
    with pytest.raises(CheckpointError, match="holds no stability model"):
        DAOGenerator(str(other), stability=str(other))


@pytest.fixture(scope="module")
def guided(tmp_path_factory) -> DAOGenerator:
    """A generator and a stability model of random weights."""
    folder = tmp_path_factory.mktemp("guided")
    write_random_generator(folder / "g.safetensors")
    write_random_stability(folder / "s.safetensors")
    return DAOGenerator(str(folder / "g.safetensors"), stability=str(folder / "s.safetensors"))


def test_guidance_is_one_keyword_and_off_at_zero(generator, guided):
    off, on = (guided.generate("NaCl", n=3, guidance=scale, rank=False) for scale in (0.0, 3.0))
    assert off == generator.generate("NaCl", n=3, rank=False)
    assert on != off and len(on) == 3
    assert guided.generate("NaCl", n=3, guidance=3.0, rank=False) == on
    assert guided.sampler.guide(np.float32(3)) == guided.sampler.guide(3)


def test_relaxing_keeps_what_the_sites_carry_and_drops_energies_of_before():
    salt = SALT.copy(site_properties={"magmom": [0.5, 0.0]})
    salt.properties = {"name": "salt", "e_above_hull": 0.1}
    relaxed = relax_structures([salt], steps=2)[0]
    assert relaxed.species == salt.species and relaxed.site_properties == salt.site_properties
    assert relaxed.properties.keys() == {"name", "energy_per_atom", "converged", "relax_steps"}
    assert relaxed.volume != salt.volume
    energy = relaxed.properties["energy_per_atom"]
    assert with_energies([relaxed], installed_potential())[0].properties["energy_per_atom"] == pytest.approx(energy)


@pytest.mark.parametrize("rank", ["energy", False])
def test_energies_of_a_geometry_before_do_not_rank(guided, rank):
    salt, wide = SALT.copy(), SALT.copy()
    salt.properties, wide.properties = {"energy_per_atom": -1.0}, {"energy_per_atom": -9.0, "e_above_hull": 0.0}
    wide.apply_strain(0.2)
    made = guided.finish([salt, wide], rank=rank)
    assert [one.volume for one in made] == [salt.volume, wide.volume]
    assert salt.properties == {"energy_per_atom": -1.0}  # what is given stays as it is
    again = with_energies([salt, wide], installed_potential())
    for one, right in zip(made, again, strict=True):
        assert one.properties["energy_per_atom"] == pytest.approx(right.properties["energy_per_atom"], abs=1e-5)
        assert "e_above_hull" not in one.properties


def test_partly_occupied_sites_are_not_finished(guided):
    alloy = Structure(Lattice.cubic(4), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    with pytest.raises(ValueError, match=r"structure 1 .*partly occupied"):
        guided.finish([SALT, alloy])


def test_an_iterator_is_finished_and_what_is_no_structure_is_named(guided):
    made = guided.finish(guided.stream("NaCl", n=2), rank=False)
    assert [one.lattice for one in made] == [one.lattice for one in guided.stream("NaCl", n=2)]
    for wrong, named in ((SALT, "structure 0 .*PeriodicSite"), ([SALT, bulk("Si")], "structure 1 .*Atoms")):
        with pytest.raises(TypeError, match=f"{named}; give a list of these"):
            guided.finish(wrong)


def test_a_crystal_in_a_larger_cell_is_a_copy():
    single, double = SALT.copy(), SALT.make_supercell([1, 1, 2], in_place=False).perturb(0.02)
    other = Structure(SALT.lattice, ["Mg", "O"], SALT.frac_coords)
    halite = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    structures = [single, other, double, halite, halite.get_primitive_structure()]
    assert [(structures.index(one), copies) for one, copies in with_copies(structures)] == [(0, 2), (1, 1), (3, 2)]
    assert distinct(structures) == [single, other, halite] and distinct([]) == []


@pytest.mark.parametrize("state", STATES_OF_TORCH)
def test_what_torch_is_told_changes_nothing(guided, state):
    how = {"n": 2, "seed": 3, "guidance": 2.0, "rank": "stability"}
    expected = guided.generate("NaCl", **how)
    with STATES_OF_TORCH[state]():
        again = DAOGenerator(guided.sampler.weights, stability=guided.sampler.stability)
        made = [generator.generate("NaCl", **how) for generator in (guided, again)]
    for structures in [*made, again.generate("NaCl", **how)]:
        for one, other in zip(structures, expected, strict=True):
            np.testing.assert_allclose(one.lattice.matrix, other.lattice.matrix, atol=1e-4)
            np.testing.assert_allclose(one.frac_coords, other.frac_coords, atol=1e-4)


def test_ranking_by_stability(guided):
    single = DAOGenerator(guided.sampler.weights, stability=guided.sampler.stability, prototypes=False, tries=1)
    for generator in (guided, single):  # the latter has nothing to choose from
        ranked = generator.generate("NaCl", n=4, rank="stability")
        energies = [one.properties["e_above_hull"] for one in ranked]
        assert energies == sorted(energies) and len(set(energies)) > 1
        assert all("energy_per_atom" in one.properties for one in ranked)


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"guidance": -1.0}, "from 0 to"),
        ({"guidance": float("nan")}, "finite number"),
        ({"rank": "beauty"}, "'energy', 'stability'"),
    ],
)
def test_wrong_guidance_and_ranking(guided, keywords, reason):
    with pytest.raises(ValueError, match=reason):
        guided.generate("NaCl", n=1, **keywords)


def test_a_model_of_another_process_does_not_guide(tmp_path):
    write_random_generator(tmp_path / "g.safetensors", "diffusion")
    write_random_stability(tmp_path / "s.safetensors", "flow")
    generator = DAOGenerator(str(tmp_path / "g.safetensors"), stability=str(tmp_path / "s.safetensors"))
    with pytest.raises(CheckpointError, match="'flow', DAO-G on 'diffusion'"):
        generator.generate("NaCl", n=1, guidance=1.0)
    write_random_stability(tmp_path / "s.safetensors", "diffusion")
    assert len(generator.generate("NaCl", n=2, guidance=1.0, rank=False)) == 2


def test_a_model_that_reads_lattices_otherwise_does_not_guide(tmp_path):
    write_random_generator(tmp_path / "g.safetensors")
    tensors, header = load(write_random_stability(tmp_path / "s.safetensors"))
    save(tmp_path / "s.safetensors", tensors | {"denoiser.code_std": torch.ones(6)}, header)
    generator = DAOGenerator(str(tmp_path / "g.safetensors"), stability=str(tmp_path / "s.safetensors"))
    with pytest.raises(CheckpointError, match="standardises lattices otherwise"):
        generator.sampler.guide(1.0)
