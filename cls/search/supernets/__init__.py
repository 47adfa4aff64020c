"""Searches that train one net which holds the whole space, the supernet.

  base.py         what the trainer asks of such a search
  darts.py        DARTS: its net of mixed operations, and its bilevel step
  nasbench201.py  the same over the cells of NAS-Bench-201
  proxylessnas.py ProxylessNAS: its steps; proxyless_net.py its net of gated paths

A run of one is an ordinary run of cls.train, on a config with config.search.supernet: the step and
the batches are others, all else (checkpoints, preemption, metrics, the account of time) is the
trainer's. config.model is the supernet. Its architecture's parameters lie in params['alpha']. The
weights learn from the training images, the architecture from those that are evaluated on: a config
points data.train_split and data.eval_split at two parts of the training set.

May import: anything but main, tools.
"""
