"""One file per system; the functions here are the contract of them all (see registry.py)."""

from cls.models.registry import (
    System,
    Variant,
    abstract_variables,
    create,
    features,
    fields,
    names,
    register,
    systems,
    takes_progress,
    variant,
)

__all__ = [
    'System',
    'Variant',
    'abstract_variables',
    'create',
    'features',
    'fields',
    'names',
    'register',
    'systems',
    'takes_progress',
    'variant',
]
