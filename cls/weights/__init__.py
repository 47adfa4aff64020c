"""Foreign checkpoints -> Flax variables: `read` a file, then `from_torch` its tensors.

May import: data, errors, models, run, steps, storage.
"""

# No `__all__`: with it pdoc leaves out the modules of the folder.
from cls.weights.files import Checkpoint as Checkpoint
from cls.weights.files import open_checkpoint as open_checkpoint
from cls.weights.files import read as read
from cls.weights.fitting import Fitted as Fitted
from cls.weights.fitting import fit as fit
from cls.weights.fitting import from_torch as from_torch
from cls.weights.fitting import same_tensors as same_tensors
from cls.weights.hints import Hints as Hints
from cls.weights.recognition import Match as Match
from cls.weights.recognition import identify as identify
from cls.weights.recognition import recognize as recognize
