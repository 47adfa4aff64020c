"""Architecture search: spaces, searchers that ask and are told, evaluators, a history, one loop.

  space.py       what a space is; spaces/ has each paper's
  searcher.py    what a searcher is; searchers/ has each paper's
  evaluators/    what a trial is worth: by training it, or by a table of what others have trained
  history.py     all that was asked and told, a line each; a search continues from it
  loop.py        ask, evaluate, tell
  engines.py     where evaluations run: here, in processes, on a cluster
  registry.py    spaces, searchers, objectives and evaluators by name
  job.py         the job of a config of configs/search/
  figures.py     a search's course, and what it found
  supernet/      searches that train one net which holds the space: runs of cls.train

A code is a tuple of small integers, one for each decision; a genotype is what a net is built from
(`config.model.genotype`). Spaces translate between them, and nothing else knows both.

May import: anything but main, tools.
"""
