"""placeholder."""
NAME="demo"; HELP="demo"
def add_arguments(p): pass
def run(a): pass
