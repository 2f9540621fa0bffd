import sys

from registry.serving.engine.process import main

raise SystemExit(main(sys.argv[1:]))
