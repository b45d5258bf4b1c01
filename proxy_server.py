"""The proxy as the 2021 example spelled it: `mooring proxy`, one CSV file a request."""

import sys

from mooring.cli import main

ALIASES = {
    "--mlflow-model-server-uri": "--upstream",
    "--mlflow_model_server_uri": "--upstream",
    "--log-dir": "--log",
    "--log_dir": "--log",
}


def translate(argument: str) -> str:
    """Return `argument` with the flag that it names today."""
    flag, equals, value = argument.partition("=")
    return ALIASES.get(flag, flag) + equals + value


if __name__ == "__main__":
    main.commands["proxy"].main(["--format", "csv", *map(translate, sys.argv[1:])], prog_name="proxy_server.py")
