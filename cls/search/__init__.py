"""Architecture search: spaces, searchers with ask and tell, evaluators, a history, and one loop.

  space.py       the interface of spaces; spaces/ has those of the papers
  searcher.py    the interface of searchers; searchers/ has those of the papers
  evaluators/    the metrics of a trial, by training or by a table of trained architectures
  objectives.py  the fitness of a trial, by its metrics
  history.py     all trials and results, a line each; a search continues from it
  loop.py        ask, evaluate, tell
  engines.py     the places of evaluations: this process, several processes, a cluster
  registry.py    spaces, searchers, objectives, evaluators and supernets by name
  job.py         the job of a config of configs/search/
  figures.py     the course of a search, and its best genotype
  supernets/     searches that train one network that holds the space: runs of cls.train

A code is a tuple of small integers, one for each decision. A genotype is the architecture as a
network takes it (`config.model.genotype`). Only spaces know both.

May import: anything but main, recipes, tools.
"""
