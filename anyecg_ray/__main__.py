"""`python -m anyecg_ray VERB …`, which is how a Ray job calls the command."""

from anyecg_ray.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
