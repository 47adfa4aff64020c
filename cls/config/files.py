"""Config files, by path or by name: the recipes of configs/, shipped in a wheel as cls/recipes/."""

from collections.abc import Mapping
from pathlib import Path

from cls.errors import UserError, nearest

ROOT = Path(__file__).resolve().parents[2]  # of the checkout; in a wheel the site-packages folder
_PACKAGE = Path(__file__).resolve().parents[1]
# The wheel's folder comes first: a configs/ next to an installed cls/ belongs to another project.
RECIPES = next(
    (f for f in (_PACKAGE / 'recipes', ROOT / 'configs') if (f / 'common.py').is_file()),
    ROOT / 'configs',
)


class UnknownArm(UserError):
    """An unknown argument of a recipe, with the list of its arms.

    Attributes:
      arms: name of an arm -> one line of documentation.
    """

    def __init__(self, message: str, arms: Mapping[str, str]) -> None:
        """Stores the message for the user, and the arms."""
        super().__init__(message)
        self.arms = arms


def names() -> list[str]:
    """Returns the sorted names of the recipes, such as 'resnet' or 'search/nasnet'."""
    files = [*sorted(RECIPES.glob('*.py')), *sorted((RECIPES / 'search').glob('*.py'))]
    paths = (file.relative_to(RECIPES).with_suffix('').as_posix() for file in files)
    return [path for path in paths if path.rpartition('/')[2] not in ('common', '__init__')]


def find(name: str) -> Path:
    """Returns the file of a config.

    Args:
      name: a path, or the name of a recipe. 'configs/NAME.py' is the recipe in any folder that does
        not have such a file itself.

    Raises:
      UserError: there is no such file or recipe; the message has the nearest names.
    """
    bare = name.removesuffix('.py').removeprefix('configs/')
    is_recipe, is_file = bare in names(), name.endswith('.py')
    if is_recipe and not is_file:
        return RECIPES / f'{bare}.py'
    if Path(name).is_file():
        return Path(name)
    if is_recipe and name.startswith('configs/'):
        return RECIPES / f'{bare}.py'
    if RECIPES == ROOT / 'configs' and (ROOT / name).is_file():
        return ROOT / name
    candidates = [f'configs/{recipe}.py' for recipe in names()] if is_file else names()
    hint = nearest(name, candidates) or f' Recipes: {", ".join(names()[:3])}, ...'
    raise UserError(f'there is no config {name!r}: expected FILE.py or a recipe.{hint}')
