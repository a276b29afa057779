"""DAO-P, and other potentials, beside Quantum ESPRESSO: the same structures, the same cores, every choice visible."""
