"""The packages of the wheel: those of cls/, and configs/ as cls.recipes."""

from setuptools import find_namespace_packages, setup

packages = find_namespace_packages(include=['cls', 'cls.*'])
setup(
    packages=[*packages, 'cls.recipes', 'cls.recipes.search'],
    package_dir={'cls.recipes': 'configs'},
)
