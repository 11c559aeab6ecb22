"""A LeRobot data set enriched: a new one with the depth that a head gives of a camera's photos, beside all it had."""
