"""An arm that reaches and lifts through depth, in MuJoCo, and a table that two cameras watch; extra `sim`."""
