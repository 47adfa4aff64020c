"""One file per system; the functions here are the contract of them all (see registry.py).

May import: errors, nn.
"""

from cls.models.registry import (
    Ensemble,
    System,
    Variant,
    abstract_variables,
    check_logits,
    create,
    ensembles,
    features,
    fields,
    flax_norms,
    is_known,
    names,
    origin,
    register,
    register_ensemble,
    registered_by,
    systems,
    takes_progress,
    variant,
)

__all__ = [
    'Ensemble',
    'System',
    'Variant',
    'abstract_variables',
    'check_logits',
    'create',
    'ensembles',
    'features',
    'fields',
    'flax_norms',
    'is_known',
    'names',
    'origin',
    'register',
    'register_ensemble',
    'registered_by',
    'systems',
    'takes_progress',
    'variant',
]
