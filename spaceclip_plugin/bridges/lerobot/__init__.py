"""LeRobot: processor steps for its policies, and its data sets as a source."""
