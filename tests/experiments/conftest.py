"""Sweeps with trainings that take little time."""

import functools

import pytest
import stand_in


@pytest.fixture
def quickly(monkeypatch, tmp_path):
    """A function that replaces the trainings of sweeps, see stand_in.install."""
    return functools.partial(stand_in.install, monkeypatch.setattr, tmp_path)
