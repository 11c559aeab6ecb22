"""Files to and from repositories of the Hugging Face Hub, whatever they hold: each transfer is of one commit."""

from spaceclip_plugin.hub.download import HubFiles, HubOptions
from spaceclip_plugin.hub.push import PushOptions, push_files

__all__ = ["HubFiles", "HubOptions", "PushOptions", "push_files"]
