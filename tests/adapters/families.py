"""Every small host that the contract runs on."""

from tiny_hosts import OPEN_CLIP, TIMM, TRANSFORMERS
from tiny_vlms import VLMS

HOSTS = (*TRANSFORMERS, *TIMM, *OPEN_CLIP, *VLMS)
"""What every adapter promises, held against the libraries' own account of every tiny host."""
