"""Models for use: `load` or `create` a `Model`, then predict, embed, explain.

May import: config, data, distributed, errors, evaluation, models, nn, run, steps, storage, weights.
"""

# No `__all__`: with it pdoc leaves out the modules of the folder.
from cls.inference.loading import create as create
from cls.inference.loading import list_models as list_models
from cls.inference.loading import load as load
from cls.inference.model import Model as Model
from cls.inference.model import Prediction as Prediction
from cls.inference.preprocess import Preprocess as Preprocess
