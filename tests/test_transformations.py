"""A generator as a pymatgen transformation."""

import pytest
from monty.json import MSONable
from pymatgen.alchemy.materials import TransformedStructure
from pymatgen.core import Lattice, Structure

from dao_ase.transformations import GenerateTransformation


class Cubes(MSONable):
    """Every composition AB as caesium chloride, each structure a little larger."""

    def generate(self, composition, n):
        found = [Structure(Lattice.cubic(3.5 + i / 10), list(composition), [[0, 0, 0], [0.5] * 3]) for i in range(n)]
        for place, structure in enumerate(found):
            structure.properties["energy_per_atom"] = -3.0 + place
        return found


@pytest.fixture
def salt():
    return Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_one_or_many(salt):
    transformation = GenerateTransformation(Cubes(), n=3)
    assert transformation.is_one_to_many
    assert transformation.apply_transformation(salt).lattice.a == pytest.approx(3.5)
    ranked = transformation.apply_transformation(salt, return_ranked_list=2)
    assert [one["energy"] for one in ranked] == [-6.0, -4.0]
    assert len(transformation.apply_transformation(salt, return_ranked_list=True)) == 3


def test_what_has_no_energy_has_none_in_the_list(salt):
    class Silent:
        def generate(self, composition, n):
            return [salt] * n

    assert GenerateTransformation(Silent(), n=1).apply_transformation(salt, return_ranked_list=True) == [
        {"structure": salt}
    ]


def test_history_and_a_way_back_from_json(salt):
    transformed = TransformedStructure(salt, [GenerateTransformation(Cubes(), n=2)])
    assert transformed.history[-1]["@class"] == "GenerateTransformation"
    again = GenerateTransformation.from_dict(GenerateTransformation(Cubes(), n=4).as_dict())
    assert again.n == 4 and isinstance(again.generator, Cubes)


def test_a_generator_without_an_answer_is_an_error(salt):
    class Nothing(MSONable):
        def generate(self, composition, n):
            return []

    with pytest.raises(ValueError, match="Na1 Cl1: the generator made no structure"):
        GenerateTransformation(Nothing()).apply_transformation(salt)


def test_charges_are_dropped_and_disorder_is_refused(salt):
    salt.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    assert GenerateTransformation(Cubes(), n=1).apply_transformation(salt).composition.formula == "Na1 Cl1"
    salt[0] = {"Na": 0.5, "K": 0.5}
    with pytest.raises(ValueError, match="partly occupied"):
        GenerateTransformation(Cubes(), n=1).apply_transformation(salt)
