import sys

# What a job may take is limited by what Windows has not: `serve --data` is refused there.
collect_ignore_glob = ["test_*.py"] if sys.platform == "win32" else []
