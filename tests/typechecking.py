"""The type checker that the jaxtyping hook applies to every function of the package while the tests run."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is welcome where a float is asked for
