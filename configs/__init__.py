"""The schema of a configuration file, and the presets people start from."""

from configs.errors import UserError
from configs.loading import config_to_dict, find_config, load_config, preset_names, read_yaml
from configs.schema import Config

__all__ = [
    "Config",
    "UserError",
    "config_to_dict",
    "find_config",
    "load_config",
    "preset_names",
    "read_yaml",
]
