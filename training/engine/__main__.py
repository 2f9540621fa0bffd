"""`python -m training.engine RUN_DIR`: `python -m project.runner` under the name people look for."""

import sys

from project.runner.process import main

raise SystemExit(main(sys.argv[1:]))
