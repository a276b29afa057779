"""Learns which structure types suit a composition: each member of a library is sought among the others.

``python -m dao_ase.prototypes.learn FILE`` fits `dao_ase.prototypes.suitability.Suitability` and writes it into the file. A
member is taken out, the types of its nearest relatives are weighed for its composition, and its own type, or none where the
others do not hold it, should be the likeliest. Some members stay in: otherwise a composition that is known would always be
that of another polymorph. Members that are known to be unstable are relatives, but are not sought. One composition in
`HELD_OUT` is kept to measure by, with all its members taken out one by one.
"""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dao_ase import checkpoint
from dao_ase.prototypes.library import LEARNT, PrototypeLibrary, near_tensors
from dao_ase.prototypes.suitability import IMPOSSIBLE, Suitability
from dao_ase.train.kinds import UNSTABLE

HELD_OUT = 20
"""The reduced formulas of one in so many are not learnt from."""
STAY = 0.3
"""The share of the members that are sought where they are known themselves."""
BATCH = 64
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-3
SCALE = 5.0
"""Scores are read by `NoneOfThem` in units of this."""


class Questions(NamedTuple):
    """Members without themselves: what `Suitability` is asked of each, and what would be right."""

    asked: tuple[Tensor, ...]
    type_of: Tensor
    """The type of each relative, numbered within its row."""
    right: Tensor
    """Which relatives are of the member's own type, [question, relative]."""

    def take(self, chosen: Tensor) -> Questions:
        """Some of the questions, with as many places as the largest of them has elements."""
        shares, placed, there, kind = (one[chosen] for one in self.asked)
        places = int((shares > 0).sum(1).max()) if len(shares) else 0
        asked = shares[:, :places], placed[..., :places], there[..., :places], kind
        return Questions(asked, self.type_of[chosen], self.right[chosen])


def questions(library: PrototypeLibrary, members: np.ndarray, stay: np.ndarray) -> Questions:
    """What these members ask of all others, and some of all, themselves among them."""
    near = [
        library.nearest(library.content(int(one)), None if stays else int(one))
        for one, stays in zip(tqdm(members, desc="relatives"), stay, strict=True)
    ]
    asked = near_tensors(near)
    type_of, right = np.zeros(asked[3].shape, np.uint8), np.zeros(asked[3].shape, bool)
    for row, (member, one) in enumerate(zip(members, near, strict=True)):
        types = library.type_of(one.members)
        type_of[row, : len(types)] = np.unique(types, return_inverse=True)[1]
        right[row, : len(types)] = types == library.type_of(member)
    return Questions(asked, torch.from_numpy(type_of), torch.from_numpy(right))


class NoneOfThem(nn.Module):
    """The score of the case that no relative is of the right type: known while the others are learnt, and not kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(width + 2, 32), nn.SiLU(), nn.Linear(32, 1))

    def forward(self, context: Tensor, scores: Tensor) -> Tensor:
        """One score for each composition, from what is known of it and the scores of its relatives."""
        clues = torch.stack([scores.max(1).values, torch.logsumexp(scores, 1)], 1) / SCALE
        return self.network(torch.cat([context, clues], 1))


def surprise(scores: Tensor, right: Tensor) -> Tensor:
    """−log of the probability of what is right, for each row."""
    return torch.logsumexp(scores, 1) - torch.logsumexp(scores.masked_fill(~right, IMPOSSIBLE), 1)


def loss(model: Suitability, none: NoneOfThem, some: Questions) -> Tensor:
    """The surprise at the right type, or at none where it is not among the relatives, in the mean."""
    scores = model(*some.asked)
    none_of_them = none(model.described(*some.asked[:2]), scores)
    right = torch.cat([some.right, ~some.right.any(1, keepdim=True)], 1)
    return surprise(torch.cat([scores, none_of_them], 1), right).mean()


@torch.no_grad()
def measured(model: Suitability, held_out: Questions) -> dict[str, float]:
    """The mean surprise at the right type, where a relative has it, and how often it is the likeliest, and among the four
    likeliest, of all questions."""
    surprises, first, four = 0.0, 0, 0
    for chosen in torch.arange(len(held_out.right)).split(256):
        some = held_out.take(chosen)
        scores = model(*some.asked)
        surprises += float(surprise(scores, some.right)[some.right.any(1)].sum())
        odds = scores.softmax(1)
        types = some.type_of.long()
        best = torch.zeros_like(odds).scatter_add(1, types, odds).topk(4, 1).indices
        found = torch.stack([((types == one[:, None]) & some.right).any(1) for one in best.T])
        first, four = first + int(found[0].sum()), four + int(found.any(0).sum())
    count, known = max(len(held_out.right), 1), max(int(held_out.right.any(1).sum()), 1)
    return {"surprise": surprises / known, "first": first / count, "first four": four / count}


def fit(library: PrototypeLibrary, epochs: int, seed: int = 0) -> tuple[Suitability, dict[str, dict[str, float]]]:
    """A model that was fitted to the members of a library, and what it reached on those held out, before and after."""
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    members = library.members(without_kind=UNSTABLE)
    names = [library.content(int(one)).reduced_formula for one in members]
    kept = np.array([zlib.crc32(name.encode()) % HELD_OUT == 0 for name in names])
    stay = ~kept & (np.random.default_rng(seed).random(len(members)) < STAY)
    asked = questions(library, members, stay)
    learnt, held_out = (asked.take(torch.from_numpy(np.flatnonzero(which))) for which in (~kept, kept))
    model = Suitability(library.suitability.distances)
    none = NoneOfThem(model.context.embedding_dim)
    before = measured(model, held_out)
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *none.parameters()], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )
    batches = max(len(learnt.right) // BATCH, 1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, epochs * batches)
    for _ in range(epochs):
        places = torch.randperm(len(learnt.right), generator=order)
        with tqdm(places.split(BATCH)[:batches], unit="batch") as bar:
            for chosen in bar:
                optimizer.zero_grad()
                value = loss(model, none, learnt.take(chosen))
                value.backward()
                optimizer.step()
                schedule.step()
        tqdm.write(f"held out: {measured(model, held_out)}")
    return model, {"before": before, "after": measured(model, held_out)}


def main() -> None:
    """Fits the suitability of the types in a prototype file, and writes it there."""
    parser = argparse.ArgumentParser(description="Learns which structure types suit a composition.")
    parser.add_argument("file", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="another file than the one that is read")
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    tensors, header = checkpoint.load(arguments.file)
    tensors = {name: one for name, one in tensors.items() if not name.startswith(LEARNT)}
    model, reached = fit(PrototypeLibrary(tensors), arguments.epochs)
    tensors |= {LEARNT + name: one for name, one in model.state_dict().items()}
    checkpoint.save(arguments.output or arguments.file, tensors, header | {"suitability": reached})
    print(reached)


if __name__ == "__main__":
    main()
