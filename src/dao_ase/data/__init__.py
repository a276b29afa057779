"""Crystals on disk: sources are read, filtered and de-duplicated into a store, from which batches are drawn."""
