import sys

from project.runner.process import main

raise SystemExit(main(sys.argv[1:]))
