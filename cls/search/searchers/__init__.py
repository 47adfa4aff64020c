"""The searchers of the papers, with the papers' hyperparameters as defaults."""
