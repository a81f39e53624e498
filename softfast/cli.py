"""The entry point of the command ``softfast``."""

import sys

# What the extra "cli" brings.
_EXTRA = ("pyarrow", "rich", "safetensors", "typer")
_DASK = ("dask", "distributed")


def main() -> None:
    """Run the command with the arguments of the process; exits with 2 after bad input, with 130 after Ctrl-C."""
    try:
        from softfast.commands import app

        app()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA + _DASK:
            raise
        extra = "cli,dask" if missing in _DASK else "cli"
        print(f'softfast: the command needs {missing}: pip install "softfast[{extra}]"', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        # While modules load; later the application itself answers.
        print("softfast: interrupted", file=sys.stderr)
        sys.exit(130)
