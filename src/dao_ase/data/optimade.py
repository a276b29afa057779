"""Crystals from OPTIMADE servers: the Materials Project, OQMD, Alexandria and every other provider of the standard.

Structures arrive page by page while earlier pages are already turned into records. A structure with partly occupied, unknown
or vacant sites, or that is not periodic in three directions, is refused with its reason.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dao_ase.composition import ATOMIC_NUMBERS, element_of
from dao_ase.data.records import Record, RejectedRecord

FIELDS = (
    "lattice_vectors",
    "cartesian_site_positions",
    "species_at_sites",
    "species",
    "dimension_types",
)
"""Properties of the standard that make a crystal; others are labels if they are numbers and belong to the provider."""
PAGES = 4
"""Pages that may wait to be read."""

_END = object()


@dataclass(frozen=True)
class OptimadeSource:
    """The structures of one server that pass a filter; an empty filter takes all.

    ``labels`` names provider properties such as ``_oqmd_stability``; without it the server's default response is taken.
    """

    url: str
    filter: str = ""
    labels: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The URL of the server."""
        return self.url

    def fingerprint(self) -> str:
        """URL and filter: what a server holds cannot be known without downloading it."""
        return f"{self.url}?filter={self.filter}"

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Entries of the server, one JSON object each; raises `ConnectionError` where it cannot give all of them."""
        pages: queue.Queue = queue.Queue(PAGES)
        threading.Thread(target=self._download, args=(pages,), daemon=True).start()
        while (page := pages.get()) is not _END:
            if isinstance(page, Exception):
                raise page
            yield from page

    def record(self, row: int, raw: Mapping[str, Any]) -> Record:
        """The crystal of one entry; numbers among the provider's own properties become labels."""
        identifier, attributes = str(raw["id"]), raw["attributes"]
        try:
            lattice, positions, numbers = _geometry(attributes)
        except RejectedRecord as error:
            raise RejectedRecord(error.rule, str(error), identifier) from error
        if abs(np.linalg.det(lattice)) < 1e-9:
            raise RejectedRecord("singular cell", f"the cell {lattice.tolist()} has no volume", identifier)
        own = {name: value for name, value in attributes.items() if name.startswith("_")}
        return Record(
            id=identifier,
            lattice=lattice,
            frac_coords=np.linalg.solve(lattice.T, positions.T).T,
            atomic_numbers=numbers,
            source=self.url,
            row=row,
            labels={name: float(value) for name, value in own.items() if isinstance(value, int | float)},
            texts={name: value for name, value in own.items() if isinstance(value, str)},
        )

    def _download(self, pages: queue.Queue) -> None:
        """Puts the entries of each page into the queue while the client goes on to the next."""

        def hand_over(url: str, page: dict[str, Any]) -> None:
            pages.put(list(page["data"]))
            page["data"][:] = [{}] * len(page["data"])  # the client keeps what it downloads: let it keep nothing

        try:
            from optimade.client import OptimadeClient

            client = OptimadeClient(
                [self.url], max_results_per_provider=10**9, use_async=False, silent=True, callbacks=[hand_over]
            )
            answer = client.get(
                self.filter, "structures", response_fields=[*FIELDS, *self.labels] if self.labels else None
            )
            for error in [error for found in answer.values() for one in found.values() for error in _errors(one)]:
                pages.put(ConnectionError(f"{self.url} cannot be read: {error}"))
        except ImportError as error:
            pages.put(ImportError(f"reading OPTIMADE servers needs `pip install 'dao-ase[optimade]'` ({error})"))
        except Exception as error:  # the client passes on errors of the network, of the server and of its parser
            pages.put(ConnectionError(f"{self.url} cannot be read: {type(error).__name__}: {error}"))
        finally:
            pages.put(_END)


def _errors(answers: Mapping[str, Any]) -> list[str]:
    """The errors in a client's answer, which is nested by endpoint, filter and URL."""
    return [error for answer in answers.values() for error in answer.get("errors", [])]


def _geometry(attributes: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cell (Å), positions (Å) and atomic numbers of the attributes of an entry."""
    missing = [name for name in FIELDS if not attributes.get(name)]
    if missing:
        raise RejectedRecord("broken", f"the server gives no {missing} for it")
    if list(attributes["dimension_types"]) != [1, 1, 1]:
        raise RejectedRecord(
            "not periodic", f"dimension_types is {attributes['dimension_types']}; a crystal has [1, 1, 1]"
        )
    elements = {}
    for species in attributes["species"]:
        symbols = species["chemical_symbols"]
        if len(symbols) != 1 or abs(species["concentration"][0] - 1) > 1e-6:
            raise RejectedRecord("partial occupancy", f"species {species['name']!r} is a mixture or holds vacancies")
        if element_of(symbols[0]) not in ATOMIC_NUMBERS:
            raise RejectedRecord(
                "unknown element", f"species {species['name']!r} is {symbols[0]!r}, which is no element"
            )
        elements[species["name"]] = ATOMIC_NUMBERS[element_of(symbols[0])]
    lattice = np.array(attributes["lattice_vectors"], dtype=np.float64)
    positions = np.array(attributes["cartesian_site_positions"], dtype=np.float64)
    if lattice.shape != (3, 3) or positions.shape != (len(attributes["species_at_sites"]), 3):
        raise RejectedRecord("broken", f"a cell of shape {lattice.shape} and positions of shape {positions.shape}")
    return lattice, positions, np.array([elements[name] for name in attributes["species_at_sites"]], dtype=np.int64)
