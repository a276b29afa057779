"""``python -m dao_ase.cli``, for launchers such as torchrun that start modules."""

from dao_ase.cli import main

main(prog_name="dao-ase")
