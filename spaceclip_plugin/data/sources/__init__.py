"""Where samples come from: folders, lists, mixtures, and sources that other packages register."""
