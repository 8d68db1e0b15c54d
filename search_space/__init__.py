"""What can be built: operators, the space, an architecture, the stand-alone network."""

from configs.registry import load_plugins
from search_space import operators as operators  # registers the operators
from search_space import timm_entry as timm_entry  # registers the timm model `evolute`
from search_space.architecture import load_architecture, save_architecture
from search_space.blocks import Block, register_block
from search_space.network import Network, build_network
from search_space.reference_networks import reference_architecture  # registers timm models
from search_space.registry import (
    build_operator,
    operator_names,
    operator_options,
    register_operator,
)
from search_space.space import Architecture, ChoiceSpace, Layer, SearchSpace
from search_space.translation import named_architecture, translate

__all__ = [
    "Architecture",
    "Block",
    "ChoiceSpace",
    "Layer",
    "Network",
    "SearchSpace",
    "build_network",
    "build_operator",
    "load_architecture",
    "load_plugins",
    "named_architecture",
    "operator_names",
    "operator_options",
    "reference_architecture",
    "register_block",
    "register_operator",
    "save_architecture",
    "translate",
]
