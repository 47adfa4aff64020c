"""Architecture search: spaces, ask-and-tell searchers, evaluators, a history, and one loop.

  space.py       the interface of spaces; spaces/ has those of the papers
  searcher.py    the interface of searchers; searchers/ has those of the papers
  evaluators/    the metrics of a trial, from training or from a table of trained architectures
  objectives.py  the fitness of a trial, from its metrics
  history.py     all trials and results, one per line; a search continues from it
  loop.py        ask, evaluate, tell
  engines.py     where evaluations run: this process, several processes, a cluster
  registry.py    spaces, searchers, objectives, evaluators and supernets by name
  job.py         the job of a config of configs/search/
  graphs.py      genotypes as graphs
  figures.py     plots of a search, and of its best genotype
  supernets/     searches that train one network that holds the space: runs of cls.train

A code is a tuple of small integers, one for each decision. A genotype is the architecture as a
network takes it (`config.model.genotype`). Only spaces know both.

May import: anything but main, recipes, tools.
"""
