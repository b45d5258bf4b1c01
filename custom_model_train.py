"""Train and register the two example models: see src/mooring/demo/train.py, or `--help`."""

from mooring.demo.train import main

if __name__ == "__main__":
    main()
