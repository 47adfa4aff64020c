"""The papers' searchers, by name, with the papers' hyperparameters as defaults."""
