"""Properties of crystals read from DAO-P: fine-tuning on a table of crystals with one number each, and predictions."""
