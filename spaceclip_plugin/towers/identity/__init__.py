"""Whether a tower is the one that a head was trained on; nothing of it is run as a whole, moved or changed."""
