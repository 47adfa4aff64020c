"""Published image classifiers as pure-function Flax models, their recipes, and one trainer."""
