"""A store as a source: what was built comes back, with its labels and where it came from."""

import numpy as np

from crystals import CRYSTALS, write_npz
from dao_ase.data.build import BuildRules, build
from dao_ase.data.sources import open_source, read
from dao_ase.data.store import CrystalStore

AS_IS = BuildRules(min_atoms=1, max_atoms=1000, max_e_hull=None, deduplicate=False)


def test_a_store_is_read_as_it_was_built(tmp_path):
    source = write_npz(tmp_path / "a.npz", CRYSTALS, e_above_hull=[0.0, 0.1, np.nan, 2.0])
    first = build([open_source(source)], tmp_path / "first", AS_IS)
    again = build([open_source(tmp_path / "first")], tmp_path / "again", AS_IS)
    assert again.columns == first.columns and again.ids.tolist() == first.ids.tolist()
    for column in first.columns:
        if not column.startswith("text"):
            np.testing.assert_allclose(
                again.gather(column, np.arange(4)), first.gather(column, np.arange(4)), atol=1e-6
            )
    assert [again.provenance(i) for i in range(4)] == [("a.npz", i) for i in range(4)]


def test_a_part_of_a_store_is_joined_with_another(tmp_path):
    """What `dao-ase data build` needs for a set of several parts: rules for one, then everything together."""
    metals = {name: CRYSTALS[name] for name in ("rutile", "quartz")}
    build([open_source(write_npz(tmp_path / "a.npz", CRYSTALS))], tmp_path / "a", AS_IS)
    build([open_source(tmp_path / "a")], tmp_path / "large", BuildRules(8, 52, None, deduplicate=False))
    build([open_source(write_npz(tmp_path / "b.npz", metals))], tmp_path / "b", AS_IS)
    build([open_source(tmp_path / "b"), open_source(tmp_path / "large")], tmp_path / "both", AS_IS)
    assert sorted(CrystalStore.open(tmp_path / "both").num_atoms.tolist()) == [6, 8, 8, 9, 9]
    assert {record.source for record in read(open_source(tmp_path / "both"))} == {"a.npz", "b.npz"}
