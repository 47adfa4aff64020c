"""One file per system; the functions here are the contract of them all (see registry.py).

May import: errors, nn, registration.
"""

# No `__all__`: with it pdoc leaves out the modules of the folder.
from cls.models.registry import Ensemble as Ensemble
from cls.models.registry import System as System
from cls.models.registry import Variant as Variant
from cls.models.registry import abstract_variables as abstract_variables
from cls.models.registry import check_logits as check_logits
from cls.models.registry import create as create
from cls.models.registry import ensembles as ensembles
from cls.models.registry import features as features
from cls.models.registry import fields as fields
from cls.models.registry import flax_norms as flax_norms
from cls.models.registry import is_known as is_known
from cls.models.registry import is_supernet as is_supernet
from cls.models.registry import names as names
from cls.models.registry import origin as origin
from cls.models.registry import register as register
from cls.models.registry import register_ensemble as register_ensemble
from cls.models.registry import register_supernet as register_supernet
from cls.models.registry import systems as systems
from cls.models.registry import takes_progress as takes_progress
from cls.models.registry import variant as variant
