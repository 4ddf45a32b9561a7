"""Trains and then evaluates; the same as the command `ast-train`."""

from ast_jax.commands.start import train

if __name__ == "__main__":
    train()
