"""What is computed with the potential besides relaxation: molecular dynamics, equations of state, phonons."""
