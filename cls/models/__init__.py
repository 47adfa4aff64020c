"""One file per system; the functions here are the contract of them all (see registry.py)."""

from cls.models.registry import (
    Ensemble,
    System,
    Variant,
    abstract_variables,
    create,
    ensembles,
    features,
    fields,
    names,
    register,
    register_ensemble,
    systems,
    takes_progress,
    variant,
)

__all__ = [
    'Ensemble',
    'System',
    'Variant',
    'abstract_variables',
    'create',
    'ensembles',
    'features',
    'fields',
    'names',
    'register',
    'register_ensemble',
    'systems',
    'takes_progress',
    'variant',
]
