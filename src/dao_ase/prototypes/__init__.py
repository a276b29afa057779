"""Known structure types, and how a composition takes one over by exchanging the elements."""
