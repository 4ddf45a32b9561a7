"""Trains and then evaluates; the same as the command `ast-train`."""

from ast_jax.commands.train import run

if __name__ == "__main__":
    run()
