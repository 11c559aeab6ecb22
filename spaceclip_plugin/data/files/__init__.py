"""Photos and depth maps as files: formats, orientation, units, and what is wrong with them."""
