"""The recipes: a module per system, and a module per search in `cls.recipes.search`.

Their files are in configs/ of a checkout and in cls/recipes/ of a wheel. Recipes import
`cls.config`, the registry of `cls.search` and each other; only commands import recipes.

May import: config.
"""

from cls.config.files import RECIPES

__path__ = [str(RECIPES)]
