"""One YAML is one run: typed schema and strict loading."""

from momu_dist.config.load import load_config, resolved_dict
from momu_dist.config.schema import RunConfig

__all__ = ["RunConfig", "load_config", "resolved_dict"]
