"""From the configuration of a LiteLLM proxy to one of ours, and a list of what could not come along."""

from penstock.config.litellm._conversion import Conversion, convert
from penstock.config.litellm._draft import Left

__all__ = ["Conversion", "Left", "convert"]
