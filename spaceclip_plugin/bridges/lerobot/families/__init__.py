"""How LeRobot's policies make their tower's images out of their cameras': one file for those that do it alike."""
