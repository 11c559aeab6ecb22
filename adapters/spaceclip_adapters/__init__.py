"""The adapters that ship with spaceclip_plugin: one file per family of towers."""
