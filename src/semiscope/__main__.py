"""``python -m semiscope``, which is also how ``accelerate launch -m semiscope`` starts."""

from semiscope.cli import main

main()
