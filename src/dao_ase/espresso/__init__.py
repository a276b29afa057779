"""Quantum ESPRESSO's pw.x as the reference: settings, pseudopotentials, calculations that resume, what they printed."""
