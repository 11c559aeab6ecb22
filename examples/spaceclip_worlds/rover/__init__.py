"""An embedded robot to try depth on: a rover, a policy that drives it, and a filter that keeps it from harm."""
