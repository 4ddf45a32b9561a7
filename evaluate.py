"""Evaluates a trained run again; the same as the command `ast-evaluate`."""

from ast_jax.commands.start import evaluate

if __name__ == "__main__":
    evaluate()
