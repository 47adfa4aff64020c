"""The recipes: a module per system, and a module per search in `cls.recipes.search`.

They import `cls.config`, the registry of `cls.search` and each other; nothing in `cls` but commands
imports them. Their files are in configs/ of a checkout and in cls/recipes/ of a wheel.
"""

from cls.config.files import RECIPES

__path__ = [str(RECIPES)]
