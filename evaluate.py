"""Evaluates a trained run again; the same as the command `ast-evaluate`."""

from ast_jax.commands.evaluate import run

if __name__ == "__main__":
    run()
